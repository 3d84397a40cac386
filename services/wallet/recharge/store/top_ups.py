"""Top-ups: payments that somebody asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from services.wallet.recharge.domain.outcome import Expected
from services.wallet.recharge.domain.top_up import State

LOOK_AGAIN = timedelta(minutes=2)
"""How long after a look the sweep looks at a pending top-up again; webhooks are the faster way."""

_COLUMNS = """
t.org, t.name, t.wallet, t.on_session, t.state, t.currency, t.amount_nanos, t.amount_minor, t.payload_hash, t.customer,
t.payment_method, t.month, t.session, t.url, t.payment_intent, t.intent_status, t.decline_code, t.failure_reason,
t.problem, t.received_nanos, t.grant_name, t.version, t.created_at, t.expires_at, t.ended_at
"""
_GET = "SELECT" + _COLUMNS + "FROM top_ups t WHERE t.org = $1 AND t.name = $2"
_LOCK = _GET + " FOR UPDATE"
_LOCK_WALLET_OF = """
SELECT w.name FROM wallets w JOIN top_ups t ON t.org = w.org AND t.wallet = w.name
WHERE t.org = $1 AND t.name = $2 FOR NO KEY UPDATE OF w
"""
_PAGE = (
    "SELECT"
    + _COLUMNS
    + """FROM top_ups t
