"""Deliveries by webhook: the body in the shape that the subscription chose, and what metering adds to it."""

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from pursestrings.budget.v1 import deliveries_pb2 as pb
from pursestrings.budget.v1 import subscriptions_pb2
from workflows.notify import payloads
from workflows.notify.carrier import Sent
from workflows.notify.outlook import OUTLOOK_S, Outlooks
from workflows.notify.posting import Poster

_MARGIN_S: Final = 1.0


class Webhooks:
    """Sends to webhooks.

    Args:
        poster: POSTs.
        outlooks: Asks metering.
    """

    def __init__(self, poster: Poster, outlooks: Outlooks) -> None:
        self._poster = poster
        self._outlooks = outlooks
        self.send_max_s = poster.timeout_s + OUTLOOK_S + _MARGIN_S
        """The longest that one sending takes, in seconds."""

    async def send(self, subscription: str, taken: pb.TakeDeliveriesResponse) -> AsyncIterator[Sent]:
        """POSTs one by one."""
        del subscription
        for one in taken.deliveries:
            try:
                body = await self._body(json.loads(one.payload), taken.payload)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                kind = type(error).__name__
                yield Sent((one.number,), pb.DELIVERY_OUTCOME_REFUSED, f"the event cannot be written as asked: {kind}")
                continue
            posted = await self._poster.post(taken.webhook_url, taken.secrets, one.message_id, body)
            outcome = pb.DELIVERY_OUTCOME_DELIVERED if posted.is_taken else pb.DELIVERY_OUTCOME_FAILED
            outcome = pb.DELIVERY_OUTCOME_GONE if posted.is_gone else outcome
            yield Sent((one.number,), outcome, posted.error, posted.retry_after_s)

    async def _body(self, facts: dict[str, Any], shape: "subscriptions_pb2.PayloadShape.ValueType") -> str:
        if shape != subscriptions_pb2.PAYLOAD_SHAPE_WARNING:
            return payloads.event_shape(facts)
        return payloads.warning_shape(facts, await self._outlooks.of(facts))
