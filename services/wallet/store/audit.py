"""What an audit looks up, all of it in the caller's one snapshot. Each check's statement finds offenders."""

# ruff: noqa: S608 - statements are put together from constants of this module

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from services.wallet.domain.leases import Totals

OFFENDERS_SHOWN: Final = 5
"""How many offenders a check names."""
LEASES_MAX: Final = 20_000
"""The most leases of one audit; with more, audit one organisation at a time."""

_ONLY = "($1::text IS NULL OR org = $1)"
_BALANCES_EQUAL_TRANSFERS = f"""
WITH moved AS (
    SELECT org, id, sum(debits) AS debits, sum(credits) AS credits FROM (
        SELECT org, from_account AS id, amount_nanos AS debits, 0 AS credits FROM transfers WHERE {_ONLY}
        UNION ALL
        SELECT org, to_account, 0, amount_nanos FROM transfers WHERE {_ONLY}
    ) AS sides GROUP BY org, id
)
SELECT a.id || ': debits ' || a.debits_nanos || ' and transfers ' || coalesce(m.debits, 0)
       || ', credits ' || a.credits_nanos || ' and transfers ' || coalesce(m.credits, 0)
FROM (SELECT * FROM accounts WHERE {_ONLY}) AS a LEFT JOIN moved m ON m.org = a.org AND m.id = a.id
WHERE a.debits_nanos <> coalesce(m.debits, 0) OR a.credits_nanos <> coalesce(m.credits, 0)
ORDER BY a.id
"""
_DEBITS_EQUAL_CREDITS = f"""
SELECT org || ' ' || currency || ': debits ' || sum(debits_nanos) || ', credits ' || sum(credits_nanos)
FROM accounts WHERE {_ONLY} GROUP BY org, currency HAVING sum(debits_nanos) <> sum(credits_nanos) ORDER BY org
"""
_APPEND_ONLY = """
SELECT table_name || ': the service may ' || lower(privilege)
FROM unnest(ARRAY['transfers', 'lease_ops', 'capture_lines', 'lease_epochs']) AS t(table_name),
     unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS p(privilege)
WHERE has_table_privilege(current_user, table_name, privilege) AND $1::text IS DISTINCT FROM ''
"""
_ESCROW_EQUALS_LEASES = f"""
SELECT coalesce(a.id, l.wallet || '/escrow/' || l.holder) || ': escrow ' || coalesce(a.held, 0)
       || ', lease ' || coalesce(l.held, 0)
FROM (SELECT org, id, credits_nanos - debits_nanos AS held FROM accounts WHERE kind = 'escrow' AND {_ONLY}) AS a
FULL JOIN (
    SELECT org, wallet, holder, extended_nanos - captured_nanos - returned_nanos AS held FROM leases WHERE {_ONLY}
) AS l ON l.org = a.org AND a.id = l.wallet || '/escrow/' || l.holder
WHERE coalesce(a.held, 0) <> coalesce(l.held, 0)
ORDER BY 1
"""
_LOTS_EQUAL_ACCOUNTS = f"""
WITH kinds AS (
    SELECT org, wallet,
           sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'available') AS available,
           sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'escrow') AS escrow,
           sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'spent') AS spent,
           sum(debits_nanos - credits_nanos) FILTER (WHERE kind = 'debt') AS debt,
           sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'expired') AS expired,
           coalesce(sum(credits_nanos - debits_nanos) FILTER (
               WHERE kind IN ('refunded', 'disputed', 'moved_out')), 0) AS gone,
           coalesce(sum(debits_nanos - credits_nanos) FILTER (
               WHERE kind IN ('funding', 'promotion', 'moved_in')), 0) AS put_in
    FROM accounts WHERE {_ONLY} GROUP BY org, wallet
), lots AS (
    SELECT org, wallet, sum(free_nanos) AS free, sum(leased_nanos) AS leased, sum(spent_nanos) AS spent,
           sum(expired_nanos) AS expired, sum(gone_nanos) AS gone, sum(amount_nanos - pending_nanos) AS put_in
    FROM grants WHERE {_ONLY} GROUP BY org, wallet
)
SELECT k.wallet || ': available ' || k.available || ' free ' || coalesce(l.free, 0)
       || ', escrow ' || coalesce(k.escrow, 0) || ' leased ' || coalesce(l.leased, 0)
       || ', spent ' || k.spent || ' and gone ' || k.gone || ' less debt ' || k.debt || ' from lots '
       || coalesce(l.spent, 0) || ' and ' || coalesce(l.gone, 0)
       || ', put in ' || k.put_in || ' as lots ' || coalesce(l.put_in, 0)
       || ', expired ' || k.expired || ' of lots ' || coalesce(l.expired, 0)
FROM kinds k LEFT JOIN lots l USING (org, wallet)
WHERE k.available <> coalesce(l.free, 0) OR coalesce(k.escrow, 0) <> coalesce(l.leased, 0)
   OR k.spent + k.gone - k.debt <> coalesce(l.spent + l.gone, 0) OR k.put_in <> coalesce(l.put_in, 0)
   OR k.expired <> coalesce(l.expired, 0)
ORDER BY k.wallet
"""
_MOVES_EQUAL = f"""
SELECT org || ' ' || currency || ': moved out and in differ by ' || sum(credits_nanos - debits_nanos)
FROM accounts WHERE kind IN ('moved_in', 'moved_out') AND {_ONLY}
GROUP BY org, currency HAVING sum(credits_nanos - debits_nanos) <> 0 ORDER BY 1
"""
_BACK_EQUALS_ACCOUNTS = f"""
WITH kinds AS (
    SELECT org, wallet, coalesce(sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'refunded'), 0) AS refunded,
           coalesce(sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'disputed'), 0) AS disputed
    FROM accounts WHERE {_ONLY} GROUP BY org, wallet
), refunds AS (
    SELECT org, wallet, sum(amount_nanos) AS nanos FROM refunds WHERE state <> 'FAILED' AND {_ONLY} GROUP BY org, wallet
), disputes AS (
    SELECT org, wallet, sum(withdrawn_nanos - restored_nanos) AS nanos FROM disputes WHERE {_ONLY} GROUP BY org, wallet
), charges AS (
    SELECT org, wallet, sum(refunded_nanos) AS refunded, sum(disputed_nanos) AS disputed FROM charges WHERE {_ONLY}
    GROUP BY org, wallet
)
SELECT k.wallet || ': refunded ' || k.refunded || ', refunds ' || coalesce(r.nanos, 0) || ', of charges '
       || coalesce(c.refunded, 0) || '; disputed ' || k.disputed || ', disputes ' || coalesce(d.nanos, 0)
       || ', of charges ' || coalesce(c.disputed, 0)
FROM kinds k LEFT JOIN refunds r USING (org, wallet) LEFT JOIN disputes d USING (org, wallet)
LEFT JOIN charges c USING (org, wallet)
WHERE k.refunded <> coalesce(r.nanos, 0) OR k.refunded <> coalesce(c.refunded, 0)
   OR k.disputed <> coalesce(d.nanos, 0) OR k.disputed <> coalesce(c.disputed, 0)
ORDER BY 1
"""
_TAGS_EQUAL_LOTS = f"""
WITH by_lot AS (
    SELECT org, lot, sum(leased_nanos) AS leased, sum(spent_nanos) AS spent FROM tags WHERE {_ONLY} GROUP BY org, lot
)
SELECT g.name || ': leased ' || g.leased_nanos || ' tagged ' || coalesce(t.leased, 0)
       || ', spent ' || g.spent_nanos || ' tagged ' || coalesce(t.spent, 0)
FROM (SELECT * FROM grants WHERE {_ONLY}) AS g LEFT JOIN by_lot t ON t.org = g.org AND t.lot = g.name
WHERE g.leased_nanos <> coalesce(t.leased, 0) OR g.spent_nanos <> coalesce(t.spent, 0)
ORDER BY g.name
"""
_TAGS_EQUAL_LEASES = f"""
WITH by_lease AS (
    SELECT org, wallet, holder, sum(leased_nanos) AS leased FROM tags WHERE {_ONLY} GROUP BY org, wallet, holder
)
SELECT l.wallet || '/leases/' || l.holder || ': escrow ' || l.extended_nanos - l.captured_nanos - l.returned_nanos
       || ', tagged ' || coalesce(t.leased, 0)
FROM (SELECT * FROM leases WHERE {_ONLY}) AS l LEFT JOIN by_lease t USING (org, wallet, holder)
WHERE l.extended_nanos - l.captured_nanos - l.returned_nanos <> coalesce(t.leased, 0)
ORDER BY 1
"""
_NUMBERS_WHOLE = f"""
WITH stored AS (
    SELECT org, wallet, holder, epoch, count(*) AS ops, max(n) AS last_n FROM lease_ops WHERE {_ONLY}
    GROUP BY org, wallet, holder, epoch
), ends AS (
    SELECT org, wallet, holder, epoch, n, extended_nanos, captured_nanos, returned_nanos, reversed_nanos
    FROM leases WHERE {_ONLY}
    UNION ALL
    SELECT org, wallet, holder, epoch, n, extended_nanos, captured_nanos, returned_nanos - reclaimed_nanos,
           reversed_nanos
    FROM lease_epochs WHERE {_ONLY}
)
SELECT e.wallet || '/leases/' || e.holder || '/' || e.epoch || ': at ' || e.n || ', stored '
       || coalesce(s.ops, 0) || ' up to ' || coalesce(s.last_n, 0)
FROM ends e LEFT JOIN stored s USING (org, wallet, holder, epoch)
LEFT JOIN lease_ops o USING (org, wallet, holder, epoch, n)
WHERE coalesce(s.ops, 0) <> e.n OR coalesce(s.last_n, 0) <> e.n OR (e.n > 0 AND
      (o.extended_nanos, o.captured_nanos, o.returned_nanos, o.reversed_nanos) IS DISTINCT FROM
      (e.extended_nanos, e.captured_nanos, e.returned_nanos, e.reversed_nanos))
ORDER BY 1
"""
_NET = f"""
SELECT org, wallet, sum(captured_nanos - reversed_nanos) AS net FROM (
    SELECT org, wallet, captured_nanos, reversed_nanos FROM leases WHERE {_ONLY}
    UNION ALL
    SELECT org, wallet, captured_nanos, reversed_nanos FROM lease_epochs WHERE {_ONLY}
) AS ends GROUP BY org, wallet
"""
_CAPTURES_EQUAL_SPENT = f"""
WITH net AS ({_NET}), lines AS (
    SELECT org, wallet, sum(amount_nanos) AS net FROM capture_lines WHERE {_ONLY} GROUP BY org, wallet
)
SELECT a.wallet || ': spent ' || a.credits_nanos - a.debits_nanos || ', captured less reversed '
       || coalesce(n.net, 0) || ', lines ' || coalesce(l.net, 0)
FROM (SELECT * FROM accounts WHERE kind = 'spent' AND {_ONLY}) AS a
LEFT JOIN net n USING (org, wallet) LEFT JOIN lines l USING (org, wallet)
WHERE a.credits_nanos - a.debits_nanos <> coalesce(n.net, 0) OR coalesce(n.net, 0) <> coalesce(l.net, 0)
ORDER BY a.wallet
"""
_IN_STEP = f"""
SELECT wallet || '/leases/' || holder || ': ' || quarantine FROM leases
WHERE quarantine IS NOT NULL AND {_ONLY} ORDER BY 1
"""

