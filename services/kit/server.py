"""The gRPC server every service runs in: auth, deadlines, errors, limits, health, reflection, drain."""

import asyncio
import gc
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from services.kit import auth, streams
from services.kit.channel import is_loopback
from services.kit.database import is_connection_lost
from services.kit.errors import Code, PurseError, too_many, unavailable
from services.kit.settings import ServiceSettings
from services.kit.status import to_rpc_status, trailing_metadata
from services.kit.telemetry import RPC_IN_FLIGHT, RPC_SECONDS, MetricsServer, get_logger

_log = get_logger(__name__)
_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
_GC_THRESHOLD = 50_000
_READY_INTERVAL_S = 1.0
LIVE = "live"
"""The health service's name for the process itself: SERVING as long as it runs, whatever its database does."""
_OPEN_METHODS = ("/grpc.health.v1.Health/", "/grpc.reflection.")
_STATUS_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

Servicer = Callable[[Any, Any], None]
Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


class _Gate(grpc.aio.ServerInterceptor):
    """Everything that happens around a method: who calls, how long, how many, and what an error looks like."""

    def __init__(
        self,
        verifier: auth.Verifier,
        access: Mapping[str, auth.Rule],
        *,
        in_flight_max: int,
        timeout_max_s: float,
    ) -> None:
        self._verifier = verifier
        self._access = access
        self._in_flight_max = in_flight_max
        self._timeout_max_s = timeout_max_s
        self._in_flight = 0
        self._streams = 0
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        method = details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None or method.startswith(_OPEN_METHODS):
            return handler
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            wrapped = grpc.unary_unary_rpc_method_handler(self._around(method, handler.unary_unary), *codecs)
        elif handler.unary_stream:
            run = self._around_stream(method, handler.unary_stream, is_many=False)
            wrapped = grpc.unary_stream_rpc_method_handler(run, *codecs)
        elif handler.stream_stream:
            run = self._around_stream(method, handler.stream_stream, is_many=True)
            wrapped = grpc.stream_stream_rpc_method_handler(run, *codecs)
        else:
            raise TypeError(f"{method}: a stream with one answer has no gate, so none is served")
        self._wrapped[method] = wrapped
        return wrapped

    def _around(self, method: str, run: Handler) -> Handler:
        name = method.rpartition("/")[2]

        async def answer(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            began_s = time.perf_counter()
            code = "OK"
            self._in_flight += 1
            RPC_IN_FLIGHT.inc()
            try:
                self._admit(method, request, context)
                async with asyncio.timeout(self._timeout_s(context)):
                    return await run(request, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:
                refusal = _explain(method, error)
                code = refusal.code.name
                await _refuse(refusal, context)
            finally:
                self._in_flight -= 1
                RPC_IN_FLIGHT.dec()
                RPC_SECONDS.labels(name, code).observe(time.perf_counter() - began_s)

        return answer

    def _around_stream(self, method: str, run: Callable[[Any, Any], AsyncIterator[Any]], *, is_many: bool) -> Handler:
        """Around a method that answers many times, to one request or, `is_many`, to a stream of them."""
        name = method.rpartition("/")[2]

        async def answer(given: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            began_s = time.perf_counter()
            code = "OK"
            age = asyncio.timeout(streams.AGE_MAX_S)
            self._streams += 1
            RPC_IN_FLIGHT.inc()
            try:
                if self._streams > streams.STREAMS_MAX:
                    raise too_many(f"{streams.STREAMS_MAX} streams are open, which is the limit", 1.0, "BUSY")
                who = self._identify(context)
                authorize = partial(auth.authorize, self._access, method, who=who)
                if is_many:
                    given = streams.checked(given, who, authorize, streams.IDLE_MAX_S)
                else:
                    authorize(given)
                async with age:
                    async for response in run(given, context):
                        await context.write(response)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:
                is_old = isinstance(error, TimeoutError) and age.expired()
                refusal = streams.too_old(streams.AGE_MAX_S) if is_old else _explain(method, error)
                code = refusal.code.name
                await _refuse(refusal, context)
            finally:
                self._streams -= 1
                RPC_IN_FLIGHT.dec()
                RPC_SECONDS.labels(name, code).observe(time.perf_counter() - began_s)

        return answer

    def _admit(self, method: str, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self._in_flight > self._in_flight_max:
            raise too_many(f"{self._in_flight_max} calls are being answered, which is the limit", 0.2, "BUSY")
        auth.authorize(self._access, method, request, self._identify(context))

    def _identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> auth.Identity:
        token = auth.bearer(context.invocation_metadata() or ())
        who = self._verifier.verify(token, time.time())
        auth.set_identity(who)
        return who

    def _timeout_s(self, context: grpc.aio.ServicerContext[Any, Any]) -> float:
        remaining_s = context.time_remaining()
        return self._timeout_max_s if remaining_s is None else min(remaining_s, self._timeout_max_s)


async def _refuse(refusal: PurseError, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    """Ends a call with the status that an error stands for."""
    await context.abort(_STATUS_CODES[int(refusal.code)], refusal.message, trailing_metadata(to_rpc_status(refusal)))
    raise AssertionError("unreachable: abort raises")


def _explain(method: str, error: Exception) -> PurseError:
    if isinstance(error, PurseError):
        return error
    if isinstance(error, TimeoutError):
        return PurseError(
            Code.DEADLINE_EXCEEDED,
            "DEADLINE_EXCEEDED",
            "not done in time; send again with the same ids to learn the outcome",
        )
    if is_connection_lost(error):
        _log.warning("database out of reach", method=method, error=repr(error))
        return unavailable("the database is out of reach; send again with the same ids", retry_after_s=0.5)
    incident = secrets.token_hex(4)
    _log.error("unforeseen failure", method=method, incident=incident, exc_info=error)
    return PurseError(Code.INTERNAL, "INTERNAL", f"unforeseen failure {incident}; the server's log tells more")


class GrpcServer:
    """One service's server.

    Args:
        settings: Where to bind, limits, keys.
        access: One row a method; a method without a row is refused.
        ready: Whether the service can work, for example whether its database answers.
        others: The metrics of the service's further processes.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        access: Mapping[str, auth.Rule],
        ready: Callable[[], Awaitable[bool]],
        others: Callable[[], Awaitable[Sequence[bytes]]] | None = None,
    ) -> None:
        if settings.auth_public_key_file is None:
            raise SystemExit("set PURSE_AUTH_PUBLIC_KEY_FILE: without a key no token can be verified")
        self._settings = settings
        self._ready = ready
        self._access = access
        gate = _Gate(
            auth.Verifier(settings.auth_public_key_file.read_bytes()),
            access,
            in_flight_max=settings.rpc_in_flight_max,
            timeout_max_s=settings.rpc_timeout_max_s,
        )
        self._server = grpc.aio.server(
            interceptors=[gate],
            options=(
                ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", 2 * _MESSAGE_BYTES_MAX),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                # So that new replicas get traffic from clients that stay connected.
                ("grpc.max_connection_age_ms", 300_000),
                ("grpc.max_connection_age_grace_ms", 30_000),
            ),
        )
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        # Kubernetes' own probes speak neither TLS nor tokens: health alone, on a port of its own.
        self._probes = grpc.aio.server() if settings.health_bind else None
        if self._probes is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probes)
        self._names: list[str] = []
        self._metrics = MetricsServer(settings.metrics_bind, ready, others)
        self._stopped = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self.port = 0

    def add(self, add_to_server: Servicer, servicer: object, full_name: str) -> None:
        """Serves a servicer under its full name, such as `pursestrings.budget.v1.BudgetService`."""
        add_to_server(servicer, self._server)
        self._names.append(full_name)

    async def start(self) -> None:
        """Binds, and says ready when it is."""
        names = (*self._names, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.port = self._bind()
        await self._server.start()
        await self._metrics.start()
        await self._health.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._probes is not None:
            self._probes.add_insecure_port(self._settings.health_bind)
            await self._probes.start()
        self._watch = asyncio.create_task(self._watch_ready(), name="ready")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        _log.info("listening", bind=self._settings.bind, port=self.port, metrics_port=self._metrics.port)

    def end(self) -> None:
        """Does what SIGTERM does."""
        self._stopped.set()

    async def wait_stopped(self) -> None:
        """Returns when SIGTERM or SIGINT came, after the running calls have been answered."""
        await self._stopped.wait()
        await self.stop()

    async def stop(self) -> None:
        """Says "not serving", refuses new calls, and lets the running ones finish within the grace."""
        self._stopped.set()
        if self._watch is not None:
            self._watch.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._settings.shutdown_grace_s)
        if self._probes is not None:
            await self._probes.stop(None)
        await self._metrics.stop()

    def _bind(self) -> int:
        settings = self._settings
        if settings.tls_certificate_file and settings.tls_key_file:
            pair = (settings.tls_key_file.read_bytes(), settings.tls_certificate_file.read_bytes())
            return self._server.add_secure_port(settings.bind, grpc.ssl_server_credentials([pair]))
        if not (settings.allow_plaintext or is_loopback(settings.bind)):
            raise SystemExit(
                f"refusing to serve {settings.bind} without TLS: set PURSE_TLS_CERTIFICATE_FILE and "
                "PURSE_TLS_KEY_FILE, or PURSE_ALLOW_PLAINTEXT=true inside a network that encrypts by itself"
            )
        return self._server.add_insecure_port(settings.bind)

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def _watch_ready(self) -> None:
        last = None
        while True:
            now = await self._ready()
            if now != last:
                serving = health_pb2.HealthCheckResponse
                await self._set_health(serving.SERVING if now else serving.NOT_SERVING)
                _log.info("ready" if now else "not ready")
                last = now
            await asyncio.sleep(_READY_INTERVAL_S if now else _READY_INTERVAL_S / 10)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a service's `main` on uvloop until it returns; a wrong setting ends it with its message."""
    # A batch makes tens of thousands of objects that no cycle holds: collecting more often finds nothing.
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    try:
        uvloop.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
