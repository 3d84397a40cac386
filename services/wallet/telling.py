"""What the wallet tells people: the rows that the ledger, recharges and refunds write for them, as events."""

import json
from typing import Any, Final

from pursestrings.budget.v1 import deliveries_pb2, subscriptions_pb2
from services.kit.outbox import OutboxMessage

_RECHARGE: Final = "RECHARGE_"
_OWN: Final = ("kind", "subject")


def to_event(message: OutboxMessage) -> deliveries_pb2.Event:
    """The event of a row: `RECHARGE_CAP_REACHED` is `recharge.cap_reached`. Amounts in nano-units become strings.

    Raises:
        ValueError: The row cannot be read, or KeyError, or TypeError.
    """
    facts: dict[str, Any] = json.loads(message.payload)
    kind, wallet = facts["kind"], facts["wallet"]
    area, _, what = kind.lower().partition("_")
    is_recharge = kind.startswith(_RECHARGE)
    return deliveries_pb2.Event(
        subject=facts.get("subject") or wallet.rpartition("/wallets/")[0],
        event=subscriptions_pb2.EVENT_KIND_RECHARGE if is_recharge else subscriptions_pb2.EVENT_KIND_NOTICE,
        type=f"{area}.{what}" if what else f"wallet.{area}",
        data=json.dumps({name: _written(name, one) for name, one in facts.items() if name not in _OWN}),
    )


def _written(name: str, value: object) -> object:
    is_amount = name.endswith("_nanos") and isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_amount else value
