"""What reports list: zones in which months end, and what a person should know of."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import reports_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from tests.support.databases import Database
from tests.support.wallets import Caller

USD = 1_000_000_000
NOW = datetime.now(UTC)


async def create(call: Caller, org: str, wallet_id: str = "main", zone: str = "") -> str:
    request = pb.CreateWalletRequest(
        parent=f"orgs/{org}",
        wallet_id=wallet_id,
        wallet=pb.Wallet(currency_code="USD", time_zone=zone),
        request_id=f"{org}-{wallet_id}",
    )
    return str((await call("CreateWallet", request)).wallet.name)


async def concerns(call: Caller, kind: str, org: str = "", size: int = 1) -> list[Any]:
    """All concerns of a kind, page by page."""
    found: list[Any] = []
    token = ""
    while True:
        request = reports_pb2.ListConcernsRequest(
            org=org, kind=reports_pb2.ConcernKind.Value(f"CONCERN_KIND_{kind}"), page_size=size, page_token=token
        )
        page = await call("ListConcerns", request)
        found += page.concerns
        token = page.next_page_token
        if not token:
            return found


async def test_zones_are_listed_by_organisation(call: Caller) -> None:
    await create(call, "a", zone="Asia/Kathmandu")
    await create(call, "a", "second", zone="Asia/Kathmandu")
    await create(call, "a", "third")
    await create(call, "b")
    first = await call("ListMonthZones", reports_pb2.ListMonthZonesRequest(page_size=1))
    assert [(one.org, one.time_zone) for one in first.zones] == [("orgs/a", "Asia/Kathmandu"), ("orgs/a", "UTC")]
    assert abs(first.zones[0].since_time.ToDatetime(tzinfo=UTC) - NOW) < timedelta(hours=1)
    rest = await call(
        "ListMonthZones", reports_pb2.ListMonthZonesRequest(page_size=1, page_token=first.next_page_token)
    )
    assert ([one.org for one in rest.zones], rest.next_page_token) == (["orgs/b"], "")


async def test_grants_that_expire_within_a_week_are_concerns(call: Caller) -> None:
    names = []
    for org, days in (("a", 3), ("a", 6), ("a", 9), ("b", 1)):
        wallet = await create(call, org, f"w{days}")
        grant = pb.Grant(
            kind=pb.GRANT_KIND_PROMOTIONAL, amount=type_pb2.Money(currency_code="USD", amount_nanos=days * USD)
        )
        grant.expire_time.FromDatetime(NOW + timedelta(days=days))
        request = pb.CreateGrantRequest(wallet=wallet, grant=grant, request_id=f"g-{org}-{days}")
        names.append((await call("CreateGrant", request)).grant.name)
    found = await concerns(call, "GRANT_EXPIRING")
    assert [one.reference for one in found] == [names[0], names[1], names[3]]
    assert [one.amount.amount_nanos for one in found] == [3 * USD, 6 * USD, USD]
    assert [one.reference for one in await concerns(call, "GRANT_EXPIRING", "orgs/b")] == [names[3]]


async def test_leases_that_stand_still_are_concerns(call: Caller, fresh: Database) -> None:
    wallet = await create(call, "a")
    grant = pb.Grant(kind=pb.GRANT_KIND_PAID, amount=type_pb2.Money(currency_code="USD", amount_nanos=10 * USD))
    await call("CreateGrant", pb.CreateGrantRequest(wallet=wallet, grant=grant, request_id="g"))
    extend = pb.ExtendLeaseRequest(wallet=wallet, holder="budget-1", n=1, ask_nanos=USD, need_nanos=USD)
    await call("ExtendLease", extend)
    for kind in ("LEASE_IDLE", "LEASE_QUARANTINED", "LEASE_RECLAIMED"):
        assert await concerns(call, kind) == []
    owner = await asyncpg.connect(fresh.owner_dsn)
    try:
        await owner.execute("UPDATE leases SET flow_at = flow_at - interval '25 hours'")
        (idle,) = await concerns(call, "LEASE_IDLE")
        assert (idle.wallet, idle.reference, idle.amount.amount_nanos) == (wallet, "budget-1", USD)
        await owner.execute("UPDATE leases SET quarantine = 'LEASE_TOTALS: they do not follow'")
    finally:
        await owner.close()
    assert await concerns(call, "LEASE_IDLE") == []
    (stopped,) = await concerns(call, "LEASE_QUARANTINED")
    assert stopped.detail == "LEASE_TOTALS: they do not follow"
    reclaim = pb.ReclaimLeaseRequest(wallet=wallet, holder="budget-1", reason="the database is lost")
    await call("ReclaimLease", reclaim)
    (reclaimed,) = await concerns(call, "LEASE_RECLAIMED")
    assert (reclaimed.detail, reclaimed.amount.amount_nanos) == ("the database is lost", USD)


async def test_a_kind_must_be_said(call: Caller) -> None:
    error = await call.refusal("ListConcerns", reports_pb2.ListConcernsRequest(org="orgs/a"))
    assert error.field == "kind"
    assert "GRANT_EXPIRING" in error.message
