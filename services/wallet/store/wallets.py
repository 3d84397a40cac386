"""Wallets' own rows, the directory of an organisation, and request keys."""

# ruff: noqa: S608 - statements are put together from constants of this module

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from services.kit.errors import PurseError, not_found
from services.wallet.domain.accounts import Account, new_accounts
from services.wallet.domain.commands import RequestKey

_COLUMNS = (
    "org, name, subject, display_name, currency, state, state_reason, time_zone, stripe_customer, payment_method, "
    "created_at"
)
_GET = f"SELECT {_COLUMNS} FROM wallets WHERE org = $1 AND name = $2"
_LOCK = f"{_GET} FOR NO KEY UPDATE"
# Everything under a subject lies between "{subject}/" and "{subject}0", since "0" follows "/".
_LIST = f"""
SELECT {_COLUMNS} FROM wallets
WHERE org = $1 AND name > $2 AND name < $3 || '0' AND name >= $3 || '/' ORDER BY name LIMIT $4
"""
_DIRECTORY = f"SELECT {_COLUMNS} FROM wallets WHERE org = ANY($1::text[]) ORDER BY org, name"
_INSERT = f"""
INSERT INTO wallets ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING
"""
_INSERT_ACCOUNTS = """
INSERT INTO accounts (org, id, wallet, kind, currency)
SELECT $1, a.id, $2, a.kind, $3 FROM unnest($4::text[], $5::text[]) AS a(id, kind)
"""
_BALANCE = """
SELECT coalesce(sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'available'), 0)::bigint AS available,
       coalesce(sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'escrow'), 0)::bigint AS escrow,
       coalesce(sum(debits_nanos - credits_nanos) FILTER (WHERE kind = 'debt'), 0)::bigint AS debt,
       coalesce(sum(credits_nanos - debits_nanos) FILTER (WHERE kind = 'spent'), 0)::bigint AS spent
FROM accounts WHERE org = $1 AND wallet = $2
"""
_BUMP = """
INSERT INTO directories (org, version)
SELECT o.org, 1 FROM (SELECT DISTINCT org FROM unnest($1::text[]) AS t(org) ORDER BY org) AS o
ON CONFLICT (org) DO UPDATE SET version = directories.version + 1
"""
_COUNT_WALLET = """
INSERT INTO directories (org, version, wallets) VALUES ($1, 1, 1)
ON CONFLICT (org) DO UPDATE SET version = directories.version + 1, wallets = directories.wallets + 1
RETURNING wallets
"""
_FIND_KEYS = """
SELECT r.org, r.method, r.id, r.payload_hash, r.answer
FROM request_keys r JOIN unnest($1::text[], $2::text[], $3::text[]) AS k(org, method, id) USING (org, method, id)
"""
_INSERT_KEYS = """
INSERT INTO request_keys (org, method, id, payload_hash, answer, created_at)
SELECT k.org, k.method, k.id, k.payload_hash, k.answer, $6::timestamptz
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[]) AS k(org, method, id, payload_hash, answer)
ON CONFLICT DO NOTHING
"""
_FORGET_KEYS = """
DELETE FROM request_keys WHERE (org, method, id) IN (
    SELECT org, method, id FROM request_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2
)
"""

_SET_STATE = "UPDATE wallets SET state = $3, state_reason = $4 WHERE org = $1 AND name = $2"
# What waits for a grant to take effect, or for a frozen wallet above, is left out.
_CLOSING = """
SELECT c.org, c.name, c.above FROM (
    SELECT w.org, w.name, w.subject, w.currency, (
        SELECT p.name FROM wallets p
        WHERE p.org = w.org AND p.currency = w.currency AND p.state = 'OPEN' AND p.name <> w.name
          AND starts_with(w.subject || '/', p.subject || '/')
        ORDER BY length(p.subject) DESC, p.name LIMIT 1
    ) AS above
    FROM wallets w
    WHERE w.state = 'CLOSING' AND (w.org, w.name) > ($2, $3) AND NOT EXISTS (
        SELECT FROM accounts a
        WHERE a.org = w.org AND a.wallet = w.name AND a.kind = 'escrow' AND a.credits_nanos > a.debits_nanos
    ) AND NOT EXISTS (
        SELECT FROM grants g WHERE g.org = w.org AND g.wallet = w.name AND g.pending_nanos > 0
    )
) AS c
WHERE c.above IS NOT NULL
   OR NOT EXISTS (
        SELECT FROM accounts a
        WHERE a.org = c.org AND a.wallet = c.name AND a.kind = 'available' AND a.credits_nanos > a.debits_nanos
   )
   OR NOT EXISTS (
        SELECT FROM wallets p
        WHERE p.org = c.org AND p.currency = c.currency AND p.state = 'FROZEN' AND p.name <> c.name
          AND starts_with(c.subject || '/', p.subject || '/')
   )
ORDER BY c.org, c.name LIMIT $1
"""

KEYS_KEPT = timedelta(days=7)
"""How long a request id protects."""


