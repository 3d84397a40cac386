"""What workflows have in common that go through all organisations: what a person sees, and how much goes on at once.

A sweep holds no truth: whatever it does is deduplicated by the service it calls, so it may be cut short, run late and
run twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from workflows.shown import Shown

T = TypeVar("T")

FAILURES_NAMED_MAX = 20
"""The most failures that are told in words; all are counted."""
_HEARTBEAT_TIMEOUT = timedelta(seconds=15)
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=2),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=4,
)
_CAUSE_CHARS_MAX = 200


@dataclass(frozen=True)
class Tally:
    """How far a sweep is; handed on where a long history is cut.

    Attributes:
        found: What there was to do.
        done: What is done, `told` of which people are told of.
        failed: What is left for the next run; `failures` says why, at most `FAILURES_NAMED_MAX` of them.
    """

    found: int = 0
    done: int = 0
    told: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)


class Board:
    """What a person sees of a sweep in Temporal's UI: state, current details, and the answer to the status query.

    Args:
        noun: What it counts, in the plural.
        tally: What runs before this one have done.
    """

    def __init__(self, noun: str, tally: Tally) -> None:
        self._noun = noun
        self._shown = Shown()
        self.tally = tally

    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._shown.status()

    def found(self, count: int) -> None:
        """So many more are to be done."""
        self.tally = replace(self.tally, found=self.tally.found + count)
        self._show("RUNNING")

    def done(self, told: int = 0) -> None:
        """One more is done."""
        self.tally = replace(self.tally, done=self.tally.done + 1, told=self.tally.told + told)
        self._show("RUNNING")

    def went(self, count: int, told: int) -> None:
        """So many were found and done at once."""
        tally = self.tally
        self.tally = replace(tally, found=tally.found + count, done=tally.done + count, told=tally.told + told)
        self._show("RUNNING")

    def failed(self, what: str, error: ActivityError) -> None:
        """One more could not be done."""
        said = f"{what}: {error.cause or error}"[:_CAUSE_CHARS_MAX]
        failures = [*self.tally.failures, said][:FAILURES_NAMED_MAX]
        self.tally = replace(self.tally, failed=self.tally.failed + 1, failures=failures)
        workflow.logger.warning("left to the next run: %s", said)
        self._show("RUNNING")

    def end(self) -> Tally:
        """All has been gone through."""
        self._show("INCOMPLETE" if self.tally.failed else "DONE")
        return self.tally

    def _show(self, state: str) -> None:
        tally = self.tally
        lines = [f"**{state}** · {tally.done} of {tally.found} {self._noun} done, people were told {tally.told} times."]
        if tally.failed:
            lines.append(f"{tally.failed} could not be done and are left to the next run:")
            lines.append("\n".join(f"- {one}" for one in tally.failures))
        self._shown.show(state, "\n\n".join(lines))


async def each(items: Sequence[T], at_once: int, do: Callable[[T], Awaitable[None]]) -> None:
    """Does it for every item, at most so many at once."""
    room = asyncio.Semaphore(at_once)

    async def one(item: T) -> None:
        async with room:
            await do(item)

    await asyncio.gather(*(one(item) for item in items))


async def call(name: str, argument: object, kind: type[T], summary: str, patience: timedelta) -> T:
    """Runs an activity, a few times if it must be.

    Raises:
        ActivityError: It did not work.
    """
    result: Any = await workflow.execute_activity(
        name,
        argument,
        result_type=kind,
        start_to_close_timeout=patience,
        heartbeat_timeout=_HEARTBEAT_TIMEOUT,
        retry_policy=_RETRY,
        summary=summary,
    )
    answer: T = result
    return answer
