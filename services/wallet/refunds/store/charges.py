"""What was charged, and what of it went back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

_COLUMNS = """
org, payment_intent, wallet, source, grant_name, currency, amount_nanos, refunded_nanos, disputed_nanos, created_at
"""
_PUT = """
INSERT INTO charges (org, payment_intent, wallet, source, grant_name, currency, amount_nanos, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_BY_SOURCE = f"SELECT {_COLUMNS} FROM charges WHERE org = $1 AND source = $2"  # noqa: S608 - a constant
_BY_INTENT = f"SELECT {_COLUMNS} FROM charges WHERE payment_intent = $1"  # noqa: S608 - a constant
_SINCE = f"""
SELECT {_COLUMNS} FROM charges WHERE org = $1 AND ($2::text IS NULL OR wallet = $2) AND created_at >= $3
ORDER BY created_at, payment_intent LIMIT $4
"""  # noqa: S608 - a constant
_OF_INTENTS = f"""
SELECT {_COLUMNS} FROM charges WHERE org = $1 AND ($2::text IS NULL OR wallet = $2) AND created_at < $3
  AND payment_intent = ANY($4::text[])
ORDER BY created_at, payment_intent LIMIT $5
"""  # noqa: S608 - a constant
_ADD = """
UPDATE charges SET refunded_nanos = refunded_nanos + $3, disputed_nanos = disputed_nanos + $4
WHERE org = $1 AND payment_intent = $2
"""


@dataclass(frozen=True, slots=True)
class NewCharge:
    """A charge that became a grant.

    Attributes:
        payment_intent: As Stripe names it.
        source: The recharge or top-up that charged, by name.
        grant: What it became.
        amount: What was received, in nano-units.
    """

    payment_intent: str
    wallet: str
    source: str
    grant: str
    currency: str
    amount: int


@dataclass(frozen=True, slots=True)
class ChargeRow:
    """A charge as stored; amounts in nano-units."""

    org: str
    payment_intent: str
    wallet: str
    source: str
    grant: str
    currency: str
    amount: int
    refunded: int
    disputed: int
    created_at: datetime

    @property
    def room(self) -> int:
        """What is neither refunded nor disputed."""
        return self.amount - self.refunded - self.disputed


async def put(connection: asyncpg.Connection, org: str, charge: NewCharge, now: datetime) -> None:
    """Writes a charge, in the transaction that makes it a grant and under the wallet's lock."""
    await connection.execute(
        _PUT,
        *(org, charge.payment_intent, charge.wallet, charge.source, charge.grant, charge.currency, charge.amount, now),
    )


async def of_source(connection: asyncpg.Connection, org: str, source: str) -> ChargeRow | None:
    """The charge of a recharge or top-up; None where it has not charged."""
    row = await connection.fetchrow(_BY_SOURCE, org, source)
    return ChargeRow(*row) if row else None


async def of_intent(connection: asyncpg.Connection, payment_intent: str) -> ChargeRow | None:
    """The charge that a PaymentIntent made; None where it is none of this database's."""
    row = await connection.fetchrow(_BY_INTENT, payment_intent)
    return ChargeRow(*row) if row else None


async def since(
    connection: asyncpg.Connection, org: str, wallet: str | None, from_at: datetime, limit: int
) -> list[ChargeRow]:
    """Charges of an organisation, or of one wallet, from then on, the oldest first."""
    return [ChargeRow(*row) for row in await connection.fetch(_SINCE, org, wallet, from_at, limit)]


async def of_intents(
    connection: asyncpg.Connection,
    org: str,
    wallet: str | None,
    intents: Sequence[str],
    *,
    before: datetime,
    limit: int,
) -> list[ChargeRow]:
    """Charges of an organisation, or of one wallet, that these PaymentIntents made before, the oldest first."""
    rows = await connection.fetch(_OF_INTENTS, org, wallet, before, intents, limit)
    return [ChargeRow(*row) for row in rows]


async def add(connection: asyncpg.Connection, charge: ChargeRow, *, refunded: int = 0, disputed: int = 0) -> None:
    """Counts what goes back, or comes again where below 0; the table refuses more than was charged."""
    await connection.execute(_ADD, charge.org, charge.payment_intent, refunded, disputed)


_PUT_GIVEN = """
INSERT INTO withdrawals (org, reference, place, lot, amount_nanos)
SELECT $1, $2, coalesce((SELECT max(place) FROM withdrawals WHERE org = $1 AND reference = $2), 0) + g.place, g.lot,
       g.amount
FROM unnest($3::text[], $4::bigint[]) WITH ORDINALITY AS g (lot, amount, place)
"""
_GIVEN = """
SELECT lot, amount_nanos - restored_nanos FROM withdrawals WHERE org = $1 AND reference = $2 ORDER BY place
"""
_GIVEN_BACK = "UPDATE withdrawals SET restored_nanos = amount_nanos WHERE org = $1 AND reference = $2"


async def put_given(connection: asyncpg.Connection, org: str, reference: str, given: Sequence[tuple[str, int]]) -> None:
    """Writes which lots gave how much."""
    if given:
        await connection.execute(_PUT_GIVEN, org, reference, *zip(*given, strict=True))


async def given(connection: asyncpg.Connection, org: str, reference: str) -> list[tuple[str, int]]:
    """Which lots gave how much and did not get it back, in the order of giving."""
    return [(row[0], row[1]) for row in await connection.fetch(_GIVEN, org, reference) if row[1]]


async def given_back(connection: asyncpg.Connection, org: str, reference: str) -> None:
    """Says that the lots have all of it again."""
    await connection.execute(_GIVEN_BACK, org, reference)
