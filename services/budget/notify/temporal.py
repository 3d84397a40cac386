"""What the outbox starts for deliveries that wait."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.kit.outbox import OutboxMessage, Send
from services.kit.temporal import NewWorkflow

WORKFLOW: Final = "Notify"
TASK_QUEUE: Final = "notify"


def deliveries(_message: OutboxMessage, about: Mapping[str, Any]) -> NewWorkflow:
    """The workflow that carries the deliveries of a channel."""
    subscription, channel = about["subscription"], about["channel"]
    return NewWorkflow(
        workflow=WORKFLOW,
        task_queue=TASK_QUEUE,
        given={"subscription": subscription, "channel": channel},
        subject=about["subject"],
        state="DELIVERING",
        summary=f"Deliveries by {channel} to {subscription}",
        details=(
            f"Sends the events that wait for `{subscription}` by {channel}, in order, and ends when none waits. "
            f"The truth is kept by the budget service: `purse deliveries list {subscription}`."
        ),
        wakes=True,
    )


def once_each(send: Send) -> Send:
    """Sends one row a workflow, however many rows name it."""

    async def once(messages: Sequence[OutboxMessage]) -> list[Exception | None]:
        first = {message.key: message for message in reversed(messages)}
        results = await send(list(first.values()))
        by_key = dict(zip(first, results, strict=True))
        return [by_key[message.key] for message in messages]

    return once
