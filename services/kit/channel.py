"""Channels from one service to another."""

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from services.kit.settings import ServiceSettings

_MESSAGE_BYTES_MAX = 8 * 1024 * 1024
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    # A service that restarts is looked for again at once, not after two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)


class _Bearer:
    """Adds the token to every call."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def _with_token(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._header)
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


# One class a kind of call: a channel takes an interceptor for the first kind that it is of.
class _BearerOfCalls(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: object
    ) -> Any:
        return await continuation(self._with_token(client_call_details), request)


class _BearerOfAnswers(_Bearer, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: object
    ) -> Any:
        return await continuation(self._with_token(client_call_details), request)


class _BearerOfStreams(_Bearer, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._with_token(client_call_details), request_iterator)


def is_loopback(address: str) -> bool:
    """Whether `host:port` is this machine alone."""
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def channel(
    address: str, token: str | None, *, ca_file: Path | None = None, allow_plaintext: bool = False
) -> grpc.aio.Channel:
    """A channel to `host:port` that carries the token.

    Args:
        address: Where; `dns:///name:port` balances over all that the name resolves to.
        token: Sent with every call.
        ca_file: PEM roots; with them, or off loopback, the channel uses TLS.
        allow_plaintext: Speak without TLS off loopback too.
    """
    interceptors: list[grpc.aio.ClientInterceptor] = []
    if token:
        interceptors = [_BearerOfCalls(token), _BearerOfAnswers(token), _BearerOfStreams(token)]
    if ca_file is None and (allow_plaintext or is_loopback(address)):
        return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=interceptors)
    roots = ca_file.read_bytes() if ca_file else None
    credentials = grpc.ssl_channel_credentials(roots)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS, interceptors=interceptors)


def service_channel(settings: ServiceSettings, address: str) -> grpc.aio.Channel:
    """A channel to another service of the suite, with this service's token and by its rules for the network."""
    return channel(
        address, settings.service_token(), ca_file=settings.tls_ca_file, allow_plaintext=settings.allow_plaintext
    )
