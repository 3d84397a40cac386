"""The SQL of the audit: whether counters, leases and alerts say what holds, usage and operations say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget.domain.budgets import Dimension

SHOWN_MAX: Final = 5
"""The most offenders named."""
TOTALS_MAX: Final = 20_000
"""The most totals in one answer."""

# The pool's settings are for look-ups by key; these statements read everything. Sums by window stay in memory: the
# planner takes an event for a thousand effects, and would put them on disk in hundreds of parts, and compile for it.
_PLAN: Final = """
SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
SET LOCAL statement_timeout = '10min'; SET LOCAL work_mem = '128MB'; SET LOCAL jit = off
"""
_HOLDS: Final = """
SELECT r.org, h.holds[1 + 4 * i] AS budget_no, h.holds[2 + 4 * i] AS window_key, h.holds[4 + 4 * i] AS held
FROM reservations r, LATERAL (SELECT r.holds) AS h (holds), generate_series(0, cardinality(r.holds) / 4 - 1) AS i
WHERE r.state = 1 AND ($1::text IS NULL OR r.org = $1)
"""
_EFFECTS: Final = """
SELECT u.org, u.effects[1 + 3 * i] AS budget_no, u.effects[2 + 3 * i] AS window_key, u.effects[3 + 3 * i] AS amount
FROM applied_usage u, generate_series(0, cardinality(u.effects) / 3 - 1) AS i
WHERE $1::text IS NULL OR u.org = $1
UNION ALL
SELECT org, budget_no, window_key, amount FROM usage_trimmed WHERE $1::text IS NULL OR org = $1
"""
_COUNTER_NAME: Final = """
concat(x.org, ' ', coalesce(b.subject || '/budgets/' || b.budget_id, 'budget ' || x.budget_no), ' ', x.window_key)
"""
_RESERVED: Final = f"""
WITH held AS (SELECT org, budget_no, window_key, sum(held) AS amount FROM ({_HOLDS}) AS h GROUP BY 1, 2, 3),
kept AS (SELECT org, budget_no, window_key, reserved FROM counters WHERE $1::text IS NULL OR org = $1)
SELECT count(*) OVER () AS offenders,
    concat({_COUNTER_NAME}, ': reserved ', x.reserved, ', open holds ', coalesce(x.amount, 0)) AS name
FROM (SELECT * FROM kept FULL JOIN held USING (org, budget_no, window_key)) AS x
LEFT JOIN budgets b ON b.org = x.org AND b.budget_no = x.budget_no
WHERE coalesce(x.reserved, 0) <> coalesce(x.amount, 0) LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_SPENT: Final = f"""
WITH used AS (SELECT org, budget_no, window_key, sum(amount) AS amount FROM ({_EFFECTS}) AS e GROUP BY 1, 2, 3),
kept AS (SELECT org, budget_no, window_key, spent FROM counters WHERE $1::text IS NULL OR org = $1)
SELECT count(*) OVER () AS offenders,
    concat({_COUNTER_NAME}, ': spent ', x.spent, ', applied usage ', coalesce(x.amount, 0)) AS name
FROM (SELECT * FROM kept FULL JOIN used USING (org, budget_no, window_key)) AS x
LEFT JOIN budgets b ON b.org = x.org AND b.budget_no = x.budget_no
WHERE coalesce(x.spent, 0) <> coalesce(x.amount, 0) LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_NEVER_RAISED: Final = """NOT EXISTS (
    SELECT FROM overrides o WHERE o.org = b.org AND o.subject = b.subject AND o.budget_id = b.budget_id)"""
# What a blocking budget holds was all allowed while spent + reserved was within the limit, and spent only adds to it.
# A definition that was changed or raised since may have had another limit then, and what is carried may have shrunk.
_OVERSOLD: Final = f"""
SELECT count(*) OVER () AS offenders,
    concat({_COUNTER_NAME}, ': reserved ', x.reserved, ' of a limit of ', b.limit_amount) AS name
