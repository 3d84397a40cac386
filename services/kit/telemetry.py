"""Logs as lines of JSON, metrics for Prometheus, and the small HTTP port that shows both health and metrics."""

import asyncio
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from services.kit.errors import PurseError

RPC_SECONDS = Histogram(
    "purse_rpc_seconds",
    "Time to answer an RPC, in seconds.",
    ["method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RPC_IN_FLIGHT = Gauge("purse_rpc_in_flight", "RPCs being answered.")
GROUP_COMMIT_ITEMS = Histogram(
    "purse_group_commit_items",
    "Items a shared transaction.",
    ["group"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000),
)
GROUP_COMMIT_RETRIES = Counter("purse_group_commit_retries", "Transactions run again, by cause.", ["group", "cause"])
OUTBOX_SENT = Counter("purse_outbox_sent", "Outbox rows delivered.", ["topic"])
OUTBOX_FAILED = Counter("purse_outbox_failed", "Outbox deliveries that failed.", ["topic"])
OUTBOX_PARKED = Counter("purse_outbox_parked", "Outbox rows given up until someone looks.", ["topic"])
LOOP_ERRORS = Counter("purse_loop_errors", "Steps of background loops that failed.", ["loop"])

_SECRET = re.compile(r"token|secret|password|api_?key|private|dsn|authorization|signature", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(sk|rk|whsec|pk)_[A-Za-z0-9_]{6,}|Bearer\s+\S+|://[^/\s:@]+:[^/\s@]+@")
_OWN = "purse_"
_REQUEST_BYTES_MAX = 8192
_HTTP_TIMEOUT_S = 5.0


def _without_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if _SECRET.search(key):
            event[key] = "[hidden]"
        elif isinstance(value, str):
            event[key] = _CREDENTIALS.sub("[hidden]", value)
    return event


def configure_logging(level: str, name: str) -> None:
    """Writes one JSON object a line to stderr; what looks like a secret is hidden.

    Args:
        level: debug, info, warning or error.
        name: The service's name, in every line.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=name)
    logging.basicConfig(
        level=max(number, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that carries its module's name."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(module=name)
    return logger


class _Collected:
    """Metrics as `generate_latest` takes them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def summed(own: Iterable[Metric], others: Sequence[bytes]) -> bytes:
    """A process's metrics with the suite's own of its other processes added to them, in Prometheus' text format.

    Args:
        own: As they were collected: to read a service's text again would hold up its calls for 30 ms.
        others: In the text format; what is not the suite's, such as a process's memory, stays each process's own.
    """
    families = {family.name: family for family in own}
    known: dict[str, dict[object, int]] = {}
    for text in others:
        for family in text_string_to_metric_families(text.decode()):
            name = family.name
            if not family.samples or not name.startswith(_OWN) or name.endswith("_created"):
                continue
            samples = families.setdefault(name, Metric(name, family.documentation, family.type)).samples
            # Most have none of what the service itself counts, so it is looked through for few.
            if name not in known:
                known[name] = {_key_of(sample): place for place, sample in enumerate(samples)}
            places = known[name]
            for sample in family.samples:
                place = places.setdefault(_key_of(sample), len(samples))
                if place == len(samples):
                    samples.append(sample)
                else:
                    samples[place] = samples[place]._replace(value=samples[place].value + sample.value)
    return generate_latest(_Collected(families.values()))


def _key_of(sample: Sample) -> object:
    return sample.name, frozenset(sample.labels.items())


class MetricsServer:
    """Answers GET /metrics and GET /health on its own port.

    Args:
        bind: `host:port`; port 0 takes a free one.
        healthy: Whether the process is fit to work.
        others: The metrics of further processes of the service, to be added; a TimeoutError or PurseError of it is
            answered by 503.
    """

    def __init__(
        self,
        bind: str,
        healthy: Callable[[], Awaitable[bool]],
        others: Callable[[], Awaitable[Sequence[bytes]]] | None = None,
    ) -> None:
        self._host, _, port = bind.rpartition(":")
        self._port = int(port)
        self._healthy = healthy
        self._others = others
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("start() first")
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=_REQUEST_BYTES_MAX)

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HTTP_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = await self._answer(head.split(b" ", 2)[1])
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError, IndexError):
            pass  # a client that does not speak HTTP, or went away
        finally:
            writer.close()

    async def _answer(self, path: bytes) -> tuple[str, str, bytes]:
        if path == b"/metrics":
            try:
                others = await self._others() if self._others else ()
            except (TimeoutError, PurseError):
                # The sums without one of them would look like counters that were set back.
                return "503 Service Unavailable", "text/plain", b"a process of the service does not say its metrics\n"
            body = summed(REGISTRY.collect(), others) if others else generate_latest()
            return "200 OK", CONTENT_TYPE_LATEST, body
        if path == b"/health":
            if await self._healthy():
                return "200 OK", "application/json", b'{"status":"ok"}'
            return "503 Service Unavailable", "application/json", b'{"status":"unavailable"}'
        return "404 Not Found", "text/plain", b"only /metrics and /health are here\n"