@dataclass(frozen=True, slots=True)
class WalletRow:
    """A wallet as stored.

    Attributes:
        org: The organisation's bare id.
        name: `{subject}/wallets/{id}`.
        currency: ISO 4217.
        state: OPEN, FROZEN or CLOSED.
        stripe_customer: As Stripe names it; None: none yet.
        payment_method: As Stripe names it; None: none on file.
    """

    org: str
    name: str
    subject: str
    display_name: str
    currency: str
    state: str
    state_reason: str
    time_zone: str
    stripe_customer: str | None
    payment_method: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Balance:
    """What a wallet has, in nano-units.

    Attributes:
        available: Free to lease.
        escrow: Leased and not yet captured.
        debt: Spent beyond what there was.
        spent: Spent in all, less what was given back.
    """

    available: int
    escrow: int
    debt: int
    spent: int

    @property
    def balance(self) -> int:
        """Available and escrow less debt."""
        return self.available + self.escrow - self.debt


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What a request was answered."""

    payload: bytes
    answer: bytes


async def clock(conn: asyncpg.Connection) -> datetime:
    """The deciding clock; read it after the locks."""
    now: datetime = await conn.fetchval("SELECT clock_timestamp()")
    return now


def wallet_unknown(name: str) -> PurseError:
    """The refusal of a wallet that does not exist."""
    return not_found(name, "WALLET_UNKNOWN", wallet=name)


async def get_wallet(conn: asyncpg.Connection, org: str, name: str) -> WalletRow:
    """A wallet.

    Raises:
        PurseError: NOT_FOUND.
    """
    row = await conn.fetchrow(_GET, org, name)
    if row is None:
        raise wallet_unknown(name)
    return WalletRow(*row)


async def lock_wallet(conn: asyncpg.Connection, org: str, name: str) -> WalletRow:
    """A wallet, locked until the transaction ends: nothing of its books changes meanwhile.

    Take it before any row of a recharge or of a month's caps; several wallets in the order of (org, name).

    Raises:
        PurseError: NOT_FOUND.
    """
    row = await conn.fetchrow(_LOCK, org, name)
    if row is None:
        raise wallet_unknown(name)
    return WalletRow(*row)


async def list_wallets(conn: asyncpg.Connection, org: str, subject: str, after: str, limit: int) -> list[WalletRow]:
    """Wallets of a subject and its descendants whose names follow `after`, sorted by name."""
    return [WalletRow(*row) for row in await conn.fetch(_LIST, org, after, subject, limit)]


async def directory_wallets(conn: asyncpg.Connection, orgs: Sequence[str]) -> list[WalletRow]:
    """All wallets of organisations, sorted by organisation and name."""
    return [WalletRow(*row) for row in await conn.fetch(_DIRECTORY, list(orgs))]


async def insert_wallet(conn: asyncpg.Connection, wallet: WalletRow) -> bool:
    """Writes a new wallet and its accounts; False where the name is taken."""
    status: str = await conn.execute(
        _INSERT,
        wallet.org,
        wallet.name,
        wallet.subject,
        wallet.display_name,
        wallet.currency,
        wallet.state,
        wallet.state_reason,
        wallet.time_zone,
        wallet.stripe_customer,
        wallet.payment_method,
        wallet.created_at,
    )
    if status != "INSERT 0 1":
        return False
    accounts: list[Account] = new_accounts(wallet.name)
    await conn.execute(
        _INSERT_ACCOUNTS,
        wallet.org,
        wallet.name,
        wallet.currency,
        [account.id for account in accounts],
        [account.kind.value for account in accounts],
    )
    return True


async def wallet_balance(conn: asyncpg.Connection, org: str, wallet: str) -> Balance:
    """What a wallet has, in O(1); zeros for one that does not exist."""
    return Balance(*await conn.fetchrow(_BALANCE, org, wallet))


async def bump_directory(conn: asyncpg.Connection, orgs: Sequence[str]) -> None:
    """Says that a wallet of each organisation has changed, so that budget databases fetch the directory anew."""
    await conn.execute(_BUMP, list(orgs))


async def count_wallet(conn: asyncpg.Connection, org: str) -> int:
    """Locks the directory for one more wallet and bumps it; returns how many there are with it."""
    count: int = await conn.fetchval(_COUNT_WALLET, org)
    return count


async def find_keys(conn: asyncpg.Connection, keys: Sequence[RequestKey]) -> dict[tuple[str, str, str], StoredAnswer]:
    """Answers stored under these request ids, by (org, method, id)."""
    rows = await conn.fetch(
        _FIND_KEYS, [key.org for key in keys], [key.method for key in keys], [key.id for key in keys]
    )
    return {(row[0], row[1], row[2]): StoredAnswer(row[3], row[4]) for row in rows}


async def insert_keys(conn: asyncpg.Connection, keys: Sequence[tuple[RequestKey, bytes]], now: datetime) -> bool:
    """Stores answers under their request ids; False where another transaction was first with one of them."""
    # Sorted, since a conflict waits for the other transaction to end.
    rows = sorted((key.org, key.method, key.id, key.payload, answer) for key, answer in keys)
    status: str = await conn.execute(_INSERT_KEYS, *(list(column) for column in zip(*rows, strict=True)), now)
    return int(status.rpartition(" ")[2]) == len(keys)


async def forget_keys(conn: asyncpg.Connection, before: datetime, limit: int) -> int:
    """Deletes request keys older than `before`, at most `limit`; returns how many."""
    status: str = await conn.execute(_FORGET_KEYS, before, limit)
    return int(status.rpartition(" ")[2])


async def set_state(conn: asyncpg.Connection, org: str, wallet: str, state: str, reason: str) -> None:
    """Changes a locked wallet's state, and has budget databases told."""
    await conn.execute(_SET_STATE, org, wallet, state, reason)
    await bump_directory(conn, [org])


async def settled_closing(
    conn: asyncpg.Connection, limit: int, after: tuple[str, str] = ("", "")
) -> list[tuple[str, str, str | None]]:
    """Wallets that are being closed with nothing leased and nothing to wait for any more.

    Those that follow (org, name), in order, each as (org, name, nearest open one above, if any).
    """
    return [(row[0], row[1], row[2]) for row in await conn.fetch(_CLOSING, limit, *after)]
