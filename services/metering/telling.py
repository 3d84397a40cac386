"""What metering tells people: models that no rate card prices."""

import json

from pursestrings.budget.v1 import deliveries_pb2, subscriptions_pb2
from services.kit.outbox import OutboxMessage


def to_event(message: OutboxMessage) -> deliveries_pb2.Event:
    """The event of a row.

    Raises:
        ValueError: The row cannot be read, or KeyError, or TypeError.
    """
    facts = json.loads(message.payload)
    return deliveries_pb2.Event(
        subject=f"orgs/{facts['org']}",
        event=subscriptions_pb2.EVENT_KIND_NOTICE,
        type="usage.unrated",
        data=json.dumps(
            {
                "provider": facts["provider"],
                "model": facts["model"],
                "first_seen_at": facts["first_seen_at"],
                "recommended_action": "Publish a price for this model; what it used is rated as soon as there is one",
            }
        ),
    )
