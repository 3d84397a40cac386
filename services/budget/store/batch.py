"""What one shared transaction reads, locks and writes. Every statement is set-based and sorted.

Lock order, everywhere: reservations, org rows (shared), leases, counters; each sorted by its key.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import asyncpg

from services.budget.domain.decide import DrawKey, UsageRow
from services.budget.domain.model import Applied, Counter, Lease, Reservation, State, WalletState

_RESERVATIONS: Final = """
SELECT r.* FROM unnest($1::text[], $2::text[]) AS k (org, id)
JOIN reservations r ON r.org = k.org AND r.id = k.id
ORDER BY r.org, r.id FOR UPDATE OF r
"""
_USAGE: Final = """
SELECT u.org, u.source, u.id, u.payload_hash, u.drawn_nanos, u.unreserved,
    u.wallet IS NULL AND u.cost_nanos <> 0 AS unfunded
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (org, source, id)
JOIN applied_usage u ON u.org = k.org AND u.source = k.source AND u.id = k.id
"""
# Row locks do not queue fairly: with replicas always holding the row FOR SHARE, a policy write would never get it. The
# advisory lock in front does queue: a writer takes it exclusively first, and new batches wait behind the writer.
_EPOCHS: Final = """
SELECT p.org, p.epoch, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us
FROM (
    SELECT o.org, pg_advisory_xact_lock_shared(7402, hashtext(o.org)) AS gate FROM unnest($1::text[]) AS o (org)
    ORDER BY o.org OFFSET 0
) AS gated
JOIN org_policy p ON p.org = gated.org
ORDER BY p.org FOR SHARE OF p
"""
_ADD_ORGS: Final = """
INSERT INTO org_policy (org) SELECT o FROM unnest($1::text[]) AS o ORDER BY o ON CONFLICT DO NOTHING
"""
_ADD_LEASES: Final = """
INSERT INTO leases (org, wallet, currency)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS k (org, wallet, currency) ORDER BY 1, 2
ON CONFLICT DO NOTHING
"""
_LEASES: Final = """
SELECT l.wallet, l.currency, l.extended_total, l.returned_total, l.drawn_total, l.reversal_total, l.reserved,
    l.wallet_state, l.quarantined, l.target_nanos
FROM unnest($1::text[], $2::text[]) AS k (org, wallet)
JOIN leases l ON l.org = k.org AND l.wallet = k.wallet
ORDER BY l.org, l.wallet FOR UPDATE OF l
"""
_ADD_COUNTERS: Final = """
INSERT INTO counters (org, budget_no, window_key)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k (org, budget_no, window_key) ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING
"""
# The outer select reads the clock row by row as the inner one locks them, so the last row's is after all locks.
_COUNTERS: Final = """
SELECT locked.*, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM (
    SELECT c.budget_no, c.window_key, c.spent, c.reserved
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k (org, budget_no, window_key)
    JOIN counters c ON c.org = k.org AND c.budget_no = k.budget_no AND c.window_key = k.window_key
    ORDER BY c.org, c.budget_no, c.window_key FOR UPDATE OF c
) AS locked
"""
_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# One statement for all that decisions change, so that a batch of them costs one round trip to write.
_WRITE: Final = """
WITH made AS (
    INSERT INTO reservations (org, id, subject, state, payload_hash, wallet, currency, cost_nanos, funding_held,
        settled_nanos, created_us, expires_us, rate_version, model, holds)
    SELECT org, id, subject, state, payload_hash, wallet, currency, cost_nanos, funding_held,
        settled_nanos, created_us, expires_us, rate_version, model, holds::bigint[]
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::text[], $7::text[], $8::bigint[],
        $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::text[])
        AS n (org, id, subject, state, payload_hash, wallet, currency, cost_nanos, funding_held, settled_nanos,
            created_us, expires_us, rate_version, model, holds)
    ON CONFLICT DO NOTHING RETURNING 1
), counted AS (
    UPDATE counters c SET spent = n.spent, reserved = n.reserved
    FROM unnest($16::text[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[])
        AS n (org, budget_no, window_key, spent, reserved)
    WHERE c.org = n.org AND c.budget_no = n.budget_no AND c.window_key = n.window_key
), leased AS (
    UPDATE leases l SET drawn_total = n.drawn, reversal_total = n.reversal, reserved = n.reserved,
        active_us = $26::bigint
    FROM unnest($21::text[], $22::text[], $23::bigint[], $24::bigint[], $25::bigint[])
        AS n (org, wallet, drawn, reversal, reserved)
    WHERE l.org = n.org AND l.wallet = n.wallet
)
SELECT count(*) FROM made
"""
_CHANGE_RESERVATIONS: Final = """
UPDATE reservations r
SET state = n.state, funding_held = n.funding_held, settled_nanos = n.settled_nanos, holds = n.holds::bigint[]
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[])
    AS n (org, id, state, funding_held, settled_nanos, holds)
