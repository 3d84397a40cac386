"""Traces: what a recharge or an approval does across processes, sent by OTLP where a collector is named."""

import contextlib
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from services.kit.public_address import is_this_machine
from services.kit.settings import ServiceSettings

_QUEUE_SPANS_MAX: Final = 2048
_BATCH_SPANS_MAX: Final = 256
_EXPORT_TIMEOUT_S: Final = 5
_PATH: Final = "/v1/traces"


@contextlib.contextmanager
def traced(settings: ServiceSettings, name: str) -> Iterator[None]:
    """Makes this process's spans go to the collector of the settings until the block ends; without one, nothing.

    They are sent in the background; what does not fit the queue of 2,048 is dropped, and nobody waits for it.

    Args:
        settings: Where the collector is, and which share of traces is kept.
        name: The process's name.

    Raises:
        SystemExit: The collector's address is none, or another machine's and without TLS.
    """
    if not settings.otlp_endpoint:
        yield
        return
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: f"pursestrings-{name}"}),
        # One that began elsewhere goes by what was decided there.
        sampler=ParentBasedTraceIdRatio(settings.traces_sampled),
    )
    provider.add_span_processor(
        BatchSpanProcessor(_exporter(settings), max_queue_size=_QUEUE_SPANS_MAX, max_export_batch_size=_BATCH_SPANS_MAX)
    )
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def _exporter(settings: ServiceSettings) -> OTLPSpanExporter:
    url = urlsplit(settings.otlp_endpoint)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise SystemExit("PURSE_OTLP_ENDPOINT: give it as https://host:port, where the collector takes OTLP over HTTP")
    if url.scheme == "http" and not settings.allow_plaintext and not is_this_machine(url.hostname):
        raise SystemExit(
            f"PURSE_OTLP_ENDPOINT: {url.hostname} is another machine; use https, or set PURSE_ALLOW_PLAINTEXT=true "
            "inside a network that encrypts by itself"
        )
    ca_file = str(settings.tls_ca_file) if settings.tls_ca_file else None
    endpoint = settings.otlp_endpoint.rstrip("/") + _PATH
    return OTLPSpanExporter(endpoint, certificate_file=ca_file, timeout=_EXPORT_TIMEOUT_S)
