"""Queries that find what should not be."""

from dataclasses import dataclass
from typing import Final

import asyncpg

_TOTALS: Final = """
SELECT count(*) AS recharges, count(*) FILTER (WHERE state = 'SUCCEEDED') AS succeeded,
       count(*) FILTER (WHERE state = 'PENDING') AS pending
FROM recharges WHERE $1::text IS NULL OR org = $1
"""
# Each gives one line of text an offender.
_OFFENDERS: Final = {
    "I7.one_pending": """
SELECT format('%s has %s pending', wallet, count(*)) FROM recharges
WHERE state = 'PENDING' AND ($1::text IS NULL OR org = $1)
GROUP BY org, wallet HAVING count(*) > 1 ORDER BY 1 LIMIT $2
""",
    "I7.months_recomputed": """
SELECT format('%s in %s says %s and %s nanos, its recharges %s and %s', m.wallet, m.month, m.count, m.amount_nanos,
              coalesce(r.count, 0), coalesce(r.amount_nanos, 0))
FROM recharge_months m
LEFT JOIN (
    SELECT org, wallet, month, count(*) AS count, sum(amount_nanos) AS amount_nanos
    FROM (
        SELECT org, wallet, month, coalesce(received_nanos, amount_nanos) AS amount_nanos FROM recharges
        WHERE state <> 'FAILED'
        UNION ALL
        SELECT org, wallet, month, coalesce(received_nanos, amount_nanos) FROM top_ups
        WHERE state <> 'FAILED' AND month IS NOT NULL
    ) charged GROUP BY org, wallet, month
) r USING (org, wallet, month)
WHERE ($1::text IS NULL OR m.org = $1)
AND (m.count <> coalesce(r.count, 0) OR m.amount_nanos <> coalesce(r.amount_nanos, 0))
ORDER BY 1 LIMIT $2
""",
    "I7.months_within_caps": """
SELECT format('%s in %s: %s of %s + %s, %s of %s + %s nanos', wallet, month, count, cap_count, extra_count,
              amount_nanos, cap_amount_nanos, extra_amount_nanos)
FROM recharge_months
WHERE ($1::text IS NULL OR org = $1)
AND (count - extra_count > cap_count OR amount_nanos - extra_amount_nanos > cap_amount_nanos)
ORDER BY 1 LIMIT $2
""",
    # An extra is so much more than the cap, or than what counted when it was allowed; some of the month before last.
    "I7.extras_allowed": """
SELECT format('%s in %s: %s and %s nanos beyond the caps, %s and %s nanos allowed', m.wallet, m.month, m.extra_count,
              m.extra_amount_nanos, coalesce(x.count, 0), coalesce(x.nanos, 0))
FROM recharge_months m
LEFT JOIN LATERAL (
    SELECT sum(e.extra_count) AS count, sum(e.extra_nanos) AS nanos,
           max(e.used_count) FILTER (WHERE e.month = m.month) AS used_count,
           max(e.used_nanos) FILTER (WHERE e.month = m.month) AS used_nanos
    FROM recharge_extras e
    WHERE e.org = m.org AND e.wallet = m.wallet AND e.month
        IN (m.month, to_char(to_date(m.month, 'YYYY-MM') - interval '1 day', 'YYYY-MM'))
) x ON TRUE
WHERE ($1::text IS NULL OR m.org = $1) AND (
    m.cap_count + m.extra_count > greatest(m.cap_count, x.used_count) + coalesce(x.count, 0)
    OR m.cap_amount_nanos::numeric + m.extra_amount_nanos
        > greatest(m.cap_amount_nanos, x.used_nanos) + coalesce(x.nanos, 0)
)
ORDER BY 1 LIMIT $2
""",
    "I8.one_grant": """
SELECT format('%s is %s, received %s, granted %s in %s', r.name, r.state, r.received_nanos, g.amount_nanos, g.count)
FROM recharges r
LEFT JOIN (
    SELECT org, recharge, count(*) AS count, sum(amount_nanos) AS amount_nanos, min(name) AS name, min(wallet) AS wallet
    FROM grants WHERE recharge IS NOT NULL GROUP BY org, recharge
) g ON g.org = r.org AND g.recharge = r.name
WHERE ($1::text IS NULL OR r.org = $1)
AND CASE WHEN r.state = 'SUCCEEDED' THEN (g.count, g.amount_nanos, g.name, g.wallet)
    IS DISTINCT FROM (1, r.received_nanos, r.grant_name, r.wallet) ELSE g.count IS NOT NULL END
ORDER BY 1 LIMIT $2
""",
    "I8.top_up_one_grant": """
SELECT format('%s is %s, received %s, granted %s in %s', t.name, t.state, t.received_nanos, g.amount_nanos, g.count)
FROM top_ups t
LEFT JOIN (
    SELECT org, recharge, count(*) AS count, sum(amount_nanos) AS amount_nanos, min(name) AS name, min(wallet) AS wallet
    FROM grants WHERE recharge IS NOT NULL GROUP BY org, recharge
) g ON g.org = t.org AND g.recharge = t.name
WHERE ($1::text IS NULL OR t.org = $1)
AND CASE WHEN t.state = 'SUCCEEDED' THEN t.intent_status <> 'succeeded' OR (g.count, g.amount_nanos, g.name, g.wallet)
    IS DISTINCT FROM (1, t.received_nanos, t.grant_name, t.wallet) ELSE g.count IS NOT NULL END
ORDER BY 1 LIMIT $2
""",
    "I8.one_charge": """
SELECT format('%s is %s with %s succeeded PaymentIntents', r.name, r.state, coalesce(i.count, 0))
FROM recharges r
LEFT JOIN (
    SELECT org, recharge, count(*) AS count FROM recharge_intents WHERE status = 'succeeded' GROUP BY org, recharge
) i ON i.org = r.org AND i.recharge = r.name
WHERE ($1::text IS NULL OR r.org = $1)
AND coalesce(i.count, 0) <> CASE WHEN r.state = 'SUCCEEDED' THEN 1 ELSE 0 END
ORDER BY 1 LIMIT $2
""",
    "I8.events_processed": """
SELECT format('%s: %s', id, outcome) FROM stripe_events
WHERE parked_at IS NOT NULL AND ($1::text IS NULL OR org = $1) ORDER BY 1 LIMIT $2
""",
    "I8.no_problems": """
SELECT format('%s: %s', name, problem) FROM (
    SELECT org, name, problem FROM recharges UNION ALL SELECT org, name, problem FROM top_ups
) charged
WHERE problem <> '' AND ($1::text IS NULL OR org = $1) ORDER BY 1 LIMIT $2
""",
}


@dataclass(frozen=True, slots=True)
class Totals:
    """How many recharges there are."""

    recharges: int
    succeeded: int
    pending: int


async def totals(connection: asyncpg.Connection, org: str | None) -> Totals:
    """How many recharges of an organisation, or of all, there are."""
    return Totals(*await connection.fetchrow(_TOTALS, org))


async def offenders(connection: asyncpg.Connection, check: str, org: str | None, limit: int) -> list[str]:
    """What does not hold, a line each."""
    return [row[0] for row in await connection.fetch(_OFFENDERS[check], org, limit)]
