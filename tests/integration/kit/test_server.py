"""The gRPC server as callers meet it: who may call, what errors look like, limits, health, drain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedded.ports import free_ports
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit import auth
from services.kit.channel import channel
from services.kit.errors import Code, PurseError, invalid, unavailable
from services.kit.server import LIVE, GrpcServer
from services.kit.settings import ServiceSettings
from services.kit.status import from_rpc_error
from services.kit.telemetry import MetricsServer

SERVICE = "pursestrings.budget.v1.BudgetService"
ACCESS = {f"/{SERVICE}/Reserve": auth.rule(auth.by_field("subject"), "agent")}
PRIVATE, PUBLIC = auth.generate_key()


class Servicer(budget_pb2_grpc.BudgetServiceServicer):
    """Answers by what the request id says."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()

    async def Reserve(self, request: budget_pb2.ReserveRequest, context: Any) -> budget_pb2.ReserveResponse:
        match request.request_id:
            case "refuse":
                raise invalid("request_id", "is refused", "REQUEST_ID_REUSED", seen="1")
            case "break":
                raise ZeroDivisionError("hunter2")
            case "lose":
                raise ConnectionResetError("database gone")
            case "wait":
                self.entered.set()
                await self.go_on.wait()
        return budget_pb2.ReserveResponse(
            decision=budget_pb2.Decision(outcome=budget_pb2.OUTCOME_ALLOW, wallet=auth.identity().subject)
        )


class Served:
    """A running server and a way to call it."""

    def __init__(self, server: GrpcServer, servicer: Servicer) -> None:
        self.server = server
        self.servicer = servicer
        self.is_ready = True
        self.metrics_port = server._metrics.port
        token = auth.mint(PRIVATE, "orgs/acme", ["agent"], 600, datetime.now(UTC))
        self.channel = channel(f"127.0.0.1:{server.port}", token)
        self.stub = budget_pb2_grpc.BudgetServiceStub(self.channel)

    async def reserve(
        self, request_id: str = "1", subject: str = "orgs/acme", timeout_s: float = 10
    ) -> budget_pb2.ReserveResponse:
        request = budget_pb2.ReserveRequest(subject=subject, request_id=request_id)
        return await self.stub.Reserve(request, timeout=timeout_s)

    async def refusal(self, request_id: str = "1", subject: str = "orgs/acme") -> PurseError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.reserve(request_id, subject)
        return from_rpc_error(raised.value)

    async def health(self) -> int:
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(
            health_pb2.HealthCheckRequest(service=SERVICE), timeout=5
        )
        return int(answer.status)


@asynccontextmanager
async def serving(tmp_path: Path, **options: Any) -> AsyncIterator[Served]:
    key = tmp_path / "public.pem"
    key.write_bytes(PUBLIC)
    ready = asyncio.Event()
    ready.set()

    async def is_ready() -> bool:
        return served is None or served.is_ready

    served: Served | None = None
    settings = ServiceSettings(auth_public_key_file=key, **{"shutdown_grace_s": 5.0, **options})
    server, servicer = GrpcServer(settings, access=ACCESS, ready=is_ready), Servicer()
    server.add(budget_pb2_grpc.add_BudgetServiceServicer_to_server, servicer, SERVICE)
    await server.start()
    served = Served(server, servicer)
    async with asyncio.timeout(30):
        yield served
        servicer.go_on.set()
        await served.channel.close()
        await server.stop()


