"""Turns concurrent single requests into batch calls, without timers."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import grpc

from pursestrings._errors import Rejected, Unavailable, from_rpc_error, is_retryable
from pursestrings._rpc import pause

BATCH_MAX: Final = 1000
"""The most items in one call, the services' own limit."""
BATCH_BYTES_MAX: Final = 2 * 1024 * 1024
"""The most bytes in one call; the services take 4 MiB."""
QUEUE_MAX: Final = 10_000
"""The most items that may wait, be under way or be about to be tried again; more are refused at once."""
IN_FLIGHT_MAX: Final = 2
"""Batches under way at a time: while the service works on one, the next one travels."""


class Message(Protocol):
    """What is sent: its size on the wire limits a batch."""

    def ByteSize(self) -> int:  # noqa: N802 - protobuf's name
        """Bytes on the wire."""


Item = TypeVar("Item", bound=Message)
Answer = TypeVar("Answer")
Send = Callable[[list[Item], float], Awaitable[Sequence[Answer | Rejected]]]
"""Sends items with a deadline in seconds; one answer or refusal an item, in their order."""


class _Entry(Generic[Item, Answer]):
    __slots__ = ("bytes", "deadline_s", "future", "item", "last_error", "tries")

    def __init__(self, item: Item, future: "asyncio.Future[Answer]", deadline_s: float) -> None:
        self.item = item
        self.future = future
        self.deadline_s = deadline_s
        self.bytes = item.ByteSize()
        self.tries = 0
        self.last_error: Rejected | None = None


