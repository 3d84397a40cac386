"""Starts and wakes the workflows of approvals; what the outbox's relays call."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from temporalio.client import Client
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError, RPCStatusCode

from services.kit.approvals import summary
from services.kit.errors import conflict
from services.kit.outbox import OutboxMessage
from services.kit.settings import ServiceSettings
from services.kit.temporal import (
    DEADLINE,
    ORG,
    RPC_TIMEOUT,
    STATE,
    SUBJECT,
    Connection,
    for_each,
    out_of_reach,
)

WORKFLOW: Final = "Approval"
TASK_QUEUE: Final = "approvals"
WAKE: Final = "wake"


class Temporal:
    """Starts and wakes the workflows that outbox rows name.

    Args:
        settings: Where it is, and how it knows us.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._connection = Connection(settings)

    async def start(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
        """Starts a workflow a row; one that runs already is what was wanted."""
        client = await self._connection.client()
        return await for_each(messages, lambda message: _start(client, message))

    async def signal(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
        """Wakes a workflow a row; one that has ended needs no waking, and the sweep starts one that was lost."""
        client = await self._connection.client()
        return await for_each(messages, lambda message: _signal(client, message))


async def _start(client: Client, message: OutboxMessage) -> None:
    name = message.key
    try:
        about = json.loads(message.payload)
        deadline = datetime.fromisoformat(about["expires_at"])
        subject, what, state = about["subject"], about["what"], about["state"]
        requested_by, justification, urgency = about["requested_by"], about["justification"], about["urgency"]
    except (ValueError, KeyError, TypeError):
        raise conflict("MALFORMED_OUTBOX_ROW", f"the outbox row of {name} cannot be read") from None
    attributes = TypedSearchAttributes(
        [
            SearchAttributePair(ORG, f"orgs/{message.org}"),
            SearchAttributePair(SUBJECT, subject),
            SearchAttributePair(STATE, state),
            SearchAttributePair(DEADLINE, deadline),
        ]
    )
    try:
        await client.start_workflow(
            WORKFLOW,
            {"approval": name, "requested_by": requested_by, "what": what, "expires_at": about["expires_at"]},
            id=name,
            task_queue=TASK_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=attributes,
            static_summary=summary(f"{urgency}: {what}"),
            static_details=(
                f"**{what}**\n\n{requested_by} asks, {urgency}: {justification}\n\n"
                f"It expires on {deadline:%Y-%m-%d %H:%M} UTC unless somebody decides before. "
                f"The truth is kept by the budget service: `{name}`."
            ),
            rpc_timeout=RPC_TIMEOUT,
        )
    except RPCError as error:
        # Until the worker has registered them, the search attributes are unknown to a new namespace.
        if error.status is RPCStatusCode.INVALID_ARGUMENT and "search attribute" not in error.message.lower():
            raise conflict("TEMPORAL_REFUSED", f"Temporal refuses to start {name}: {error.message}") from None
        raise out_of_reach(error) from None


async def _signal(client: Client, message: OutboxMessage) -> None:
    handle = client.get_workflow_handle(message.key)
    try:
        await handle.signal(WAKE, message.payload.decode(errors="replace"), rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return
        raise out_of_reach(error) from None
