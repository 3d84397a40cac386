"""Loads the books of wallets under their locks, and writes what a batch has changed, in sets."""

# ruff: noqa: S608 - statements are put together from constants of this module

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg

from services.wallet.domain.accounts import Account, AccountKind, TransferKind
from services.wallet.domain.book import Book, Lease, Lot, Tag
from services.wallet.domain.commands import PutGrant
from services.wallet.domain.leases import AnyOp, Capture, OpKind, Reverse, StoredOp, Totals

Key = tuple[str, str]
"""A wallet: (org, name)."""

_KEYS = "unnest($1::text[], $2::text[]) AS k(org, wallet)"
_LOCK = f"""
SELECT w.org, w.name, w.currency, w.state, w.state_reason FROM wallets w
JOIN {_KEYS} ON w.org = k.org AND w.name = k.wallet ORDER BY w.org, w.name FOR NO KEY UPDATE OF w
"""
_ACCOUNTS = f"""
SELECT a.org, a.wallet, a.id, a.kind, a.debits_nanos, a.credits_nanos FROM accounts a JOIN {_KEYS} USING (org, wallet)
"""
_LEASES = f"""
SELECT l.org, l.wallet, l.holder, l.flow_at, l.epoch, l.n, l.extended_nanos, l.captured_nanos, l.returned_nanos,
       l.reversed_nanos, l.quarantine, l.burn_nanos, l.pull_nanos
FROM leases l JOIN {_KEYS} USING (org, wallet)
"""
# What is leased, and the newest of every holder: it says where the next one goes.
_TAGS = f"""
SELECT t.org, t.wallet, t.position, t.holder, t.lot, t.leased_nanos, t.spent_nanos
FROM tags t JOIN {_KEYS} USING (org, wallet) WHERE t.leased_nanos > 0
UNION
SELECT t.org, t.wallet, t.position, t.holder, t.lot, t.leased_nanos, t.spent_nanos
FROM {_KEYS}
CROSS JOIN LATERAL (
    SELECT l.holder FROM leases l WHERE l.org = k.org AND l.wallet = k.wallet UNION ALL SELECT ''
) AS h
CROSS JOIN LATERAL (
    SELECT * FROM tags t WHERE t.org = k.org AND t.wallet = k.wallet AND t.holder = h.holder
    ORDER BY t.position DESC LIMIT 1
) AS t
"""
# Of every holder the newest that together spent what is to be given back.
_SPENT_TAGS = """
SELECT t.org, t.wallet, t.position, t.holder, t.lot, t.leased_nanos, t.spent_nanos
FROM (
    SELECT t.*, k.amount,
           sum(t.spent_nanos) OVER (PARTITION BY t.org, t.wallet, t.holder ORDER BY t.position DESC)
           - t.spent_nanos AS newer
    FROM tags t JOIN unnest($1::text[], $2::text[], $3::numeric[]) AS k(org, wallet, amount) USING (org, wallet)
    WHERE t.spent_nanos > 0
) AS t
WHERE t.newer < t.amount
"""
_LOT_COLUMNS = """
g.org, g.wallet, g.name, g.amount_nanos, g.priority, g.expires_at, g.created_at, g.free_nanos, g.leased_nanos,
g.spent_nanos, g.expired_nanos, g.pending_nanos, g.gone_nanos, g.kind, g.effective_at, g.reference
"""
_LOTS = f"""
SELECT {_LOT_COLUMNS} FROM grants g JOIN {_KEYS} USING (org, wallet)
WHERE g.free_nanos > 0 OR g.leased_nanos > 0 OR g.pending_nanos > 0
"""
_LOTS_BY_NAME = f"""
SELECT {_LOT_COLUMNS} FROM grants g JOIN unnest($1::text[], $2::text[]) AS k(org, name) USING (org, name)
"""
_OPS = """
SELECT o.org, o.wallet, o.holder, o.epoch, o.n, o.kind, o.payload_hash, o.amount_nanos, o.extended_nanos,
       o.captured_nanos, o.returned_nanos, o.reversed_nanos
FROM lease_ops o
JOIN unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS k(org, wallet, holder, epoch, n)
USING (org, wallet, holder, epoch, n)
"""
_SAVE_ACCOUNTS = """
INSERT INTO accounts (org, id, wallet, kind, currency, debits_nanos, credits_nanos)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
ON CONFLICT (org, id) DO UPDATE SET debits_nanos = excluded.debits_nanos, credits_nanos = excluded.credits_nanos
"""
_SAVE_TRANSFERS = """
INSERT INTO transfers
(org, transaction_id, wallet, kind, from_account, to_account, amount_nanos, currency, reference, posted_at)
SELECT t.*, $10::timestamptz FROM unnest(
    $1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[]
) AS t
"""
_SAVE_LOTS = """
UPDATE grants g
SET free_nanos = l.free, leased_nanos = l.leased, spent_nanos = l.spent, expired_nanos = l.expired,
    pending_nanos = l.pending, gone_nanos = l.gone
FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]
) AS l(org, name, free, leased, spent, expired, pending, gone)
WHERE g.org = l.org AND g.name = l.name
"""
_INSERT_GRANT = """
INSERT INTO grants
(org, name, wallet, kind, currency, amount_nanos, priority, expires_at, reference, recharge, created_at,
 free_nanos, leased_nanos, spent_nanos, expired_nanos, pending_nanos, gone_nanos, effective_at, origin)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""
_SAVE_TAGS = """
INSERT INTO tags (org, wallet, position, holder, lot, leased_nanos, spent_nanos)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
ON CONFLICT (org, wallet, position)
DO UPDATE SET leased_nanos = excluded.leased_nanos, spent_nanos = excluded.spent_nanos
"""
_DELETE_TAGS = """
DELETE FROM tags t USING unnest($1::text[], $2::text[], $3::bigint[]) AS k(org, wallet, position)
WHERE t.org = k.org AND t.wallet = k.wallet AND t.position = k.position
"""
_SAVE_LEASES = """
INSERT INTO leases
(org, wallet, holder, epoch, n, extended_nanos, captured_nanos, returned_nanos, reversed_nanos, quarantine,
 burn_nanos, pull_nanos, flow_at)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::text[], $11::bigint[], $12::bigint[], $13::timestamptz[]
)
ON CONFLICT (org, wallet, holder) DO UPDATE SET
    epoch = excluded.epoch, n = excluded.n, extended_nanos = excluded.extended_nanos,
    captured_nanos = excluded.captured_nanos, returned_nanos = excluded.returned_nanos,
    reversed_nanos = excluded.reversed_nanos, quarantine = excluded.quarantine, burn_nanos = excluded.burn_nanos,
    pull_nanos = excluded.pull_nanos, flow_at = excluded.flow_at
