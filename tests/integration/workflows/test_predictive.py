"""A sweep over wallets that recharge by forecast, on real services: what is due is charged, for a reason to read."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import ActivityEnvironment

from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import predictive_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.channel import channel
from tests.support.databases import Database
from tests.support.metering import record_all, running_metering, usage_event
from tests.support.recharging import NOWHERE, USD, Rig, running_worker, usd, webhooks
from tests.support.sweeping import Refuses
from workflows.predictive import activities, types
from workflows.predictive.activities import PredictiveActivities
from workflows.predictive.types import Page, SweepInput, Tally
from workflows.predictive.workflow import PredictiveSweep


@pytest.fixture
async def metering(database: Callable[[str], Database], tmp_path: Path, rig: Rig) -> AsyncIterator[str]:
    """Metering's address; two dollars an hour were spent for sixty hours."""
    (tmp_path / "metering").mkdir()
    key = rig.settings.auth_public_key_file
    async with running_metering(database("metering"), tmp_path / "metering", auth_public_key_file=key) as running:
        wire = channel(running.address, rig.token_file.read_text())
        await record_all(metering_pb2_grpc.MeteringServiceStub(wire), [hour(rig, n) for n in range(1, 61)])
        await wire.close()
        yield running.address


def hour(rig: Rig, ago: int) -> metering_pb2.UsageEvent:
    at = Timestamp()
    at.FromDatetime(datetime.now(UTC) - timedelta(hours=ago))
    cost = type_pb2.Money(currency_code="USD", amount_nanos=2 * USD)
    return usage_event(f"e{ago}", subject=f"orgs/{rig.org}/teams/busy", cost=cost, occurred_at=at)


async def wallet(rig: Rig, place: str, balance: float) -> str:
    request = pb.CreateWalletRequest(
        parent=f"orgs/{rig.org}/{place}",
        wallet_id="own",
        wallet=pb.Wallet(currency_code="USD"),
        request_id=rig.request_id(),
    )
    name = (await rig.stub.CreateWallet(request)).wallet.name
    await rig.card(wallet=name)
    await rig.grant(balance, name)
    await rig.policy(
        name,
        mode=pb.RECHARGE_MODE_PREDICTIVE,
        threshold=None,
        predictive=predictive_pb2.PredictiveSettings(floor=usd(1)),
    )
    return name


async def sweep(rig: Rig, temporal: Client) -> WorkflowHandle[PredictiveSweep, Tally]:
    return await temporal.start_workflow(
        PredictiveSweep.run, SweepInput(0, 1), id=f"sweep-{uuid.uuid4().hex}", task_queue=types.TASK_QUEUE
    )


async def test_a_sweep_starts_what_is_due_and_says_why(
    rig: Rig, temporal: Client, metering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities, "PAGE_SIZE", 2)
    busy = await wallet(rig, "teams/busy", 20)
    # Of what the team below pays for itself, the organisation's wallet pays nothing.
    for place in ("teams/idle", "teams/other"):
        await wallet(rig, place, 20)
    await rig.card()
    await rig.grant(20)
    await rig.policy(mode=pb.RECHARGE_MODE_PREDICTIVE, threshold=None, predictive={"floor": usd(1)})
    async with webhooks(rig), running_worker(rig, temporal, metering_address=metering):
        handle = await sweep(rig, temporal)
        tally = await handle.result()
        (name,) = tally.names
        assert (tally.looked, tally.started, tally.blocked, tally.failed) == (4, 1, {}, 0)
        assert name.startswith(busy.rpartition("/wallets/")[0] + "/recharges/")
        told = await handle.query(PredictiveSweep.status)
        done = await rig.until_state(name, pb.RECHARGE_STATE_SUCCEEDED)
        described = await temporal.get_workflow_handle(name).describe()
        details = await described.static_details()
    assert told["state"] == "DONE"
    assert "looked at 4 wallets, started 1." in told["details"]
    assert f"- Started: {name}" in told["details"]
    assert 40 * USD < done.forecast.spend_nanos < 100 * USD
    assert timedelta(0) < done.forecast.depletion_time.ToDatetime(UTC) - datetime.now(UTC) < timedelta(hours=12)
    assert done.reason in (details or "")
    assert "may be spent within 24 h (p90) of the balance of 20.00 USD, which is used up by 2" in done.reason
    assert await rig.audit_failures() == []


async def test_what_fails_by_itself_holds_back_no_other(rig: Rig, temporal: Client, metering: str) -> None:
    await wallet(rig, "teams/busy", 20)
    await wallet(rig, "teams/odd", 20)
    # A zone that metering does not know is one request's fault.
    await rig.sql.execute("UPDATE wallets SET time_zone = 'Mars/Olympus' WHERE name LIKE '%/teams/odd/%'")
    async with running_worker(rig, temporal, metering_address=metering):
        tally = await (await sweep(rig, temporal)).result()
    assert (tally.looked, tally.started, tally.failed) == (2, 1, 1)
    assert "teams/odd" in tally.failure


async def test_a_page_that_metering_cannot_answer_is_taken_apart(rig: Rig, metering: str) -> None:
    for place in ("teams/busy", "teams/a", "teams/b", "teams/poison"):
        await wallet(rig, place, 20)
    wire = channel(metering, rig.token_file.read_text())
    refusing: Any = Refuses(metering_pb2_grpc.MeteringServiceStub(wire), "BatchForecast", "teams/poison")
    page = Page(shard=0, shards=1, page_token="")
    swept = await ActivityEnvironment().run(PredictiveActivities(rig.stub, refusing).sweep_page, page)
    await wire.close()
    assert (swept.tally.looked, swept.tally.started, swept.tally.failed) == (4, 1, 1)
    assert "teams/poison" in swept.tally.failure


async def test_while_metering_is_away_nothing_is_started(rig: Rig, temporal: Client) -> None:
    await wallet(rig, "teams/busy", 20)
    async with running_worker(rig, temporal, metering_address=NOWHERE):
        handle = await sweep(rig, temporal)
        async with asyncio.timeout(20):
            while not any(one.attempt > 1 for one in (await handle.describe()).raw_description.pending_activities):
                await asyncio.sleep(0.02)
        told = await handle.query(PredictiveSweep.status)
        await handle.terminate()
    assert (told["state"], "looked at 0 wallets" in told["details"]) == ("SWEEPING", True)
    assert await rig.recharges(f"orgs/{rig.org}/teams/busy/wallets/own") == []
