"""The part of the gRPC face that tells people: events in, deliveries out."""

from typing import Any

import grpc

from pursestrings.budget.v1 import budget_pb2_grpc, deliveries_pb2
from services.budget import wire
from services.budget.notify.domain import events
from services.budget.notify.domain.events import Event
from services.budget.notify.publish import Publisher
from services.kit.errors import Code, PurseError, invalid
from services.kit.status import to_rpc_status

Context = grpc.aio.ServicerContext[Any, Any]

_NOT_YET = PurseError(Code.UNIMPLEMENTED, "UNIMPLEMENTED", "deliveries are not served yet")


class NotifyMethods(budget_pb2_grpc.BudgetServiceServicer):
    """Methods of events and of their deliveries."""

    _publisher: Publisher

    async def PublishEvents(
        self, request: deliveries_pb2.PublishEventsRequest, context: Context
    ) -> deliveries_pb2.PublishEventsResponse:
        """Stores events, each once by its key."""
        if not 1 <= len(request.events) <= events.EVENTS_MAX:
            raise invalid("events", f"are {len(request.events)}; send 1 to {events.EVENTS_MAX} at once")
        read = [_read(message) for message in request.events]
        stored = iter(await self._publisher.publish([one for one in read if isinstance(one, Event)]))
        response = deliveries_pb2.PublishEventsResponse()
        for one in read:
            result = response.results.add()
            if isinstance(one, PurseError):
                result.error.CopyFrom(to_rpc_status(one))
            elif next(stored):
                result.outcome = deliveries_pb2.PUBLISH_OUTCOME_STORED
            else:
                result.outcome = deliveries_pb2.PUBLISH_OUTCOME_ALREADY_STORED
        return response

    async def TestSubscription(self, request: Any, context: Context) -> Any:
        """Not there yet."""
        raise _NOT_YET

    async def ListDeliveries(self, request: Any, context: Context) -> Any:
        """Not there yet."""
        raise _NOT_YET

    async def RedeliverDeliveries(self, request: Any, context: Context) -> Any:
        """Not there yet."""
        raise _NOT_YET

    async def TakeDeliveries(self, request: Any, context: Context) -> Any:
        """Not there yet."""
        raise _NOT_YET

    async def ReportDeliveries(self, request: Any, context: Context) -> Any:
        """Not there yet."""
        raise _NOT_YET


def _read(message: deliveries_pb2.Event) -> Event | PurseError:
    try:
        return events.of_draft(
            key=message.key,
            subject=wire.subject_of(message.subject),
            kind=message.event,
            type_=message.type,
            data=message.data,
            audience=message.audience,
            at_us=wire.time_us(message.occur_time) if message.HasField("occur_time") else None,
        )
    except PurseError as error:
        return error
