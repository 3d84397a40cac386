"""Channels to the services, with the credential on every call."""

import ipaddress
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from pursestrings._settings import Settings
from pursestrings.budget.v1 import budget_pb2_grpc
from pursestrings.metering.v1 import metering_pb2_grpc
from pursestrings.wallet.v1 import wallet_pb2_grpc

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub
    from pursestrings.metering.v1.metering_pb2_grpc import MeteringServiceAsyncStub
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

_MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
_TOKEN_FILE_CHECK_S: Final = 1.0
_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    # A service that restarts is looked for again at once, not after two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # One's own services are never behind the proxy that the environment may name.
    ("grpc.enable_http_proxy", 0),
)


class Credential:
    """The token of a client; a file is read again when it has changed, looked at once a second at most."""

    def __init__(self, settings: Settings) -> None:
        self._file = None if settings.token else settings.token_file
        self._token = settings.token
        self._looked_at_s = float("-inf")
        self._seen: tuple[int, int] | None = None

    def header(self) -> tuple[str, str] | None:
        """The metadata entry of a call; None without a token.

        Raises:
            OSError: The file cannot be read and never could.
        """
        if self._file is not None and time.monotonic() - self._looked_at_s >= _TOKEN_FILE_CHECK_S:
            self._looked_at_s = time.monotonic()
            self._read()
        return ("authorization", f"Bearer {self._token}") if self._token else None

    def _read(self) -> None:
        assert self._file is not None
        try:
            stat = self._file.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp != self._seen:
                self._token = self._file.read_text().strip()
                self._seen = stamp
        except OSError:
            # While a file is being replaced the token in hand still works.
            if self._token is None:
                raise


class _Bearer:
    """Adds the credential to every call."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def _with_token(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        header = self._credential.header()
        if header is None:
            return details
        metadata = grpc.aio.Metadata(*(details.metadata or ()), header)
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


# One class a kind of call: a channel takes an interceptor for the first kind that it is of.
class _BearerOfCalls(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc, unused-ignore]
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: object
    ) -> Any:
        """Passes the call on with one more metadata entry."""
        return await continuation(self._with_token(client_call_details), request)


class _BearerOfAnswers(_Bearer, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc, unused-ignore]
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: object
    ) -> Any:
        """Passes the call on with one more metadata entry."""
        return await continuation(self._with_token(client_call_details), request)


class _BearerOfStreams(_Bearer, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc, unused-ignore]
    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        """Passes the call on with one more metadata entry."""
        return await continuation(self._with_token(client_call_details), request_iterator)


class Channels:
    """One channel to each of the three services, of one event loop.

    Raises:
        ValueError: An address off this machine without TLS and without leave to do so.
    """

    def __init__(self, settings: Settings) -> None:
        for name in ("budget", "metering", "wallet"):
            _check(name, getattr(settings, name), settings)
        credential = Credential(settings)
        self._budget = _open(settings.budget, settings, credential)
        self._metering = _open(settings.metering, settings, credential)
        self._wallet = _open(settings.wallet, settings, credential)
        self.budget: BudgetServiceAsyncStub = budget_pb2_grpc.BudgetServiceStub(self._budget)
        self.metering: MeteringServiceAsyncStub = metering_pb2_grpc.MeteringServiceStub(self._metering)
        self.wallet: WalletServiceAsyncStub = wallet_pb2_grpc.WalletServiceStub(self._wallet)

    async def close(self) -> None:
        """Closes all three."""
        for channel in (self._budget, self._metering, self._wallet):
            await channel.close()


def is_loopback(address: str) -> bool:
    """Whether `host:port` is this machine alone."""
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(name: str, address: str, settings: Settings) -> None:
    if not address.rpartition(":")[2].isdigit():
        raise ValueError(f"{name}: {address!r} is no address; write host:port")
    if settings.ca_file is None and not settings.allow_plaintext and not is_loopback(address):
        raise ValueError(
            f"{name}: {address} is another machine and a token would travel in the clear: give ca_file for TLS, "
            "or allow_plaintext where the network encrypts by itself"
        )


def _open(address: str, settings: Settings, credential: Credential) -> grpc.aio.Channel:
    interceptors: list[grpc.aio.ClientInterceptor] = [
        _BearerOfCalls(credential),
        _BearerOfAnswers(credential),
        _BearerOfStreams(credential),
    ]
    if settings.ca_file is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(settings.ca_file.read_bytes())
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS, interceptors=interceptors)
