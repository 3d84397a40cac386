"""Wallets whose policy goes by forecast."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from services.wallet.recharge.domain.policy import Policy
from services.wallet.recharge.store.policies import policy_of

EXCLUDED_MAX: Final = 100
"""The most subjects below a wallet's that are told to have wallets of their own."""
_BELOW_MAX: Final = 1_000
_DELAYS_MAX: Final = 100

# A name's place among the parts is its own for ever: md5 is the same in every version of PostgreSQL.
_PAGE: Final = """
SELECT p.wallet, w.subject, w.currency, w.time_zone, p.enabled, p.threshold_nanos, p.amount_nanos, p.max_count,
       p.max_amount_nanos, p.cooldown_us, p.paused_reason, p.target_nanos, p.min_nanos, p.max_nanos, p.hours_ahead,
       p.quantile_percent, p.lead_time,
       (SELECT coalesce(sum(a.credits_nanos - a.debits_nanos), 0)::bigint FROM accounts a
        WHERE a.org = p.org AND a.wallet = p.wallet AND a.kind IN ('available', 'escrow', 'debt')) AS balance_nanos,
       d.delays, d.delay_p99_s,
       (SELECT coalesce(array_agg(DISTINCT b.subject), '{}') FROM (
            SELECT o.subject FROM wallets o
            WHERE o.org = w.org AND o.name >= w.subject || '/' AND o.name < w.subject || '0'
            AND o.subject <> w.subject AND o.currency = w.currency AND o.state <> 'CLOSED' LIMIT $7
        ) b) AS below
FROM recharge_policies p JOIN wallets w ON w.org = p.org AND w.name = p.wallet
CROSS JOIN LATERAL (
    SELECT count(*) AS delays,
           coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM t.took)), 0)::float8 AS delay_p99_s
    FROM (
        SELECT r.ended_at - r.created_at AS took FROM recharges r
        WHERE r.org = p.org AND r.wallet = p.wallet AND r.state = 'SUCCEEDED' AND r.created_at >= $6
        ORDER BY r.created_at DESC LIMIT $8
    ) t
) d
WHERE ($1::text IS NULL OR p.org = $1) AND (p.org, p.wallet) > (split_part($2, '/', 2), $2)
AND ('x' || substr(md5(p.wallet), 1, 8))::bit(32)::bigint % $5::bigint = $4
AND p.hours_ahead IS NOT NULL AND p.enabled AND p.paused_reason = '' AND w.state = 'OPEN'
ORDER BY p.org, p.wallet LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class PredictiveRow:
    """A wallet whose policy goes by forecast and is in force.

    Attributes:
        delays: How many recharges succeeded lately, at most 100.
        delay_p99_s: The 99 % quantile of how long they took from start to money; 0 where there are none.
        excluded: The nearest subjects below that another wallet pays for, sorted.
    """

    wallet: str
    currency: str
    time_zone: str
    policy: Policy
    balance_nanos: int
    delays: int
    delay_p99_s: float
    excluded: tuple[str, ...]


async def page(
    connection: asyncpg.Connection, org: str | None, after: str, limit: int, *, shard: int, shards: int, since: datetime
) -> list[PredictiveRow]:
    """Open wallets, of one organisation or of all, that go by forecast, after the one of that name.

    Args:
        connection: To read by.
        org: Bare id; None: all.
        after: The wallet that the page follows; empty: none.
        limit: Rows at most.
        shard: Which part of the wallets.
        shards: Of how many.
        since: Recharges that were started before tell nothing of how long one takes.
    """
    rows = await connection.fetch(_PAGE, org, after, limit, shard, shards, since, _BELOW_MAX, _DELAYS_MAX)
    return [
        PredictiveRow(
            row["wallet"],
            row["currency"],
            row["time_zone"],
            policy_of(row),
            row["balance_nanos"],
            row["delays"],
            row["delay_p99_s"],
            _nearest(row["below"])[:EXCLUDED_MAX],
        )
        for row in rows
    ]


def _nearest(subjects: Iterable[str]) -> tuple[str, ...]:
    """Those below none of the others."""
    kept: set[str] = set()
    for name in sorted(subjects, key=len):
        parts = name.split("/")
        if not any("/".join(parts[:end]) in kept for end in range(2, len(parts), 2)):
            kept.add(name)
    return tuple(sorted(kept))