FROM counters x JOIN budgets b ON b.org = x.org AND b.budget_no = x.budget_no
WHERE b.on_exceed IN (1, 4) AND b.revision = 1
    AND x.reserved > b.limit_amount::numeric + coalesce(least(x.carry_cap, x.carry_base), 0)
    AND {_NEVER_RAISED} AND ($1::text IS NULL OR x.org = $1)
LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
# Usage may settle what waits, though nobody has approved; then the hold is closed and the approval expires soon.
_WAITING: Final = f"""
SELECT count(*) OVER () AS offenders,
    CASE WHEN a.id IS NULL THEN concat(r.subject, '/reservations/', r.id, ': waits for no approval')
        ELSE concat(a.subject, '/approvals/', a.id, ': waits, and its hold does not') END AS name
FROM (SELECT * FROM approvals WHERE state = 1 AND kind = 1 AND ($1::text IS NULL OR org = $1)) AS a
FULL JOIN (SELECT * FROM reservations WHERE state = 1 AND approval = 1 AND ($1::text IS NULL OR org = $1)) AS r
    ON r.org = a.org AND r.id = a.id
WHERE a.id IS NULL OR (r.id IS NULL AND NOT EXISTS (
    SELECT FROM reservations s WHERE s.org = a.org AND s.id = a.id AND s.settled_events > 0)) LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
# Budgets as they were made, which match every call: of these it is certain that the reservation had to hold on them.
_HELD_NOWHERE: Final = f"""
SELECT count(*) OVER () AS offenders,
    concat(r.subject, '/reservations/', r.id, ': holds nothing of its cost on ', b.subject, '/budgets/', b.budget_id)
        AS name
FROM reservations r, LATERAL (SELECT string_to_array(r.subject, '/')) AS s (parts),
    generate_series(1, cardinality(s.parts) / 2) AS n (levels)
JOIN budgets b ON true
WHERE b.org = r.org AND b.subject = array_to_string(s.parts[1:2 * n.levels], '/')
    AND b.dimension = {int(Dimension.COST)} AND b.currency = r.currency AND b.selector = '' AND b.revision = 1
    AND b.deleted_us IS NULL AND b.effective_until_us IS NULL AND b.effective_from_us < r.created_us
    AND r.state = 1 AND r.cost_nanos > 0 AND r.settled_events = 0 AND ($1::text IS NULL OR r.org = $1)
    AND NOT EXISTS (
        SELECT FROM generate_series(0, cardinality(r.holds) / 4 - 1) AS i
        WHERE r.holds[1 + 4 * i] = b.budget_no AND r.holds[4 + 4 * i] > 0)
LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_LEASE_HOLDS: Final = f"""
WITH held AS (
    SELECT org, wallet, sum(funding_held) AS amount FROM reservations
    WHERE state = 1 AND wallet IS NOT NULL AND ($1::text IS NULL OR org = $1) GROUP BY 1, 2)
SELECT count(*) OVER () AS offenders,
    concat(l.wallet, ': reserved ', l.reserved, ', open holds ', coalesce(h.amount, 0)) AS name
FROM leases l LEFT JOIN held h USING (org, wallet)
WHERE l.reserved <> coalesce(h.amount, 0) AND ($1::text IS NULL OR l.org = $1) LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_LEASE_OVERSOLD: Final = f"""
SELECT count(*) OVER () AS offenders,
    concat(l.wallet, ': reserved ', l.reserved, ' of ', l.extended_total - l.returned_total, ' leased') AS name
FROM leases l LEFT JOIN lease_epochs e ON e.org = l.org AND e.wallet = l.wallet AND e.epoch = (
    SELECT max(m.epoch) FROM lease_epochs m WHERE m.org = l.org AND m.wallet = l.wallet)
