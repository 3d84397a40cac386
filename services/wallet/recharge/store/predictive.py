"""Wallets whose policy goes by forecast."""

from dataclasses import dataclass

import asyncpg

from services.wallet.recharge.domain.policy import Predictive

_PAGE = """
SELECT p.wallet, w.currency, w.time_zone, p.threshold_nanos, p.hours_ahead, p.quantile_percent, p.lead_time,
       (SELECT coalesce(sum(a.credits_nanos - a.debits_nanos), 0)::bigint FROM accounts a
        WHERE a.org = p.org AND a.wallet = p.wallet AND a.kind IN ('available', 'escrow', 'debt'))
FROM recharge_policies p JOIN wallets w ON w.org = p.org AND w.name = p.wallet
WHERE ($1::text IS NULL OR p.org = $1) AND (p.org, p.wallet) > (split_part($2, '/', 2), $2)
AND p.hours_ahead IS NOT NULL AND p.enabled AND p.paused_reason = '' AND w.state = 'OPEN'
ORDER BY p.org, p.wallet LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class PredictiveRow:
    """A wallet whose policy goes by forecast and is in force."""

    wallet: str
    currency: str
    time_zone: str
    floor_nanos: int
    predictive: Predictive
    balance_nanos: int


async def page(connection: asyncpg.Connection, org: str | None, after: str, limit: int) -> list[PredictiveRow]:
    """Open wallets, of one organisation or of all, that go by forecast, after the one of that name."""
    rows = await connection.fetch(_PAGE, org, after, limit)
    return [PredictiveRow(row[0], row[1], row[2], row[3], Predictive(row[4], row[5], row[6]), row[7]) for row in rows]
