"""The one way to Temporal: where it is, how it knows us by the settings, and how outbox rows reach workflows."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from temporalio.client import Client
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from services.kit.errors import PurseError, conflict, unavailable
from services.kit.outbox import OutboxMessage, Send
from services.kit.settings import ServiceSettings

ORG: Final = SearchAttributeKey.for_keyword("Org")
SUBJECT: Final = SearchAttributeKey.for_keyword("Subject")
WALLET: Final = SearchAttributeKey.for_keyword("Wallet")
STATE: Final = SearchAttributeKey.for_keyword("State")
DEADLINE: Final = SearchAttributeKey.for_datetime("Deadline")

WAKE: Final = "wake"
"""The signal that says to look again, of every workflow that a row wakes."""

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


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """A workflow to start, with what people see of it; its id is the outbox row's key.

    Attributes:
        given: Its input.
        subject: Whom it is about.
        state: What it begins in.
        summary: One line, for the list in Temporal's UI.
        details: What it is about, in words and amounts (Markdown).
        wallet: Where it is about one.
        deadline: When it ends by itself, where it does.
        wakes: Whether one that runs already is woken; else it is left as it is.
    """

    workflow: str
    task_queue: str
    given: Mapping[str, str]
    subject: str
    state: str
    summary: str
    details: str
    wallet: str = ""
    deadline: datetime | None = None
    wakes: bool = False


Describe = Callable[[OutboxMessage, Mapping[str, Any]], NewWorkflow]
"""What an outbox row and its payload, read as JSON, start. One that lacks something raises as its reading does."""


class Temporal:
    """Starts and wakes the workflows that outbox rows name; connects when it is first needed.

    Args:
        settings: Where Temporal is, and how it knows us.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._client: Client | None = None

    def starting(self, describe: Describe) -> Send:
        """Starts a workflow a row; one that runs already is what was wanted."""

        async def start(messages: Sequence[OutboxMessage]) -> list[Exception | None]:
            client = await self._connected()
            return await _each(messages, lambda message: _start(client, message, describe))

        return start

    async def wake(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
        """Wakes a workflow a row; one that has ended needs no waking, and the sweep starts one that was lost."""
        client = await self._connected()
        return await _each(messages, lambda message: _wake(client, message))

    async def _connected(self) -> Client:
        if self._client is None:
            try:
                self._client = await connect(self._settings)
            except (RuntimeError, RPCError) as error:
                raise _out_of_reach(error) from None
        return self._client


async def _each(
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


async def _start(client: Client, message: OutboxMessage, describe: Describe) -> None:
    name = message.key
    try:
        new = describe(message, json.loads(message.payload))
    except (ValueError, KeyError, TypeError):
        raise conflict("MALFORMED_OUTBOX_ROW", f"the outbox row of {name} cannot be read") from None
    try:
        await client.start_workflow(
            new.workflow,
            new.given,
            id=name,
            task_queue=new.task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=_attributes(message.org, new),
            start_signal=WAKE if new.wakes else None,
            start_signal_args=["something waits"] if new.wakes else [],
            static_summary=new.summary,
            static_details=new.details,
            rpc_timeout=RPC_TIMEOUT,
        )
    except RPCError as error:
        # Until the worker has registered them, the search attributes are unknown to a new namespace.
        if error.status is RPCStatusCode.INVALID_ARGUMENT and "search attribute" not in error.message.lower():
            raise conflict("TEMPORAL_REFUSED", f"Temporal refuses to start {name}: {error.message}") from None
        raise _out_of_reach(error) from None


def _attributes(org: str, new: NewWorkflow) -> TypedSearchAttributes:
    pairs: list[SearchAttributePair[Any]] = [
        SearchAttributePair(ORG, f"orgs/{org}"),
        SearchAttributePair(SUBJECT, new.subject),
        SearchAttributePair(STATE, new.state),
    ]
    if new.wallet:
        pairs.append(SearchAttributePair(WALLET, new.wallet))
    if new.deadline is not None:
        pairs.append(SearchAttributePair(DEADLINE, new.deadline))
    return TypedSearchAttributes(pairs)


async def _wake(client: Client, message: OutboxMessage) -> None:
    handle = client.get_workflow_handle(message.key)
    try:
        await handle.signal(WAKE, message.payload.decode(errors="replace"), rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return
        raise _out_of_reach(error) from None


def _out_of_reach(error: Exception) -> PurseError:
    return unavailable(f"Temporal is out of reach: {error}"[:300], _RETRY_AFTER_S)


def _tls(settings: ServiceSettings) -> TLSConfig | bool:
    if not settings.temporal_tls:
        return False
    files = (settings.temporal_tls_ca_file, settings.temporal_tls_certificate_file, settings.temporal_tls_key_file)
    ca, certificate, key = (path.read_bytes() if path else None for path in files)
    return TLSConfig(server_root_ca_cert=ca, client_cert=certificate, client_private_key=key)
