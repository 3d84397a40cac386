"""Metering as it runs, on a test's database, with a budget service that can be told to fail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from pydantic import SecretStr

from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from pursestrings.type.v1 import type_pb2
from services.kit import auth
from services.kit.channel import channel
from services.kit.errors import PurseError, invalid
from services.kit.status import from_rpc_error, to_rpc_status
from services.metering.domain.usage import Usage
from services.metering.main import serving
from services.metering.settings import MeteringSettings
from services.metering.store.recording import Recording
from tests.support.databases import Database

EVERYONE = "orgs/-"


@dataclass
class FakeBudget(budget_pb2_grpc.BudgetServiceServicer):
    """Applies each usage id once, as the real one does, and fails as it is told: only for injecting faults.

    Attributes:
        applied: What was applied, by (source, id).
        calls: How many items each call had.
        lose_answers: How many of the next calls are done and then answered UNAVAILABLE.
        refuse_calls: How many of the next calls fail as a whole, with `refusal_code`.
        refused_ids: Ids that are refused each time.
        breaking_ids: Ids that make their whole call fail with INTERNAL.
        delivered_through: The last report, and `relay` who made it.
        held_back: The organisations of the last report, and up to when theirs is delivered.
    """

    applied: dict[tuple[str, str], budget_pb2.UsageItem] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    lose_answers: int = 0
    refuse_calls: int = 0
    refusal_code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    refused_ids: set[str] = field(default_factory=set)
    breaking_ids: set[str] = field(default_factory=set)
    delivered_through: datetime | None = None
    held_back: dict[str, datetime] = field(default_factory=dict)
    relay: str = ""

    async def ApplyUsage(
        self, request: budget_pb2.ApplyUsageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> budget_pb2.ApplyUsageResponse:
        if not request.items:
            self.delivered_through = request.delivered_through.ToDatetime(UTC)
            self.held_back = {one.org: one.delivered_through.ToDatetime(UTC) for one in request.held_back}
            self.relay = request.relay
            return budget_pb2.ApplyUsageResponse()
        self.calls.append(len(request.items))
        if self.refuse_calls:
            self.refuse_calls -= 1
            await context.abort(self.refusal_code, "told to refuse")
        if self.breaking_ids & {item.id for item in request.items}:
            await context.abort(grpc.StatusCode.INTERNAL, "told to break")
        results = [self._apply(item) for item in request.items]
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to lose the answer")
        return budget_pb2.ApplyUsageResponse(results=results)

    def _apply(self, item: budget_pb2.UsageItem) -> budget_pb2.ApplyUsageResult:
        if item.id in self.refused_ids:
            return budget_pb2.ApplyUsageResult(error=to_rpc_status(invalid("items.id", "told to refuse")))
        duplicate = (item.source, item.id) in self.applied
        self.applied[item.source, item.id] = item
        return budget_pb2.ApplyUsageResult(applied=budget_pb2.AppliedUsage(duplicate=duplicate))


@dataclass(frozen=True, slots=True)
class Metering:
    """Metering, running.

    Attributes:
        address: Where it answers.
        budget: What it relays to.
        stub_for: A client as (subject, role).
        keys: What signs its tokens.
    """

    address: str
    budget: FakeBudget
    stub_for: Callable[..., "metering_pb2_grpc.MeteringServiceAsyncStub"]
    keys: "Keys"


@dataclass(frozen=True, slots=True)
class Keys:
    """The key of a test's tokens."""

    private_pem: bytes
    public_file: Path

    @classmethod
    def make(cls, directory: Path) -> "Keys":
        """A new key, in files of a folder."""
        private_pem, public_pem = auth.generate_key()
        public_file = directory / "public.pem"
        public_file.write_bytes(public_pem)
        return cls(private_pem, public_file)

    def token(self, subject: str, *roles: str) -> str:
        """A token of an hour."""
        return auth.mint(self.private_pem, subject, roles, 3_600, datetime.now(UTC))


