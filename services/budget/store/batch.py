"""What one shared transaction reads, locks and writes. Every statement is set-based and sorted.

Lock order, everywhere: reservations, org rows (shared), leases, counters; each sorted by its key.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import asyncpg

from services.budget.domain.approvals import Mark
from services.budget.domain.decide import DrawKey, UsageRow
from services.budget.domain.model import Applied, Carry, Counter, Lease, Reservation, State, WalletState
from services.budget.domain.pauses import Pause, PauseCause
from services.kit.subject import parse_resource

_RESERVATIONS: Final = """
SELECT r.* FROM unnest($1::text[], $2::text[]) AS k (org, id)
JOIN reservations r ON r.org = k.org AND r.id = k.id
ORDER BY r.org, r.id FOR UPDATE OF r
"""
_IS_ANY_RESERVED: Final = """
SELECT EXISTS (
    SELECT FROM unnest($1::text[], $2::text[]) AS k (org, id) JOIN reservations r ON r.org = k.org AND r.id = k.id)
"""
_USAGE: Final = """
SELECT u.org, u.source, u.id, u.payload_hash, u.drawn_nanos, u.unreserved,
    u.wallet IS NULL AND u.cost_nanos <> 0 AS unfunded,
    u.applied_us < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 90 * 86400 * 1000000::bigint AS is_old
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
ON CONFLICT DO NOTHING RETURNING budget_no, window_key
"""
# The outer select reads the clock row by row as the inner one locks them, so the last row's is after all locks.
_COUNTERS: Final = """
SELECT locked.*, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM (
    SELECT c.budget_no, c.window_key, c.spent, c.reserved, CASE WHEN c.carry_from IS NOT NULL
        THEN ARRAY[c.carried, c.rises, c.carry_from, c.carry_base, c.carry_cap] END AS carry,
        c.denied_generation, c.paused_generation
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k (org, budget_no, window_key)
    JOIN counters c ON c.org = k.org AND c.budget_no = k.budget_no AND c.window_key = k.window_key
    ORDER BY c.org, c.budget_no, c.window_key FOR UPDATE OF c
) AS locked
"""
_USED: Final = """
SELECT c.budget_no, c.window_key, c.spent + c.reserved AS used
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k (org, budget_no, window_key)
JOIN counters c ON c.org = k.org AND c.budget_no = k.budget_no AND c.window_key = k.window_key
"""
_SET_CARRIED: Final = """
UPDATE counters c
SET carried = n.carried, rises = n.rises, carry_from = n.carry_from, carry_base = n.carry_base, carry_cap = n.carry_cap
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[]) AS n (org, budget_no, window_key, carried, rises, carry_from, carry_base, carry_cap)
WHERE c.org = n.org AND c.budget_no = n.budget_no AND c.window_key = n.window_key
"""
# In the same round trip where budgets pause. A pause is written under its counter's lock and read without one: it
# denies whatever begins after it was committed.
_COUNTERS_AND_PAUSES: Final = f"""
SELECT counted.*, '', '' FROM ({_COUNTERS}) AS counted UNION ALL
SELECT p.budget_no, p.window_key, p.paused_us, p.until_us, NULL, p.generation, p.cause, -1,
    b.subject || '/budgets/' || b.budget_id, p.reason
FROM unnest($4::text[], $5::bigint[]) AS k (org, budget_no)
JOIN pauses p ON p.org = k.org AND p.budget_no = k.budget_no AND p.ended_us IS NULL AND p.until_us > $6::bigint
JOIN budgets b ON b.org = p.org AND b.budget_no = p.budget_no
"""  # noqa: S608 - a constant
_MARK: Final = """
UPDATE counters c SET denied_generation = n.denied, paused_generation = n.paused
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS n (org, budget_no, window_key, denied, paused)
WHERE c.org = n.org AND c.budget_no = n.budget_no AND c.window_key = n.window_key
"""
_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# One statement for all that decisions change, so that a batch of them costs one round trip to write.
_WRITE: Final = """
WITH made AS (
    INSERT INTO reservations (org, id, subject, state, payload_hash, wallet, currency, cost_nanos, funding_held,
        settled_nanos, created_us, expires_us, rate_version, model, holds)
    SELECT org, id, subject, state, decode(payload_hash, 'hex'), nullif(wallet, ''), currency, cost_nanos,
        funding_held, settled_nanos, created_us, expires_us, rate_version, model, holds::bigint[]
    FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::bigint[], $5::text::text[],
        $6::text::text[], $7::text::text[], $8::text::bigint[], $9::text::bigint[], $10::text::bigint[],
        $11::text::bigint[], $12::text::bigint[], $13::text::text[], $14::text::text[], $15::text::text[])
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
SET state = n.state, funding_held = n.funding_held, settled_nanos = n.settled_nanos, holds = n.holds::bigint[],
    expires_us = n.expires_us, settled_events = n.settled_events, closed_us = nullif(n.closed_us, 0)
FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[], $5::text::bigint[],
    $6::text::text[], $7::text::bigint[], $8::text::bigint[], $9::text::bigint[])
    AS n (org, id, state, funding_held, settled_nanos, holds, expires_us, settled_events, closed_us)
