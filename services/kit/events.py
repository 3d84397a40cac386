"""What a service tells people: rows of its outbox, handed to the budget service, which knows the subscriptions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import asyncpg
import grpc

from pursestrings.budget.v1 import deliveries_pb2
from services.kit.errors import PurseError, conflict
from services.kit.outbox import OutboxMessage, Relay
from services.kit.status import from_rpc_error, from_rpc_status

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub

CALL_MAX: Final = 100
"""The most events of one call."""
_TIMEOUT_S: Final = 10.0

ToEvent = Callable[[OutboxMessage], deliveries_pb2.Event]
"""Makes an event of a row, all but its key; raises ValueError, KeyError or TypeError where the row cannot be read."""


def events_relay(
    pool: asyncpg.Pool, topic: str, budget: "BudgetServiceAsyncStub", service: str, to_event: ToEvent
) -> Relay:
    """Publishes the rows of a topic, at least once; their keys make it exactly once.

    Args:
        pool: The outbox's database.
        topic: Which rows.
        budget: The budget service, called as role `service`.
        service: The name of the service that tells, in the events' keys.
        to_event: What a row says.
    """

    async def send(messages: list[OutboxMessage]) -> Sequence[Exception | None]:
        read = [_read(message, service, to_event) for message in messages]
        events = [one for one in read if isinstance(one, deliveries_pb2.Event)]
        if not events:
            return [one for one in read if isinstance(one, PurseError)]
        try:
            answer = await budget.PublishEvents(deliveries_pb2.PublishEventsRequest(events=events), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        results = iter(answer.results)
        return [one if isinstance(one, PurseError) else _outcome(next(results)) for one in read]

    return Relay(pool, topic, send, batch_max=CALL_MAX)


def _read(message: OutboxMessage, service: str, to_event: ToEvent) -> deliveries_pb2.Event | PurseError:
    try:
        event = to_event(message)
    except (ValueError, KeyError, TypeError):
        return conflict("MALFORMED_OUTBOX_ROW", f"the outbox row {message.id} of {message.key} cannot be read")
    # A number alone would come again in a database that was set up anew.
    event.key = f"{service}:{message.id}:{int(message.created_at.timestamp() * 1_000_000)}"
    event.occur_time.FromDatetime(message.created_at)
    return event


def _outcome(result: deliveries_pb2.PublishResult) -> PurseError | None:
    return from_rpc_status(result.error) if result.HasField("error") else None