CHECKS: Final = {
    "I4.balances_equal_transfers": _BALANCES_EQUAL_TRANSFERS,
    "I4.debits_equal_credits": _DEBITS_EQUAL_CREDITS,
    "I4.ledger_is_append_only": _APPEND_ONLY,
    "I5.escrow_equals_leases": _ESCROW_EQUALS_LEASES,
    "I5.lots_equal_accounts": _LOTS_EQUAL_ACCOUNTS,
    "I4.moves_are_equal": _MOVES_EQUAL,
    "I8.money_back_is_in_the_ledger": _BACK_EQUALS_ACCOUNTS,
    "I5.tags_equal_lots": _TAGS_EQUAL_LOTS,
    "I5.tags_equal_leases": _TAGS_EQUAL_LEASES,
    "I2.lease_numbers_are_whole": _NUMBERS_WHOLE,
    "I6.captures_equal_spent": _CAPTURES_EQUAL_SPENT,
    "I5.leases_in_step": _IN_STEP,
}
"""Statements by the name of what they check; a row is an offender."""

_FIGURES = f"""
SELECT (SELECT count(*) FROM wallets WHERE {_ONLY}) AS wallets,
       (SELECT count(*) FROM accounts WHERE {_ONLY}) AS accounts,
       (SELECT count(*) FROM transfers WHERE {_ONLY}) AS transfers,
       (SELECT count(*) FROM grants WHERE {_ONLY}) AS grants,
       (SELECT count(*) FROM leases WHERE {_ONLY}) AS leases,
       (SELECT count(*) FROM lease_ops WHERE {_ONLY}) AS operations,
       clock_timestamp() AS now
"""
_LEASES = f"""
SELECT wallet, holder, epoch, n, extended_nanos, captured_nanos, returned_nanos, reversed_nanos
FROM leases WHERE {_ONLY}
UNION ALL
SELECT wallet, holder, epoch, n, extended_nanos, captured_nanos, returned_nanos - reclaimed_nanos, reversed_nanos
FROM lease_epochs WHERE {_ONLY}
ORDER BY wallet, holder, epoch LIMIT $2
"""
_CAPTURED = f"""
WITH net AS ({_NET}), calls AS (
    SELECT org, wallet, sum(calls) AS calls FROM capture_lines WHERE {_ONLY} GROUP BY org, wallet
)
SELECT n.org, w.currency, sum(n.net)::text, sum(coalesce(c.calls, 0))::text
FROM net n LEFT JOIN calls c USING (org, wallet) JOIN wallets w ON w.org = n.org AND w.name = n.wallet
GROUP BY n.org, w.currency ORDER BY n.org, w.currency
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """How much an audit looked at, and when."""

    wallets: int
    accounts: int
    transfers: int
    grants: int
    leases: int
    operations: int
    now: datetime


@dataclass(frozen=True, slots=True)
class LeaseTotals:
    """A lease's totals at its last operation."""

    wallet: str
    holder: str
    totals: Totals


