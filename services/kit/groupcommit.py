"""Group commit: what arrives while one transaction is in flight becomes the next one.

No timers: an idle server answers at once, a busy one batches by itself. The failures of a commit are handled here,
once, for every service: what was rolled back for certain is run again; an outcome that is unknown is found out by
running the same items again, so the caller's unique keys must make a replay return what is stored.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import asyncpg

from services.kit.database import is_certain_rollback, is_connection_lost
from services.kit.errors import PurseError, too_many, unavailable
from services.kit.telemetry import GROUP_COMMIT_ITEMS, GROUP_COMMIT_RETRIES, get_logger

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_ATTEMPTS_MAX = 3
_REDO_MAX = 10
_RECONNECT_DELAYS_S = (0.05, 0.2, 0.5, 1.0, 2.0)

_log = get_logger(__name__)


class Redo(Exception):  # noqa: N818 - an instruction, not an error
    """The batch saw a world that has changed since: roll back and run the same items again."""


@dataclass(slots=True)
class _Submission(Generic[Item, Answer]):
    """One caller's items, answered together."""

    items: Sequence[Item]
    answers: list[Answer | Exception | None]
    done: asyncio.Future[None]
    missing: int
    taken: int = 0


@dataclass(slots=True)
class _Batch(Generic[Item, Answer]):
    items: list[Item] = field(default_factory=list)
    parts: list[tuple[_Submission[Item, Answer], int, int]] = field(default_factory=list)
    """Whose the items are, in order, and from where to where in their submission."""