WHERE l.reserved > greatest(l.extended_total - l.returned_total, e.reserved) AND ($1::text IS NULL OR l.org = $1)
LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_DRAWN: Final = f"""
WITH used AS (
    SELECT org, wallet, sum(drawn) AS drawn, sum(reversal) AS reversal FROM (
        SELECT org, wallet, greatest(drawn_nanos, 0) AS drawn, greatest(-drawn_nanos, 0) AS reversal
        FROM applied_usage WHERE wallet IS NOT NULL
        UNION ALL
        SELECT org, wallet, drawn_nanos, reversal_nanos FROM usage_trimmed_totals WHERE wallet <> ''
    ) AS each WHERE $1::text IS NULL OR org = $1 GROUP BY 1, 2),
ended AS (
    SELECT org, wallet, sum(captured_total) AS drawn, sum(reversed_total) AS reversal FROM lease_epochs
    WHERE $1::text IS NULL OR org = $1 GROUP BY 1, 2)
SELECT count(*) OVER () AS offenders,
    concat(l.wallet, ': drawn ', l.drawn_total + coalesce(e.drawn, 0), ' and reversed ',
        l.reversal_total + coalesce(e.reversal, 0), ', applied usage ',
        coalesce(u.drawn, 0), ' and ', coalesce(u.reversal, 0)) AS name
FROM leases l LEFT JOIN used u USING (org, wallet) LEFT JOIN ended e USING (org, wallet)
WHERE (l.drawn_total + coalesce(e.drawn, 0), l.reversal_total + coalesce(e.reversal, 0))
    <> (coalesce(u.drawn, 0), coalesce(u.reversal, 0))
    AND ($1::text IS NULL OR l.org = $1)
LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
# A charge corrects itself, and what takes it back corrects the charge.
_CHARGED: Final = f"""
WITH rows AS (
    SELECT org, reservation AS id, sum(CASE WHEN id = corrects_id THEN 1 ELSE -1 END) AS standing
    FROM applied_usage WHERE source = E'\\x1fcharge' AND ($1::text IS NULL OR org = $1) GROUP BY 1, 2),
charged AS (SELECT org, id, 1 AS wanted FROM reservations WHERE state = 5 AND ($1::text IS NULL OR org = $1))
SELECT count(*) OVER () AS offenders,
    concat(org, ' reservation ', id, ': ', coalesce(standing, 0), ' charges stand, not ', coalesce(wanted, 0)) AS name
FROM rows FULL JOIN charged USING (org, id) WHERE coalesce(standing, 0) <> coalesce(wanted, 0) LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_CAPTURED: Final = f"""
WITH waiting AS (
    SELECT org, wallet, coalesce(sum(amount_nanos) FILTER (WHERE NOT reversal), 0) AS drawn,
        coalesce(sum(amount_nanos) FILTER (WHERE reversal), 0) AS reversal
    FROM lease_draws WHERE $1::text IS NULL OR org = $1 GROUP BY 1, 2)
SELECT count(*) OVER () AS offenders,
    concat(l.wallet, ': drawn ', l.drawn_total, ' = captured ', l.captured_total, ' + waiting ', coalesce(w.drawn, 0),
        ', corrected ', l.reversal_total, ' = reversed ', l.reversed_total, ' + waiting ',
        coalesce(w.reversal, 0)) AS name
FROM leases l LEFT JOIN waiting w USING (org, wallet)
WHERE (l.drawn_total, l.reversal_total)
    <> (l.captured_total + coalesce(w.drawn, 0), l.reversed_total + coalesce(w.reversal, 0))
    AND ($1::text IS NULL OR l.org = $1)
LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_NUMBERS: Final = f"""
SELECT count(*) OVER () AS offenders,
    concat(l.wallet, ': operation ', l.last_n, ', stored ', o.low, ' to ', o.high) AS name
FROM leases l JOIN (
    SELECT org, wallet, epoch, min(n) AS low, max(n) AS high, count(*) AS stored, max(captured_total) AS captured,
        max(returned_total) AS returned, max(reversed_total) AS reversed
    FROM lease_ops WHERE $1::text IS NULL OR org = $1 GROUP BY 1, 2, 3
) AS o USING (org, wallet, epoch)
WHERE o.high <> l.last_n OR o.stored <> o.high - o.low + 1
    OR (o.captured, o.returned, o.reversed) <> (l.captured_total, l.returned_total, l.reversed_total)
LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_QUARANTINED: Final = f"""
SELECT count(*) OVER () AS offenders, concat(wallet, ': ', quarantined) AS name FROM leases
WHERE quarantined IS NOT NULL AND ($1::text IS NULL OR org = $1) LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
# The rows' key makes a crossing one; what can go wrong is one that is missing. A change of the definition is looked at
# in the window of then alone, so only definitions as they were made tell for every window.
_UNALERTED: Final = f"""
WITH newest AS (SELECT DISTINCT ON (org, budget_no) org, budget_no, window_key, spent, carried FROM counters
    WHERE spent > 0 AND ($1::text IS NULL OR org = $1) ORDER BY org, budget_no, window_key DESC)
SELECT count(*) OVER () AS offenders, concat({_COUNTER_NAME}, ': ', t.percent, ' % reached') AS name
FROM newest x JOIN budgets b ON b.org = x.org AND b.budget_no = x.budget_no AND b.revision = 1,
    unnest(b.thresholds) AS t (percent)
WHERE x.spent::numeric * 100 >= t.percent::numeric * (b.limit_amount::numeric + x.carried) AND {_NEVER_RAISED}
AND NOT EXISTS (
    SELECT FROM crossings c WHERE c.org = x.org AND c.budget_no = x.budget_no AND c.window_key = x.window_key
        AND c.threshold = t.percent)
LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants

# A deleted budget limits nothing any more, so nothing is carried into its windows anew.
_CARRIED: Final = f"""
SELECT count(*) OVER () AS offenders, concat({_COUNTER_NAME}, ': carried ', x.carried, ' up to ', x.carry_cap, ' of ',
    x.carry_base, ', spent and held then ', coalesce(p.spent + p.reserved, 0)) AS name
FROM counters x
JOIN budgets b ON b.org = x.org AND b.budget_no = x.budget_no AND b.deleted_us IS NULL
LEFT JOIN counters p ON p.org = x.org AND p.budget_no = x.budget_no AND p.window_key = x.carry_from
WHERE x.carry_from IS NOT NULL AND ($1::text IS NULL OR x.org = $1)
    AND x.carried <> least(x.carry_cap, greatest(0, x.carry_base::numeric - coalesce(p.spent + p.reserved, 0)))
LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants
_OVER_ALLOCATED: Final = f"""
SELECT count(*) OVER () AS offenders,
    concat(b.subject, '/budgets/', b.budget_id, ': ', c.amount, ' allocated of ', b.limit_amount) AS name
FROM (
    SELECT org, allocated_from, sum(limit_amount) AS amount FROM budgets
    WHERE allocated_from <> '' AND deleted_us IS NULL AND effective_until_us IS NULL
        AND ($1::text IS NULL OR org = $1)
    GROUP BY 1, 2
) AS c
JOIN budgets b ON b.org = c.org AND b.subject || '/budgets/' || b.budget_id = c.allocated_from
    AND b.deleted_us IS NULL AND b.effective_until_us IS NULL AND b.over_allocation = 1
