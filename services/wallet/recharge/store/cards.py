"""Pages to enter a card on, and when cards on file are looked at."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

CHECK_EVERY = timedelta(days=1)
"""How often the default card of a wallet is looked at."""
LOOK_AGAIN = timedelta(minutes=2)
"""How long after a look the sweep looks at an open page again; webhooks are the faster way."""

_COLUMNS = "org, name, wallet, state, payload_hash, customer, session, url, payment_method, created_at"
_GET = f"SELECT {_COLUMNS} FROM card_setups WHERE org = $1 AND name = $2"  # noqa: S608 - constants
_INSERT = """
INSERT INTO card_setups (org, name, wallet, payload_hash, customer, created_at, check_at)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (org, name) DO NOTHING
"""
_OPENED = "UPDATE card_setups SET session = $3, url = $4 WHERE org = $1 AND name = $2 AND session IS NULL"
_END = """
UPDATE card_setups SET state = $3, payment_method = $4, ended_at = $5, url = ''
WHERE org = $1 AND name = $2 AND state = 'OPEN' RETURNING 1
"""
_DUE = """
UPDATE card_setups s SET check_at = $1 + $3::interval
FROM (
    SELECT org, name FROM card_setups WHERE state = 'OPEN' AND check_at <= $1
    ORDER BY check_at LIMIT $2 FOR UPDATE SKIP LOCKED
) due
WHERE s.org = due.org AND s.name = due.name
RETURNING s.org, s.name
"""
_CHECK_SOON = """
INSERT INTO card_checks (org, wallet, check_at) VALUES ($1, $2, $3)
ON CONFLICT (org, wallet) DO UPDATE SET check_at = EXCLUDED.check_at
"""
_DUE_CARDS = """
UPDATE card_checks c SET check_at = $1 + $3::interval
FROM (
    SELECT org, wallet FROM card_checks WHERE check_at <= $1 ORDER BY check_at LIMIT $2 FOR UPDATE SKIP LOCKED
) due
WHERE c.org = due.org AND c.wallet = due.wallet
RETURNING c.org, c.wallet
"""
_WARN = """
UPDATE card_checks SET warned_of = $3 WHERE org = $1 AND wallet = $2 AND warned_of <> $3 RETURNING 1
"""
_FORGET_METHOD = """
UPDATE wallets SET payment_method = NULL WHERE org = $1 AND name = $2 AND payment_method = $3 RETURNING 1
"""
_WITH_METHOD = "SELECT org, name FROM wallets WHERE payment_method = $1 ORDER BY org, name LIMIT $2"
_SET_CUSTOMER = """
UPDATE wallets SET stripe_customer = $3 WHERE org = $1 AND name = $2 AND stripe_customer IS NULL
"""


@dataclass(frozen=True, slots=True)
class SetupRow:
    """A page to enter a card on, as stored."""

    org: str
    name: str
    wallet: str
    state: str
    payload_hash: bytes
    customer: str
    session: str | None
    url: str
    payment_method: str | None
    created_at: datetime


async def get(connection: asyncpg.Connection, org: str, name: str) -> SetupRow | None:
    """One page."""
    row = await connection.fetchrow(_GET, org, name)
    return None if row is None else SetupRow(*row)


async def insert(connection: asyncpg.Connection, row: SetupRow) -> None:
    """Stores that a page is about to be made; one that exists is left as it is."""
    await connection.execute(
        _INSERT,
        row.org,
        row.name,
        row.wallet,
        row.payload_hash,
        row.customer,
        row.created_at,
        row.created_at + LOOK_AGAIN,
    )


async def opened(connection: asyncpg.Connection, row: SetupRow, session: str, url: str) -> None:
    """Stores the page that was made."""
    await connection.execute(_OPENED, row.org, row.name, session, url)


async def end(
    connection: asyncpg.Connection, row: SetupRow, state: str, payment_method: str | None, now: datetime
) -> bool:
    """Ends a page, once; whether it was this call that did."""
    return await connection.fetchval(_END, row.org, row.name, state, payment_method, now) is not None


async def take_due(connection: asyncpg.Connection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """(org, name) of open pages whose look is due; the next one is put off."""
    return [(row[0], row[1]) for row in await connection.fetch(_DUE, now, limit, LOOK_AGAIN)]


async def check_soon(connection: asyncpg.Connection, org: str, wallet: str, at: datetime) -> None:
    """Lets the sweep look at a wallet's default card."""
    await connection.execute(_CHECK_SOON, org, wallet, at)


async def take_due_cards(connection: asyncpg.Connection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """(org, wallet) whose default card is to be looked at; the next look is put off by a day."""
    return [(row[0], row[1]) for row in await connection.fetch(_DUE_CARDS, now, limit, CHECK_EVERY)]


async def warn(connection: asyncpg.Connection, org: str, wallet: str, card: str) -> bool:
    """Remembers that a person was warned of a card; False where one was before."""
    return await connection.fetchval(_WARN, org, wallet, card) is not None


async def forget_method(connection: asyncpg.Connection, org: str, wallet: str, payment_method: str) -> bool:
    """Leaves a wallet without a default where this is it; whether it was."""
    return await connection.fetchval(_FORGET_METHOD, org, wallet, payment_method) is not None


async def wallets_with(connection: asyncpg.Connection, payment_method: str, limit: int) -> list[tuple[str, str]]:
    """(org, wallet) whose default a payment method is."""
    return [(row[0], row[1]) for row in await connection.fetch(_WITH_METHOD, payment_method, limit)]


async def set_customer(connection: asyncpg.Connection, org: str, wallet: str, customer: str) -> None:
    """Stores a wallet's customer at Stripe where it has none yet."""
    await connection.execute(_SET_CUSTOMER, org, wallet, customer)