class GroupCommit(Generic[Item, Answer]):
    """Runs items in shared transactions.

    Args:
        pool: Where the transactions run.
        run: Handles a batch inside an open READ COMMITTED transaction and returns one answer or exception an item,
            in order. May raise `Redo`. What it returns is given out only after COMMIT.
        org_of: An item's organisation: a batch that cannot get its locks is split by it.
        name: For metrics and errors.
        batch_max: The most items a transaction.
        queue_max: The most items that wait.
        workers: How many transactions may be in flight at once. More than one keeps the database busy while the next
            batch is made ready; they contend for what they share as replicas do.
        committed: Called with the answers of a batch after its COMMIT, before they are given out.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        run: Callable[[asyncpg.Connection, list[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        org_of: Callable[[Item], str],
        name: str,
        batch_max: int = 1000,
        queue_max: int = 20_000,
        workers: int = 1,
        committed: Callable[[Sequence[Answer | Exception]], None] | None = None,
    ) -> None:
        self._pool = pool
        self._run = run
        self._org_of = org_of
        self._name = name
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._waiting: deque[_Submission[Item, Answer]] = deque()
        self._waiting_items = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._workers_max = workers
        self._workers: list[asyncio.Task[None]] = []
        self._committed = committed

    async def submit(self, item: Item) -> Answer:
        """Runs one item.

        Raises:
            PurseError: The item's own refusal, RESOURCE_EXHAUSTED when the queue is full, or UNAVAILABLE.
        """
        (answer,) = await self.submit_many((item,))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def submit_many(self, items: Sequence[Item]) -> list[Answer | Exception]:
        """Runs items, each on its own; their answers or errors come in the same order.

        A caller that goes away does not stop its items: they are committed or refused all the same.

        Raises:
            PurseError: RESOURCE_EXHAUSTED when the queue is full, UNAVAILABLE when closing; nothing was done.
        """
        if not items:
            return []
        if self._closing:
            raise unavailable(f"{self._name} is shutting down; send the same request to another replica")
        if self._waiting_items + len(items) > self._queue_max:
            raise too_many(
                f"{self._name}: {self._waiting_items} items wait already, the limit is {self._queue_max}; "
                "send again later, with the same ids",
                retry_after_s=0.5,
            )
        done = asyncio.get_running_loop().create_future()
        submission = _Submission[Item, Answer](items, [None] * len(items), done, len(items))
        self._waiting.append(submission)
        self._waiting_items += len(items)
        self._arrived.set()
        while len(self._workers) < self._workers_max:
            self._workers.append(asyncio.create_task(self._work(), name=f"group-commit {self._name}"))
        await asyncio.shield(done)
        return submission.answers  # type: ignore[return-value]  # all are filled once `done` is

    @property
    def waiting_items(self) -> int:
        """How many items wait for a transaction."""
        return self._waiting_items

    async def close(self) -> None:
        """Refuses new items, finishes those that wait, and ends."""
        self._closing = True
        self._arrived.set()
        await asyncio.gather(*self._workers)

    async def _work(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            batch = self._take()
            GROUP_COMMIT_ITEMS.labels(self._name).observe(len(batch.items))
            answers = await self._commit_or_explain(batch.items)
            place = 0
            for submission, start, end in batch.parts:
                submission.answers[start:end] = answers[place : place + end - start]
                place += end - start
                submission.missing -= end - start
                if submission.missing == 0 and not submission.done.done():
                    submission.done.set_result(None)

    def _take(self) -> _Batch[Item, Answer]:
        batch = _Batch[Item, Answer]()
        room = self._batch_max
        while room and self._waiting:
            head = self._waiting[0]
            upto = min(len(head.items), head.taken + room)
            batch.items.extend(head.items[head.taken : upto])
            batch.parts.append((head, head.taken, upto))
            room -= upto - head.taken
            self._waiting_items -= upto - head.taken
            head.taken = upto
            if head.taken == len(head.items):
                self._waiting.popleft()
        return batch

    async def _commit_or_explain(self, items: list[Item]) -> Sequence[Answer | Exception]:
        """Answers for every item, whatever happens: an unforeseen failure is each item's error, never a dead worker."""
        try:
            return await self._commit(items)
        except PurseError as error:
            return [error] * len(items)
        except Exception as error:  # the worker must outlive every batch
            _log.exception("group commit failed", group=self._name, items=len(items))
            return [error] * len(items)

    async def _commit(self, items: list[Item]) -> Sequence[Answer | Exception]:
        attempts = redos = losses = 0
        while True:
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    answers = await self._run(connection, items)
                if len(answers) != len(items):
                    raise AssertionError(f"{self._name}: {len(items)} items got {len(answers)} answers")
                if self._committed is not None:
                    self._committed(answers)
                return answers
            except Redo:
                redos += 1
                GROUP_COMMIT_RETRIES.labels(self._name, "redo").inc()
                if redos > _REDO_MAX:
                    raise unavailable(f"{self._name}: the state kept changing; send again") from None
            except Exception as error:
                if is_certain_rollback(error):
                    attempts += 1
                    GROUP_COMMIT_RETRIES.labels(self._name, "rolled_back").inc()
                    if attempts >= _ATTEMPTS_MAX or getattr(error, "sqlstate", "") == "55P03":
                        return await self._split_by_org(items, error)
                elif is_connection_lost(error):
                    # Before COMMIT nothing happened; after it the keys tell. Either way: the same items, again.
                    GROUP_COMMIT_RETRIES.labels(self._name, "connection_lost").inc()
                    if losses >= len(_RECONNECT_DELAYS_S):
                        raise unavailable(
                            "the database is out of reach and the outcome is unknown; "
                            "send again with the same ids to learn it",
                            retry_after_s=1.0,
                        ) from error
                    await asyncio.sleep(_RECONNECT_DELAYS_S[losses])
                    losses += 1
                elif isinstance(error, PurseError):
                    raise
                else:
                    return await self._bisect(items, error)

    async def _split_by_org(self, items: list[Item], error: Exception) -> Sequence[Answer | Exception]:
        """One organisation's held locks must not stall the others."""
        orgs: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            orgs.setdefault(self._org_of(item), []).append(index)
        if len(orgs) == 1:
            busy = unavailable(f"{self._name}: locks of {next(iter(orgs))} are busy; send again with the same ids")
            busy.__cause__ = error
            return [busy] * len(items)
        answers: list[Answer | Exception] = [error] * len(items)
        for indexes in orgs.values():
            part = await self._commit_or_explain([items[index] for index in indexes])
            for index, answer in zip(indexes, part, strict=True):
                answers[index] = answer
        return answers

    async def _bisect(self, items: list[Item], error: Exception) -> Sequence[Answer | Exception]:
        """Any other failure is some item's fault: halve until only the guilty one fails."""
        if len(items) == 1:
            _log.error("item failed", group=self._name, exc_info=error)
            return [error]
        middle = len(items) // 2
        left = await self._commit_or_explain(items[:middle])
        right = await self._commit_or_explain(items[middle:])
        return [*left, *right]
