"""What does not agree, and what will matter soon, is told once a day, through real services and a real Temporal."""

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.wallet.refunds.domain.rules import RefundFacts
from services.wallet.refunds.stripe import MoneyBack
from tests.conftest import TwinServer
from tests.support.budget import alerts
from tests.support.databases import Database
from tests.support.sweeping import USD, Refuses, Suite, running_suite
from workflows.reconcile import activities, types
from workflows.reconcile.workflow import Reconcile, ReconcileInput, ReportInput
from workflows.sweep import Tally


@pytest.fixture
async def suite(database: Callable[[str], Database], twin: TwinServer, tmp_path: Path) -> AsyncIterator[Suite]:
    async with running_suite(database, tmp_path, twin.url) as running:
        yield running


async def reconciled(client: Client) -> tuple[Tally, dict[str, str]]:
    handle = await client.start_workflow(
        types.RECONCILE,
        ReconcileInput(),
        id=f"reconcile-{uuid.uuid4()}",
        task_queue=types.TASK_QUEUE,
        result_type=Tally,
    )
    return await handle.result(), await handle.query(Reconcile.status)


async def reported(client: Client, *kinds: str) -> Tally:
    tally: Tally = await client.execute_workflow(
        types.REPORT,
        ReportInput(list(kinds)),
        id=f"report-{uuid.uuid4()}",
        task_queue=types.TASK_QUEUE,
        result_type=Tally,
    )
    return tally


async def test_books_that_agree_are_quiet_and_a_difference_is_told_once_a_day(temporal: Client, suite: Suite) -> None:
    sound, broken = await suite.wallet(f"a-{uuid.uuid4().hex[:8]}"), await suite.wallet(f"b-{uuid.uuid4().hex[:8]}")
    async with suite.worker(temporal):
        quiet, said = await reconciled(temporal)
        assert quiet == Tally(found=2, done=2)
        assert said["state"] == "DONE"

        # A dollar of a lot that no account has.
        await suite.sql(
            suite.wallets,
            "UPDATE grants SET amount_nanos = amount_nanos + $1, free_nanos = free_nanos + $1 WHERE wallet = $2",
            USD,
            broken,
        )
        first, _ = await reconciled(temporal)
        again, _ = await reconciled(temporal)
    told = await alerts(suite.budget.database)
    assert first.told == len(told) > 0
    assert again.told == 0
    assert {one["subject"] for one in told} == {broken.partition("/wallets/")[0]}
    (difference,) = [one for one in told if one["type"] == "reconcile.ledger_grants"]
    assert (difference["event"], difference["wallet"]) == ("NOTICE", broken)
    assert "reconcile.check_failed" in {one["type"] for one in told}
    assert sound not in str(told)


async def test_organisations_without_wallets_are_compared_and_stripe_is_asked_once_for_all(
    temporal: Client, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities, "_ORGS_A_PAGE", 2)
    budgets_only, ghost = (f"{kind}-{uuid.uuid4().hex[:8]}" for kind in ("budgets-only", "ghost"))
    wallets = [await suite.wallet(f"w{n}-{uuid.uuid4().hex[:8]}", balance=0) for n in range(3)]
    closing = pb.SetWalletStateRequest(name=wallets[0], state=pb.WALLET_STATE_CLOSED, reason="moved away")
    await suite.call("SetWalletState", closing)
    await suite.budget.create(subject=f"orgs/{budgets_only}")
    # As after the database was set back to a copy from before there was this organisation.
    ((installation,),) = await suite.sql(suite.wallets, "SELECT id FROM installation")
    for org, paid in ((ghost, True), ("orgs/../etc", True), ("declined", False)):
        params: Any = {
            "amount": 2_000,
            "currency": "usd",
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            "metadata": {"installation": str(installation), "org": org, "wallet": f"orgs/{org}/wallets/main"},
        }
        params |= {"payment_method": "pm_card_visa", "confirm": True} if paid else {}
        await suite.services.stripe.client.v1.payment_intents.create_async(params)
    listed: list[datetime] = []
    refunds_since = MoneyBack.refunds_since

    async def counted(self: MoneyBack, since: datetime) -> list[RefundFacts]:
        listed.append(since)
        return await refunds_since(self, since)

    monkeypatch.setattr(MoneyBack, "refunds_since", counted)
    async with suite.worker(temporal):
        tally, said = await reconciled(temporal)
    assert (tally.found, tally.done, said["state"]) == (5, 5, "DONE")
    assert len(listed) == 1
    (told,) = await alerts(suite.budget.database)
    assert (told["type"], told["subject"]) == ("reconcile.charge_without_grant", f"orgs/{ghost}")
    assert told["difference_nanos"] == str(20 * USD)


async def test_what_expires_soon_is_told_once(temporal: Client, suite: Suite) -> None:
    wallet = await suite.wallet("acme", balance=0)
    for days, id_ in ((3, "soon"), (30, "later")):
        grant = pb.Grant(
            kind=pb.GRANT_KIND_PROMOTIONAL, amount=type_pb2.Money(currency_code="USD", amount_nanos=5 * USD)
        )
        grant.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=days))
        await suite.call("CreateGrant", pb.CreateGrantRequest(wallet=wallet, grant=grant, request_id=id_))
    async with suite.worker(temporal):
        first = await reported(temporal, types.GRANT_EXPIRING, types.LEASE_IDLE)
        again = await reported(temporal, types.GRANT_EXPIRING)
    assert (first, again) == (Tally(found=1, done=1, told=1), Tally(found=1, done=1))
    (told,) = await alerts(suite.budget.database)
    assert (told["type"], told["subject"], told["amount_nanos"]) == ("wallet.grant_expiring", "orgs/acme", str(5 * USD))
    assert told["detail"].startswith("5.00 USD of orgs/acme/grants/")


async def test_one_organisation_that_cannot_be_compared_keeps_no_other_waiting(temporal: Client, suite: Suite) -> None:
    for org in ("bad", "good"):
        await suite.wallet(org)
    async with suite.worker(temporal, metering=Refuses(suite.services.metering, "Audit", "orgs/bad")):
        tally, said = await reconciled(temporal)
    assert (tally.found, tally.done, tally.failed) == (2, 1, 1)
    assert said["state"] == "INCOMPLETE"
    assert "orgs/bad: NOT_FOUND: told to refuse" in said["details"]