@dataclass(frozen=True, slots=True)
class Captured:
    """Captured less reversed, in nano-units, and the calls that it was for."""

    org: str
    currency: str
    amount: int
    calls: int


async def offenders(conn: asyncpg.Connection, check: str, org: str | None) -> list[str]:
    """What breaks a check, in words; at most one more than `OFFENDERS_SHOWN`."""
    rows = await conn.fetch(f"SELECT * FROM ({CHECKS[check]}) AS found LIMIT {OFFENDERS_SHOWN + 1}", org)
    return [row[0] for row in rows]


async def figures(conn: asyncpg.Connection, org: str | None) -> Figures:
    """How much there is to audit."""
    return Figures(*await conn.fetchrow(_FIGURES, org))


async def lease_totals(conn: asyncpg.Connection, org: str | None) -> list[LeaseTotals]:
    """Every lease, and the ends of its earlier epochs; one more than `LEASES_MAX` shows that there are more."""
    rows = await conn.fetch(_LEASES, org, LEASES_MAX + 1)
    return [LeaseTotals(row[0], row[1], Totals(*row[2:])) for row in rows]


async def captured(conn: asyncpg.Connection, org: str | None) -> list[Captured]:
    """What was captured in all, by organisation and currency."""
    return [Captured(row[0], row[1], int(row[2]), int(row[3])) for row in await conn.fetch(_CAPTURED, org)]
