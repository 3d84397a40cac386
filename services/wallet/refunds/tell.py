"""What people are told of refunds: outbox rows, in the transaction of what they are about."""

import asyncpg

from services.wallet.recharge.store import policies
from services.wallet.refunds.store.charges import ChargeRow
from services.wallet.refunds.store.refunds import RefundRow


async def made_there(connection: asyncpg.Connection, charge: ChargeRow, name: str, nanos: int, *, debt: int) -> None:
    """Somebody refunded at Stripe itself; `debt` nano-units of it were spent."""
    facts: dict[str, object] = {
        "kind": "REFUND_MADE_AT_STRIPE",
        "refund": name,
        "amount_nanos": nanos,
        "debt_nanos": debt,
    }
    await _of_charge(connection, charge, facts)


async def without_room(connection: asyncpg.Connection, charge: ChargeRow, stripe_refund: str, nanos: int) -> None:
    """Somebody refunded at Stripe itself more than is left of the charge beside other refunds and disputes."""
    facts: dict[str, object] = {
        "kind": "REFUND_WITHOUT_ROOM",
        "stripe_refund": stripe_refund,
        "amount_nanos": nanos,
        "room_nanos": charge.room,
    }
    await _of_charge(connection, charge, facts)


async def no_charge(connection: asyncpg.Connection, row: RefundRow, why: str) -> None:
    """Stripe does not know the charge of a refund."""
    facts: dict[str, object] = {"kind": "REFUND_CHARGE_UNKNOWN", "payment_intent": row.payment_intent, "reason": why}
    await _of_refund(connection, row, facts)


async def gone(connection: asyncpg.Connection, row: RefundRow, why: str) -> None:
    """Stripe does not know a refund any more that it had."""
    await _of_refund(connection, row, {"kind": "REFUND_GONE", "stripe_refund": row.stripe_refund, "reason": why})


async def failed(connection: asyncpg.Connection, row: RefundRow, why: str) -> None:
    """A refund came back."""
    await _of_refund(connection, row, {"kind": "REFUND_FAILED", "reason": why})


async def _of_refund(connection: asyncpg.Connection, row: RefundRow, facts: dict[str, object]) -> None:
    await policies.alert(connection, row.org, row.wallet, {"wallet": row.wallet, "refund": row.name, **facts})


async def _of_charge(connection: asyncpg.Connection, charge: ChargeRow, facts: dict[str, object]) -> None:
    about = {"wallet": charge.wallet, "source": charge.source, "currency_code": charge.currency}
    await policies.alert(connection, charge.org, charge.wallet, {**about, **facts})
