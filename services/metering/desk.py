"""Takes events in: each is checked, rated and recorded by itself, and answered by itself."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from pursestrings.metering.v1 import metering_pb2
from services.kit.auth import Identity
from services.kit.errors import denied, invalid
from services.kit.groupcommit import GroupCommit
from services.metering import wire
from services.metering.domain import batches, usage
from services.metering.failures import status_of
from services.metering.prices import Prices
from services.metering.store.recording import Recorded, Recording

_TRUSTED: Final = ("operator", "service")
"""Who may say what a call cost, and that it happened long ago."""
_TURN: Final = 50
"""The most events that are handled without giving way to other calls: less than a millisecond."""


class Batches(Protocol):
    """What records batches: a desk, or processes that each have one."""

    async def record_batch(
        self, request: metering_pb2.BatchRecordUsageRequest, who: Identity
    ) -> metering_pb2.BatchRecordUsageResponse:
        """Records events, each on its own.

        Raises:
            PurseError: The whole batch is refused.
        """


class Desk:
    """Records events in this process.

    Args:
        recorder: Runs `store.record`.
        prices: The rate cards.
        clock: The time, aware.
    """

    def __init__(
        self, recorder: GroupCommit[Recording, Recorded], prices: Prices, clock: Callable[[], datetime]
    ) -> None:
        self._recorder = recorder
        self._prices = prices
        self._clock = clock

    async def record(self, event: metering_pb2.UsageEvent, who: Identity) -> Recorded:
        """Records one event."""
        given = _given(event, who, set())
        kept, refusal = usage.accept(
            given,
            wire.labels_json,
            trusted=who.has(*_TRUSTED),
            now=self._clock(),
            cards=self._prices.cards,
        )
        return await self._recorder.submit(Recording(kept, wire.payload_hash(event), refusal))

    async def record_batch(
        self, request: metering_pb2.BatchRecordUsageRequest, who: Identity
    ) -> metering_pb2.BatchRecordUsageResponse:
        """As `Batches` says."""
        answers = await self._record(request.events, who)
        return _told_of_errors(answers) if request.errors_only else await _told(answers)

    async def _record(self, events: Sequence[metering_pb2.UsageEvent], who: Identity) -> list[Recorded | Exception]:
        """Records events, each on its own; one answer each, in order.

        The access table lets any subject through to here, so that a foreign one is its own event's error.
        """
        if not 1 <= len(events) <= usage.BATCH_MAX:
            raise invalid(
                "events", f"there are {len(events)} events; a batch has 1 to {usage.BATCH_MAX}", "BATCH_TOO_LARGE"
            )
        batch = batches.Batch(wire.labels_json, trusted=who.has(*_TRUSTED), now=self._clock(), cards=self._prices.cards)
        covered: set[str] = set()
        refused: dict[int, Exception] = {}
        items: list[Recording] = []
        # Each from its message to what is recorded, and then the next: what is made on the way is gone again before
        # there is much of it, which takes a sixth less than to read all and then to accept all.
        for place, event in enumerate(events, 1):
            if place % _TURN == 0:
                await asyncio.sleep(0)
            try:
                kept, refusal = batch.accept(_given(event, who, covered))
                items.append(tuple.__new__(Recording, (kept, wire.payload_hash(event), refusal)))  # by half the time
            except Exception as error:  # also what nobody foresaw is this event's alone; `status_of` logs it
                refused[place - 1] = error
        answers = iter(await self._recorder.submit_many(items))
        return [refused[place] if place in refused else next(answers) for place in range(len(events))]


async def _told(answers: Sequence[Recorded | Exception]) -> metering_pb2.BatchRecordUsageResponse:
    response, messages = metering_pb2.BatchRecordUsageResponse(), wire.RecordedMessages()
    for place, answer in enumerate(answers, 1):
        if place % _TURN == 0:
            await asyncio.sleep(0)
        result = response.results.add()
        if isinstance(answer, Recorded):
            messages.set(result.usage, answer)
        else:
            result.error.CopyFrom(status_of(answer))
    return response


def _told_of_errors(answers: Sequence[Recorded | Exception]) -> metering_pb2.BatchRecordUsageResponse:
    recorded = [answer for answer in answers if isinstance(answer, Recorded)]
    return metering_pb2.BatchRecordUsageResponse(
        recorded=len(recorded),
        duplicates=sum(answer.duplicate for answer in recorded),
        errors=[
            metering_pb2.StreamUsageError(index=place, error=status_of(answer))
            for place, answer in enumerate(answers)
            if not isinstance(answer, Recorded)
        ],
    )


def _given(event: metering_pb2.UsageEvent, who: Identity, covered: set[str]) -> usage.Given:
    """The call that an event reports; `covered` are subjects that the caller may speak for, and gets those found."""
    # Before anything else of it is looked at.
    subject = event.subject
    if subject not in covered:
        if not who.covers(usage.parse_subject(subject, "event.subject").name):
            raise denied(f"the credential covers {who.subject}, not {subject}", "OUT_OF_SCOPE")
        covered.add(subject)
    return wire.given_of(event)