@contextlib.asynccontextmanager
async def running_budget(budget: FakeBudget) -> AsyncIterator[str]:
    """Serves the fake and gives its address."""
    server = grpc.aio.server()
    budget_pb2_grpc.add_BudgetServiceServicer_to_server(budget, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def settings_for(database: Database, keys: Keys, budget_address: str, **more: Any) -> MeteringSettings:
    """Settings of a metering on a test's database."""
    values: dict[str, Any] = {
        "bind": "127.0.0.1:0",
        "metrics_bind": "127.0.0.1:0",
        "auth_public_key_file": keys.public_file,
        "metering_dsn": SecretStr(database.service_dsn),
        "budget_address": budget_address,
        "shutdown_grace_s": 2.0,
        "report_interval_s": 0.1,
    }
    return MeteringSettings(**(values | more))


@contextlib.asynccontextmanager
async def running_metering(database: Database, directory: Path, **more: Any) -> AsyncIterator[Metering]:
    """Metering with a fake budget service."""
    keys = Keys.make(directory)
    budget = FakeBudget()
    async with contextlib.AsyncExitStack() as stack:
        budget_address = await stack.enter_async_context(running_budget(budget))
        server = await stack.enter_async_context(serving(settings_for(database, keys, budget_address, **more)))
        address = f"127.0.0.1:{server.port}"
        channels: dict[str, grpc.aio.Channel] = {}

        def stub_for(subject: str = EVERYONE, role: str = "service") -> "metering_pb2_grpc.MeteringServiceAsyncStub":
            if subject + role not in channels:
                channels[subject + role] = channel(address, keys.token(subject, role))
            return metering_pb2_grpc.MeteringServiceStub(channels[subject + role])

        yield Metering(address, budget, stub_for, keys)
        await asyncio.gather(*(one.close() for one in channels.values()))


def usage_event(id_: str = "e1", **fields: Any) -> metering_pb2.UsageEvent:
    """An event of a priced model; fields of the call and of the tokens by their own names."""
    call: dict[str, Any] = {"provider": "anthropic", "model": "claude-sonnet-4-5", "operation": "chat"}
    call |= {name: fields.pop(name) for name in ("provider", "model", "operation", "labels") if name in fields}
    tokens: dict[str, Any] = {"input_tokens": 1_000, "output_tokens": 100}
    tokens |= {name: fields.pop(name) for name in list(fields) if name.endswith("_tokens")}
    return metering_pb2.UsageEvent(
        **{
            "subject": "orgs/acme/teams/support/agents/bot",
            "source": "test",
            "id": id_,
            "call": type_pb2.CallAttributes(**call),
            "tokens": type_pb2.TokenCounts(**tokens),
            **fields,
        }
    )


def recording(id_: str, occurred_at: datetime, **fields: Any) -> Recording:
    """A call ready for the store, with content that its hash tells apart; fields by their columns' names."""
    values: dict[str, Any] = {
        "org": "acme",
        "occurred_at": occurred_at,
        "source": "test",
        "id": id_,
        "subject": "orgs/acme/agents/bot",
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "given_provider": "",
        "given_model": "claude-sonnet-4-5",
        "operation": "chat",
        "labels": "{}",
        "input_tokens": 1_000,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 100,
        "reasoning_tokens": 0,
        "requests": 1,
        "cost_nanos": 4_500_000,
        "currency": "USD",
        "rate_card_version": "v1",
        "session": "",
        "run": "",
        "effort": "",
        "failed": False,
        "status": "",
        "reservation": "",
        "final": True,
        "recorded_at": occurred_at,
    }
    kept = Usage(**(values | fields))
    payload_hash = repr(sorted(fields.items())).encode()
    return Recording(kept, payload_hash)


async def record_all(
    stub: "metering_pb2_grpc.MeteringServiceAsyncStub", events: Sequence[metering_pb2.UsageEvent]
) -> list[metering_pb2.RecordUsageResult]:
    """Records a batch."""
    response = await stub.BatchRecordUsage(metering_pb2.BatchRecordUsageRequest(events=events))
    return list(response.results)


async def refusal_of(call: Any) -> PurseError:
    """The error that a call is refused with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call was not refused")
