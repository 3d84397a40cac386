"""Leases, their numbered operations, what was drawn on them, and the wallet directory."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from services.budget.domain.lease import Account, Line
from services.budget.domain.model import WalletState
from services.budget.domain.plan import Directory, WalletRef
from services.kit.subject import parse_resource

DRAWS_MAX: Final = 50_000
"""The most draws that are consumed at once."""
_DRAWS_MIN: Final = 500
PAGE: Final = 10_000
"""The most leases or organisations of one synchronisation."""

_LEASE: Final = """org, wallet, currency, epoch, last_n, extended_total, returned_total, captured_total, reversed_total,
drawn_total, reversal_total, reserved, target_nanos, wallet_state, quarantined, active_us"""
_LOCK: Final = f"SELECT {_LEASE} FROM leases WHERE org = $1 AND wallet = $2 FOR UPDATE"  # noqa: S608 - a constant
_LOCK_MANY: Final = f"""
SELECT {_LEASE} FROM leases WHERE (org, wallet) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY org, wallet FOR UPDATE
"""  # noqa: S608 - a constant
_PAGE: Final = f"""
SELECT {_LEASE} FROM leases WHERE (org, wallet) > ($1, $2) ORDER BY org, wallet LIMIT {PAGE}
"""  # noqa: S608 - a constant
_ADOPT: Final = """
UPDATE leases l SET epoch = a.epoch, extended_total = greatest(l.extended_total, a.extended),
    target_nanos = a.target, wallet_state = a.state
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS a (org, wallet, epoch, extended, target, state)
WHERE l.org = a.org AND l.wallet = a.wallet
"""
_NOW_US: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_WRITE_OPS: Final = f"""
WITH new AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::text[])
        AS o (org, wallet, epoch, n, ask, need, captured, returned, reversed, lines)
), op AS (
    INSERT INTO lease_ops (org, wallet, epoch, n, kind, ask_nanos, need_nanos, captured_total, returned_total,
        reversed_total, lines, written_us)
    SELECT org, wallet, epoch, n, $11, ask, need, captured, returned, reversed, lines, {_NOW_US} FROM new
)
UPDATE leases l
SET last_n = new.n, captured_total = new.captured, returned_total = new.returned, reversed_total = new.reversed
FROM new WHERE l.org = new.org AND l.wallet = new.wallet
"""  # noqa: S608 - a constant
_OP: Final = """org, wallet, epoch, n, kind, ask_nanos, need_nanos, captured_total, returned_total, reversed_total,
lines, answered_us IS NOT NULL AS answered, granted_nanos"""
_OPEN_EXTEND: Final = """
SELECT n FROM lease_ops WHERE org = $1 AND wallet = $2 AND kind = 'EXTEND' AND answered_us IS NULL
"""
_OPEN_EXTENDS: Final = """
SELECT DISTINCT o.org, o.wallet FROM unnest($1::text[], $2::text[]) AS k (org, wallet)
JOIN lease_ops o ON o.org = k.org AND o.wallet = k.wallet AND o.kind = 'EXTEND' AND o.answered_us IS NULL
"""
# Only the lowest open number may be sent: where another replica has it, there is nothing to do here.
_NEXT_OPS: Final = f"""
SELECT o.* FROM unnest($1::text[], $2::text[]) AS k (org, wallet)
CROSS JOIN LATERAL (
    SELECT {_OP} FROM lease_ops
    WHERE org = k.org AND wallet = k.wallet AND answered_us IS NULL AND n = (
        SELECT min(first.n) FROM lease_ops first
        WHERE first.org = k.org AND first.wallet = k.wallet AND first.answered_us IS NULL)
    FOR UPDATE SKIP LOCKED
) AS o
WHERE EXISTS (SELECT FROM leases l WHERE l.org = k.org AND l.wallet = k.wallet AND l.quarantined IS NULL)
"""  # noqa: S608 - a constant
_GET_OP: Final = f"SELECT {_OP} FROM lease_ops WHERE org = $1 AND wallet = $2 AND epoch = $3 AND n = $4"  # noqa: S608
_ANSWER: Final = f"""
WITH told AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[]) AS a (org, wallet, epoch, n, granted, extended, target, state)
), answered AS (
    UPDATE lease_ops o
    SET answered_us = {_NOW_US}, granted_nanos = a.granted, extended_total = a.extended, lines = ''
    FROM told a WHERE o.org = a.org AND o.wallet = a.wallet AND o.epoch = a.epoch AND o.n = a.n
), adopted AS (
    UPDATE leases l
    SET extended_total = greatest(l.extended_total, a.extended), target_nanos = a.target, wallet_state = a.state
    FROM told a WHERE l.org = a.org AND l.wallet = a.wallet AND l.epoch = a.epoch
)
SELECT a.org, a.wallet FROM told a CROSS JOIN LATERAL (
    SELECT FROM lease_ops o WHERE o.org = a.org AND o.wallet = a.wallet AND o.answered_us IS NULL AND o.n > a.n LIMIT 1
) AS more
"""  # noqa: S608 - a constant
_REKEY: Final = "UPDATE lease_ops SET epoch = $4 WHERE org = $1 AND wallet = $2 AND epoch = $3"
_SET_EPOCH: Final = "UPDATE leases SET epoch = $3 WHERE org = $1 AND wallet = $2"
_OPEN_OPS: Final = f"""
SELECT {_OP} FROM lease_ops WHERE org = $1 AND wallet = $2 AND answered_us IS NULL ORDER BY n FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - a constant
_COUNT_OPEN_OPS: Final = "SELECT count(*) FROM lease_ops WHERE org = $1 AND wallet = $2 AND answered_us IS NULL"
# The lines stay: an operator may have to tell what did not arrive.
_CLOSE_OPS: Final = f"""
UPDATE lease_ops SET answered_us = {_NOW_US}, granted_nanos = 0
WHERE org = $1 AND wallet = $2 AND answered_us IS NULL
"""  # noqa: S608 - a constant
_BEGIN_ANEW: Final = f"""
WITH ended AS (
    INSERT INTO lease_epochs (org, wallet, epoch, last_n, extended_total, returned_total, captured_total,
        reversed_total, reserved, ended_us)
    SELECT org, wallet, epoch, last_n, extended_total, returned_total, captured_total, reversed_total, reserved,
        {_NOW_US}
    FROM leases WHERE org = $1 AND wallet = $2
)
UPDATE leases SET epoch = $3, last_n = 0, extended_total = 0, returned_total = 0, captured_total = 0,
    reversed_total = 0, drawn_total = drawn_total - captured_total, reversal_total = reversal_total - reversed_total,
    target_nanos = NULL, quarantined = NULL
WHERE org = $1 AND wallet = $2
"""  # noqa: S608 - a constant
_QUARANTINE: Final = """
UPDATE leases SET quarantined = $3 WHERE org = $1 AND wallet = $2 AND quarantined IS NULL RETURNING 1
"""
_IS_QUARANTINED: Final = "SELECT quarantined IS NOT NULL FROM leases WHERE org = $1 AND wallet = $2"
# By key after the last one looked at: what comes first, or fails each time, must not keep the rest waiting.
_WITH_OPEN_OPS: Final = """
SELECT l.org, l.wallet FROM leases l
WHERE (l.org, l.wallet) > ($1, $2) AND l.quarantined IS NULL AND EXISTS (
    SELECT FROM lease_ops o WHERE o.org = l.org AND o.wallet = l.wallet AND o.answered_us IS NULL)
ORDER BY l.org, l.wallet LIMIT $3
"""
_WITH_DRAWS: Final = """
SELECT l.org, l.wallet FROM leases l
WHERE (l.org, l.wallet) > ($1, $2) AND l.quarantined IS NULL
    AND (l.drawn_total > l.captured_total
        OR (l.reversal_total > l.reversed_total AND l.captured_total > l.reversed_total))
    AND NOT EXISTS (
        SELECT FROM lease_ops o
        WHERE o.org = l.org AND o.wallet = l.wallet AND o.answered_us IS NULL AND o.kind IN ('CAPTURE', 'REVERSE'))
ORDER BY l.org, l.wallet LIMIT $3
"""
_TAKE_DRAWS: Final = """
WITH old AS (
    SELECT d.org, d.wallet, d.seq FROM unnest($1::text[], $2::text[]) AS k (org, wallet)
    CROSS JOIN LATERAL (
        SELECT d.org, d.wallet, d.seq FROM lease_draws d
        WHERE d.org = k.org AND d.wallet = k.wallet AND d.reversal = $3 ORDER BY d.seq LIMIT $4
    ) AS d
), gone AS (
    DELETE FROM lease_draws d USING old WHERE d.org = old.org AND d.wallet = old.wallet AND d.seq = old.seq
    RETURNING d.org, d.wallet, d.provider, d.model, d.month, d.amount_nanos, d.calls
)
SELECT org, wallet, provider, model, month, sum(amount_nanos)::bigint, sum(calls)::bigint FROM gone
GROUP BY org, wallet, provider, model, month
"""
_PUT_DRAWS: Final = """
INSERT INTO lease_draws (org, wallet, reversal, provider, model, month, amount_nanos, calls)
SELECT d.org, d.wallet, $8, d.provider, d.model, d.month, d.amount, d.calls
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
    AS d (org, wallet, provider, model, month, amount, calls)
"""
_FORGET_OPS: Final = """
DELETE FROM lease_ops WHERE (org, wallet, epoch, n) IN (
    SELECT o.org, o.wallet, o.epoch, o.n FROM lease_ops o JOIN leases l ON l.org = o.org AND l.wallet = o.wallet
    WHERE o.answered_us < $1 AND (o.n < l.last_n OR o.epoch < l.epoch) LIMIT $2)
"""
_DIRECTORY: Final = "SELECT org, version, wallets FROM wallet_directory WHERE org = $1"
_SAVE_DIRECTORIES: Final = f"""
INSERT INTO wallet_directory (org, version, wallets, synced_us)
SELECT org, version, wallets, {_NOW_US} FROM unnest($1::text[], $2::bigint[], $3::text[]) AS n (org, version, wallets)
ORDER BY org
ON CONFLICT (org) DO UPDATE SET version = excluded.version, wallets = excluded.wallets, synced_us = excluded.synced_us
WHERE wallet_directory.version < excluded.version
"""  # noqa: S608 - a constant
_HOLDER: Final = "SELECT id FROM holder"


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease as its row has it."""

    org: str
    wallet: str
    currency: str
    epoch: int
    last_n: int
    extended: int
    returned: int
    captured: int
    reversed: int
    drawn: int
    reversal: int
    reserved: int
    target: int | None
    state: WalletState
    quarantined: str | None
    active_us: int

    @property
    def account(self) -> Account:
        """Its totals, for the arithmetic."""
        return Account(self.extended, self.returned, self.drawn, self.reserved, self.target, self.state)


@dataclass(frozen=True, slots=True)
class NewOp:
    """An operation to write; amounts are what it moves.

    Attributes:
        lease: As it stands before it.
    """

    lease: LeaseRow
    ask: int = 0
    need: int = 0
    captured: int = 0
    returned: int = 0
    given_back: int = 0
    lines: Sequence[Line] = ()

    @property
    def n(self) -> int:
        """Its number."""
        return self.lease.last_n + 1

    @property
    def after(self) -> LeaseRow:
        """The lease once it is written."""
        return replace(
            self.lease,
            last_n=self.n,
            captured=self.lease.captured + self.captured,
            returned=self.lease.returned + self.returned,
            reversed=self.lease.reversed + self.given_back,
        )


@dataclass(frozen=True, slots=True)
class Op:
    """A numbered operation; the totals are those after it."""

    org: str
    wallet: str
    epoch: int
    n: int
    kind: str
    ask: int
    need: int
    captured: int
    returned: int
    reversed: int
    lines: tuple[Line, ...]
    answered: bool = False
    granted: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What the wallet says of a lease."""

    wallet: str
    epoch: int
    n: int
    extended: int
    target: int
    state: WalletState
    quarantined: bool


