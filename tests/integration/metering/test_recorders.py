"""What becomes of batches whose process reads nothing, answers late, or is left alone."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
import uvloop

from pursestrings.metering.v1 import metering_pb2
from services.kit.auth import Identity
from services.kit.errors import Code, PurseError
from services.metering import frames, recorder, recorders
from services.metering.frames import Frame, Kind
from services.metering.recorders import Recorders
from tests.support.metering import usage_event

WHO = Identity("orgs/-", frozenset({"service"}), "t", 2_000_000_000)
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Sockets to two processes: the service's end of each, and the process's."""
    made = [socket.socketpair(), socket.socketpair()]
    yield made
    for pair in made:
        for one in pair:
            one.close()


def batch(count: int, subject: str = "orgs/acme") -> metering_pb2.BatchRecordUsageRequest:
    return metering_pb2.BatchRecordUsageRequest(events=[usage_event(f"e{n}", subject=subject) for n in range(count)])


async def ask_and_go(running: Recorders, request: metering_pb2.BatchRecordUsageRequest) -> None:
    asking = asyncio.create_task(running.record_batch(request, WHO))
    await asyncio.sleep(0)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking


async def given_to(reader: asyncio.StreamReader) -> tuple[int, int]:
    """The next question that a process gets: its number, and how many events it has."""
    frame = await frames.read(reader)
    assert frame is not None
    return frame.number, len(metering_pb2.BatchRecordUsageRequest.FromString(frames.unpack(frame.body)[1]).events)


async def test_what_a_process_was_given_counts_until_it_answers(pairs: list[Pair]) -> None:
    async with asyncio.timeout(10), Recorders([ours for ours, _ in pairs], events_max=30) as running:
        for count in (20, 10, 10):
            await ask_and_go(running, batch(count))
        # Both have 20, though nobody waits any more: one that answers nothing is given no more and more.
        with pytest.raises(PurseError) as refused:
            await running.record_batch(batch(11), WHO)
        waiting = asyncio.create_task(running.record_batch(batch(10), WHO))
        (first, reply), (second, unused) = [await asyncio.open_connection(sock=theirs) for _, theirs in pairs]
        questions = [await given_to(first), await given_to(first)]
        others = [await given_to(second), await given_to(second)]
        for number, _ in questions:
            await frames.write(reply, Frame(number, Kind.RECORDED, b""))
        await waiting
        await ask_and_go(running, batch(30))
        free_again = await given_to(first)
    for writer in (reply, unused):
        writer.close()
        await writer.wait_closed()

    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert [size for _, size in questions] == [20, 10]
    assert [size for _, size in others] == [10, 10]
    assert free_again[1] == 30


async def test_a_process_that_reads_nothing_holds_up_no_end_and_gets_no_more_than_fits(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "UNSENT_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(recorders, "_FLUSH_TIMEOUT_S", 0.05)
    large = batch(1, subject="x" * 2_000_000)
    async with asyncio.timeout(10), Recorders([pairs[0][0]], events_max=30) as running:
        await ask_and_go(running, large)
        with pytest.raises(PurseError) as refused:
            await running.record_batch(large, WHO)

    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert not running.lost


def test_what_is_in_hand_is_done_though_nobody_reads_the_answers(pairs: list[Pair]) -> None:
    """As services run, on uvloop: it says by a RuntimeError that the other side of a socket has gone."""
    ours, theirs = pairs[0]
    begun, done = [], []

    async def run() -> None:
        gone = asyncio.Event()

        class Slow:
            async def record_batch(
                self, request: metering_pb2.BatchRecordUsageRequest, who: Identity
            ) -> metering_pb2.BatchRecordUsageResponse:
                begun.append(who)
                turns = 20 * len(begun)
                await gone.wait()
                # One after the other: by the second the first answer has found nobody.
                for _ in range(turns):
                    await asyncio.sleep(0)
                done.append(who)
                return metering_pb2.BatchRecordUsageResponse()

        serving = asyncio.create_task(recorder.serve(theirs, Slow()))
        _, writer = await asyncio.open_connection(sock=ours)
        for number in range(5):
            await frames.write(writer, Frame(number, Kind.RECORD, frames.pack(WHO, b"")))
        while len(begun) < 5:
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        gone.set()
        await asyncio.wait_for(serving, 10)

    uvloop.run(run())

    assert done == [WHO] * 5
