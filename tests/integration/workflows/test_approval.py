"""Approvals as workflows: decided by an update, woken by the service, readable in the UI."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import Worker

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2, pauses_pb2
from tests.support.approving import DENY, Approving, request_of, usd
from tests.support.budget import BOT, NANOS, ORG, TEAM, ask, rows, running_budget
from tests.support.databases import Database
from tests.support.recharging import Rig
from workflows.approval import types
from workflows.approval.activities import ApprovalActivities
from workflows.approval.types import Decide, Settle, Snapshot
from workflows.approval.workflow import Approval


class Dying(ApprovalActivities):
    """Once it has decided it says nothing any more, as a worker that is killed; so it is asked again."""

    tries = 0

    @activity.defn(name=types.SETTLE)
    async def settle(self, ask: Settle) -> Snapshot:
        snapshot = await ApprovalActivities.settle(self, ask)
        self.tries += 1
        if self.tries == 1:
            await asyncio.Event().wait()
        return snapshot


@contextlib.asynccontextmanager
async def working(
    client: Client, people: Approving, wallet: Any = None, kind: type[ApprovalActivities] = ApprovalActivities
) -> AsyncIterator[None]:
    """A worker of approvals in this process; with a wallet service, where one is asked."""
    activities = kind(people.service, wallet)
    async with Worker(
        client,
        task_queue=types.TASK_QUEUE,
        workflows=[Approval],
        activities=[activities.advance, activities.settle, activities.cancel, activities.allow],
    ):
        yield


@pytest.fixture
async def asking(
    database: Callable[[str], Database], tmp_path: Path, temporal_address: str
) -> AsyncIterator[Approving]:
    """A budget service that starts workflows, which nobody works on."""
    async with running_budget(
        database("budget"), tmp_path, use_temporal=True, temporal_address=temporal_address
    ) as budget:
        yield Approving(budget)


@pytest.fixture
async def people(asking: Approving, temporal: Client) -> AsyncIterator[Approving]:
    async with working(temporal, asking):
        yield asking


async def handle_of(temporal: Client, name: str) -> "WorkflowHandle[Any, Any]":
    """The workflow of an approval, once it has looked."""
    handle = temporal.get_workflow_handle(name, result_type=Snapshot)
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Exception):
                if (await handle.query(types.STATUS))["state"]:
                    return handle
            await asyncio.sleep(0.03)


async def decide(handle: "WorkflowHandle[Any, Any]", verdict: str = "APPROVE", by: str = "ann", **fields: str) -> Any:
    given = Decide(**({"verdict": verdict, "decided_by": by, "role": "approver", "reason": "as planned"} | fields))
    return await handle.execute_update(types.DECIDE, given, result_type=Snapshot)


async def refusal(update: Any) -> str:
    """The reason that an update is refused with."""
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await update
    assert isinstance(refused.value.cause, ApplicationError)
    return refused.value.cause.type or ""


async def test_an_update_decides_and_its_validator_refuses(people: Approving, temporal: Client) -> None:
    spend = ask(cost=5 * NANOS)
    asked = (await people.request(spend)).approval
    handle = await handle_of(temporal, asked.name)
    about = await handle.describe()
    keys = {pair.key.name: pair.value for pair in about.typed_search_attributes.search_attributes}
    assert (keys["Org"], keys["Subject"], keys["State"]) == (ORG, BOT, "PENDING")
    assert "5.00 USD" in (await about.static_summary() or "")
    assert "Waits for somebody" in (await handle.query(types.STATUS))["details"]

    assert await refusal(decide(handle, role="agent")) == "ROLE_MISSING"
    assert await refusal(decide(handle, by=asked.requested_by)) == "OWN_REQUEST"
    assert await refusal(decide(handle, reason="")) == "INVALID_ARGUMENT"
    assert await refusal(decide(handle, verdict="MAYBE")) == "INVALID_ARGUMENT"
    await people.operator.Pause(pauses_pb2.PauseRequest(subject=TEAM, reason="it loops"))
    assert await refusal(decide(handle)) == "PAUSED"
    await people.operator.Resume(pauses_pb2.ResumeRequest(subject=TEAM))

    decided = await decide(handle)
    assert (decided.state, decided.decided_by) == ("APPROVED", "ann")
    assert (await handle.result()).state == "APPROVED"
    assert (await people.reserve(spend)).outcome == budget_pb2.OUTCOME_ALLOW
    assert "Approved by ann: as planned" in (await handle.query(types.STATUS))["details"]


@pytest.mark.usefixtures("deaths_noticed_soon")
async def test_the_person_is_answered_though_workers_die_after_deciding(asking: Approving, temporal: Client) -> None:
    async with working(temporal, asking, kind=Dying):
        asked = (await asking.request()).approval
        handle = await handle_of(temporal, asked.name)
        decided = await asyncio.wait_for(decide(handle, reason="all the same"), 30)
        assert (decided.state, decided.reason) == ("APPROVED", "all the same")
        assert (await asyncio.wait_for(handle.result(), 30)).decided_by == "ann"


async def test_a_decision_by_rpc_wakes_the_workflow_and_stops_updates(people: Approving, temporal: Client) -> None:
    name = (await people.request()).approval.name
    handle = await handle_of(temporal, name)
    first = await people.decide(name, DENY, reason="too dear")
    # Refused while it runs, and there is nobody to ask once it has ended.
    with pytest.raises((WorkflowUpdateFailedError, RPCError)):
        await decide(handle)
    ended = await asyncio.wait_for(handle.result(), 30)
    assert (ended.state, ended.decided_by, ended.reason) == ("DENIED", first.decided_by, "too dear")


async def test_more_recharges_are_asked_of_the_wallet_once_approved(
    asking: Approving, temporal: Client, rig: Rig
) -> None:
    await rig.policy()
    admin = asking.budget.admin
    more = pb.MoreRecharges(wallet=rig.wallet, extra_count=2, extra_amount=usd(40))
    async with working(temporal, asking, rig.stub):
        asked = (await admin.RequestApproval(request_of(recharges=more))).approval
        handle = await handle_of(temporal, asked.name)
        await decide(handle)
        outcome = (await asyncio.wait_for(handle.result(), 30)).outcome
        nowhere = pb.MoreRecharges(wallet=f"orgs/{rig.org}/wallets/none", extra_count=1)
        lost = (await admin.RequestApproval(request_of(recharges=nowhere))).approval
        handle = await handle_of(temporal, lost.name)
        await decide(handle)
        # What the wallet refuses is an outcome, too.
        assert "the wallet service refused" in (await asyncio.wait_for(handle.result(), 30)).outcome
    (extra,) = await rig.sql.fetch("SELECT * FROM recharge_extras")
    assert (extra["approval"], extra["name"], extra["extra_count"]) == (asked.name, outcome, 2)
    found = (await admin.GetApproval(pb.GetApprovalRequest(name=asked.name))).approval
    assert found.outcome == outcome


async def test_a_raise_is_granted_with_the_decision(people: Approving, temporal: Client) -> None:
    await people.budget.create(TEAM, "monthly")
    raised = pb.BudgetRaise(budget=f"{TEAM}/budgets/monthly", amount=7 * NANOS)
    raised.end_time.GetCurrentTime()
    raised.end_time.seconds += 3600
    asked = (await people.operator.RequestApproval(request_of(budget_raise=raised))).approval
    assert (await people.budget.use(f"{TEAM}/budgets/monthly")).limit_amount == 10 * NANOS
    handle = await handle_of(temporal, asked.name)
    granted = await decide(handle)
    assert granted.outcome == f"{TEAM}/overrides/{asked.name.rpartition('/')[2]}"
    assert (await people.budget.use(f"{TEAM}/budgets/monthly")).limit_amount == 17 * NANOS
    listed = await people.approver.ListOverrides(budget_pb2.ListOverridesRequest(budget=f"{TEAM}/budgets/monthly"))
    assert [(one.approval, one.granted_by) for one in listed.overrides] == [(asked.name, "ann")]


async def test_a_lost_workflow_is_started_again(people: Approving, temporal: Client) -> None:
    name = (await people.request()).approval.name
    handle = await handle_of(temporal, name)
    await handle.terminate("lost")
    await rows(people.budget.database, "UPDATE approvals SET next_us = created_us - 600 * 1000000::bigint")
    again = await handle_of(temporal, name)
    async with asyncio.timeout(30):
        while (await again.describe()).status is not WorkflowExecutionStatus.RUNNING:
            await asyncio.sleep(0.05)
    # Cancel in Temporal's UI means that nobody wants it any more.
    await again.cancel()
    assert (await asyncio.wait_for(again.result(), 30)).state == "CANCELED"
    assert (await people.get(name)).reason == "canceled in Temporal"