def _lease_of(row: asyncpg.Record) -> LeaseRow:
    values = list(row)
    values[13] = WalletState(values[13])
    return LeaseRow(*values)


def _op_of(row: asyncpg.Record) -> Op:
    values = list(row)
    values[10] = tuple(Line(*line) for line in json.loads(values[10] or "[]"))
    return Op(*values)


async def holder(connection: asyncpg.Connection) -> str:
    """What this database calls itself as a holder of leases."""
    value: str = await connection.fetchval(_HOLDER)
    return value


async def lock(connection: asyncpg.Connection, org: str, wallet: str) -> LeaseRow | None:
    """The lease, locked; None where there is none yet."""
    row = await connection.fetchrow(_LOCK, org, wallet)
    return _lease_of(row) if row else None


async def lock_many(connection: asyncpg.Connection, keys: Sequence[tuple[str, str]]) -> list[LeaseRow]:
    """Leases, locked in order."""
    return [_lease_of(r) for r in await connection.fetch(_LOCK_MANY, [k[0] for k in keys], [k[1] for k in keys])]


async def page(connection: asyncpg.Connection, after: tuple[str, str]) -> list[LeaseRow]:
    """The next leases by key."""
    return [_lease_of(row) for row in await connection.fetch(_PAGE, *after)]