async def test_a_call_is_answered_and_knows_its_caller(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert "orgs/acme" == (await served.reserve()).decision.wallet


async def test_a_refusal_arrives_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        refusal = await served.refusal("refuse")

    assert (Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", "request_id", {"seen": "1"}) == (
        refusal.code,
        refusal.reason,
        refusal.field,
        refusal.metadata,
    )


async def test_an_unforeseen_failure_tells_no_internals(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        refusal = await served.refusal("break")

    assert Code.INTERNAL is refusal.code
    assert "hunter2" not in refusal.message


async def test_a_lost_database_is_unavailable_and_retryable(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        refusal = await served.refusal("lose")

    assert (Code.UNAVAILABLE, True) == (refusal.code, refusal.retry_after_s is not None)


@pytest.mark.parametrize(
    ("subject", "code", "reason"),
    [
        ("orgs/other", Code.PERMISSION_DENIED, "OUT_OF_SCOPE"),
        ("teams/a", Code.INVALID_ARGUMENT, "MALFORMED_SUBJECT"),
        ("orgs/a" + "/teams/t" * 8, Code.INVALID_ARGUMENT, "MALFORMED_SUBJECT"),
    ],
)
async def test_scope_and_form_are_checked_before_the_method(
    tmp_path: Path, subject: str, code: Code, reason: str
) -> None:
    async with serving(tmp_path) as served:
        refusal = await served.refusal(subject=subject)

    assert (code, reason) == (refusal.code, refusal.reason)


async def test_a_method_without_a_row_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.stub.Release(budget_pb2.ReleaseRequest(), timeout=5)

    assert "METHOD_NOT_LISTED" == from_rpc_error(raised.value).reason


async def test_no_token_no_answer_but_health_is_open(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, channel(f"127.0.0.1:{served.server.port}", None) as anonymous:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await budget_pb2_grpc.BudgetServiceStub(anonymous).Reserve(budget_pb2.ReserveRequest(), timeout=5)
        answer = await health_pb2_grpc.HealthStub(anonymous).Check(health_pb2.HealthCheckRequest(), timeout=5)

    assert Code.UNAUTHENTICATED is from_rpc_error(raised.value).code
    assert answer.status in (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)


async def test_more_calls_than_the_limit_are_refused_not_queued(tmp_path: Path) -> None:
    async with serving(tmp_path, rpc_in_flight_max=1) as served:
        first = asyncio.create_task(served.reserve("wait"))
        await served.servicer.entered.wait()

        refusal = await served.refusal()

        served.servicer.go_on.set()
        await first
    assert (Code.RESOURCE_EXHAUSTED, True) == (refusal.code, refusal.retry_after_s is not None)


async def test_a_call_without_a_deadline_gets_one(tmp_path: Path) -> None:
    async with serving(tmp_path, rpc_timeout_max_s=0.1) as served:
        refusal = await served.refusal("wait")

    assert Code.DEADLINE_EXCEEDED is refusal.code


async def test_a_running_call_is_finished_before_the_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        running = asyncio.create_task(served.reserve("wait"))
        await served.servicer.entered.wait()
        stopping = asyncio.create_task(served.server.stop())
        while not await _refuses(served):
            await asyncio.sleep(0.01)
        served.servicer.go_on.set()

        assert budget_pb2.OUTCOME_ALLOW == (await running).decision.outcome
        await stopping


async def _refuses(served: Served) -> bool:
    try:
        await served.reserve(timeout_s=1)
    except grpc.aio.AioRpcError as error:
        return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return False


async def test_health_follows_readiness(tmp_path: Path) -> None:
    states = health_pb2.HealthCheckResponse
    async with serving(tmp_path) as served:
        while await served.health() != states.SERVING:
            await asyncio.sleep(0.01)
        served.is_ready = False
        while await served.health() != states.NOT_SERVING:
            await asyncio.sleep(0.05)
        served.is_ready = True
        while await served.health() != states.SERVING:
            await asyncio.sleep(0.05)


async def test_metrics_and_health_answer_over_http(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as served,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.metrics_port}") as web,
    ):
        await served.reserve()
        metrics, fit = await web.get("/metrics"), await web.get("/health")
        served.is_ready = False
        unfit, nothing = await web.get("/health"), await web.get("/etc/passwd")

    assert 'purse_rpc_seconds_count{code="OK",method="Reserve"}' in metrics.text
    assert [200, 503, 404] == [fit.status_code, unfit.status_code, nothing.status_code]


@pytest.mark.parametrize("failure", [TimeoutError(), unavailable("it has ended")])
async def test_metrics_are_whole_or_are_not_told(failure: Exception) -> None:
    async def others() -> list[bytes]:
        raise failure

    async def healthy() -> bool:
        return True

    metrics = MetricsServer("127.0.0.1:0", healthy, others)
    await metrics.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{metrics.port}") as web:
        answer = await web.get("/metrics")
    await metrics.stop()

    assert answer.status_code == 503
    assert "purse_" not in answer.text


async def test_plaintext_stays_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="without TLS"):
        async with serving(tmp_path, bind="0.0.0.0:0"):
            pass


async def test_probes_are_answered_on_a_port_of_their_own(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with (
        serving(tmp_path, health_bind=f"127.0.0.1:{port}") as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as probes,
    ):
        stub = health_pb2_grpc.HealthStub(probes)

        async def ask(service: str) -> int:
            return int((await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status)

        assert await ask(LIVE) == health_pb2.HealthCheckResponse.SERVING
        served.is_ready = False
        async with asyncio.timeout(20):
            while await ask(SERVICE) != health_pb2.HealthCheckResponse.NOT_SERVING:
                await asyncio.sleep(0.05)
        # A process without its database must not be ended for it.
        assert await ask(LIVE) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await budget_pb2_grpc.BudgetServiceStub(probes).Reserve(budget_pb2.ReserveRequest(), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
