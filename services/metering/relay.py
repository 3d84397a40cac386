"""Tells the budget service of usage, at least once, and up to when all of it has been told."""

import time
from collections.abc import Sequence
from typing import Final

import asyncpg
import grpc

from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit.errors import Code, PurseError, unavailable
from services.kit.loops import Loop
from services.kit.outbox import ERROR_CHARS_MAX, DeliveredThrough, is_the_rows_fault, wait_s_of
from services.kit.status import from_rpc_error, from_rpc_status
from services.kit.telemetry import OUTBOX_FAILED, OUTBOX_PARKED, OUTBOX_SENT, get_logger
from services.metering import wire
from services.metering.domain.usage import Usage
from services.metering.store import relaying
from services.metering.store.recording import TOPIC
from services.metering.store.relaying import Failure, Pointer, Row

_log = get_logger(__name__)
CALL_BYTES_MAX: Final = 3 * 1024 * 1024
"""The most bytes of events a call: the receiver's limit is 4 MiB."""

_INTERVAL_S: Final = 0.25
_AWAY_S: Final = 1.0
_PROBE: Final = 1
"""After a receiver was away, a delivery has one row: whether it is back costs as little as may be."""
_MISSING: Final = PurseError(
    Code.FAILED_PRECONDITION, "EVENT_MISSING", "the outbox points at an event that is not there; audit the books"
)

# A call refused as a whole for what these say is no fault of its events: they wait, and none is parked for it.
_NOT_THE_EVENTS_FAULT: Final = frozenset({
    Code.ABORTED,
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED,
    Code.UNAUTHENTICATED,
    Code.UNAVAILABLE,
    Code.UNIMPLEMENTED,
})  # fmt: skip


