"""Wallets on a tree: money moves and is conserved; a closed one settles first; months and past times tie."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import statements_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.wallet.changes import finish_closing
from services.wallet.store.wallets import settled_closing
from tests.support.databases import Database
from tests.support.wallets import Caller, assert_sound, dump

PARENT, CHILD = "orgs/acme/wallets/main", "orgs/acme/teams/a/wallets/team"
OTHER = "orgs/acme/teams/b/wallets/team"
CLOSED, CLOSING = pb.WALLET_STATE_CLOSED, pb.WALLET_STATE_CLOSING


async def create(call: Caller, name: str, currency: str = "USD", zone: str = "") -> None:
    parent, _, id_ = name.rpartition("/wallets/")
    wallet = pb.Wallet(currency_code=currency, time_zone=zone)
    request = pb.CreateWalletRequest(parent=parent, wallet_id=id_, wallet=wallet, request_id=name.replace("/", "."))
    await call("CreateWallet", request)


async def grant(call: Caller, wallet: str, id_: str, amount: int, **fields: Any) -> pb.Grant:
    money = type_pb2.Money(currency_code="USD", amount_nanos=amount)
    kind = fields.pop("kind", pb.GRANT_KIND_PAID)
    request = pb.CreateGrantRequest(wallet=wallet, grant=pb.Grant(kind=kind, amount=money, **fields), request_id=id_)
    made: pb.Grant = (await call("CreateGrant", request)).grant
    return made


def transfer(giver: str, taker: str, amount: int, id_: str, currency: str = "USD") -> pb.TransferRequest:
    money = type_pb2.Money(currency_code=currency, amount_nanos=amount)
    return pb.TransferRequest(from_wallet=giver, to_wallet=taker, amount=money, request_id=id_)


async def available(call: Caller, wallet: str) -> int:
    return int((await call("GetBalance", pb.GetBalanceRequest(name=wallet))).available_nanos)


def extend(wallet: str, n: int, need: int) -> pb.ExtendLeaseRequest:
    return pb.ExtendLeaseRequest(wallet=wallet, holder="b", n=n, need_nanos=need)


def capture(wallet: str, n: int, amount: int, total: int) -> pb.CaptureLeaseRequest:
    line = pb.CaptureLine(provider="openai", model="=gpt", month="2026-11", amount_nanos=amount, calls=1)
    return pb.CaptureLeaseRequest(wallet=wallet, holder="b", n=n, captured_total_nanos=total, lines=[line])


def at(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp


async def test_money_moves_down_and_up_again_with_what_it_is(call: Caller, pool: asyncpg.Pool) -> None:
    await create(call, PARENT)
    await create(call, CHILD)
    soon = at(datetime.now(UTC) + timedelta(days=1))
    await grant(call, PARENT, "gift", 30, kind=pb.GRANT_KIND_PROMOTIONAL, expire_time=soon)
    await grant(call, PARENT, "paid", 100)
    await call("ExtendLease", extend(PARENT, 1, 10))
    first = await call("Transfer", transfer(PARENT, CHILD, 50, "t1"))
    assert first == await call("Transfer", transfer(PARENT, CHILD, 50, "t1"))
    # What was leased stays: of the gift only 20 were free.
    assert [("PROMOTIONAL", 50, 20, "orgs/acme/grants/gift"), ("PAID", 100, 30, "orgs/acme/grants/paid")] == [
        (pb.GrantKind.Name(g.kind).removeprefix("GRANT_KIND_"), g.priority, g.amount.amount_nanos, g.origin)
        for g in first.grants
    ]
    assert soon == first.grants[0].expire_time
    assert (70, 50) == (await available(call, PARENT), await available(call, CHILD))
    await call("Transfer", transfer(CHILD, PARENT, 20, "t2"))
    assert (90, 30) == (await available(call, PARENT), await available(call, CHILD))
    rows = await pool.fetch(
        "SELECT wallet, transaction_id FROM transfers WHERE kind = 'move' AND reference LIKE '%/t1'"
    )
    assert {PARENT, CHILD} == {row["wallet"] for row in rows}
    assert 1 == len({row["transaction_id"] for row in rows})
    await assert_sound(pool)


async def test_what_does_not_fit_is_refused_and_nothing_moves(call: Caller, pool: asyncpg.Pool) -> None:
    for name, currency in ((PARENT, "USD"), (CHILD, "USD"), (OTHER, "USD"), ("orgs/acme/wallets/eur", "EUR")):
        await create(call, name, currency)
    await grant(call, PARENT, "g", 100)
    await call("Transfer", transfer(PARENT, CHILD, 10, "used"))
    before = await dump(pool)
    for request, reason in (
        (transfer(PARENT, CHILD, 91, "a"), "NOT_ENOUGH_FREE"),
        (transfer(PARENT, CHILD, 11, "used"), "REQUEST_ID_REUSED"),
        (transfer(PARENT, "orgs/acme/wallets/eur", 1, "b"), "CURRENCY_MISMATCH"),
        (transfer(CHILD, OTHER, 1, "c"), "NOT_RELATED"),
        (transfer(PARENT, "orgs/beta/wallets/main", 1, "d"), "NOT_RELATED"),
        (transfer(PARENT, PARENT, 1, "e"), "NOT_RELATED"),
        (transfer(PARENT, "orgs/acme/teams/a/wallets/none", 1, "f"), "WALLET_UNKNOWN"),
        (transfer(PARENT, CHILD, 0, "g"), "AMOUNT_OUT_OF_RANGE"),
    ):
        assert reason == (await call.refusal("Transfer", request)).reason, request
    assert before == await dump(pool)


async def test_a_wallet_settles_its_lease_before_it_is_closed(call: Caller, pool: asyncpg.Pool) -> None:
    await create(call, PARENT)
    await create(call, CHILD)
    await grant(call, CHILD, "g", 100)
    await call("ExtendLease", extend(CHILD, 1, 40))
    close = pb.SetWalletStateRequest(name=CHILD, state=CLOSED, reason="merged")
    assert CLOSING == (await call("SetWalletState", close)).wallet.state
    assert CLOSING == (await call("SetWalletState", close)).wallet.state
    assert "WALLET_NOT_OPEN" == (await call.refusal("Transfer", transfer(CHILD, PARENT, 1, "t"))).reason
    # Budget sees it closed: it pays for nothing new, and what is held settles.
    lease = (await call("CaptureLease", capture(CHILD, 2, 25, 25))).lease
    assert (CLOSED, 0) == (lease.wallet_state, lease.target_nanos)
    await call("ReturnLease", pb.ReturnLeaseRequest(wallet=CHILD, holder="b", n=3, returned_total_nanos=15))
    async with asyncio.timeout(10):
        while (await call("GetWallet", pb.GetWalletRequest(name=CHILD))).wallet.state != CLOSED:
            await asyncio.sleep(0.02)
    assert (75, 0) == (await available(call, PARENT), await available(call, CHILD))
    await assert_sound(pool)


async def state_of(call: Caller, wallet: str) -> int:
    return int((await call("GetWallet", pb.GetWalletRequest(name=wallet))).wallet.state)


async def until_closed(call: Caller, *wallets: str) -> None:
    async with asyncio.timeout(10):
        while {await state_of(call, wallet) for wallet in wallets} != {CLOSED}:
            await asyncio.sleep(0.02)


async def test_a_wallet_goes_on_closing_while_money_is_to_come_or_the_wallet_above_is_frozen(
    call: Caller, pool: asyncpg.Pool
) -> None:
    third = "orgs/acme/teams/c/wallets/team"
    for name in (PARENT, CHILD, OTHER, third):
        await create(call, name)
    await grant(call, CHILD, "now", 100)
    tomorrow = at(datetime.now(UTC) + timedelta(days=1))
    await grant(call, OTHER, "later", 50, effective_time=tomorrow)
    await call("SetWalletState", pb.SetWalletStateRequest(name=PARENT, state=pb.WALLET_STATE_FROZEN, reason="dispute"))
    for name in (CHILD, OTHER, third):
        await call("SetWalletState", pb.SetWalletStateRequest(name=name, state=CLOSED, reason="merged"))
    assert (CLOSING, CLOSING, CLOSED) == tuple([await state_of(call, name) for name in (CHILD, OTHER, third)])
    # Neither is looked at before there is something to do.
    async with pool.acquire() as conn, conn.transaction():
        assert [] == await settled_closing(conn, 10)
        assert not await finish_closing(conn, "acme", CHILD, PARENT)
        assert not await finish_closing(conn, "acme", OTHER, None)
    assert (CLOSING, CLOSING) == (await state_of(call, CHILD), await state_of(call, OTHER))

    await call("SetWalletState", pb.SetWalletStateRequest(name=PARENT, state=pb.WALLET_STATE_OPEN))
    await until_closed(call, CHILD)
    assert (100, 0) == (await available(call, PARENT), await available(call, CHILD))
    assert CLOSING == await state_of(call, OTHER)
    await pool.execute("UPDATE grants SET effective_at = clock_timestamp() WHERE pending_nanos > 0")
    await until_closed(call, OTHER)
    assert (150, 0) == (await available(call, PARENT), await available(call, OTHER))
    await assert_sound(pool)


async def test_those_that_wait_keep_nobody_from_being_closed(
    call: Caller, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [f"orgs/acme/teams/{team}/wallets/w" for team in "abc"]
    # Last in order, and of another currency, whose wallet above has room.
    free = "orgs/acme/teams/d/wallets/euro"
    for name in (PARENT, *waiting):
        await create(call, name)
    for name in ("orgs/acme/wallets/euro", free):
        await create(call, name, "EUR")
    monkeypatch.setattr("services.wallet.main._CLOSED_MAX", 2)
    with monkeypatch.context() as patch:
        patch.setattr("services.wallet.domain.commands.LOTS_MAX", 1)
        await grant(call, PARENT, "p", 1)
        for number, name in enumerate(waiting):
            await grant(call, name, f"g{number}", 100)
        euros = pb.Grant(kind=pb.GRANT_KIND_PAID, amount=type_pb2.Money(currency_code="EUR", amount_nanos=7))
        await call("CreateGrant", pb.CreateGrantRequest(wallet=free, grant=euros, request_id="euro"))
        for name in (*waiting, free):
            await call("SetWalletState", pb.SetWalletStateRequest(name=name, state=CLOSED, reason="merged"))
        await until_closed(call, free)
        assert {CLOSING} == {await state_of(call, name) for name in waiting}
    for name in waiting:
        await until_closed(call, name)
    assert 301 == await available(call, PARENT)
    await assert_sound(pool)


async def test_a_wallet_goes_on_closing_while_the_one_above_is_full(
    call: Caller, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(call, PARENT)
    await create(call, CHILD)
    await grant(call, CHILD, "g", 100)
    with monkeypatch.context() as patch:
        patch.setattr("services.wallet.domain.commands.LOTS_MAX", 0)
        await call("SetWalletState", pb.SetWalletStateRequest(name=CHILD, state=CLOSED, reason="merged"))
        async with pool.acquire() as conn, conn.transaction():
            assert not await finish_closing(conn, "acme", CHILD, PARENT)
        assert (CLOSING, 100) == (await state_of(call, CHILD), await available(call, CHILD))
    await until_closed(call, CHILD)
    assert (100, 0) == (await available(call, PARENT), await available(call, CHILD))
    await assert_sound(pool)


async def test_money_that_comes_late_is_moved_out_of_a_closed_wallet(call: Caller, pool: asyncpg.Pool) -> None:
    await create(call, PARENT)
    await create(call, CHILD)
    await grant(call, CHILD, "g", 100)
    await call("CaptureLease", capture(CHILD, 1, 40, 40))
    await call("SetWalletState", pb.SetWalletStateRequest(name=CHILD, state=CLOSED, reason="merged"))
    await until_closed(call, CHILD)
    line = pb.CaptureLine(provider="openai", model="=gpt", month="2026-11", amount_nanos=15, calls=1)
    reverse = pb.ReverseCaptureRequest(wallet=CHILD, holder="b", n=2, reversed_total_nanos=15, lines=[line])
    await call("ReverseCapture", reverse)
    assert (60, 15) == (await available(call, PARENT), await available(call, CHILD))
    await call("Transfer", transfer(CHILD, PARENT, 15, "late"))
    assert (75, 0) == (await available(call, PARENT), await available(call, CHILD))
    assert "WALLET_CLOSED" == (await call.refusal("Transfer", transfer(PARENT, CHILD, 1, "back"))).reason
    await assert_sound(pool)


async def test_a_grant_takes_effect_in_its_time_and_pays_debt_first(call: Caller, pool: asyncpg.Pool) -> None:
    await create(call, PARENT)
    now = datetime.now(UTC)
    await grant(call, PARENT, "later", 100, effective_time=at(now + timedelta(seconds=1.5)))
    wrong: dict[str, Any] = {"effective_time": at(now + timedelta(days=2)), "expire_time": at(now + timedelta(days=1))}
    request = pb.CreateGrantRequest(
        wallet=PARENT,
        grant=pb.Grant(kind=pb.GRANT_KIND_PAID, amount=type_pb2.Money(currency_code="USD", amount_nanos=1), **wrong),
        request_id="wrong",
    )
    assert "EXPIRY_PASSED" == (await call.refusal("CreateGrant", request)).reason
    assert 0 == await available(call, PARENT)
    await call("CaptureLease", capture(PARENT, 1, 30, 30))
    async with asyncio.timeout(15):
        while await available(call, PARENT) != 70:
            await asyncio.sleep(0.05)
    await assert_sound(pool)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati"])
async def test_months_and_past_times_tie_to_the_ledger(
    call: Caller, pool: asyncpg.Pool, fresh: Database, zone: str
) -> None:
    await create(call, PARENT, zone=zone)
    await create(call, CHILD)
    await grant(call, PARENT, "g1", 100)
    await call("ExtendLease", extend(PARENT, 1, 40))
    await call("CaptureLease", capture(PARENT, 2, 25, 25))
    # All of that was last month, on the last instant of it in the wallet's zone.
    owner = await asyncpg.connect(fresh.owner_dsn)
    try:
        edge = await owner.fetchval(
            "SELECT date_trunc('month', clock_timestamp() AT TIME ZONE $1) AT TIME ZONE $1 - interval '1 microsecond'",
            zone,
        )
        for table in ("transfers", "capture_lines"):
            await owner.execute(f"UPDATE {table} SET posted_at = $1", edge)  # noqa: S608 - one of two names
    finally:
        await owner.close()
    await grant(call, PARENT, "gift", 7, kind=pb.GRANT_KIND_PROMOTIONAL)
    await call("Transfer", transfer(PARENT, CHILD, 30, "t"))
    await call("CaptureLease", capture(PARENT, 3, 5, 30))
    past = await call("GetBalance", pb.GetBalanceRequest(name=PARENT, as_of=at(edge)))
    assert (75, 60, 15, 25) == (
        *(past.balance_nanos, past.available_nanos, past.escrow_nanos),
        past.spent_nanos,
    )
    trial = await call("TrialBalance", pb.TrialBalanceRequest(org="orgs/acme", as_of=at(edge)))
    assert trial.balanced
    assert 100 == sum(row.debits_nanos for row in trial.accounts if row.account_kind == "funding")
    running = (await call("GetStatement", statements_pb2.GetStatementRequest(wallet=PARENT))).statement
    assert (75, 7, 30, 5, 47, False) == (
        *(running.opening_nanos, running.promotional_nanos, running.moved_out_nanos),
        *(running.spent_nanos, running.closing_nanos, running.closed),
    )
    local = (edge + timedelta(hours=14) if zone != "UTC" else edge).strftime("%Y-%m")
    ask = statements_pb2.GetStatementRequest(wallet=PARENT, month=local, format="csv")
    answer = await call("GetStatement", ask)
    last = answer.statement
    assert (local, 0, 100, 25, 75, True) == (
        *(last.month, last.opening_nanos, last.granted_nanos, last.spent_nanos),
        *(last.closing_nanos, last.closed),
    )
    assert f"{PARENT},{local},spend,openai,'=gpt,2026-11,1,-0.000000025,USD" in answer.text.splitlines()
    ask.format = "html"
    assert "<td>=gpt</td>" in (await call("GetStatement", ask)).text
    for wrong in ({"month": "2026-13"}, {"month": "2999-01"}, {"format": "pdf"}):
        refused = await call.refusal("GetStatement", statements_pb2.GetStatementRequest(wallet=PARENT, **wrong))
        assert next(iter(wrong)) == refused.field
