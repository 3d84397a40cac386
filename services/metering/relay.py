"""Tells the budget service of usage, at least once, and up to when all of it has been told."""

from collections.abc import Sequence
from typing import Final

import asyncpg
import grpc
from google.protobuf.message import DecodeError

from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit.errors import Code, PurseError, unavailable
from services.kit.loops import Loop
from services.kit.outbox import DeliveredThrough, OutboxMessage, Relay
from services.kit.status import from_rpc_error, from_rpc_status
from services.kit.telemetry import get_logger
from services.metering.store.recording import TOPIC
from services.metering.wire import timestamp_of

_log = get_logger(__name__)
CALL_BYTES_MAX: Final = 3 * 1024 * 1024
"""The most bytes of events a call: the receiver's limit is 4 MiB."""

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
        self._relay = Relay(pool, TOPIC, self._send, batch_max=batch_max, tries_max=tries_max)
        self._delivered = DeliveredThrough(TOPIC)
        self._report = Loop("report delivered usage", self.report, report_interval_s)

    @property
    def loops(self) -> list[Loop]:
        """What must run for usage to be delivered."""
        return [self._relay.loop, self._report]

    def wake(self) -> None:
        """Says that usage was recorded."""
        self._relay.wake()

    async def deliver(self) -> bool:
        """Delivers one batch; returns whether more may be due."""
        return await self._relay.step()

    async def report(self) -> bool:
        """Tells up to when all is delivered, once that is known; returns False: nothing more to do at once."""
        async with self._pool.acquire() as connection:
            through = await self._delivered.observe(connection)
            held_back = await self._delivered.held_back(connection)
        if held_back is None:
            _log.warning("usage fails in too many organisations to say what is delivered")
        elif through is not None:
            request = budget_pb2.ApplyUsageRequest(relay=self._name, delivered_through=timestamp_of(through))
            for org, org_through in held_back:
                request.held_back.add(org=f"orgs/{org}", delivered_through=timestamp_of(org_through))
            try:
                await self._budget.ApplyUsage(request, timeout=self._timeout_s)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
        return False

    async def _send(self, messages: list[OutboxMessage]) -> Sequence[Exception | None]:
        results: list[Exception | None] = []
        part: list[bytes] = []
        size = 0
        for message in messages:
            if size + len(message.payload) > CALL_BYTES_MAX and part:
                results += await self._apply(part)
                part, size = [], 0
            part.append(message.payload)
            size += len(message.payload)
        return results + await self._apply(part)

    async def _apply(self, items: list[bytes]) -> list[Exception | None]:
        """Applies events. Where one of them makes the whole call fail, halves find out which."""
        try:
            request = _request_of(items)
            request.relay = self._name
            response = await self._budget.ApplyUsage(request, timeout=self._timeout_s)
        except (DecodeError, grpc.aio.AioRpcError) as failure:
            error = from_rpc_error(failure) if isinstance(failure, grpc.aio.AioRpcError) else _unreadable(failure)
            if error.code in _NOT_THE_EVENTS_FAULT:
                return [unavailable(f"budget: {error.code.name}: {error.message}")] * len(items)
            if len(items) == 1:
                return [error]
            middle = len(items) // 2
            return [*await self._apply(items[:middle]), *await self._apply(items[middle:])]
        if len(response.results) != len(items):
            wrong = f"budget answered {len(response.results)} results for {len(items)} events"
            return [PurseError(Code.INTERNAL, "RESULTS_MISSING", wrong)] * len(items)
        return [
            from_rpc_status(result.error) if result.WhichOneof("result") == "error" else None
            for result in response.results
        ]


def _unreadable(error: DecodeError) -> PurseError:
    return PurseError(Code.INVALID_ARGUMENT, "UNREADABLE", f"the stored message cannot be read: {error}")


def _request_of(items: Sequence[bytes]) -> budget_pb2.ApplyUsageRequest:
    """One request of messages that hold one item each; raises DecodeError where one does not."""
    request = budget_pb2.ApplyUsageRequest.FromString(b"".join(items))
    if len(request.items) != len(items):
        raise DecodeError(f"{len(items)} messages hold {len(request.items)} items")
    return request
