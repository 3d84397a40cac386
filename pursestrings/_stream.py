"""Records many events over a stream, acknowledged by batch."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import grpc

from pursestrings._errors import Rejected, Unavailable, from_rpc_error, from_status, is_retryable
from pursestrings._rpc import pause
from pursestrings.metering.v1 import metering_pb2

BATCH: Final = 500
"""Events a message of a stream."""
UNACKNOWLEDGED_MAX: Final = 4
"""Messages that are sent and not acknowledged; they are kept to be sent again."""
REFUSED_MAX: Final = 1_000
"""The most refused events that are named; more are counted."""

Events = Iterable[metering_pb2.UsageEvent] | AsyncIterable[metering_pb2.UsageEvent]


@dataclass(slots=True)
class Streamed:
    """What became of a stream's events.

    Attributes:
        recorded: How many are recorded, `duplicates` included.
        duplicates: How many of these had been recorded before, by this stream before it broke or by others.
        refused_count: How many were refused.
        refused: The first 1,000 of them, each with why.
    """

    recorded: int = 0
    duplicates: int = 0
    refused_count: int = 0
    refused: list[tuple[metering_pb2.UsageEvent, Rejected]] = field(default_factory=list)


async def record_stream(metering: Any, events: Events, timeout_s: float) -> Streamed:
    """Sends all events; where the stream breaks, opens another and sends what was not acknowledged again.

    Raises:
        Rejected: The stream as a whole is refused. What was acknowledged is recorded.
        Unavailable: Nothing was acknowledged for `timeout_s`.
    """
    done = Streamed()
    waiting: deque[list[metering_pb2.UsageEvent]] = deque()
    source = _batches(events)
    loop = asyncio.get_running_loop()
    tries, since_s = 0, loop.time()
    while True:
        before = done.recorded + done.refused_count
        try:
            await _one_stream(metering.StreamUsage(), waiting, source, done, timeout_s)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            refusal = from_rpc_error(error) if isinstance(error, grpc.aio.AioRpcError) else None
            if refusal is not None and not is_retryable(refusal):
                raise refusal from None
            if done.recorded + done.refused_count > before:
                tries, since_s = 0, loop.time()
            pause_s = pause(tries, refusal)
            tries += 1
            if loop.time() + pause_s >= since_s + timeout_s:
                told = refusal.message if refusal is not None else "no answer in time"
                raise Unavailable(f"the metering service is unavailable: {told}") from refusal
            await asyncio.sleep(pause_s)
        else:
            return done


async def _one_stream(
    call: Any,
    waiting: deque[list[metering_pb2.UsageEvent]],
    source: AsyncIterator[list[metering_pb2.UsageEvent]],
    done: Streamed,
    timeout_s: float,
) -> None:
    try:
        for batch in waiting:
            await call.write(metering_pb2.StreamUsageRequest(events=batch))
        async for batch in source:
            # Kept first: what is taken from the source must not be lost with the stream.
            waiting.append(batch)
            await call.write(metering_pb2.StreamUsageRequest(events=batch))
            while len(waiting) >= UNACKNOWLEDGED_MAX:
                await _acknowledge(call, waiting, done, timeout_s)
        await call.done_writing()
        while waiting:
            await _acknowledge(call, waiting, done, timeout_s)
    except asyncio.InvalidStateError:
        # The stream has ended: what is left of it are acknowledgements, and then why.
        while True:
            await _acknowledge(call, waiting, done, timeout_s)
    finally:
        call.cancel()


async def _acknowledge(
    call: Any, waiting: deque[list[metering_pb2.UsageEvent]], done: Streamed, timeout_s: float
) -> None:
    answer = await asyncio.wait_for(call.read(), timeout_s)
    if answer is grpc.aio.EOF:
        raise TimeoutError
    batch = waiting.popleft()
    done.recorded += answer.recorded
    done.duplicates += answer.duplicates
    done.refused_count += len(answer.errors)
    room = REFUSED_MAX - len(done.refused)
    done.refused += [(batch[one.index], from_status(one.error)) for one in answer.errors[: max(room, 0)]]


async def _batches(events: Events) -> AsyncIterator[list[metering_pb2.UsageEvent]]:
    if isinstance(events, AsyncIterable):
        batch: list[metering_pb2.UsageEvent] = []
        async for event in events:
            batch.append(event)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    iterator = iter(events)
    # In a thread: a file or a query that is read may block.
    while batch := await asyncio.to_thread(lambda: list(islice(iterator, BATCH))):
        yield batch
