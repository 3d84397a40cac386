"""A decision is carried until the service answers; and where nobody does, the person is told so."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tests.integration.workflows.test_schedule import skipping as skipping  # noqa: PLC0414 - a fixture
from workflows import deciding
from workflows.cap_review import types
from workflows.cap_review.types import Decide, Decision, ReviewInput, Snapshot, Tell
from workflows.cap_review.workflow import RechargeCapReview

YES = Decision(by="ann", role="approver", reason="a launch", extra_count=1)


class Player:
    """A wallet service whose review is decided at the first asking.

    Args:
        failures: So often the asker does not learn it: first it dies, then the answer is lost.
    """

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.state = types.OPEN
        self.requests: list[str] = []

    @activity.defn(name=types.LOOK)
    async def look(self, review: str) -> Snapshot:
        return Snapshot(
            review=review,
            wallet="orgs/acme/wallets/main",
            state=self.state,
            month="2026-11",
            cap="cap",
            charge="20.00 USD",
            recharged="1 of 1 recharges",
            spent="18.00 USD",
            balance="2.00 USD",
            created_at="2026-11-22T00:00:00+00:00",
            month_end="2100-01-01T00:00:00+00:00",
        )

    @activity.defn(name=types.TELL)
    async def tell(self, ask: Tell) -> None:
        """Nobody listens."""

    @activity.defn(name=types.DECISION)
    async def decide(self, ask: Decide) -> Snapshot:
        self.state = "ALLOWED"
        self.requests.append(ask.request_id)
        if len(self.requests) == 1:
            await asyncio.Event().wait()
        if len(self.requests) <= self.failures:
            raise ApplicationError("lost", type="UNAVAILABLE")
        return await self.look(ask.review)


async def decided(temporal: Client, player: Player) -> dict[str, Any]:
    review = f"orgs/acme/rechargeReviews/{uuid.uuid4().hex}"
    async with Worker(
        temporal,
        task_queue=review,
        workflows=[RechargeCapReview],
        activities=[player.look, player.tell, player.decide],
    ):
        handle = await temporal.start_workflow(types.WORKFLOW, ReviewInput(review), id=review, task_queue=review)
        answer: dict[str, Any] = await asyncio.wait_for(handle.execute_update(types.DECIDE, YES), 30)
        assert (await asyncio.wait_for(handle.result(), 30))["state"] == "ALLOWED"
    return answer


@pytest.mark.usefixtures("deaths_noticed_soon")
async def test_workers_that_die_are_followed_by_others_with_the_same_request(skipping: WorkflowEnvironment) -> None:
    player = Player(failures=5)
    assert (await decided(skipping.client, player))["state"] == "ALLOWED"
    assert (len(player.requests), len(set(player.requests))) == (6, 1)


@pytest.mark.usefixtures("deaths_noticed_soon")
async def test_where_nobody_answers_the_person_is_told_that_it_is_not_known(
    skipping: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "PATIENCE", timedelta(seconds=0.6))
    with pytest.raises(WorkflowUpdateFailedError) as failure:
        await decided(skipping.client, Player(failures=1_000))
    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == deciding.DECISION_UNKNOWN
