"""What is only looked at: balances in detail, the ledger's rows, the trial balance, directories and leases."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from services.wallet.domain.book import Lease
from services.wallet.store.wallets import Balance

GRANTS_SHOWN = 100
"""The most grants that a balance lists."""
TRIAL_ROWS_MAX = 50_000
"""The most rows of a trial balance; more organisations must be asked for one by one."""

_GRANTS = """
SELECT name, wallet, kind, currency, amount_nanos, priority, expires_at, created_at,
       free_nanos + leased_nanos + pending_nanos,
       recharge, effective_at, origin
FROM grants WHERE org = $1 AND wallet = $2 AND (free_nanos > 0 OR leased_nanos > 0 OR pending_nanos > 0)
ORDER BY priority, expires_at NULLS LAST, created_at, name LIMIT $3
"""
_TRANSFERS = """
SELECT transaction_id, sequence, kind, from_account, to_account, amount_nanos, currency, posted_at, reference
FROM transfers WHERE org = $1 AND wallet = $2 AND ($3::bigint IS NULL OR sequence < $3)
ORDER BY sequence DESC LIMIT $4
"""
_TRIAL = """
SELECT org, kind, currency, sum(debits_nanos)::text AS debits, sum(credits_nanos)::text AS credits
FROM accounts WHERE $1::text IS NULL OR org = $1 GROUP BY org, kind, currency ORDER BY org, kind, currency LIMIT $2
"""
# A wallet's accounts as its transfers until then leave them; the kind is the second part of an account's id.
_SIDES_AS_OF = """
SELECT a.org, a.wallet, a.kind, a.currency, coalesce(sum(s.debits), 0) AS debits, coalesce(sum(s.credits), 0) AS credits
FROM accounts a
LEFT JOIN (
    SELECT from_account AS id, amount_nanos AS debits, 0 AS credits FROM transfers
    WHERE org = $1 AND ($2::text IS NULL OR wallet = $2) AND posted_at <= $3
    UNION ALL
    SELECT to_account, 0, amount_nanos FROM transfers
    WHERE org = $1 AND ($2::text IS NULL OR wallet = $2) AND posted_at <= $3
) AS s ON s.id = a.id
WHERE a.org = $1 AND ($2::text IS NULL OR a.wallet = $2) GROUP BY a.org, a.wallet, a.kind, a.currency
"""
_TRIAL_AS_OF = f"""
SELECT org, kind, currency, sum(debits)::text, sum(credits)::text FROM ({_SIDES_AS_OF}) AS k
GROUP BY org, kind, currency ORDER BY org, kind, currency
"""  # noqa: S608 - a constant
_BALANCE_AS_OF = f"""
SELECT coalesce(sum(credits - debits) FILTER (WHERE kind = 'available'), 0)::bigint,
       coalesce(sum(credits - debits) FILTER (WHERE kind = 'escrow'), 0)::bigint,
       coalesce(sum(debits - credits) FILTER (WHERE kind = 'debt'), 0)::bigint,
       coalesce(sum(credits - debits) FILTER (WHERE kind = 'spent'), 0)::bigint