"""
_SAVE_OPS = """
INSERT INTO lease_ops
(org, wallet, holder, epoch, n, kind, payload_hash, amount_nanos, extended_nanos, captured_nanos, returned_nanos,
 reversed_nanos, applied_at)
SELECT o.*, $13::timestamptz FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bytea[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]
) AS o
"""
_SAVE_LINES = """
INSERT INTO capture_lines
(org, wallet, holder, epoch, n, line, provider, model, use_month, amount_nanos, calls, posted_at)
SELECT l.*, $12::timestamptz FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
    $9::text[], $10::bigint[], $11::bigint[]
) AS l
"""
_SAVE_EPOCH = """
INSERT INTO lease_epochs
(org, wallet, holder, epoch, n, extended_nanos, captured_nanos, returned_nanos, reversed_nanos, reclaimed_nanos,
 reason, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""
_SAVE_STATE = "UPDATE wallets SET state = $3, state_reason = $4 WHERE org = $1 AND name = $2"
_GRANT_NAMES = """
SELECT g.org, g.name FROM grants g JOIN unnest($1::text[], $2::text[]) AS k(org, name) USING (org, name)
"""
_LOCK_EXPIRING = """
SELECT w.org, w.name FROM wallets w
WHERE (w.org, w.name) IN (
    (SELECT g.org, g.wallet FROM grants g
     WHERE g.free_nanos > 0 AND g.expires_at IS NOT NULL AND g.expires_at <= clock_timestamp()
     ORDER BY g.expires_at LIMIT $1)
    UNION
    (SELECT g.org, g.wallet FROM grants g
     WHERE g.pending_nanos > 0 AND g.effective_at <= clock_timestamp() ORDER BY g.effective_at LIMIT $1)
)
ORDER BY w.org, w.name FOR NO KEY UPDATE SKIP LOCKED
"""


@dataclass(frozen=True, slots=True)
class EndedEpoch:
    """An epoch that was ended by force."""

    org: str
    wallet: str
    holder: str
    totals: Totals
    reclaimed: int
    reason: str


@dataclass(slots=True)
class Additions:
    """Rows that a batch adds beside what its books changed."""

    ops: list[tuple[AnyOp, StoredOp]] = field(default_factory=list)
    grants: list[PutGrant] = field(default_factory=list)
    epochs: list[EndedEpoch] = field(default_factory=list)


async def load(
    conn: asyncpg.Connection,
    wallets: Iterable[Key],
    give_back: Mapping[Key, int] | None = None,
    lots: Sequence[Key] = (),
) -> dict[Key, Book]:
    """Locks wallets in their order and loads their books; unknown ones are missing from the answer.

    Args:
        conn: In a READ COMMITTED transaction, so that what is read after the locks is what is true under them.
        wallets: Which.
        give_back: How much of captures, or of debt that was paid, may be given back, in nano-units by wallet.
        lots: Names (org, grant) of lots that are needed even if nothing is left of them.
    """
    keys = sorted(set(wallets))
    args = ([org for org, _ in keys], [name for _, name in keys])
    heads = await conn.fetch(_LOCK, *args)
    if not heads:
        return {}
    accounts = defaultdict(list)
    for row in await conn.fetch(_ACCOUNTS, *args):
        accounts[row[0], row[1]].append(Account(row[2], AccountKind(row[3]), row[4], row[5]))
    leases = defaultdict(list)
    for row in await conn.fetch(_LEASES, *args):
        leases[row[0], row[1]].append(Lease(*row[2:]))
    tags, found = await _load_lots(conn, args, give_back or {}, lots)
    return {
        (org, name): Book(
            org,
            name,
            currency=currency,
            state=state,
            state_reason=reason,
            accounts=accounts[org, name],
            lots=found[org, name],
            tags=tags[org, name],
            leases=leases[org, name],
        )
        for org, name, currency, state, reason in heads
    }


async def _load_lots(
    conn: asyncpg.Connection, args: tuple[list[str], list[str]], give_back: Mapping[Key, int], named: Sequence[Key]
) -> tuple[Mapping[Key, list[Tag]], Mapping[Key, list[Lot]]]:
    tags: dict[Key, dict[int, Tag]] = defaultdict(dict)
    lots: dict[Key, dict[str, Lot]] = defaultdict(dict)
    for row in await conn.fetch(_TAGS, *args):
        tags[row[0], row[1]][row[2]] = Tag(*row[2:])
    for row in await conn.fetch(_LOTS, *args):
        lots[row[0], row[1]][row[2]] = Lot(*row[2:])
    names = set(named)
    if give_back:
        by_wallet = sorted(give_back.items())
        rows = await conn.fetch(
            _SPENT_TAGS,
            [org for (org, _), _ in by_wallet],
            [wallet for (_, wallet), _ in by_wallet],
            [amount for _, amount in by_wallet],
        )
        for row in rows:
            tags[row[0], row[1]].setdefault(row[2], Tag(*row[2:]))
        names |= {(row[0], row[4]) for row in rows}
    if names:
        wanted = sorted(names)
        for row in await conn.fetch(_LOTS_BY_NAME, [org for org, _ in wanted], [name for _, name in wanted]):
            lots[row[0], row[1]].setdefault(row[2], Lot(*row[2:]))
    return (
        defaultdict(list, {key: list(found.values()) for key, found in tags.items()}),
        defaultdict(list, {key: list(found.values()) for key, found in lots.items()}),
    )


async def stored_ops(conn: asyncpg.Connection, ops: Sequence[AnyOp]) -> dict[tuple[str, str, str, int, int], StoredOp]:
    """Operations that were applied under these numbers, by `LeaseOp.key`. Call it under the wallets' locks."""
    keys = [op.key for op in ops]
    rows = await conn.fetch(_OPS, *(list(column) for column in zip(*keys, strict=True))) if keys else []
    return {tuple(row[:5]): StoredOp(OpKind(row[5]), row[6], row[7], Totals(row[3], row[4], *row[8:])) for row in rows}


async def existing_grants(conn: asyncpg.Connection, names: Sequence[Key]) -> set[Key]:
    """Which of these (org, grant name) exist."""
    rows = await conn.fetch(_GRANT_NAMES, [org for org, _ in names], [name for _, name in names]) if names else []
    return {(row[0], row[1]) for row in rows}


async def lock_expiring(conn: asyncpg.Connection, limit: int) -> list[Key]:
    """Locks wallets with free money that has expired, but for those that someone else is working on."""
    return [(row[0], row[1]) for row in await conn.fetch(_LOCK_EXPIRING, limit)]


async def save(conn: asyncpg.Connection, books: Iterable[Book], additions: Additions, now: datetime) -> None:
    """Writes what has changed in books, in the order that the foreign keys need."""
    changed = list(books)
    await _save_accounts(conn, changed)
    await _save_transfers(conn, changed, now)
    await _save_lots(conn, changed, additions, now)
    await _save_tags(conn, changed)
    await _save_leases(conn, changed)
    await _save_ops(conn, additions, now)
    for epoch in additions.epochs:
        totals = epoch.totals
        await conn.execute(
            _SAVE_EPOCH,
            *(epoch.org, epoch.wallet, epoch.holder, totals.epoch, totals.n),
            *(totals.extended, totals.captured, totals.returned + epoch.reclaimed, totals.reversed),
            *(epoch.reclaimed, epoch.reason, now),
        )
    for book in changed:
        if book.changes.state:
            await conn.execute(_SAVE_STATE, book.org, book.wallet, book.state, book.state_reason)


async def _save_accounts(conn: asyncpg.Connection, books: list[Book]) -> None:
    rows = []
    for book in books:
        moved = {id_ for t in book.changes.transfers for id_ in (t.from_account, t.to_account)}
        for id_ in sorted(moved):
            account = book.accounts[id_]
            rows.append(
                (book.org, id_, book.wallet, account.kind.value, book.currency, account.debits, account.credits)
            )
    await _execute(conn, _SAVE_ACCOUNTS, rows)


async def _save_transfers(conn: asyncpg.Connection, books: list[Book], now: datetime) -> None:
    rows = []
    # A move is one transaction in both wallets.
    moves: dict[tuple[str, str], UUID] = defaultdict(uuid4)
    for book in books:
        ids: dict[int, UUID] = defaultdict(uuid4)
        moved = [t for t in book.changes.transfers if t.kind is TransferKind.MOVE]
        ids.update({t.transaction: moves[book.org, t.reference] for t in moved})
        rows += [
            (
                *(book.org, ids[t.transaction], book.wallet, t.kind.value),
                *(t.from_account, t.to_account, t.amount, book.currency, t.reference),
            )
            for t in book.changes.transfers
        ]
    await _execute(conn, _SAVE_TRANSFERS, rows, now)


async def _save_lots(conn: asyncpg.Connection, books: list[Book], additions: Additions, now: datetime) -> None:
    by_wallet = {(book.org, book.wallet): book for book in books}
    for grant in additions.grants:
        lot = by_wallet[grant.org, grant.wallet].lots[grant.name]
        await conn.execute(
            _INSERT_GRANT,
            *(grant.org, grant.name, grant.wallet, grant.kind, grant.currency, grant.amount, grant.priority),
            *(grant.expires_at, grant.reference, grant.recharge, now),
            *(lot.free, lot.leased, lot.spent, lot.expired, lot.pending, lot.gone, grant.effective_at, grant.origin),
        )
    rows = []
    for book in books:
        for name in sorted(book.changes.lots - book.changes.new_lots):
            lot = book.lots[name]
            rows.append((book.org, name, lot.free, lot.leased, lot.spent, lot.expired, lot.pending, lot.gone))
    await _execute(conn, _SAVE_LOTS, rows)


async def _save_tags(conn: asyncpg.Connection, books: list[Book]) -> None:
    kept, emptied = [], []
    for book in books:
        for tag in book.tags:
            if tag.position not in book.changes.tags:
                continue
            if tag.leased or tag.spent:
                kept.append((book.org, book.wallet, tag.position, tag.holder, tag.lot, tag.leased, tag.spent))
            else:
                emptied.append((book.org, book.wallet, tag.position))
    await _execute(conn, _SAVE_TAGS, kept)
    await _execute(conn, _DELETE_TAGS, emptied)


async def _save_leases(conn: asyncpg.Connection, books: list[Book]) -> None:
    rows = []
    for book in books:
        for holder in sorted(book.changes.leases):
            lease = book.leases[holder]
            rows.append(
                (
                    *(book.org, book.wallet, holder, lease.epoch, lease.n),
                    *(lease.extended, lease.captured, lease.returned, lease.reversed),
                    *(lease.quarantine, lease.burn, lease.pull, lease.flow_at),
                )
            )
    await _execute(conn, _SAVE_LEASES, rows)


async def _save_ops(conn: asyncpg.Connection, additions: Additions, now: datetime) -> None:
    ops, lines = [], []
    for op, stored in additions.ops:
        totals = stored.totals
        ops.append(
            (
                *(*op.key, stored.kind.value, stored.payload, stored.amount),
                *(totals.extended, totals.captured, totals.returned, totals.reversed),
            )
        )
        if isinstance(op, Capture | Reverse):
            sign = 1 if isinstance(op, Capture) else -1
            lines += [
                (*op.key, number, line.provider, line.model, line.month, sign * line.amount, sign * line.calls)
                for number, line in enumerate(op.lines)
            ]
    await _execute(conn, _SAVE_OPS, ops, now)
    await _execute(conn, _SAVE_LINES, lines, now)


async def _execute(conn: asyncpg.Connection, sql: str, rows: Sequence[tuple[object, ...]], *shared: object) -> None:
    """Runs a statement over rows as columns; nothing where there are none."""
    if rows:
        await conn.execute(sql, *(list(column) for column in zip(*rows, strict=True)), *shared)