WHERE r.org = n.org AND r.id = n.id
"""
_ADD_USAGE: Final = """
WITH added AS (
    INSERT INTO applied_usage (org, source, id, subject, payload_hash, occurred_us, applied_us, currency, cost_nanos,
        rated, wallet, drawn_nanos, reservation, unreserved, effects)
    SELECT org, source, id, subject, payload_hash, occurred_us, $15, currency, cost_nanos, rated, wallet, drawn_nanos,
        reservation, unreserved, effects::bigint[]
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bigint[], $7::text[], $8::bigint[],
        $9::boolean[], $10::text[], $11::bigint[], $12::text[], $13::boolean[], $14::text[])
        AS n (org, source, id, subject, payload_hash, occurred_us, currency, cost_nanos, rated, wallet, drawn_nanos,
            reservation, unreserved, effects)
    ON CONFLICT DO NOTHING RETURNING 1
), drawn AS (
    INSERT INTO lease_draws (org, wallet, reversal, provider, model, month, amount_nanos, calls)
    SELECT * FROM unnest($16::text[], $17::text[], $18::boolean[], $19::text[], $20::text[], $21::text[],
        $22::bigint[], $23::bigint[])
)
SELECT count(*) FROM added
"""


async def lock_reservations(
    connection: asyncpg.Connection, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Reservation]:
    """The reservations that exist, locked."""
    rows = await connection.fetch(_RESERVATIONS, [k[0] for k in keys], [k[1] for k in keys])
    return {(row["org"], row["id"]): reservation_of(row) for row in rows}


def reservation_of(row: asyncpg.Record) -> Reservation:
    """A reservation from its row."""
    return Reservation(
        row["org"],
        row["id"],
        row["subject"],
        State(row["state"]),
        row["payload_hash"],
        row["wallet"],
        row["currency"] or "",
        row["cost_nanos"],
        row["funding_held"],
        row["settled_nanos"],
        row["created_us"],
        row["expires_us"],
        row["rate_version"],
        row["model"],
        list(row["holds"]),
    )


async def find_usage(
    connection: asyncpg.Connection, keys: Sequence[tuple[str, str, str]]
) -> dict[tuple[str, str, str], tuple[bytes, Applied]]:
    """The events that were applied before, with their payload's hash and their answer."""
    rows = await connection.fetch(_USAGE, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys])
    return {
        (row["org"], row["source"], row["id"]): (
            row["payload_hash"],
            Applied(duplicate=True, drawn=row["drawn_nanos"], unfunded=row["unfunded"], unreserved=row["unreserved"]),
        )
        for row in rows
    }


async def add_orgs(connection: asyncpg.Connection, orgs: Sequence[str]) -> None:
    """Makes the rows that are missing."""
    await connection.execute(_ADD_ORGS, orgs)


async def hold_epochs(connection: asyncpg.Connection, orgs: Sequence[str]) -> tuple[dict[str, int], int]:
    """The organisations' epochs, held against policy writes until the end; and the time in microseconds."""
    rows = await connection.fetch(_EPOCHS, orgs)
    return {row["org"]: row["epoch"] for row in rows}, rows[-1]["now_us"] if rows else 0


async def add_leases(connection: asyncpg.Connection, leases: Sequence[Lease]) -> None:
    """Makes the rows that are missing."""
    await connection.execute(
        _ADD_LEASES, [x.org for x in leases], [x.wallet for x in leases], [x.currency for x in leases]
    )