FROM ({_SIDES_AS_OF}) AS k
"""  # noqa: S608 - a constant
_LEASES = """
SELECT w.org, w.name, w.state, a.credits_nanos - a.debits_nanos AS available, clock_timestamp() AS now,
       l.flow_at, l.epoch, l.n, l.extended_nanos, l.captured_nanos, l.returned_nanos, l.reversed_nanos,
       l.quarantine, l.burn_nanos, l.pull_nanos
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k(org, wallet, place)
JOIN wallets w ON w.org = k.org AND w.name = k.wallet
JOIN accounts a ON a.org = w.org AND a.id = w.name || '/available'
LEFT JOIN leases l ON l.org = w.org AND l.wallet = w.name AND l.holder = $3
ORDER BY k.place
"""
_CHANGED = """
SELECT k.org, coalesce(d.version, 0) AS version, coalesce(d.wallets, 0) AS wallets
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS k(org, version, place)
LEFT JOIN directories d ON d.org = k.org
WHERE coalesce(d.version, 0) <> k.version ORDER BY k.place
"""


@dataclass(frozen=True, slots=True)
class GrantRow:
    """A grant; amounts in nano-units, `remaining` with its leased part."""

    name: str
    wallet: str
    kind: str
    currency: str
    amount: int
    priority: int
    expires_at: datetime | None
    created_at: datetime
    remaining: int
    recharge: str | None
    effective_at: datetime | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class TransferRow:
    """A row of the ledger; the amount in nano-units."""

    transaction: UUID
    sequence: int
    kind: str
    from_account: str
    to_account: str
    amount: int
    currency: str
    posted_at: datetime
    reference: str


@dataclass(frozen=True, slots=True)
class TrialRow:
    """The sums of one kind of account in one organisation and currency, in nano-units; may pass int64."""

    org: str
    kind: str
    currency: str
    debits: int
    credits: int


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease and its wallet at one instant; `lease` is None before the first operation."""

    org: str
    wallet: str
    state: str
    available: int
    now: datetime
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class ChangedDirectory:
    """An organisation whose directory differs from the version that a caller has."""

    org: str
    version: int
    wallets: int


async def list_grants(conn: asyncpg.Connection, org: str, wallet: str) -> list[GrantRow]:
    """The grants with something left, in burn order, at most `GRANTS_SHOWN`."""
    return [GrantRow(*row) for row in await conn.fetch(_GRANTS, org, wallet, GRANTS_SHOWN)]


async def list_transfers(
    conn: asyncpg.Connection, org: str, wallet: str, below: int | None, limit: int
) -> list[TransferRow]:
    """A wallet's transfers with sequences below `below`, newest first."""
    return [TransferRow(*row) for row in await conn.fetch(_TRANSFERS, org, wallet, below, limit)]


async def trial_balance(conn: asyncpg.Connection, org: str | None) -> list[TrialRow]:
    """Sums by organisation, kind and currency, sorted; one more than `TRIAL_ROWS_MAX` shows that there are more."""
    rows = await conn.fetch(_TRIAL, org, TRIAL_ROWS_MAX + 1)
    return [TrialRow(row[0], row[1], row[2], int(row[3]), int(row[4])) for row in rows]


async def trial_balance_as_of(conn: asyncpg.Connection, org: str, at: datetime) -> list[TrialRow]:
    """An organisation's sums as its ledger stood at that instant, sorted."""
    rows = await conn.fetch(_TRIAL_AS_OF, org, None, at)
    return [TrialRow(row[0], row[1], row[2], int(row[3]), int(row[4])) for row in rows]


async def balance_as_of(conn: asyncpg.Connection, org: str, wallet: str, at: datetime) -> Balance:
    """What a wallet had at that instant, from its ledger."""
    return Balance(*await conn.fetchrow(_BALANCE_AS_OF, org, wallet, at))


async def lease_views(conn: asyncpg.Connection, holder: str, wallets: Sequence[tuple[str, str]]) -> list[LeaseView]:
    """Leases of a holder on these (org, wallet), in their order; wallets that do not exist are left out."""
    rows = await conn.fetch(_LEASES, [org for org, _ in wallets], [name for _, name in wallets], holder)
    return [
        LeaseView(
            org=row["org"],
            wallet=row["name"],
            state=row["state"],
            available=row["available"],
            now=row["now"],
            lease=None if row["epoch"] is None else Lease(holder, *row[5:]),
        )
        for row in rows
    ]


async def changed_directories(conn: asyncpg.Connection, known: Sequence[tuple[str, int]]) -> list[ChangedDirectory]:
    """Those of (org, version) whose version is another now, in the order given."""
    rows = await conn.fetch(_CHANGED, [org for org, _ in known], [version for _, version in known])
    return [ChangedDirectory(*row) for row in rows]
