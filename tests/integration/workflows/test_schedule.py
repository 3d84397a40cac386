"""Thirty days in seconds: Temporal's time-skipping server, and a wallet service that lives in its time."""

import asyncio
import contextlib
import shutil
import sysconfig
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from temporalio.testing import WorkflowEnvironment

from pursestrings.wallet.v1 import wallet_pb2 as pb
from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.kit.database import create_pool, is_reachable
from services.kit.groupcommit import GroupCommit
from services.kit.server import GrpcServer
from services.kit.settings import secret
from services.wallet.access import ACCESS
from services.wallet.convert import encode
from services.wallet.ledger import Ledger
from services.wallet.recharge import audit as recharge_audit
from services.wallet.recharge.caps import Caps
from services.wallet.recharge.service import RechargeMethods
from services.wallet.recharge.store import evaluate_low
from services.wallet.recharge.stripe import Stripe
from services.wallet.service import WalletService
from services.wallet.settings import WalletSettings
from tests.conftest import TwinServer
from tests.integration.recharge.test_extras import at_the_cap
from tests.support.budget import rows, running_budget
from tests.support.databases import Database
from tests.support.recharging import USD, Rig, running_rig, running_worker
from workflows.cap_review import types as cap_review
from workflows.cap_review.types import ReviewInput
from workflows.cap_review.workflow import RechargeCapReview
from workflows.namespace import register_search_attributes
from workflows.recharge import types
from workflows.recharge.types import RechargeInput


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    program = Path(sysconfig.get_path("scripts")) / "temporal-test-server"
    found = str(program) if program.exists() else shutil.which("temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=found) as environment:
        await register_search_attributes(environment.client)
        yield environment


@pytest.fixture
async def rig(
    database: Callable[[str], Database],
    twin: TwinServer,
    tmp_path: Path,
    org: str,
    skipping: WorkflowEnvironment,
) -> AsyncIterator[Rig]:
    async def clock(_connection: asyncpg.Connection) -> datetime:
        return await skipping.get_current_time()

    @contextlib.asynccontextmanager
    async def serving(settings: WalletSettings) -> AsyncIterator[GrpcServer]:
        pool = await create_pool(secret(settings.wallet_dsn, "PURSE_WALLET_DSN"), application_name="wallet")
        async with pool:
            commits = GroupCommit(pool, Ledger(evaluate_low, encode).run_batch, org_of=lambda c: c.org, name="ledger")
            provider = Stripe(settings)
            service = WalletService(pool, commits, provider, recharge_audit.checks)
            RechargeMethods.__init__(service, pool, provider, clock=clock)
            server = GrpcServer(settings, access=ACCESS, ready=lambda: is_reachable(pool))
            name = "pursestrings.wallet.v1.WalletService"
            server.add(wallet_pb2_grpc.add_WalletServiceServicer_to_server, service, name)
            await server.start()
            try:
                yield server
            finally:
                await server.stop()
                await commits.close()
                await provider.close()

    async with running_rig(database("wallet"), twin.url, tmp_path, org=org, serving=serving) as running:
        yield running


async def run(rig: Rig, skipping: WorkflowEnvironment) -> tuple[pb.Recharge, timedelta]:
    """The recharge after its whole workflow, and how long that took in the server's time."""
    (one,) = await rig.recharges()
    began = await skipping.get_current_time()
    async with running_worker(rig, skipping.client):
        await skipping.client.execute_workflow(
            types.WORKFLOW, RechargeInput(one.name), id=one.name, task_queue=types.TASK_QUEUE
        )
    return await rig.recharge(one.name), await skipping.get_current_time() - began


async def test_fifteen_tries_in_thirty_days_and_no_more(rig: Rig, skipping: WorkflowEnvironment) -> None:
    customer = await rig.card("pm_card_chargeCustomerFail")
    await rig.policy()
    failed, took = await run(rig, skipping)

    assert (failed.state, failed.attempts) == (pb.RECHARGE_STATE_FAILED, 15)
    assert failed.failure_reason == "15 attempts were declined"
    assert timedelta(days=25) < took < timedelta(days=30)
    assert [intent.status for intent in await rig.twin.intents(customer)] == ["canceled"]
    # Attempts in the next month took the hold along, and the end gave it back.
    held = await rig.sql.fetch("SELECT count, amount_nanos FROM recharge_months")
    assert {tuple(row) for row in held} == {(0, 0)}
    assert await rig.audit_failures() == []


async def test_a_stolen_card_is_tried_once_and_given_up_after_thirty_days(
    rig: Rig, skipping: WorkflowEnvironment
) -> None:
    await rig.card()
    await rig.twin.fault("decline:stolen_card", "POST /v1/payment_intents/*/confirm", times=100)
    await rig.policy()
    failed, took = await run(rig, skipping)

    assert (failed.state, failed.attempts, failed.decline_code) == (pb.RECHARGE_STATE_FAILED, 1, "stolen_card")
    assert timedelta(days=30) <= took < timedelta(days=30, hours=1)
    assert await rig.audit_failures() == []


async def test_the_third_try_succeeds(rig: Rig, skipping: WorkflowEnvironment) -> None:
    await rig.card()
    await rig.twin.fault("decline:insufficient_funds", "POST /v1/payment_intents/*/confirm", times=2)
    await rig.policy()
    done, took = await run(rig, skipping)

    assert (done.state, done.attempts) == (pb.RECHARGE_STATE_SUCCEEDED, 3)
    assert timedelta(hours=5) <= took < timedelta(hours=6)
    assert await rig.balance() == 20 * USD
    assert await rig.audit_failures() == []


async def test_a_review_of_caps_reminds_daily_until_its_month_is_over(
    rig: Rig, skipping: WorkflowEnvironment, database: Callable[[str], Database], tmp_path: Path
) -> None:
    (tmp_path / "budget").mkdir()
    public = rig.token_file.with_name("public.pem")
    books = database("budget")
    async with (
        running_budget(books, tmp_path / "budget", auth_public_key_file=public) as budget,
        running_worker(rig, skipping.client, budget_address=budget.address),
        asyncpg.create_pool(rig.sql_dsn, min_size=1, max_size=2) as pool,
    ):
        review = await at_the_cap(rig)
        begun, month_end = (at.ToDatetime(tzinfo=UTC) for at in (review.create_time, review.month_end_time))
        given = ReviewInput(review.name)
        handle = await skipping.client.start_workflow(
            RechargeCapReview.run, given, id=review.name, task_queue=cap_review.TASK_QUEUE
        )
        async with asyncio.timeout(30):
            while (status := await handle.query(cap_review.STATUS))["state"] != "WAITING":
                await asyncio.sleep(0.05)
        # Here and not after the month's end, when what counts is the next month's.
        assert "1 of 1 recharges, 20.00 USD" in status["details"]
        await skipping.sleep(month_end - await skipping.get_current_time() + timedelta(seconds=1))
        days = (month_end - begun) // timedelta(days=1)
        expected = [f"{review.name}/day-{day}" for day in range(1, days + 1)]

        async def told() -> list[str]:
            found = await rows(books, "SELECT key FROM published_events ORDER BY published_us")
            return [row["key"] for row in found]

        async with asyncio.timeout(30):
            while len(await told()) < days:
                await asyncio.sleep(0.05)
        assert expected == await told()
        status = await handle.query(cap_review.STATUS)
        assert status["state"] == "WAITING"

        async def clock(_connection: asyncpg.Connection) -> datetime:
            return await skipping.get_current_time()

        await Caps(pool, clock=clock).look_after(rig.org, review.name)
        # As the relay does with the row that the end of a review writes.
        await handle.signal(cap_review.WAKE, "ended")
        ended = await handle.result()
    assert (ended.state, ended.decided_by) == ("ENDED", "")
    assert "month is over" in ended.reason