async def lock_leases(connection: asyncpg.Connection, leases: Sequence[Lease]) -> list[str]:
    """Locks the leases and loads their totals; returns the wallets of those without a row."""
    by_wallet = {lease.wallet: lease for lease in leases}
    rows = await connection.fetch(_LEASES, [x.org for x in leases], [x.wallet for x in leases])
    for wallet, currency, extended, returned, drawn, reversal, reserved, state, quarantined, target in rows:
        lease = by_wallet.pop(wallet)
        lease.load(extended, returned, drawn, reversal, reserved=reserved, state=WalletState(state))
        lease.currency = currency
        lease.quarantined = quarantined
        lease.target = target
    return list(by_wallet)


async def add_counters(connection: asyncpg.Connection, counters: Sequence[Counter]) -> None:
    """Makes the rows that are missing."""
    await connection.execute(
        _ADD_COUNTERS, [c.org for c in counters], [c.no for c in counters], [c.key for c in counters]
    )


async def lock_counters(
    connection: asyncpg.Connection, counters: dict[tuple[int, int], Counter]
) -> tuple[int, list[tuple[int, int]]]:
    """Locks the counters and loads their values.

    Returns:
        The time once all are locked, in microseconds since 1970, and the keys of those without a row.
    """
    if not counters:
        return await connection.fetchval(_NOW), []
    wanted = counters.values()
    rows = await connection.fetch(_COUNTERS, [c.org for c in wanted], [c.no for c in wanted], [c.key for c in wanted])
    at_us = 0
    for no, key, spent, reserved, at_us in rows:  # noqa: B007 - the last row's time is used
        counters[(no, key)].load(spent, reserved)
    if len(rows) == len(counters):
        return at_us, []
    found = {(row["budget_no"], row["window_key"]) for row in rows}
    return at_us, [key for key in counters if key not in found]


async def write_decisions(
    connection: asyncpg.Connection,
    made: Sequence[Reservation],
    counters: Iterable[Counter],
    leases: Iterable[Lease],
    at_us: int,
) -> bool:
    """Writes new reservations and what counters and leases have become; False: an id was taken meanwhile."""
    counters, leases = list(counters), list(leases)
    count = await connection.fetchval(
        _WRITE,
        *_columns(
            [
                (
                    r.org, r.id, r.subject, int(r.state), r.payload_hash, r.wallet, r.currency, r.cost, r.funding_held,
                    r.settled, r.created_us, r.expires_us, r.rate_version, r.model, array(r.holds),
                )
                for r in made
            ],
            15,
        ),
        [c.org for c in counters],
        [c.no for c in counters],
        [c.key for c in counters],
        [c.spent for c in counters],
        [c.reserved for c in counters],
        [x.org for x in leases],
        [x.wallet for x in leases],
        [x.drawn for x in leases],
        [x.reversal for x in leases],
        [x.reserved for x in leases],
        at_us,
    )  # fmt: skip
    return bool(count == len(made))


async def change_reservations(connection: asyncpg.Connection, changed: Sequence[Reservation]) -> None:
    """Writes what existing reservations have become."""
    rows = [(r.org, r.id, int(r.state), r.funding_held, r.settled, array(r.holds)) for r in changed]
    await connection.execute(_CHANGE_RESERVATIONS, *_columns(rows, 6))


async def add_usage(
    connection: asyncpg.Connection, rows: Sequence[UsageRow], draws: dict[DrawKey, list[int]], at_us: int
) -> bool:
    """Writes applied events and what they draw; False: one was applied by another transaction meanwhile."""
    count = await connection.fetchval(
        _ADD_USAGE,
        *_columns(
            [
                (
                    r.item.org, r.item.source, r.item.id, r.item.subject.name, r.item.payload_hash, r.item.occurred_us,
                    r.currency, r.cost, r.item.rated, r.wallet, r.drawn, r.item.reservation or None, r.unreserved,
                    array(r.effects),
                )
                for r in rows
            ],
            14,
        ),
        at_us,
        *_columns([(*key, amount, calls) for key, (amount, calls) in draws.items()], 8),
    )  # fmt: skip
    return bool(count == len(rows))


def array(numbers: Iterable[int]) -> str:
    """A bigint[] as text: arrays of different lengths cannot be sent as one parameter."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width