WHERE c.amount > b.limit_amount LIMIT {SHOWN_MAX}
"""  # noqa: S608 - of constants

CHECKS: Final = {
    "I1.reserved_equals_open_holds": (_RESERVED, "what every counter holds is the sum of the open holds on it"),
    "I1.open_reservations_hold": (_HELD_NOWHERE, "every open reservation holds its cost on each budget that counts it"),
    "I1.blocking_budgets_not_oversold": (_OVERSOLD, "no blocking budget holds more than its limit"),
    "I1.carried_follows_the_window_before": (_CARRIED, "what every window was carried is what the one before left"),
    "I1.approvals_that_wait_hold": (
        _WAITING,
        "what waits for an approval is held, and nothing else is held as waiting",
    ),
    "I1.allocations_within_their_budget": (_OVER_ALLOCATED, "no blocking budget has less than is allocated out of it"),
    "I1.lease_reserved_equals_open_holds": (_LEASE_HOLDS, "what every lease holds is the sum of the open holds on it"),
    "I1.leases_not_oversold": (_LEASE_OVERSOLD, "no lease holds more than was leased"),
    "I2.lease_numbers_are_whole": (_NUMBERS, "every lease's operations follow without gaps and end at its totals"),
    "I3.spent_equals_applied_usage": (_SPENT, "what every counter has spent is the sum of the usage applied to it"),
    "I3.drawn_equals_applied_usage": (_DRAWN, "what every lease has drawn is the sum of the usage applied to it"),
    "I3.charges_stand_while_nothing_settles": (_CHARGED, "every charged reservation has one charge, no other has"),
    "I5.leases_in_step": (_QUARANTINED, "no lease is quarantined"),
    "I6.drawn_equals_captured": (_CAPTURED, "what every lease has drawn is captured or waits for its capture"),
    "I9.crossings_are_written": (_UNALERTED, "every threshold that the last window has reached has its alert"),
}
"""By stable name: the statement that finds offenders, and what must hold."""

_FIGURES: Final = """
SELECT (SELECT count(*) FROM counters WHERE $1::text IS NULL OR org = $1) AS counters,
    (SELECT count(*) FROM reservations WHERE state = 1 AND ($1::text IS NULL OR org = $1)) AS open_holds,
    (SELECT count(*) FROM applied_usage WHERE $1::text IS NULL OR org = $1) AS applied,
    (SELECT coalesce(sum(events), 0)::bigint FROM usage_trimmed_totals WHERE $1::text IS NULL OR org = $1) AS trimmed,
    (SELECT count(*) FROM leases WHERE $1::text IS NULL OR org = $1) AS leases,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us
"""
_TOTALS: Final = f"""
WITH said AS (
    SELECT org, source, id, corrects_source, corrects_id, rated, cost_nanos, wallet,
        CASE WHEN rated THEN currency ELSE '' END AS currency
    FROM applied_usage WHERE $1::text IS NULL OR org = $1),
priced AS (
    SELECT DISTINCT ON (org, corrects_source, corrects_id) org, corrects_source AS source, corrects_id AS id, currency
    FROM said WHERE corrects_id IS NOT NULL AND rated ORDER BY org, corrects_source, corrects_id, currency),
counted AS (
    SELECT org, currency, corrects_id IS NULL AS is_event, rated, cost_nanos, wallet FROM said
    WHERE rated OR corrects_id IS NOT NULL
    UNION ALL
    SELECT s.org, coalesce(p.currency, ''), true, p.currency IS NOT NULL, 0, s.wallet
    FROM said s LEFT JOIN priced p USING (org, source, id) WHERE NOT s.rated AND s.corrects_id IS NULL),
summed AS (
    SELECT org, currency, count(*) FILTER (WHERE is_event) AS events,
        coalesce(sum(cost_nanos) FILTER (WHERE rated), 0) AS cost_nanos,
        count(*) FILTER (WHERE is_event AND NOT rated) AS unrated,
        coalesce(sum(cost_nanos) FILTER (WHERE rated AND wallet IS NULL), 0) AS unfunded_nanos
    FROM counted GROUP BY 1, 2 HAVING count(*) FILTER (WHERE is_event OR rated) > 0
    UNION ALL
    SELECT org, currency, events, cost_nanos, 0, CASE WHEN wallet = '' THEN cost_nanos ELSE 0 END
    FROM usage_trimmed_totals WHERE $1::text IS NULL OR org = $1)
SELECT org, currency, sum(events)::bigint AS events, sum(cost_nanos) AS cost_nanos, sum(unrated)::bigint AS unrated,
    sum(unfunded_nanos) AS unfunded_nanos
