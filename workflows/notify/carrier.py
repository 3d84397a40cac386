"""Takes what waits in a lane, sends it in order, and reports: what every channel has in common."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pursestrings.budget.v1 import deliveries_pb2 as pb
from workflows.notify.types import Progress

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub

WORK_S: Final = 60.0
"""How long one activity goes on sending before it says how far it is, in seconds."""
SLOW_S: Final = 2.0
"""A sending that takes so long ends the turn: places are few, and many slow receivers must not have them all."""
LINGER_S: Final = 2.0
"""How long a lane is watched after its last delivery: what comes then needs no waking of the workflow."""
LINGERING_MAX: Final = 20
"""How many lanes a worker watches at once; the others are given back as soon as nothing waits."""
REPORTED_MAX: Final = 25
"""The most that a worker sends before it says so: as much as may be sent again after it was killed."""
REPORT_EVERY_S: Final = 0.5
_LOOK_EVERY_S: Final = 0.2
_RPC_TIMEOUT_S: Final = 20.0
_HOLD_MARGIN_S: Final = 5.0
_REPORTS_MAX: Final = 100
_DELIVERED: Final = pb.DELIVERY_OUTCOME_DELIVERED
_STOPPING: Final = (pb.DELIVERY_OUTCOME_FAILED, pb.DELIVERY_OUTCOME_GONE)


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of some deliveries that were sent together.

    Attributes:
        numbers: Which.
        outcome: As the contract has it.
        error: Why it failed.
        retry_after_s: How long the receiver asks to be left alone, in seconds; 0: it does not say.
    """

    numbers: tuple[int, ...]
    outcome: "pb.DeliveryOutcome.ValueType"
    error: str = ""
    retry_after_s: int = 0


Send = Callable[[str, pb.TakeDeliveriesResponse], AsyncIterator[Sent]]
"""Sends what was taken for a subscription, in order, and says after each sending what became of it. After a failure it
is not asked to go on."""


