"""Leases, their numbered operations, what was drawn on them, and the wallet directory."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget.domain.lease import Account, Line
from services.budget.domain.model import WalletState
from services.budget.domain.plan import Directory, WalletRef
from services.kit.subject import parse_resource

DRAWS_MAX: Final = 50_000
"""The most draws that one capture consumes."""
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
UPDATE leases SET epoch = $3, extended_total = greatest(extended_total, $4), target_nanos = $5, wallet_state = $6
WHERE org = $1 AND wallet = $2
"""
_NOW_US: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_WRITE_OP: Final = f"""
WITH op AS (
    INSERT INTO lease_ops (org, wallet, epoch, n, kind, ask_nanos, need_nanos, captured_total, returned_total,
        reversed_total, lines, written_us)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, {_NOW_US})
)
UPDATE leases SET last_n = $4, captured_total = $8, returned_total = $9, reversed_total = $10
WHERE org = $1 AND wallet = $2
"""  # noqa: S608 - a constant
_OP: Final = """org, wallet, epoch, n, kind, ask_nanos, need_nanos, captured_total, returned_total, reversed_total,
lines, answered_us IS NOT NULL AS answered, granted_nanos"""
_OPEN_EXTEND: Final = """
SELECT n FROM lease_ops WHERE org = $1 AND wallet = $2 AND kind = 'EXTEND' AND answered_us IS NULL
"""
# Only the lowest open number may be sent: where another replica has it, there is nothing to do here.
_NEXT_OP: Final = f"""
SELECT {_OP} FROM lease_ops
WHERE org = $1 AND wallet = $2 AND answered_us IS NULL
    AND n = (SELECT min(n) FROM lease_ops WHERE org = $1 AND wallet = $2 AND answered_us IS NULL)
    AND EXISTS (SELECT FROM leases WHERE org = $1 AND wallet = $2 AND quarantined IS NULL)
FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - a constant
_GET_OP: Final = f"SELECT {_OP} FROM lease_ops WHERE org = $1 AND wallet = $2 AND epoch = $3 AND n = $4"  # noqa: S608
_ANSWER: Final = f"""
WITH answered AS (
    UPDATE lease_ops SET answered_us = {_NOW_US}, granted_nanos = $5, extended_total = $6, lines = ''
    WHERE org = $1 AND wallet = $2 AND epoch = $3 AND n = $4
), adopted AS (
    UPDATE leases SET extended_total = greatest(extended_total, $6), target_nanos = $7, wallet_state = $8
    WHERE org = $1 AND wallet = $2 AND epoch = $3
)
SELECT EXISTS (SELECT FROM lease_ops WHERE org = $1 AND wallet = $2 AND answered_us IS NULL AND n > $4)
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
_TAKE_DRAWS: Final = f"""
DELETE FROM lease_draws WHERE org = $1 AND wallet = $2 AND reversal = $3 AND seq IN (
    SELECT seq FROM lease_draws WHERE org = $1 AND wallet = $2 AND reversal = $3 ORDER BY seq LIMIT {DRAWS_MAX})
RETURNING provider, model, month, amount_nanos, calls
"""  # noqa: S608 - a constant
_PUT_DRAWS: Final = """
INSERT INTO lease_draws (org, wallet, reversal, provider, model, month, amount_nanos, calls)
SELECT $1, $2, $3, * FROM unnest($4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[])
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


async def adopt(connection: asyncpg.Connection, lease: LeaseRow, status: Status) -> None:
    """Takes what the wallet says; its total as a maximum, so that late and repeated answers do no harm."""
    await connection.execute(
        _ADOPT, lease.org, lease.wallet, status.epoch, status.extended, status.target, int(status.state)
    )


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
    n = lease.last_n + 1
    await connection.execute(
        _WRITE_OP,
        lease.org,
        lease.wallet,
        lease.epoch,
        n,
        kind,
        ask,
        need,
        lease.captured + captured,
        lease.returned + returned,
        lease.reversed + given_back,
        json.dumps(lines, separators=(",", ":")) if lines else "",
    )
    return n


async def open_extend(connection: asyncpg.Connection, org: str, wallet: str) -> int | None:
    """The number of the extension that waits for its answer."""
    n: int | None = await connection.fetchval(_OPEN_EXTEND, org, wallet)
    return n


async def next_op(connection: asyncpg.Connection, org: str, wallet: str) -> Op | None:
    """The lowest operation without an answer, locked; None where there is none or another replica has it."""
    row = await connection.fetchrow(_NEXT_OP, org, wallet)
    return _op_of(row) if row else None


async def get_op(connection: asyncpg.Connection, org: str, wallet: str, epoch: int, n: int) -> Op | None:
    """An operation by its number."""
    row = await connection.fetchrow(_GET_OP, org, wallet, epoch, n)
    return _op_of(row) if row else None


async def answer(connection: asyncpg.Connection, op: Op, granted: int, status: Status) -> bool:
    """Stores an operation's answer and takes what the wallet says of the lease; whether more operations are open.

    The operation's lines are not needed any more.
    """
    more: bool = await connection.fetchval(
        _ANSWER, op.org, op.wallet, op.epoch, op.n, granted, status.extended, status.target, int(status.state)
    )
    return more


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


async def take_draws(connection: asyncpg.Connection, org: str, wallet: str, *, reversal: bool) -> list[Line]:
    """Removes draws, the oldest first, and returns them. The caller holds the lease's lock."""
    return [Line(*row) for row in await connection.fetch(_TAKE_DRAWS, org, wallet, reversal)]


async def put_draws(
    connection: asyncpg.Connection, org: str, wallet: str, lines: Sequence[Line], *, reversal: bool
) -> None:
    """Puts draws back for the next capture."""
    if lines:
        await connection.execute(_PUT_DRAWS, org, wallet, reversal, *zip(*lines, strict=True))


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
