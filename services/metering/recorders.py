"""Processes that record batches beside the one that answers: recording is computing, and a process has one core for it.

The service gives each batch to the process that has the least to do and waits for its answer; questions, deliveries and
all else stay with the service. A process that ends takes the service with it, and whoever runs the service starts both
anew: what was given to it is unknown, as after any crash, and sent again with the same ids.
"""

import asyncio
import itertools
import multiprocessing
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from multiprocessing.context import ForkProcess
from typing import Final, NamedTuple, Self

from google.rpc import status_pb2

from pursestrings.metering.v1 import metering_pb2
from services.kit.auth import Identity
from services.kit.errors import too_many, unavailable
from services.kit.rating import RateTable
from services.kit.status import from_rpc_status
from services.kit.telemetry import get_logger
from services.metering import frames, recorder
from services.metering.frames import Frame, Kind
from services.metering.settings import MeteringSettings

UNSENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""The most bytes that wait to be sent to a process: one that reads nothing must not fill the service's memory."""
_FLUSH_TIMEOUT_S: Final = 2.0
_JOIN_TIMEOUT_S: Final = 15.0
_METRICS_TIMEOUT_S: Final = 4.0

_log = get_logger(__name__)


class Forked(NamedTuple):
    """A recording process, and the service's end of the sockets between them."""

    process: ForkProcess
    connection: socket.socket


def fork(settings: MeteringSettings, table: RateTable, clock: Callable[[], datetime]) -> list[Forked]:
    """Begins the recording processes: forked, so that they have all that is loaded at once and share its memory.

    Only from a process that runs no event loop, no gRPC and no thread yet.
    """
    made: list[Forked] = []
    for _ in range(settings.record_processes):
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("fork").Process(
            target=_child, args=(theirs, [ours, *(one.connection for one in made)], settings, table, clock)
        )
        process.start()
        theirs.close()
        made.append(Forked(process, ours))
    return made


def _child(
    theirs: socket.socket,
    others: Sequence[socket.socket],
    settings: MeteringSettings,
    table: RateTable,
    clock: Callable[[], datetime],
) -> None:
    # Or the service's end would stay open when the service is gone.
    for one in others:
        one.close()
    recorder.run(theirs, settings, table, clock)


class Recorders:
    """Gives batches to recording processes.

    Args:
        connections: One end of a socket to each; at least one. They are closed in the end.
        events_max: The most events that each is given and has not answered.
    """

    def __init__(self, connections: Sequence[socket.socket], events_max: int) -> None:
        self._connections = connections
        self._events_max = events_max
        self._recorders: list[_Recorder] = []
        self._on_lost: Callable[[], None] | None = None
        self.lost = False
        """Whether a process has ended by itself."""

    async def __aenter__(self) -> Self:
        for connection in self._connections:
            reader, writer = await asyncio.open_connection(sock=connection)
            self._recorders.append(_Recorder(reader, writer, self._events_max, self._lose))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(one.close() for one in self._recorders))

    def when_lost(self, call: Callable[[], None]) -> None:
        """Calls it when a process has ended by itself; at once where one has."""
        self._on_lost = call
        if self.lost:
            call()

    async def record_batch(
        self, request: metering_pb2.BatchRecordUsageRequest, who: Identity
    ) -> metering_pb2.BatchRecordUsageResponse:
        """As `desk.Batches` says."""
        least = min(self._recorders, key=lambda one: one.events)
        answer = await least.ask(Kind.RECORD, frames.pack(who, request.SerializeToString()), len(request.events))
        if answer.kind == Kind.REFUSED:
            raise from_rpc_status(status_pb2.Status.FromString(answer.body))
        return metering_pb2.BatchRecordUsageResponse.FromString(answer.body)

    async def metrics(self) -> list[bytes]:
        """The metrics of each process, as Prometheus has them.

        Raises:
            TimeoutError: One does not say them in time.
            PurseError: One has ended.
        """
        async with asyncio.timeout(_METRICS_TIMEOUT_S):
            answers = await asyncio.gather(*(one.ask(Kind.METRICS, b"", 0) for one in self._recorders))
        return [answer.body for answer in answers]

    def _lose(self) -> None:
        _log.error("a recording process has ended by itself; the service ends, to be started anew")
        self.lost = True
        if self._on_lost is not None:
            self._on_lost()


class _Given(NamedTuple):
    """What a process was asked; the answer is None where it ended before."""

    answer: "asyncio.Future[Frame | None]"
    events: int


class _Recorder:
    """One process.

    Attributes:
        events: How many it has been given and not answered, whether or not somebody still waits for the answer.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events_max: int, lost: Callable[[], None]
    ) -> None:
        self.events = 0
        self._writer = writer
        self._events_max = events_max
        self._lose = lost
        self._numbers = itertools.count()
        self._given: dict[int, _Given] = {}
        self._closing = False
        self._reading = asyncio.create_task(self._read(reader), name="recorder")

    async def ask(self, kind: Kind, body: bytes, events: int) -> Frame:
        """The answer to a question.

        Raises:
            PurseError: UNAVAILABLE: the process has ended, and the outcome is unknown. RESOURCE_EXHAUSTED: it has too
                much to do, and was not asked.
        """
        if self._reading.done():
            raise _ended()
        unsent = self._writer.transport.get_write_buffer_size()
        if self.events + events > self._events_max or unsent > UNSENT_BYTES_MAX:
            raise too_many(
                f"{self.events} events and {unsent} bytes wait for a recording process already, the limits are "
                f"{self._events_max} and {UNSENT_BYTES_MAX}; send again later, with the same ids",
                retry_after_s=0.5,
            )
        number = next(self._numbers) % 2**32
        given = self._given[number] = _Given(asyncio.get_running_loop().create_future(), events)
        self.events += events
        try:
            await frames.write(self._writer, Frame(number, kind, body))
            frame = await given.answer
        except ConnectionError as error:
            raise _ended() from error
        finally:
            # A caller that goes takes no events back: the process has them all the same.
            given.answer.cancel()
            if not events:
                self._given.pop(number, None)
        if frame is None:
            raise _ended()
        return frame

    async def close(self) -> None:
        """Tells the process that nothing more comes."""
        self._closing = True
        self._writer.close()
        _, late = await asyncio.wait([self._reading], timeout=_FLUSH_TIMEOUT_S)
        if late:
            # It does not read what it was given last, and nobody waits for that any more.
            self._writer.transport.abort()
            await self._reading

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (frame := await frames.read(reader)) is not None:
            given = self._given.pop(frame.number, None)
            if given is not None:
                self.events -= given.events
                _tell(given, frame)
        for given in self._given.values():
            _tell(given, None)
        self._given.clear()
        if not self._closing:
            self._lose()


def _tell(given: _Given, frame: Frame | None) -> None:
    # A caller that has gone waits no more; its batch was recorded all the same.
    if not given.answer.done():
        given.answer.set_result(frame)


def _ended() -> Exception:
    return unavailable("a recording process has ended; send again with the same ids", retry_after_s=1.0)


async def join(forked: Sequence[Forked]) -> None:
    """Waits for processes to end after their sockets were closed; those that do not in time are killed."""

    def wait() -> None:
        deadline_s = time.monotonic() + _JOIN_TIMEOUT_S
        for process, _ in forked:
            process.join(max(deadline_s - time.monotonic(), 0))
            if process.is_alive():
                _log.error("a recording process did not end in time and is killed", pid=process.pid)
                process.kill()
                process.join()

    await asyncio.to_thread(wait)
