"""The one way to Temporal: where it is, how it knows us by the settings, and how outbox rows reach workflows."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.service import RPCError, TLSConfig

from services.kit.errors import PurseError, unavailable
from services.kit.outbox import OutboxMessage
from services.kit.settings import ServiceSettings

ORG: Final = SearchAttributeKey.for_keyword("Org")
SUBJECT: Final = SearchAttributeKey.for_keyword("Subject")
WALLET: Final = SearchAttributeKey.for_keyword("Wallet")
STATE: Final = SearchAttributeKey.for_keyword("State")
DEADLINE: Final = SearchAttributeKey.for_datetime("Deadline")

RPC_TIMEOUT: Final = timedelta(seconds=10)

_AT_ONCE_MAX: Final = 8
_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_RETRY_AFTER_S: Final = 1.0


async def connect(settings: ServiceSettings) -> Client:
    """A client, connected.

    Raises:
        RuntimeError: Temporal does not answer, within 5 s.
        RPCError: It refuses.
    """
    api_key = settings.temporal_api_key
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        api_key=api_key.get_secret_value() if api_key else None,
        tls=_tls(settings),
        connect_timeout=_CONNECT_TIMEOUT,
        # Workers take it over from their client.
        interceptors=[TracingInterceptor()] if settings.otlp_endpoint else [],
    )


class Connection:
    """A client that connects when it is first needed.

    Args:
        settings: Where Temporal is, and how it knows us.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._client: Client | None = None

    async def client(self) -> Client:
        """The client; UNAVAILABLE where Temporal is out of reach."""
        if self._client is None:
            try:
                self._client = await connect(self._settings)
            except (RuntimeError, RPCError) as error:
                raise out_of_reach(error) from None
        return self._client


async def for_each(
    messages: Sequence[OutboxMessage], send: Callable[[OutboxMessage], Awaitable[None]]
) -> list[Exception | None]:
    """Sends rows one by one, some at once; returns row by row None or why it was refused."""
    at_once = asyncio.Semaphore(_AT_ONCE_MAX)

    async def one(message: OutboxMessage) -> Exception | None:
        async with at_once:
            try:
                await send(message)
            except PurseError as error:
                return error
        return None

    return list(await asyncio.gather(*(one(message) for message in messages)))


def out_of_reach(error: Exception) -> PurseError:
    """What a failure to reach Temporal is to whoever relays: to be tried again."""
    return unavailable(f"Temporal is out of reach: {error}"[:300], _RETRY_AFTER_S)


def _tls(settings: ServiceSettings) -> TLSConfig | bool:
    if not settings.temporal_tls:
        return False
    files = (settings.temporal_tls_ca_file, settings.temporal_tls_certificate_file, settings.temporal_tls_key_file)
    ca, certificate, key = (path.read_bytes() if path else None for path in files)
    return TLSConfig(server_root_ca_cert=ca, client_cert=certificate, client_private_key=key)
