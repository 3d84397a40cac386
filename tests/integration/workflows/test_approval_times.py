"""Days in seconds: Temporal's time-skipping server, and a budget service that lives in its time."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from temporalio.testing import WorkflowEnvironment

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2, subscriptions_pb2
from services.budget.main import serving
from services.budget.settings import BudgetSettings
from tests.integration.workflows.test_approval import working
from tests.integration.workflows.test_schedule import skipping as skipping  # noqa: PLC0414 - a fixture
from tests.support.approving import Approving, times
from tests.support.budget import BOT, NANOS, ORG, TEAM, alerts, ask, running_budget
from tests.support.databases import Database
from workflows.approval import types
from workflows.approval.types import ApprovalInput, Snapshot


@pytest.fixture
async def people(
    database: Callable[[str], Database], tmp_path: Path, skipping: WorkflowEnvironment
) -> AsyncIterator[Approving]:
    async def clock(_connection: asyncpg.Connection) -> int:
        return int((await skipping.get_current_time()).timestamp() * 1_000_000)

    def serve(settings: BudgetSettings) -> Any:
        return serving(settings, clock=clock)

    async with running_budget(database("budget"), tmp_path, serve=serve) as budget:
        people = Approving(budget)
        await budget.create(ORG, "b")
        for subject in (ORG, TEAM):
            subscription = subscriptions_pb2.Subscription(email="ops@example.com")
            await people.operator.CreateSubscription(
                subscriptions_pb2.CreateSubscriptionRequest(
                    parent=subject, subscription_id="ops", subscription=subscription
                )
            )
        yield people


async def until_its_end(people: Approving, skipping: WorkflowEnvironment, name: str) -> tuple[Snapshot, timedelta]:
    """What becomes of an approval that nobody decides, and how long that takes in the server's time."""
    began = await skipping.get_current_time()
    async with working(skipping.client, people):
        ended: Snapshot = await skipping.client.execute_workflow(
            types.WORKFLOW, ApprovalInput(name), id=name, task_queue=types.TASK_QUEUE, result_type=Snapshot
        )
    return ended, await skipping.get_current_time() - began


@pytest.mark.parametrize(
    ("urgency", "told", "takes"),
    [
        (pb.URGENCY_HIGH, ["reminder", "escalated", "escalated", "escalated"], timedelta(hours=4)),
        (pb.URGENCY_LOW, ["reminder", "escalated", "escalated"], timedelta(days=7)),
    ],
)
async def test_reminded_escalated_and_expired(
    people: Approving, skipping: WorkflowEnvironment, urgency: Any, told: list[str], takes: timedelta
) -> None:
    spend = ask(cost=5 * NANOS)
    name = (await people.request(spend, urgency=urgency)).approval.name
    ended, took = await until_its_end(people, skipping, name)
    assert (ended.state, ended.reason) == ("EXPIRED", "nobody decided in time")
    # The time-skipping server may skip past the last activity's own time-out.
    assert takes - timedelta(seconds=1) < took < takes + timedelta(minutes=5)
    events = [one for one in await alerts(people.budget.database) if one["event"] == "APPROVAL"]
    assert [one["type"].partition(".")[2] for one in events] == ["requested", *told, "decided"]
    # The bot has no subscribers: its team is told, then the level above, then that again.
    assert [one["audience"] for one in events] == [TEAM, TEAM, *[ORG] * (len(events) - 2)]
    assert (await people.reserve(spend)).denied_reason == budget_pb2.DENIED_REASON_APPROVAL_DENIED
    assert (await people.budget.use(f"{ORG}/budgets/b")).reserved_amount == 0
    await people.budget.audit()


async def test_a_policy_sets_the_times(people: Approving, skipping: WorkflowEnvironment) -> None:
    await people.policy(TEAM, approval_above=[{"currency_code": "USD", "amount_nanos": 1}], times=[times(60, 120, 600)])
    asked = (await people.request()).approval
    assert asked.expire_time.seconds - asked.create_time.seconds == 600
    ended, took = await until_its_end(people, skipping, asked.name)
    assert (ended.state, ended.reminders, ended.escalations) == ("EXPIRED", 1, 3)
    assert timedelta(minutes=9) < took < timedelta(minutes=15)
    assert (await people.get(asked.name)).subject == BOT
