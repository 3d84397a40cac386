"""Starts and wakes the workflows of recharges and of reviews of caps; what the outbox's relays call."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
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

from services.kit.errors import PurseError, conflict
from services.kit.outbox import OutboxMessage
from services.kit.settings import ServiceSettings
from services.kit.temporal import (
    DEADLINE,
    ORG,
    RPC_TIMEOUT,
    STATE,
    SUBJECT,
    WALLET,
    Connection,
    for_each,
    out_of_reach,
)
from services.wallet.recharge.domain.attempts import MAX_AGE

WORKFLOW: Final = "Recharge"
TASK_QUEUE: Final = "recharge"
WAKE: Final = "wake"
REVIEW_WORKFLOW: Final = "RechargeCapReview"
REVIEW_TASK_QUEUE: Final = "approvals"
CAP_WORDS: Final = {"COUNT_CAP": "cap on the number of recharges", "AMOUNT_CAP": "cap on the money recharged"}
"""A cap as people are told of it."""


@dataclass(frozen=True, slots=True)
class _New:
    """A workflow to start, with what people see of it; its id is the outbox row's key."""

    workflow: str
    given: dict[str, str]
    task_queue: str
    subject: str
    wallet: str
    state: str
    deadline: datetime
    summary: str
    details: str


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

    async def start_review(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
        """Starts the workflow of a review of caps a row; one that runs already is what was wanted."""
        client = await self._connection.client()
        return await for_each(messages, lambda message: _start_review(client, message))

    async def signal(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
        """Wakes a workflow a row; one that has ended needs no waking, and the sweep starts one that was lost."""
        client = await self._connection.client()
        return await for_each(messages, lambda message: _signal(client, message))


async def _start(client: Client, message: OutboxMessage) -> None:
    name = message.key
    try:
        about = json.loads(message.payload)
        deadline = datetime.fromisoformat(about["created_at"]) + MAX_AGE
        wallet, amount, reason = about["wallet"], about["amount"], about["reason"]
    except (ValueError, KeyError, TypeError):
        raise _malformed(name) from None
    new = _New(
        workflow=WORKFLOW,
        given={"recharge": name},
        task_queue=TASK_QUEUE,
        subject=name.partition("/recharges/")[0],
        wallet=wallet,
        state="PENDING",
        deadline=deadline,
        summary=f"Recharge of {amount} for {wallet}",
        details=(
            f"**{amount}** for `{wallet}`, because {reason}.\n\n"
            f"It is given up on {deadline:%Y-%m-%d %H:%M} UTC unless the charge succeeds before. "
            f"The truth is kept by the wallet service: `{name}`."
        ),
    )
    await _start_new(client, message, new)


async def _start_review(client: Client, message: OutboxMessage) -> None:
    name = message.key
    try:
        about = json.loads(message.payload)
        deadline = datetime.fromisoformat(about["month_end"])
        wallet, month, charge = about["wallet"], about["month"], about["charge"]
        cap = CAP_WORDS[about["cap"]]
    except (ValueError, KeyError, TypeError):
        raise _malformed(name) from None
    new = _New(
        workflow=REVIEW_WORKFLOW,
        given={"review": name},
        task_queue=REVIEW_TASK_QUEUE,
        subject=name.partition("/rechargeReviews/")[0],
        wallet=wallet,
        state="WAITING",
        deadline=deadline,
        summary=f"{wallet} has reached its {cap} of {month}: allow more recharges?",
        details=(
            f"The {cap} of {month} has stopped a recharge of **{charge}** for `{wallet}`. Nothing is charged by itself "
            f"until somebody allows more, or the month ends on {deadline:%Y-%m-%d %H:%M} UTC.\n\n"
            f"Send the Update `decide`, or run `purse wallet reviews decide {name}`. "
            f"The truth is kept by the wallet service: `{name}`."
        ),
    )
    await _start_new(client, message, new)


async def _start_new(client: Client, message: OutboxMessage, new: _New) -> None:
    attributes = TypedSearchAttributes(
        [
            SearchAttributePair(ORG, f"orgs/{message.org}"),
            SearchAttributePair(SUBJECT, new.subject),
            SearchAttributePair(WALLET, new.wallet),
            SearchAttributePair(STATE, new.state),
            SearchAttributePair(DEADLINE, new.deadline),
        ]
    )
    try:
        await client.start_workflow(
            new.workflow,
            new.given,
            id=message.key,
            task_queue=new.task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=attributes,
            static_summary=new.summary,
            static_details=new.details,
            rpc_timeout=RPC_TIMEOUT,
        )
    except RPCError as error:
        # Until the worker has registered them, the search attributes are unknown to a new namespace.
        if error.status is RPCStatusCode.INVALID_ARGUMENT and "search attribute" not in error.message.lower():
            raise conflict("TEMPORAL_REFUSED", f"Temporal refuses to start {message.key}: {error.message}") from None
        raise out_of_reach(error) from None


def _malformed(name: str) -> PurseError:
    return conflict("MALFORMED_OUTBOX_ROW", f"the outbox row of {name} cannot be read")


async def _signal(client: Client, message: OutboxMessage) -> None:
    handle = client.get_workflow_handle(message.key)
    try:
        await handle.signal(WAKE, message.payload.decode(errors="replace"), rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return
        raise out_of_reach(error) from None
