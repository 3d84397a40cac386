"""What statements and comparisons read; all of it in the caller's one snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from services.wallet.refunds.store import charges as charge_rows
from services.wallet.refunds.store import disputes as dispute_rows
from services.wallet.refunds.store import refunds as refund_rows
from services.wallet.refunds.store.charges import ChargeRow
from services.wallet.refunds.store.disputes import DisputeRow
from services.wallet.refunds.store.refunds import RefundRow
from services.wallet.store import audit, reads

CHARGES_MAX: Final = 5_000
"""The most charges of one comparison."""
# Waits for what is being posted now: after it, all that was posted before this instant is committed.
_WAIT = "SELECT clock_timestamp() FROM wallets WHERE org = $1 AND name = $2 FOR SHARE"
_MOVED = """
SELECT t.kind, f.kind AS giver, c.source IS NOT NULL AS charged, sum(t.amount_nanos)::bigint
FROM transfers t
JOIN accounts f ON f.org = t.org AND f.id = t.from_account
LEFT JOIN charges c ON t.kind = 'grant' AND c.org = t.org AND c.source = t.reference
WHERE t.org = $1 AND t.wallet = $2 AND t.posted_at >= $3 AND t.posted_at < $4
GROUP BY 1, 2, 3
"""
_SPEND = """
SELECT provider, model, use_month, sum(amount_nanos)::bigint, sum(calls)::bigint FROM capture_lines
WHERE org = $1 AND wallet = $2 AND posted_at >= $3 AND posted_at < $4
GROUP BY provider, model, use_month ORDER BY 4 DESC, 1, 2, 3
"""
_GRANTS = """
SELECT g.name, g.amount_nanos FROM grants g JOIN unnest($2::text[]) AS k (name) ON g.name = k.name WHERE g.org = $1
"""
_UNKNOWN_ORGS = """
SELECT o FROM unnest($1::text[]) AS o WHERE NOT EXISTS (SELECT FROM directories d WHERE d.org = o) ORDER BY o
"""
_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Moved:
    """What one kind of transfer moved in a month, in nano-units.

    Attributes:
        kind: Of transfer.
        giver: The kind of account that gave.
        charged: Whether it was a grant of a recharge or top-up.
    """

    kind: str
    giver: str
    charged: bool
    amount: int


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent on a model in a month of use; the amount in nano-units."""

    provider: str
    model: str
    use_month: str
    amount: int
    calls: int


@dataclass(frozen=True, slots=True)
class Books:
    """What is stored about charges.

    Attributes:
        grants: Amounts in nano-units by name, of those that the charges became.
        refunds: By PaymentIntent.
        disputes: By PaymentIntent.
    """

    charges: list[ChargeRow]
    grants: dict[str, int]
    refunds: dict[str, list[RefundRow]]
    disputes: dict[str, list[DisputeRow]]


async def wait_for_posts(connection: asyncpg.Connection, org: str, wallet: str) -> datetime:
    """An instant before which all that was posted to the wallet is committed. In a transaction of its own."""
    now: datetime = await connection.fetchval(_WAIT, org, wallet)
    return now


async def balance_before(connection: asyncpg.Connection, org: str, wallet: str, at: datetime) -> int:
    """Available + escrow − debt just before an instant, in nano-units."""
    return (await reads.balance_as_of(connection, org, wallet, at - _TICK)).balance


async def moved(connection: asyncpg.Connection, org: str, wallet: str, start: datetime, end: datetime) -> list[Moved]:
    """What was moved from `start` on and before `end`."""
    return [Moved(*row) for row in await connection.fetch(_MOVED, org, wallet, start, end)]


async def spend(connection: asyncpg.Connection, org: str, wallet: str, start: datetime, end: datetime) -> list[Spend]:
    """What was captured, less what was given back, from `start` on and before `end`; the largest first."""
    return [Spend(*row) for row in await connection.fetch(_SPEND, org, wallet, start, end)]


async def books(connection: asyncpg.Connection, org: str, wallet: str | None, since: datetime) -> Books:
    """The charges of an organisation, or of one wallet, since then, with what hangs on them.

    One charge more than `CHARGES_MAX` shows that there are more.
    """
    return await _books(connection, org, await charge_rows.since(connection, org, wallet, since, CHARGES_MAX + 1))


async def earlier_books(
    connection: asyncpg.Connection, org: str, wallet: str | None, since: datetime, intents: Sequence[str]
) -> Books:
    """Likewise of those of these PaymentIntents that were charged before."""
    found = await charge_rows.of_intents(connection, org, wallet, intents, before=since, limit=CHARGES_MAX + 1)
    return await _books(connection, org, found)


async def _books(connection: asyncpg.Connection, org: str, charges: list[ChargeRow]) -> Books:
    names = [charge.grant for charge in charges]
    intents = [charge.payment_intent for charge in charges]
    refunds: dict[str, list[RefundRow]] = {}
    for refund in await refund_rows.of_charges(connection, org, intents):
        refunds.setdefault(refund.payment_intent, []).append(refund)
    disputes: dict[str, list[DisputeRow]] = {}
    for dispute in await dispute_rows.of_charges(connection, org, intents):
        disputes.setdefault(dispute.payment_intent, []).append(dispute)
    grants = {row[0]: row[1] for row in await connection.fetch(_GRANTS, org, names)}
    return Books(charges, grants, refunds, disputes)


async def unknown_orgs(connection: asyncpg.Connection, orgs: Sequence[str]) -> list[str]:
    """Those of these organisations that never had a wallet, sorted."""
    return [row[0] for row in await connection.fetch(_UNKNOWN_ORGS, orgs)]


async def broken(connection: asyncpg.Connection, org: str, check: str) -> list[str]:
    """What breaks one of the audit's checks."""
    return await audit.offenders(connection, check, org)
