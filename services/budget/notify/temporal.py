"""Wakes the workflows that carry deliveries; what the outbox's relay calls."""

import json
from collections.abc import Sequence
from typing import Final

from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from services.kit.errors import conflict
from services.kit.outbox import OutboxMessage
from services.kit.settings import ServiceSettings
from services.kit.temporal import ORG, RPC_TIMEOUT, STATE, SUBJECT, Connection, for_each, out_of_reach

WORKFLOW: Final = "Notify"
TASK_QUEUE: Final = "notify"
WAKE: Final = "wake"


class Temporal:
    """Wakes the workflows that outbox rows name, and starts those that are not there.

    Args:
        settings: Where it is, and how it knows us.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._connection = Connection(settings)

    async def wake(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
        """One signal a workflow, however many rows name it."""
        client = await self._connection.client()
        first = {message.key: message for message in reversed(messages)}
        results = await for_each(list(first.values()), lambda message: _wake(client, message))
        by_key = dict(zip(first, results, strict=True))
        return [by_key[message.key] for message in messages]


async def _wake(client: Client, message: OutboxMessage) -> None:
    try:
        about = json.loads(message.payload)
        subscription, subject, channel = about["subscription"], about["subject"], about["channel"]
    except (ValueError, KeyError, TypeError):
        raise conflict("MALFORMED_OUTBOX_ROW", f"the outbox row of {message.key} cannot be read") from None
    attributes = TypedSearchAttributes(
        [
            SearchAttributePair(ORG, f"orgs/{message.org}"),
            SearchAttributePair(SUBJECT, subject),
            SearchAttributePair(STATE, "DELIVERING"),
        ]
    )
    try:
        await client.start_workflow(
            WORKFLOW,
            {"subscription": subscription, "channel": channel},
            id=message.key,
            task_queue=TASK_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            search_attributes=attributes,
            start_signal=WAKE,
            start_signal_args=["something waits"],
            static_summary=f"Deliveries by {channel} to {subscription}",
            static_details=(
                f"Sends the events that wait for `{subscription}` by {channel}, in order, and ends when none waits. "
                f"The truth is kept by the budget service: `purse deliveries list {subscription}`."
            ),
            rpc_timeout=RPC_TIMEOUT,
        )
    except RPCError as error:
        # Until the worker has registered them, the search attributes are unknown to a new namespace.
        if error.status is RPCStatusCode.INVALID_ARGUMENT and "search attribute" not in error.message.lower():
            raise conflict("TEMPORAL_REFUSED", f"Temporal refuses to wake {message.key}: {error.message}") from None
        raise out_of_reach(error) from None