class UsageRelay:
    """Delivers usage from the outbox.

    Args:
        pool: The outbox's database.
        budget: The budget service.
        name: This database's name as a relay.
        batch_max: The most events a delivery.
        tries_max: After how many refusals of its own an event is parked.
        timeout_s: How long one call may take.
        report_interval_s: How often to say up to when all is delivered.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        budget: "budget_pb2_grpc.BudgetServiceAsyncStub",
        *,
        name: str,
        batch_max: int = 1_000,
        tries_max: int = 10,
        timeout_s: float = 15.0,
        report_interval_s: float = 1.0,
    ) -> None:
        self._pool = pool
        self._budget = budget
        self._name = name
        self._timeout_s = timeout_s
        self._batch_max = batch_max
        self._tries_max = tries_max
        self._away_until_s = 0.0
        self._is_away = False
        self._loop = Loop(f"relay {TOPIC}", self._step, _INTERVAL_S)
        self._delivered = DeliveredThrough(TOPIC)
        self._report = Loop("report delivered usage", self.report, report_interval_s)

    @property
    def loops(self) -> list[Loop]:
        """What must run for usage to be delivered."""
        return [self._loop, self._report]

    def wake(self) -> None:
        """Says that usage was recorded."""
        self._loop.wake()

    async def deliver(self) -> bool:
        """Delivers one batch; returns whether more may be due.

        The rows stay locked until it is known what became of them. Whatever ends this before the commit, a crash
        included, leaves them as they were: they are told again, and the receiver knows them by their ids.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            rows, more = await relaying.take(connection, _PROBE if self._is_away else self._batch_max)
            if not rows:
                return False
            errors = iter(await self._send([pointer.usage for row in rows for pointer in row.pointers]))
            done: list[Row] = []
            failures: list[tuple[Row, list[Failure]]] = []
            for row in rows:
                failed = [_failure(row, pointer, error) for pointer in row.pointers if (error := next(errors))]
                if failed:
                    failures.append((row, failed))
                else:
                    done.append(row)
            failed_count = sum(len(failed) for _, failed in failures)
            sent = sum(len(row.pointers) for row in rows) - failed_count
            if done:
                await relaying.delete(connection, done)
            if failures:
                await relaying.postpone(connection, failures, self._tries_max)
        OUTBOX_SENT.labels(TOPIC).inc(sent)
        self._note(failures, failed_count)
        return more and bool(sent)

    async def _step(self) -> bool:
        # A receiver that is away is asked once in a while, not at every record.
        if time.monotonic() < self._away_until_s:
            return False
        return await self.deliver()

    def _note(self, failures: Sequence[tuple[Row, Sequence[Failure]]], count: int) -> None:
        self._away_until_s = 0.0
        self._is_away = False
        if not failures:
            return
        parked = sum(
            one.is_its_fault and row.tries + 1 >= self._tries_max for row, failed in failures for one in failed
        )
        first = failures[0][1][0]
        if not first.is_its_fault:
            self._is_away = True
            self._away_until_s = time.monotonic() + (first.wait_s or _AWAY_S)
        _log.warning("outbox delivery failed", topic=TOPIC, rows=count, parked=parked, error=first.error)
        OUTBOX_FAILED.labels(TOPIC).inc(count)
        OUTBOX_PARKED.labels(TOPIC).inc(parked)

    async def report(self) -> bool:
        """Tells up to when all is delivered, once that is known; returns False: nothing more to do at once."""
        async with self._pool.acquire() as connection:
            through = await self._delivered.observe(connection)
            held_back = await self._delivered.held_back(connection)
        if held_back is None:
            _log.warning("usage fails in too many organisations to say what is delivered")
        elif through is not None:
            request = budget_pb2.ApplyUsageRequest(relay=self._name, delivered_through=wire.timestamp_of(through))
            for org, org_through in held_back:
                request.held_back.add(org=f"orgs/{org}", delivered_through=wire.timestamp_of(org_through))
            try:
                await self._budget.ApplyUsage(request, timeout=self._timeout_s)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
        return False

    async def _send(self, usages: Sequence[Usage | None]) -> list[Exception | None]:
        """Tells of events, in calls of a bounded size; None or an error each, in order."""
        results: list[Exception | None] = []
        part: list[budget_pb2.UsageItem | None] = []
        size = 0
        for usage in usages:
            item = None if usage is None else wire.usage_item(usage)
            bytes_more = 0 if item is None else item.ByteSize()
            if part and (size + bytes_more > CALL_BYTES_MAX or len(part) == self._batch_max):
                results += await self._apply(part)
                part, size = [], 0
            part.append(item)
            size += bytes_more
        return results + await self._apply(part)

    async def _apply(self, items: Sequence[budget_pb2.UsageItem | None]) -> list[Exception | None]:
        here = [item for item in items if item is not None]
        errors = iter(await self._apply_all(here) if here else ())
        return [_MISSING if item is None else next(errors) for item in items]

    async def _apply_all(self, items: Sequence[budget_pb2.UsageItem]) -> list[Exception | None]:
        """Applies events. Where one of them makes the whole call fail, halves find out which."""
        try:
            request = budget_pb2.ApplyUsageRequest(items=items, relay=self._name)
            response = await self._budget.ApplyUsage(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as failure:
            error = from_rpc_error(failure)
            if error.code in _NOT_THE_EVENTS_FAULT:
                return [unavailable(f"budget: {error.code.name}: {error.message}")] * len(items)
            if len(items) == 1:
                return [error]
            middle = len(items) // 2
            return [*await self._apply_all(items[:middle]), *await self._apply_all(items[middle:])]
        if len(response.results) != len(items):
            wrong = f"budget answered {len(response.results)} results for {len(items)} events"
            return [PurseError(Code.INTERNAL, "RESULTS_MISSING", wrong)] * len(items)
        return [
            from_rpc_status(result.error) if result.WhichOneof("result") == "error" else None
            for result in response.results
        ]


def _failure(row: Row, pointer: Pointer, error: Exception) -> Failure:
    its_fault = is_the_rows_fault(error)
    return Failure(pointer, repr(error)[:ERROR_CHARS_MAX], its_fault, wait_s_of(row.tries, error))