async def adopt(connection: asyncpg.Connection, news: Sequence[tuple[LeaseRow, Status]]) -> None:
    """Takes what the wallet says of locked leases; its totals as maxima, so that late answers do no harm."""
    if news:
        rows = [(x.org, x.wallet, s.epoch, s.extended, s.target, int(s.state)) for x, s in news]
        await connection.execute(_ADOPT, *zip(*rows, strict=True))


async def write_op(
    connection: asyncpg.Connection,
    lease: LeaseRow,
    kind: str,
    *,
    ask: int = 0,
    need: int = 0,
    captured: int = 0,
    returned: int = 0,
    given_back: int = 0,
    lines: Sequence[Line] = (),
) -> int:
    """Writes the lease's next operation, before it is sent; returns its number.

    Args:
        connection: In the transaction that holds the lease's lock.
        lease: As it stands.
        kind: EXTEND, CAPTURE, RETURN or REVERSE.
        ask: EXTEND: what is wanted.
        need: EXTEND: what is needed at once.
        captured: What this operation captures.
        returned: What it returns.
        given_back: What it reverses.
        lines: What a capture or reversal is made of.
    """
    new = NewOp(lease, ask, need, captured, returned, given_back, lines)
    await write_ops(connection, kind, [new])
    return new.n


async def write_ops(connection: asyncpg.Connection, kind: str, ops: Sequence[NewOp]) -> None:
    """Writes the next operations of one kind, each of a lease of its own whose lock this transaction holds."""
    rows = [
        (
            *(op.lease.org, op.lease.wallet, op.lease.epoch, op.n, op.ask, op.need),
            *(op.after.captured, op.after.returned, op.after.reversed),
            json.dumps(op.lines, separators=(",", ":")) if op.lines else "",
        )
        for op in ops
    ]
    if rows:
        await connection.execute(_WRITE_OPS, *zip(*rows, strict=True), kind)


