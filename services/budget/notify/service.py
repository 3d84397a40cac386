"""The part of the gRPC face that tells people: events in, deliveries out."""

from typing import Any

import grpc

from pursestrings.budget.v1 import budget_pb2_grpc, deliveries_pb2
from services.budget import wire
from services.budget.notify.deliveries import NAMES_MAX
from services.budget.notify.domain import events
from services.budget.notify.domain.events import Event
from services.budget.notify.domain.lanes import TAKEN_MAX, Channel
from services.budget.notify.parts import Notify
from services.budget.notify.wire import (
    channel_of,
    delivery_message,
    holder_of,
    numbers_of,
    report_of,
    state_of,
    taken_message,
)
from services.budget.wire_alerts import caller
from services.kit.errors import PurseError, invalid
from services.kit.status import to_rpc_status

Context = grpc.aio.ServicerContext[Any, Any]


class NotifyMethods(budget_pb2_grpc.BudgetServiceServicer):
    """Methods of events and of their deliveries."""

    _notify: Notify

    async def PublishEvents(
        self, request: deliveries_pb2.PublishEventsRequest, context: Context
    ) -> deliveries_pb2.PublishEventsResponse:
        """Stores events, each once by its key."""
        if not 1 <= len(request.events) <= events.EVENTS_MAX:
            raise invalid("events", f"are {len(request.events)}; send 1 to {events.EVENTS_MAX} at once")
        read = [_read(message) for message in request.events]
        stored = iter(await self._notify.publisher.publish([one for one in read if isinstance(one, Event)]))
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

    async def TestSubscription(
        self, request: deliveries_pb2.TestSubscriptionRequest, context: Context
    ) -> deliveries_pb2.TestSubscriptionResponse:
        """Sends a test event to one subscription."""
        rows = await self._notify.deliveries.test(*wire.resource_of(request.name, "subscriptions"), by=caller())
        return deliveries_pb2.TestSubscriptionResponse(deliveries=[delivery_message(request.name, row) for row in rows])

    async def ListDeliveries(
        self, request: deliveries_pb2.ListDeliveriesRequest, context: Context
    ) -> deliveries_pb2.ListDeliveriesResponse:
        """A page of deliveries."""
        found, token = await self._notify.deliveries.list_page(
            *wire.resource_of(request.parent, "subscriptions", "parent"),
            request.page_size,
            request.page_token,
            state=state_of(request.state),
            channels=[channel_of(request.channel)] if request.channel else list(Channel),
        )
        return deliveries_pb2.ListDeliveriesResponse(
            deliveries=[delivery_message(request.parent, row) for row in found], next_page_token=token
        )

    async def RedeliverDeliveries(
        self, request: deliveries_pb2.RedeliverDeliveriesRequest, context: Context
    ) -> deliveries_pb2.RedeliverDeliveriesResponse:
        """Sends deliveries again."""
        subject, id_ = wire.resource_of(request.subscription, "subscriptions", "subscription")
        if bool(request.deliveries) == request.all_dead:
            raise invalid("deliveries", "name deliveries, or set all_dead; one of the two")
        if len(request.deliveries) > NAMES_MAX:
            raise invalid("deliveries", f"are {len(request.deliveries)}; name at most {NAMES_MAX} at once")
        numbers = numbers_of(request.deliveries, subject, id_)
        count = await self._notify.deliveries.redeliver(subject, id_, numbers, all_dead=request.all_dead)
        return deliveries_pb2.RedeliverDeliveriesResponse(count=count)

    async def TakeDeliveries(
        self, request: deliveries_pb2.TakeDeliveriesRequest, context: Context
    ) -> deliveries_pb2.TakeDeliveriesResponse:
        """What is to be sent now."""
        if not 0 <= request.deliveries_max <= TAKEN_MAX:
            raise invalid(
                "deliveries_max", f"is {request.deliveries_max}; ask for 1 to {TAKEN_MAX}, or 0 for {TAKEN_MAX}"
            )
        taken = await self._notify.carrying.take(
            *wire.resource_of(request.subscription, "subscriptions", "subscription"),
            channel_of(request.channel),
            holder_of(request.holder),
            request.deliveries_max or TAKEN_MAX,
            keep=request.keep,
        )
        return taken_message(taken)

    async def ReportDeliveries(
        self, request: deliveries_pb2.ReportDeliveriesRequest, context: Context
    ) -> deliveries_pb2.ReportDeliveriesResponse:
        """What became of it."""
        if len(request.reports) > TAKEN_MAX:
            raise invalid("reports", f"are {len(request.reports)}; send at most {TAKEN_MAX}")
        hold_us = await self._notify.carrying.report(
            *wire.resource_of(request.subscription, "subscriptions", "subscription"),
            channel_of(request.channel),
            holder_of(request.holder),
            [report_of(one) for one in request.reports],
            release=request.release,
        )
        response = deliveries_pb2.ReportDeliveriesResponse()
        if hold_us:
            response.hold.FromMicroseconds(hold_us)
        return response


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
