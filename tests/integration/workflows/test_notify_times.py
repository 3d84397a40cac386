"""The notify workflow's waits, days in milliseconds; what is sent is played by an activity of the same name."""

import shutil
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from workflows.namespace import register_search_attributes
from workflows.notify import types
from workflows.notify.types import Ask, NotifyInput, Progress
from workflows.notify.workflow import Notify

DAY_S = 86_400.0
SUBSCRIPTION = "orgs/acme/subscriptions/ops"


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    program = Path(sysconfig.get_path("scripts")) / "temporal-test-server"
    found = str(program) if program.exists() else shutil.which("temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=found) as environment:
        await register_search_attributes(environment.client)
        yield environment


class Player:
    """Says what the activity would have done, one thing after the other."""

    def __init__(self, *steps: Progress | str) -> None:
        self.steps = list(steps)
        self.asked: list[Ask] = []

    @activity.defn(name=types.DELIVER)
    async def deliver(self, ask: Ask) -> Progress:
        self.asked.append(ask)
        step = self.steps.pop(0)
        if isinstance(step, str):
            raise ApplicationError("refused", type=step, non_retryable=step == types.SUBSCRIPTION_UNKNOWN)
        return step


async def start(skipping: WorkflowEnvironment) -> WorkflowHandle[Notify, str]:
    return await skipping.client.start_workflow(
        Notify.run,
        NotifyInput(SUBSCRIPTION, "webhook"),
        id=f"notify/{SUBSCRIPTION}/webhook",
        task_queue=types.TASK_QUEUE,
        start_signal=types.WAKE,
        start_signal_args=["something waits"],
    )


async def run(skipping: WorkflowEnvironment, player: Player) -> tuple[str, float]:
    """What the workflow said at its end, and how long it took in the server's time, in seconds."""
    async with Worker(skipping.client, task_queue=types.TASK_QUEUE, workflows=[Notify], activities=[player.deliver]):
        handle = await start(skipping)
        result = await handle.result()
        about = await handle.describe()
        assert about.close_time is not None
        return result, (about.close_time - about.start_time).total_seconds()


async def test_it_rests_as_long_as_it_is_told_and_ends_when_nothing_waits(skipping: WorkflowEnvironment) -> None:
    rests_s = [5.0, 7_200.0, DAY_S]
    waiting = [Progress(failed=1, waiting=1, rest_s=rest, reason="the last try failed") for rest in rests_s]
    player = Player(*waiting, Progress(delivered=1, refused=2))
    said, taken_s = await run(skipping, player)
    assert player.asked == [Ask(SUBSCRIPTION, "webhook")] * 4
    assert sum(rests_s) <= taken_s < sum(rests_s) + 600
    assert "Nothing waits" in said
    assert "Taken by the receiver so far: 1" in said
    assert "Could not be sent: 2" in said


async def test_a_signal_ends_the_rest(skipping: WorkflowEnvironment) -> None:
    player = Player(
        Progress(failed=1, waiting=2, rest_s=30 * DAY_S, reason="the last try failed"), Progress(delivered=2)
    )
    async with Worker(skipping.client, task_queue=types.TASK_QUEUE, workflows=[Notify], activities=[player.deliver]):
        handle = await start(skipping)
        while (status := await handle.query(Notify.status))["state"] != "WAITING":
            pass
        assert "2 wait: the last try failed" in status["details"]
        await handle.signal(Notify.wake, "sent again on request")
        await handle.result()
        about = await handle.describe()
        assert about.close_time is not None
        assert (about.close_time - about.start_time).total_seconds() < DAY_S


async def test_what_fails_is_asked_again_and_a_subscription_that_is_gone_ends_it(
    skipping: WorkflowEnvironment,
) -> None:
    player = Player("UNAVAILABLE", "UNAVAILABLE", Progress(rest_s=0.0, waiting=1), types.SUBSCRIPTION_UNKNOWN)
    said, _ = await run(skipping, player)
    assert "The subscription is gone" in said
    assert len(player.asked) == 4