class Coalescer(Generic[Item, Answer]):
    """Gathers items while a call is in flight and sends them as the next one; an idle one sends at once.

    An item whose outcome is unknown or that is refused for now is sent again, as it is, until its time is up:
    the ids inside make it happen once. Use it from one event loop.

    Args:
        name: For messages.
        send: Sends one batch; raises `AioRpcError` where the whole call failed.
        timeout_s: How long one item may take, waiting and tries included.
    """

    def __init__(self, name: str, send: Send[Item, Answer], *, timeout_s: float) -> None:
        self._name = name
        self._send = send
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Entry[Item, Answer]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._scheduled = False
        self._resting: dict[int, tuple[asyncio.TimerHandle, list[_Entry[Item, Answer]]]] = {}
        self._rests = 0
        self._abandoned: set[asyncio.Future[Answer]] = set()

    def submit(self, item: Item, timeout_s: float | None = None) -> "asyncio.Future[Answer]":
        """Queues an item. The future ends within the time-out, with the answer, `Rejected` or `Unavailable`.

        Cancelling the future before the item has left takes it back; after that it changes nothing.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._outstanding >= QUEUE_MAX:
            future.set_exception(
                Unavailable(f"{QUEUE_MAX} requests to {self._name} wait already, which is the limit: slow down")
            )
            return future
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        self._outstanding += 1
        self._idle.clear()
        future.add_done_callback(self._settled)
        self._waiting.append(_Entry(item, future, self._loop.time() + limit_s))
        self._schedule()
        return future

    def abandon(self, future: "asyncio.Future[Answer]") -> None:
        """Nobody waits for this item any more: it is not sent, or not again; one under way gets its answer."""
        if not future.done():
            self._abandoned.add(future)

    async def drain(self) -> None:
        """Returns when every item has its answer; that takes no longer than their time-outs."""
        await self._idle.wait()

    async def close(self) -> None:
        """Ends what is under way; what waits fails as unavailable."""
        for handle, entries in self._resting.values():
            handle.cancel()
            self._waiting.extend(entries)
        self._resting.clear()
        while self._waiting:
            self._fail(self._waiting.popleft(), "the client was closed")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _settled(self, future: "asyncio.Future[Answer]") -> None:
        self._abandoned.discard(future)
        self._outstanding -= 1
        if not self._outstanding:
            self._idle.set()

    def _schedule(self) -> None:
        # At the end of this turn of the loop, so that what is asked for together leaves together.
        if not self._scheduled and len(self._tasks) < IN_FLIGHT_MAX:
            self._scheduled = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._tasks) < IN_FLIGHT_MAX:
            batch = self._take()
            if batch:
                task = self._loop.create_task(self._run(batch))
                self._tasks.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if self._waiting:
            self._schedule()

    def _take(self) -> list[_Entry[Item, Answer]]:
        batch: list[_Entry[Item, Answer]] = []
        size, now_s = 0, self._loop.time()
        while self._waiting and len(batch) < BATCH_MAX:
            entry = self._waiting[0]
            if batch and size + entry.bytes > BATCH_BYTES_MAX:
                break
            self._waiting.popleft()
            if entry.future in self._abandoned:
                entry.future.cancel()
            if entry.future.done():
                continue
            if entry.deadline_s <= now_s:
                self._fail(entry, "no answer in time")
                continue
            size += entry.bytes
            batch.append(entry)
        return batch

    async def _run(self, batch: list[_Entry[Item, Answer]]) -> None:
        try:
            answers = await self._ask(batch)
        except asyncio.CancelledError:
            for entry in batch:
                self._fail(entry, "the client was closed")
            raise
        except Exception as error:
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(error)
            return
        again = [entry for entry, answer in zip(batch, answers, strict=True) if self._settle(entry, answer)]
        if again:
            self._again(again)

    async def _ask(self, batch: list[_Entry[Item, Answer]]) -> Sequence[Answer | Rejected]:
        left_s = max(entry.deadline_s for entry in batch) - self._loop.time()
        # Half of the time, so that a service that hangs leaves room for another try.
        first_try = all(entry.tries == 0 for entry in batch)
        deadline_s = max(left_s / 2 if first_try else left_s, 0.001)
        try:
            answers = await self._send([entry.item for entry in batch], deadline_s)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            if len(batch) == 1 or is_retryable(refusal):
                return [refusal] * len(batch)
            # One item, out of the credential's scope for example, must not refuse its neighbours.
            middle = len(batch) // 2
            return [*await self._ask(batch[:middle]), *await self._ask(batch[middle:])]
        if len(answers) != len(batch):
            raise AssertionError(f"{self._name} answered {len(answers)} of {len(batch)} items")
        return answers

    def _settle(self, entry: _Entry[Item, Answer], answer: Answer | Rejected) -> bool:
        """Gives the entry its answer; True where it must be tried again."""
        if entry.future.done():
            return False
        if not isinstance(answer, Rejected):
            entry.future.set_result(answer)
        elif is_retryable(answer):
            entry.last_error = answer
            return True
        else:
            entry.future.set_exception(answer)
        return False

    def _again(self, entries: list[_Entry[Item, Answer]]) -> None:
        """Queues entries again after a pause, once for all, that grows with their tries."""
        tries = max(entry.tries for entry in entries)
        at_s = self._loop.time() + max(pause(tries, entry.last_error) for entry in entries)
        ready = []
        for entry in entries:
            entry.tries += 1
            if entry.future in self._abandoned:
                entry.future.cancel()
            elif entry.deadline_s <= at_s:
                self._fail(entry, "no answer in time")
            else:
                ready.append(entry)
        if ready:
            self._rests += 1
            handle = self._loop.call_at(at_s, self._requeue, self._rests)
            self._resting[self._rests] = handle, ready

    def _requeue(self, rest: int) -> None:
        _, entries = self._resting.pop(rest)
        self._waiting.extendleft(reversed(entries))
        self._schedule()

    def _fail(self, entry: _Entry[Item, Answer], why: str) -> None:
        if entry.future.done():
            return
        cause = entry.last_error
        told = f": {cause.message}" if cause is not None else ""
        error = Unavailable(f"{self._name} is unavailable ({why}){told}")
        error.__cause__ = cause
        entry.future.set_exception(error)