WHERE r.org = n.org AND r.id = n.id
"""
_ADD_USAGE: Final = """
WITH added AS (
    INSERT INTO applied_usage (org, source, id, subject, payload_hash, occurred_us, applied_us, currency, cost_nanos,
        rated, wallet, drawn_nanos, reservation, unreserved, effects, corrects_source, corrects_id)
    SELECT org, source, id, subject, decode(payload_hash, 'hex'), occurred_us, $15, currency, cost_nanos, rated,
        nullif(wallet, ''), drawn_nanos, nullif(reservation, ''), unreserved, effects::bigint[],
        nullif(corrects_source, ''), nullif(corrects_id, '')
    FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[],
        $6::text::bigint[], $7::text::text[], $8::text::bigint[], $9::text::boolean[], $10::text::text[],
        $11::text::bigint[], $12::text::text[], $13::text::boolean[], $14::text::text[],
        $24::text::text[], $25::text::text[])
        AS n (org, source, id, subject, payload_hash, occurred_us, currency, cost_nanos, rated, wallet, drawn_nanos,
            reservation, unreserved, effects, corrects_source, corrects_id)
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


async def is_any_reserved(connection: asyncpg.Connection, keys: Sequence[tuple[str, str]]) -> bool:
    """Whether one of these ids has a reservation by now; locks nothing."""
    return bool(await connection.fetchval(_IS_ANY_RESERVED, [k[0] for k in keys], [k[1] for k in keys]))


def reservation_of(row: asyncpg.Record) -> Reservation:
    """A reservation from its row."""
    return Reservation(
        row["org"],
        row["id"],
        row["subject"],
        State(row["state"]),
        row["payload_hash"],
        row["wallet"],
        row["currency"],
        row["cost_nanos"],
        row["funding_held"],
        row["settled_nanos"],
        row["created_us"],
        row["expires_us"],
        row["rate_version"],
        row["model"],
        list(row["holds"]),
        events=row["settled_events"],
        closed_us=row["closed_us"] or 0,
        approval=Mark(row["approval"]),
    )