WHERE t.org = $1 AND t.wallet = $2 AND ($3::timestamptz IS NULL OR (t.created_at, t.name) < ($3, $4))
ORDER BY t.created_at DESC, t.name DESC LIMIT $5"""
)
_INSERT = """
INSERT INTO top_ups (org, name, wallet, on_session, currency, amount_nanos, amount_minor, payload_hash, customer,
                     payment_method, month, created_at, expires_at, check_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""
_OPENED = """
UPDATE top_ups SET session = $3, url = $4, version = version + 1
WHERE org = $1 AND name = $2 AND session IS NULL AND state = 'PENDING'
"""
_MADE = """
UPDATE top_ups SET payment_intent = $3, version = version + 1
WHERE org = $1 AND name = $2 AND payment_intent IS NULL AND state = 'PENDING'
"""
_SET_INTENT = """
UPDATE top_ups SET payment_intent = $3, intent_status = $4, decline_code = $5,
    version = version + CASE
        WHEN (payment_intent, intent_status, decline_code) IS DISTINCT FROM ($3, $4, $5) THEN 1 ELSE 0 END
WHERE org = $1 AND name = $2
"""
_SUCCEED = """
UPDATE top_ups SET state = 'SUCCEEDED', received_nanos = $3, grant_name = $4, ended_at = $5, problem = '', url = '',
    decline_code = '', version = version + 1
WHERE org = $1 AND name = $2
"""
_FAIL = """
UPDATE top_ups SET state = 'FAILED', failure_reason = $3, decline_code = $4, ended_at = $5, problem = '', url = '',
    version = version + 1
WHERE org = $1 AND name = $2
"""
_PROBLEM = "UPDATE top_ups SET problem = $3 WHERE org = $1 AND name = $2 AND problem <> $3 RETURNING 1"
_CHECK = "UPDATE top_ups SET check_at = $3 WHERE org = $1 AND name = $2"
_DUE = """
UPDATE top_ups t SET check_at = $1 + $3::interval
FROM (
    SELECT org, name FROM top_ups WHERE state = 'PENDING' AND check_at <= $1
    ORDER BY check_at LIMIT $2 FOR UPDATE SKIP LOCKED
) due
WHERE t.org = due.org AND t.name = due.name
RETURNING t.org, t.name
"""


@dataclass(frozen=True, slots=True)
class TopUpRow:
    """A top-up as stored.

    Attributes:
        payment_method: What is charged; None where somebody pays on a page.
        month: The month whose caps count it; None where none does.
        session: Its Checkout session; None until it is known.
        payment_intent: None until it is known.
    """

    org: str
    name: str
    wallet: str
    on_session: bool
    state: State
    currency: str
    amount_nanos: int
    amount_minor: int
    payload_hash: bytes
    customer: str
    payment_method: str | None
    month: str | None
    session: str | None
    url: str
    payment_intent: str | None
    intent_status: str
    decline_code: str
    failure_reason: str
    problem: str
    received_nanos: int | None
    grant_name: str | None
    version: int
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None

    def expected(self, installation: str, *, livemode: bool) -> Expected:
        """What its PaymentIntent must agree with."""
        return Expected(installation, self.name, self.wallet, self.currency, livemode, self.amount_minor)


def _row(record: asyncpg.Record) -> TopUpRow:
    return TopUpRow(**{**dict(record), "state": State(record["state"])})


async def get(connection: asyncpg.Connection, org: str, name: str) -> TopUpRow | None:
    """One top-up, not locked."""
    found = await connection.fetchrow(_GET, org, name)
    return None if found is None else _row(found)


async def lock(connection: asyncpg.Connection, org: str, name: str) -> TopUpRow | None:
    """One top-up, with its wallet's row and its own locked, in that order."""
    if await connection.fetchval(_LOCK_WALLET_OF, org, name) is None:
        return None
    return _row(await connection.fetchrow(_LOCK, org, name))


async def page(
    connection: asyncpg.Connection, org: str, wallet: str, after: tuple[datetime, str] | None, limit: int
) -> list[TopUpRow]:
    """A wallet's top-ups, newest first, after the one with this creation time and name."""
    before_at, before_name = after or (None, None)
    return [_row(one) for one in await connection.fetch(_PAGE, org, wallet, before_at, before_name, limit)]


async def insert(connection: asyncpg.Connection, row: TopUpRow) -> None:
    """Stores a new top-up before Stripe is asked for anything. The wallet's row is locked."""
    await connection.execute(
        _INSERT,
        row.org,
        row.name,
        row.wallet,
        row.on_session,
        row.currency,
        row.amount_nanos,
        row.amount_minor,
        row.payload_hash,
        row.customer,
        row.payment_method,
        row.month,
        row.created_at,
        row.expires_at,
        row.created_at + LOOK_AGAIN,
    )


async def opened(connection: asyncpg.Connection, row: TopUpRow, session: str, url: str) -> None:
    """Stores the page that was made for it."""
    await connection.execute(_OPENED, row.org, row.name, session, url)


async def made(connection: asyncpg.Connection, row: TopUpRow, payment_intent: str) -> bool:
    """Stores the PaymentIntent before it is confirmed; False where the top-up has ended, or has one already."""
    done: str = await connection.execute(_MADE, row.org, row.name, payment_intent)
    return done == "UPDATE 1"


async def set_intent(
    connection: asyncpg.Connection, row: TopUpRow, payment_intent: str, status: str, decline_code: str
) -> None:
    """Stores what Stripe said of its PaymentIntent."""
    await connection.execute(_SET_INTENT, row.org, row.name, payment_intent, status, decline_code)


async def succeed(
    connection: asyncpg.Connection, row: TopUpRow, received_nanos: int, grant: str, now: datetime
) -> None:
    """Ends it with the grant that it became."""
    await connection.execute(_SUCCEED, row.org, row.name, received_nanos, grant, now)


async def fail(connection: asyncpg.Connection, row: TopUpRow, reason: str, code: str, now: datetime) -> None:
    """Ends one that charged nothing."""
    await connection.execute(_FAIL, row.org, row.name, reason, code, now)


async def set_problem(connection: asyncpg.Connection, row: TopUpRow, problem: str) -> bool:
    """Stores what does not fit; returns whether that is new."""
    return await connection.fetchval(_PROBLEM, row.org, row.name, problem) is not None


async def check_again(connection: asyncpg.Connection, row: TopUpRow, at: datetime) -> None:
    """Sets when the sweep looks at it."""
    await connection.execute(_CHECK, row.org, row.name, at)


async def take_due(connection: asyncpg.Connection, now: datetime, limit: int) -> Sequence[tuple[str, str]]:
    """(org, name) of pending top-ups whose look is due; the next one is put off."""
    return [(row[0], row[1]) for row in await connection.fetch(_DUE, now, limit, LOOK_AGAIN)]