async def open_extend(connection: asyncpg.Connection, org: str, wallet: str) -> int | None:
    """The number of the extension that waits for its answer."""
    n: int | None = await connection.fetchval(_OPEN_EXTEND, org, wallet)
    return n


async def open_extends(connection: asyncpg.Connection, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of these leases that have an extension which waits for its answer."""
    rows = await connection.fetch(_OPEN_EXTENDS, [k[0] for k in keys], [k[1] for k in keys])
    return {(row[0], row[1]) for row in rows}


async def next_ops(connection: asyncpg.Connection, keys: Sequence[tuple[str, str]]) -> list[Op]:
    """Of each of these leases the lowest operation without an answer, locked; none where another replica has it."""
    return [_op_of(row) for row in await connection.fetch(_NEXT_OPS, [k[0] for k in keys], [k[1] for k in keys])]


async def get_op(connection: asyncpg.Connection, org: str, wallet: str, epoch: int, n: int) -> Op | None:
    """An operation by its number."""
    row = await connection.fetchrow(_GET_OP, org, wallet, epoch, n)
    return _op_of(row) if row else None


async def answer(connection: asyncpg.Connection, answers: Sequence[tuple[Op, int, Status]]) -> set[tuple[str, str]]:
    """Stores what operations were answered and takes what the wallet says of their leases.

    The operations' lines are not needed any more.

    Args:
        connection: In the transaction that holds the operations' locks.
        answers: Operations of different leases, what each granted, and where its lease stands.

    Returns:
        The leases with more operations open.
    """
    if not answers:
        return set()
    await lock_many(connection, [(op.org, op.wallet) for op, _, _ in answers])
    rows = [
        (op.org, op.wallet, op.epoch, op.n, granted, status.extended, status.target, int(status.state))
        for op, granted, status in answers
    ]
    return {(row[0], row[1]) for row in await connection.fetch(_ANSWER, *zip(*rows, strict=True))}


async def begin_in_epoch(connection: asyncpg.Connection, op: Op, epoch: int) -> None:
    """Moves a lease that has not begun into the wallet's epoch, its first operation with it."""
    await connection.execute(_REKEY, op.org, op.wallet, op.epoch, epoch)
    await connection.execute(_SET_EPOCH, op.org, op.wallet, epoch)


async def begin_anew(connection: asyncpg.Connection, lease: LeaseRow, epoch: int) -> list[Op] | None:
    """Begins a lease again in the wallet's epoch: from 0, but for what is held or waits to be captured.

    Returns:
        The operations that never had an answer, which are closed; None: one of them is being sent, nothing was done.

    Args:
        connection: In the transaction that holds the lease's lock.
        lease: As it stands.
        epoch: The wallet's, higher than the lease's.
    """
    # Who sends an operation holds its row and then asks for the lease: waiting for it here would be a deadlock.
    unanswered = [_op_of(row) for row in await connection.fetch(_OPEN_OPS, lease.org, lease.wallet)]
    if len(unanswered) < await connection.fetchval(_COUNT_OPEN_OPS, lease.org, lease.wallet):
        return None
    await connection.execute(_CLOSE_OPS, lease.org, lease.wallet)
    await connection.execute(_BEGIN_ANEW, lease.org, lease.wallet, epoch)
    return unanswered


async def quarantine(connection: asyncpg.Connection, org: str, wallet: str, why: str) -> bool:
    """Stops everything on a lease until an operator has looked; whether it was not stopped before."""
    return bool(await connection.fetchval(_QUARANTINE, org, wallet, why))


async def is_quarantined(connection: asyncpg.Connection, org: str, wallet: str) -> bool:
    """Whether nothing moves on the lease."""
    return bool(await connection.fetchval(_IS_QUARANTINED, org, wallet))


async def with_open_ops(connection: asyncpg.Connection, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
    """The next leases by key with operations to send."""
    return [(row["org"], row["wallet"]) for row in await connection.fetch(_WITH_OPEN_OPS, *after, limit)]


async def with_draws(connection: asyncpg.Connection, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
    """The next leases by key with something to capture or to reverse, and neither on its way."""
    return [(row["org"], row["wallet"]) for row in await connection.fetch(_WITH_DRAWS, *after, limit)]


async def take_draws(
    connection: asyncpg.Connection, keys: Sequence[tuple[str, str]], *, reversal: bool
) -> dict[tuple[str, str], list[Line]]:
    """Removes draws of leases, the oldest first, and returns their sums. The caller holds the leases' locks."""
    if not keys:
        return {}
    limit = max(_DRAWS_MIN, DRAWS_MAX // len(keys))
    found: dict[tuple[str, str], list[Line]] = {}
    rows = await connection.fetch(_TAKE_DRAWS, [k[0] for k in keys], [k[1] for k in keys], reversal, limit)
    for org, wallet, *line in rows:
        found.setdefault((org, wallet), []).append(Line(*line))
    return found


async def put_draws(
    connection: asyncpg.Connection, later: Sequence[tuple[LeaseRow, Sequence[Line]]], *, reversal: bool
) -> None:
    """Puts draws back for the next capture."""
    rows = [(lease.org, lease.wallet, *line) for lease, lines in later for line in lines]
    if rows:
        await connection.execute(_PUT_DRAWS, *zip(*rows, strict=True), reversal)


async def forget_ops(connection: asyncpg.Connection, before_us: int, limit: int) -> int:
    """Deletes answered operations that no audit asks for any more, but each lease's last one; returns how many."""
    status: str = await connection.execute(_FORGET_OPS, before_us, limit)
    return int(status.rpartition(" ")[2])


async def directory(connection: asyncpg.Connection, org: str) -> Directory | None:
    """The stored directory of an organisation."""
    row = await connection.fetchrow(_DIRECTORY, org)
    if row is None:
        return None
    wallets = tuple(
        WalletRef(name, parse_resource(name, "wallets")[0].name, currency, WalletState(state))
        for name, currency, state in json.loads(row["wallets"])
    )
    return Directory(row["org"], row["version"], wallets)


async def save_directories(connection: asyncpg.Connection, directories: Iterable[Directory]) -> None:
    """Stores directories that are newer than the stored ones."""
    rows = [
        (d.org, d.version, json.dumps([(w.name, w.currency, int(w.state)) for w in d.wallets], separators=(",", ":")))
        for d in directories
    ]
    if rows:
        await connection.execute(_SAVE_DIRECTORIES, *zip(*rows, strict=True))