async def find_usage(
    connection: asyncpg.Connection, keys: Sequence[tuple[str, str, str]]
) -> dict[tuple[str, str, str], tuple[bytes, Applied]]:
    """The events that were applied before, with their payload's hash and their answer."""
    rows = await connection.fetch(_USAGE, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys])
    return {
        (row["org"], row["source"], row["id"]): (
            row["payload_hash"],
            Applied(
                duplicate=True,
                drawn=row["drawn_nanos"],
                unfunded=row["unfunded"],
                unreserved=row["unreserved"],
                is_old=row["is_old"],
            ),
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


async def add_counters(connection: asyncpg.Connection, counters: Sequence[Counter]) -> set[tuple[int, int]]:
    """Makes the rows that are missing, and returns their keys."""
    rows = await connection.fetch(
        _ADD_COUNTERS, [c.org for c in counters], [c.no for c in counters], [c.key for c in counters]
    )
    return {(row["budget_no"], row["window_key"]) for row in rows}


async def used(connection: asyncpg.Connection, keys: Sequence[tuple[str, int, int]]) -> dict[tuple[int, int], int]:
    """What windows have spent and hold together, by budget and window; those without a row are left out."""
    rows = await connection.fetch(_USED, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys])
    return {(row["budget_no"], row["window_key"]): row["used"] for row in rows}


async def set_carried(connection: asyncpg.Connection, counters: Sequence[Counter]) -> None:
    """Writes what windows were carried, and what from."""
    rows = [
        (c.org, c.no, c.key, c.carried, c.rises, c.carry.from_key, c.carry.base, c.carry.cap)
        for c in counters
        if c.carry is not None
    ]
    await connection.execute(_SET_CARRIED, *zip(*rows, strict=True))


async def lock_counters(
    connection: asyncpg.Connection,
    counters: dict[tuple[int, int], Counter],
    pausing: Sequence[tuple[str, int]] = (),
    at_us: int = 0,
) -> tuple[int, list[tuple[int, int]], dict[int, list[Pause]]]:
    """Locks the counters and loads their values; finds the pauses of budgets in `pausing` that end after `at_us`.

    Returns:
        The time once all are locked, in microseconds since 1970, the keys of those without a row, and the pauses by
        budget number.
    """
    if not counters and not pausing:
        return await connection.fetchval(_NOW), [], {}
    wanted = counters.values()
    columns = ([c.org for c in wanted], [c.no for c in wanted], [c.key for c in wanted])
    pauses: dict[int, list[Pause]] = {}
    if pausing:
        both = await connection.fetch(
            _COUNTERS_AND_PAUSES, *columns, [org for org, _ in pausing], [no for _, no in pausing], at_us
        )
        rows = [row[:8] for row in both if row[7] >= 0]
        for row in both[len(rows) :]:
            pause = _pause(row)
            pauses.setdefault(pause.budget_no, []).append(pause)
    else:
        rows = await connection.fetch(_COUNTERS, *columns)
    now_us = 0
    for no, key, spent, reserved, carry, denied, paused, now_us in rows:  # noqa: B007 - the last row's time is used
        counter = counters[(no, key)]
        counter.load(spent, reserved)
        if carry is not None:
            counter.carried, counter.rises, *rest = carry
            counter.carry = Carry(*rest)
        counter.denied_generation = denied
        counter.paused_generation = paused
    if not counters:
        now_us = await connection.fetchval(_NOW)
    if len(rows) == len(counters):
        return now_us, [], pauses
    found = {(row[0], row[1]) for row in rows}
    return now_us, [key for key in counters if key not in found], pauses


def _pause(row: asyncpg.Record) -> Pause:
    no, key, paused_us, until_us, _, generation, cause, _, budget, reason = row
    subject = parse_resource(budget, "budgets")[0]
    return Pause(
        subject.org, subject.name, no, budget, key, generation, PauseCause(cause), reason, "", paused_us, until_us
    )


async def mark_counters(connection: asyncpg.Connection, counters: Sequence[Counter]) -> None:
    """Writes for which limit generation windows have told of a denial and have paused; their rows are locked."""
    await connection.execute(
        _MARK,
        [c.org for c in counters],
        [c.no for c in counters],
        [c.key for c in counters],
        [c.denied_generation for c in counters],
        [c.paused_generation for c in counters],
    )


async def write_decisions(
    connection: asyncpg.Connection,
    made: Sequence[Reservation],
    counters: Sequence[Counter],
    leases: Sequence[Lease],
    at_us: int,
) -> bool:
    """Writes new reservations and what counters and leases have become; False: an id was taken meanwhile."""
    count = await connection.fetchval(
        _WRITE,
        plain([r.org for r in made]),
        plain([r.id for r in made]),
        plain([r.subject for r in made]),
        numbers([int(r.state) for r in made]),
        plain([r.payload_hash.hex() for r in made]),
        plain([r.wallet or "" for r in made]),
        plain([r.currency for r in made]),
        costs([r.cost for r in made]),
        numbers([r.funding_held for r in made]),
        numbers([r.settled for r in made]),
        numbers([r.created_us for r in made]),
        numbers([r.expires_us for r in made]),
        texts([r.rate_version for r in made]),
        texts([r.model for r in made]),
        plain([numbers(r.holds) for r in made]),
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
    )
    return bool(count == len(made))


async def change_reservations(connection: asyncpg.Connection, changed: Sequence[Reservation]) -> None:
    """Writes what existing reservations have become."""
    await connection.execute(
        _CHANGE_RESERVATIONS,
        plain([r.org for r in changed]),
        plain([r.id for r in changed]),
        numbers([int(r.state) for r in changed]),
        numbers([r.funding_held for r in changed]),
        numbers([r.settled for r in changed]),
        plain([numbers(r.holds) for r in changed]),
        numbers([r.expires_us for r in changed]),
        numbers([r.events for r in changed]),
        numbers([r.closed_us for r in changed]),
    )


async def add_usage(
    connection: asyncpg.Connection, rows: Sequence[UsageRow], draws: dict[DrawKey, list[int]], at_us: int
) -> bool:
    """Writes applied events and what they draw; False: one was applied by another transaction meanwhile."""
    lines = [(*key, amount, calls) for key, (amount, calls) in draws.items()]
    count = await connection.fetchval(
        _ADD_USAGE,
        plain([r.item.org for r in rows]),
        texts([r.item.source for r in rows]),
        texts([r.item.id for r in rows]),
        plain([r.item.subject.name for r in rows]),
        plain([r.item.payload_hash.hex() for r in rows]),
        numbers([r.item.occurred_us for r in rows]),
        texts([r.currency for r in rows]),
        numbers([r.cost for r in rows]),
        plain(["t" if r.item.rated else "f" for r in rows]),
        plain([r.wallet or "" for r in rows]),
        numbers([r.drawn for r in rows]),
        plain([r.item.reservation for r in rows]),
        plain(["t" if r.unreserved else "f" for r in rows]),
        plain([numbers(r.effects) for r in rows]),
        at_us,
        *(zip(*lines, strict=True) if lines else [()] * 8),
        texts([r.item.corrects[0] if r.item.corrects else "" for r in rows]),
        texts([r.item.corrects[1] if r.item.corrects else "" for r in rows]),
    )
    return bool(count == len(rows))


# Arrays of many elements are sent as text: asyncpg tests each element of an array against abstract classes, which
# takes longer than writing it, and PostgreSQL reads either as fast. Arrays of different lengths could not be sent as
# one parameter at all.


def numbers(values: Iterable[int]) -> str:
    """A bigint[] as text."""
    return "{" + ",".join(map(str, values)) + "}"


def costs(values: Iterable[int | None]) -> str:
    """A bigint[] with nulls as text."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def plain(values: Sequence[str]) -> str:
    """A text[] as text, of values without quotes and backslashes: ids, names and what is written here."""
    return '{"' + '","'.join(values) + '"}' if values else "{}"


def texts(values: Iterable[str]) -> str:
    """A text[] as text, of any values."""
    return "{" + ",".join(map(_quoted, values)) + "}"


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