class Carrier:
    """Carries one lane's deliveries, as one holder.

    Args:
        budget: The budget service, called as role `service`.
        subscription: Whose.
        channel: Which channel.
        holder: Who holds the lane: another one for every try of an activity, so that one that hangs cannot go on.
        send_max_s: The longest that one sending takes, in seconds.
        stopping: Whether to end soon.
        lingering: Places for those that watch a lane in which nothing waits.
    """

    def __init__(
        self,
        budget: "BudgetServiceAsyncStub",
        subscription: str,
        channel: "pb.DeliveryChannel.ValueType",
        holder: str,
        *,
        send_max_s: float,
        stopping: Callable[[], bool],
        lingering: asyncio.Semaphore,
    ) -> None:
        self._budget = budget
        self._subscription = subscription
        self._channel = channel
        self._holder = holder
        self._send_max_s = send_max_s
        self._stopping = stopping
        self._lingering = lingering
        self._held_until_s = 0.0
        self._ends_s = 0.0
        self._reports: list[pb.DeliveryReport] = []
        self._reported_s = 0.0
        self._progress = Progress()

    async def run(self, send: Send) -> Progress:
        """Sends until nothing is to be sent now, or for a minute."""
        self._ends_s = time.monotonic() + WORK_S
        try:
            return await self._run(send)
        finally:
            # Also where the activity is cancelled meanwhile: what was sent is told, and whoever is next need not wait.
            if self._reports or time.monotonic() < self._held_until_s:
                await asyncio.shield(self._report(release=True))

    async def _run(self, send: Send) -> Progress:
        while True:
            taken = await self._take(keep=False)
            if taken.deliveries:
                if not await self._send(taken, send):
                    return replace(self._progress, waiting=int(taken.waiting_count), rest_s=0.0)
            elif taken.HasField("rest"):
                return replace(
                    self._progress,
                    waiting=int(taken.waiting_count),
                    rest_s=taken.rest.ToTimedelta().total_seconds(),
                    reason=taken.reason,
                )
            else:
                return replace(self._progress, reason=taken.reason)
            if self._is_over():
                return replace(self._progress, waiting=int(taken.waiting_count), rest_s=0.0)
            await self._watch(send)

    def _is_over(self) -> bool:
        return self._stopping() or time.monotonic() > self._ends_s

    async def _watch(self, send: Send) -> None:
        """Goes on holding the lane while something comes every now and then."""
        if self._lingering.locked():
            return
        async with self._lingering:
            idle_s = time.monotonic()
            while not self._is_over() and time.monotonic() < idle_s + LINGER_S:
                # What comes meanwhile goes together.
                await asyncio.sleep(_LOOK_EVERY_S)
                taken = await self._take(keep=True)
                if not taken.HasField("hold"):
                    return
                if taken.deliveries:
                    if not await self._send(taken, send):
                        return
                    idle_s = time.monotonic()

    async def _take(self, *, keep: bool) -> pb.TakeDeliveriesResponse:
        asked_s = time.monotonic()
        taken: pb.TakeDeliveriesResponse = await self._budget.TakeDeliveries(
            pb.TakeDeliveriesRequest(
                subscription=self._subscription, channel=self._channel, holder=self._holder, keep=keep
            ),
            timeout=_RPC_TIMEOUT_S,
        )
        self._held_until_s = asked_s + taken.hold.ToTimedelta().total_seconds()
        self._reported_s = time.monotonic()
        return taken

    async def _send(self, taken: pb.TakeDeliveriesResponse, send: Send) -> bool:
        """Sends what was taken; whether all of it was, and the lane is still held."""
        sending = send(self._subscription, taken)
        while await self._may_send():
            began_s = time.monotonic()
            try:
                sent = await anext(sending)
            except StopAsyncIteration:
                return await self._report() if self._reports else True
            self._note(sent)
            if time.monotonic() - began_s >= SLOW_S:
                self._ends_s = began_s
            if sent.outcome in _STOPPING:
                await self._report()
                return True
        return False

    async def _may_send(self) -> bool:
        """Whether there is time to send once more, held for long enough; tells of what was sent when it is time to."""
        if self._is_over():
            return False
        now_s = time.monotonic()
        is_late = self._held_until_s - now_s < self._send_max_s + _HOLD_MARGIN_S
        if (
            is_late
            or len(self._reports) >= REPORTED_MAX
            or (self._reports and now_s - self._reported_s > REPORT_EVERY_S)
        ):
            return await self._report()
        return True

    def _note(self, sent: Sent) -> None:
        self._reports += [
            pb.DeliveryReport(number=n, outcome=sent.outcome, error=sent.error, retry_after_s=sent.retry_after_s)
            for n in sent.numbers
        ]
        count = len(sent.numbers)
        if sent.outcome == _DELIVERED:
            self._progress = replace(self._progress, delivered=self._progress.delivered + count)
        elif sent.outcome == pb.DELIVERY_OUTCOME_REFUSED:
            self._progress = replace(self._progress, refused=self._progress.refused + count)
        else:
            self._progress = replace(self._progress, failed=self._progress.failed + count)

    async def _report(self, *, release: bool = False) -> bool:
        """Tells what was sent; whether the lane is still held. What could not be told stays to be told at the end."""
        reports = self._reports[:_REPORTS_MAX]
        asked_s = time.monotonic()
        answer = await self._budget.ReportDeliveries(
            pb.ReportDeliveriesRequest(
                subscription=self._subscription,
                channel=self._channel,
                holder=self._holder,
                reports=reports,
                release=release,
            ),
            timeout=_RPC_TIMEOUT_S,
        )
        del self._reports[: len(reports)]
        self._held_until_s = asked_s + answer.hold.ToTimedelta().total_seconds()
        self._reported_s = time.monotonic()
        return bool(answer.HasField("hold"))
