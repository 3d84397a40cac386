"""Small budget and metering services in process: exact about ids, and told how to misbehave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2

from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from pursestrings.type.v1 import type_pb2

Hook = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]


def refusal(code: int, reason: str, message: str, field_name: str = "") -> status_pb2.Status:
    """A status as the services send it."""
    status = status_pb2.Status(code=code, message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="pursestrings"))
    if field_name:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field_name)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    return status


async def _nothing(_request: object, _context: object) -> None:
    return


@dataclass
class Book:
    """What the services saw and how they behave.

    `before` runs before a batch changes anything and `after` once it has: either may abort or wait.
    """

    decisions: dict[str, budget_pb2.Decision] = field(default_factory=dict)
    reserved: dict[str, budget_pb2.ReserveRequest] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    extended: list[budget_pb2.ExtendReservationRequest] = field(default_factory=list)
    recorded: dict[tuple[str, str], metering_pb2.UsageEvent] = field(default_factory=dict)
    reserve_batches: list[int] = field(default_factory=list)
    record_batches: list[int] = field(default_factory=list)
    duplicates: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    metadata: list[dict[str, Any]] = field(default_factory=list)
    before_reserve: Hook = _nothing
    after_reserve: Hook = _nothing
    before_record: Hook = _nothing
    after_record: Hook = _nothing
    item_errors: dict[str, list[status_pb2.Status]] = field(default_factory=dict)
    """By subject: refusals of single items, each used once."""
    limit: int | None = None
    """How many reservations are allowed; more are denied."""

    def decide(self, request: budget_pb2.ReserveRequest, /) -> budget_pb2.ReserveResult:
        waiting = self.item_errors.get(request.subject)
        if waiting:
            return budget_pb2.ReserveResult(error=waiting.pop(0))
        name = f"{request.subject}/reservations/{request.request_id}"
        if self.limit is not None and len(self.reserved) >= self.limit and name not in self.reserved:
            return budget_pb2.ReserveResult(decision=DENIAL)
        decision = budget_pb2.Decision(outcome=budget_pb2.OUTCOME_ALLOW)
        if not request.validate_only:
            decision.reservation = name
            self.reserved[name] = request
        return budget_pb2.ReserveResult(decision=decision)

    def record(self, event: metering_pb2.UsageEvent) -> metering_pb2.RecordUsageResult:
        waiting = self.item_errors.get(event.subject)
        if waiting:
            return metering_pb2.RecordUsageResult(error=waiting.pop(0))
        key = (event.source, event.id)
        known = self.recorded.get(key)
        if known is not None and known != event:
            error = refusal(code_pb2.ALREADY_EXISTS, "USAGE_ID_REUSED", "another event has this id", "id")
            return metering_pb2.RecordUsageResult(error=error)
        self.duplicates += known is not None
        self.recorded[key] = event
        cost = type_pb2.Money(currency_code="USD", amount_nanos=event.tokens.input_tokens)
        return metering_pb2.RecordUsageResult(
            usage=metering_pb2.RecordedUsage(id=event.id, cost=cost, duplicate=known is not None)
        )


DENIAL = budget_pb2.Decision(
    outcome=budget_pb2.OUTCOME_DENY,
    denied_reason=budget_pb2.DENIED_REASON_BUDGET_EXCEEDED,
    violations=[
        budget_pb2.BudgetUse(
            budget="orgs/acme/budgets/roomy",
            dimension=budget_pb2.DIMENSION_REQUESTS,
            limit_amount=1000,
            remaining_amount=500,
            asked_amount=501,
        ),
        budget_pb2.BudgetUse(
            budget="orgs/acme/budgets/tight",
            dimension=budget_pb2.DIMENSION_COST,
            currency_code="USD",
            limit_amount=10_000_000_000,
            remaining_amount=20_000_000,
            asked_amount=50_000_000,
            window_end_time=Timestamp(seconds=1_780_272_000),
        ),
    ],
)


class Budget(budget_pb2_grpc.BudgetServiceServicer):
    """The hot path of the budget service."""

    def __init__(self, book: Book) -> None:
        self.book = book

    async def BatchReserve(self, request: Any, context: Any) -> budget_pb2.BatchReserveResponse:
        book = self.book
        book.reserve_batches.append(len(request.requests))
        book.metadata.append(dict(context.invocation_metadata()))
        book.in_flight += 1
        book.in_flight_max = max(book.in_flight_max, book.in_flight)
        try:
            await book.before_reserve(request, context)
            results = [book.decide(item) for item in request.requests]
            await book.after_reserve(request, context)
        finally:
            book.in_flight -= 1
        return budget_pb2.BatchReserveResponse(results=results)

    async def ExtendReservation(self, request: Any, context: Any) -> budget_pb2.ExtendReservationResponse:
        self.book.extended.append(request)
        if self.book.limit == 0:
            return budget_pb2.ExtendReservationResponse(decision=DENIAL)
        decision = budget_pb2.Decision(outcome=budget_pb2.OUTCOME_ALLOW, expire_time=Timestamp(seconds=2_000_000_000))
        return budget_pb2.ExtendReservationResponse(decision=decision)

    async def Release(self, request: Any, context: Any) -> budget_pb2.ReleaseResponse:
        self.book.released.append(request.name)
        return budget_pb2.ReleaseResponse()


class Metering(metering_pb2_grpc.MeteringServiceServicer):
    """The hot path of the metering service."""

    def __init__(self, book: Book) -> None:
        self.book = book

    async def BatchRecordUsage(self, request: Any, context: Any) -> metering_pb2.BatchRecordUsageResponse:
        book = self.book
        book.record_batches.append(len(request.events))
        await book.before_record(request, context)
        results = [book.record(event) for event in request.events]
        await book.after_record(request, context)
        return metering_pb2.BatchRecordUsageResponse(results=results)


@dataclass
class Served:
    """The services' address and their book."""

    address: str
    book: Book


@asynccontextmanager
async def serve(port: int = 0, book: Book | None = None) -> AsyncIterator[Served]:
    """Both services on one free port."""
    book = book or Book()
    server = grpc.aio.server()
    budget_pb2_grpc.add_BudgetServiceServicer_to_server(Budget(book), server)  # type: ignore[abstract, unused-ignore]
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(book), server)  # type: ignore[abstract, unused-ignore]
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield Served(f"127.0.0.1:{bound}", book)
    finally:
        await server.stop(None)


def once(code: grpc.StatusCode, message: str = "told to fail") -> Hook:
    """A hook that aborts its first call."""
    left = [1]

    async def hook(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if left and left.pop():
            await context.abort(code, message)

    return hook


def gate() -> tuple[Hook, asyncio.Event, asyncio.Event]:
    """A hook that holds its first call: (hook, somebody has arrived, let go)."""
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def hook(_request: object, _context: object) -> None:
        if not arrived.is_set():
            arrived.set()
            await let_go.wait()

    return hook, arrived, let_go