FROM summed GROUP BY 1, 2 ORDER BY 1, 2 LIMIT {TOTALS_MAX}
"""  # noqa: S608 - of constants
_UNRATED_DRAWN: Final = f"""
SELECT u.org, l.currency, sum(sign(u.drawn_nanos)) AS calls, sum(u.drawn_nanos) AS nanos
FROM applied_usage u JOIN leases l USING (org, wallet)
WHERE NOT u.rated AND u.drawn_nanos <> 0 AND ($1::text IS NULL OR u.org = $1)
GROUP BY 1, 2 HAVING sum(u.drawn_nanos) <> 0 ORDER BY 1, 2 LIMIT {TOTALS_MAX}
"""  # noqa: S608 - of constants
_UNCAPTURED: Final = f"""
SELECT d.org, l.currency, sum(d.calls) AS calls, sum(d.amount_nanos) AS nanos
FROM lease_draws d JOIN leases l USING (org, wallet)
WHERE NOT d.reversal AND ($1::text IS NULL OR d.org = $1) GROUP BY 1, 2 ORDER BY 1, 2 LIMIT {TOTALS_MAX}
"""  # noqa: S608 - of constants
_POINT: Final = """
SELECT o.wallet, o.epoch, o.n, coalesce(o.extended_total, l.extended_total) AS extended, o.captured_total,
    o.returned_total, o.reversed_total
FROM lease_ops o JOIN leases l USING (org, wallet)
"""
_LAST: Final = f"""
{_POINT} WHERE o.n = (
    SELECT max(a.n) FROM lease_ops a WHERE a.org = o.org AND a.wallet = o.wallet AND a.epoch = o.epoch
        AND a.answered_us IS NOT NULL)
    AND o.epoch = l.epoch AND ($1::text IS NULL OR o.org = $1)
UNION ALL
SELECT wallet, epoch, last_n, extended_total, captured_total, returned_total, reversed_total FROM lease_epochs
WHERE $1::text IS NULL OR org = $1
ORDER BY wallet, epoch
"""  # noqa: S608 - of constants
_AT: Final = f"""
{_POINT} JOIN unnest($2::text[], $3::bigint[], $4::bigint[]) AS p (wallet, epoch, n)
    ON p.wallet = o.wallet AND p.epoch = o.epoch AND p.n = o.n
WHERE $1::text IS NULL OR o.org = $1 ORDER BY o.wallet
"""
_HOLDER: Final = "SELECT id FROM holder"


@dataclass(frozen=True, slots=True)
class Offenders:
    """What does not hold: how many rows, and the first of them."""

    count: int
    names: list[str]


class Snapshot:
    """The books at one instant.

    Args:
        connection: Inside a REPEATABLE READ, READ ONLY transaction.
        org: Only this organisation's bare id; None for all.
    """

    def __init__(self, connection: asyncpg.Connection, org: str | None) -> None:
        self._connection = connection
        self._org = org

    async def begin(self) -> None:
        """Lets the planner read whole tables."""
        await self._connection.execute(_PLAN)

    async def offenders(self, check: str) -> Offenders:
        """The rows that break a check."""
        rows = await self._connection.fetch(CHECKS[check][0], self._org)
        return Offenders(rows[0]["offenders"] if rows else 0, [row["name"] for row in rows])

    async def figures(self) -> asyncpg.Record:
        """How much was looked at, and when."""
        return await self._connection.fetchrow(_FIGURES, self._org)

    async def totals(self) -> list[asyncpg.Record]:
        """Applied usage by organisation and currency; '' is UNRATED."""
        return list(await self._connection.fetch(_TOTALS, self._org))

    async def uncaptured(self) -> list[asyncpg.Record]:
        """Drawn and not yet written as a capture."""
        return list(await self._connection.fetch(_UNCAPTURED, self._org))

    async def unrated_drawn(self) -> list[asyncpg.Record]:
        """Drawn as estimates, for events without a price."""
        return list(await self._connection.fetch(_UNRATED_DRAWN, self._org))

    async def lease_points(self, points: Sequence[tuple[str, int, int]]) -> list[asyncpg.Record]:
        """Totals at these (wallet, epoch, n); without any, at each lease's last answer and the ends of epochs."""
        if points:
            return list(await self._connection.fetch(_AT, self._org, *zip(*points, strict=True)))
        return list(await self._connection.fetch(_LAST, self._org))

    async def holder(self) -> str:
        """What this database calls itself."""
        value: str = await self._connection.fetchval(_HOLDER)
        return value
