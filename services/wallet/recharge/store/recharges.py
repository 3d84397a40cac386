"""Recharges, their PaymentIntents and attempts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from services.kit import outbox
from services.kit.outbox import OutboxRow
from services.wallet.recharge.domain.attempts import Attempt, AttemptState, Standing, State
from services.wallet.recharge.domain.outcome import Expected, Intent, OpenAttempt
from services.wallet.recharge.domain.policy import Forecast
from services.wallet.recharge.store.policies import NO_PROGRESS, start_message
from services.wallet.recharge.store.topics import TOPIC_SIGNAL, TOPIC_START

_COLUMNS = """
r.org, r.name, r.wallet, r.state, r.currency, r.amount_nanos, r.amount_minor, r.named_month, r.number, r.month,
r.reason, r.failure_reason, r.problem, r.received_nanos, r.grant_name, r.version, r.created_at, r.ended_at,
r.forecast_spend_nanos, r.forecast_percent, r.forecast_hours, r.forecast_at, r.forecast_depletes_at,
r.forecast_balance_nanos, r.forecast_floor_nanos, coalesce(r.forecast_peak_nanos, 0) AS forecast_peak_nanos
"""
# In the order of a forecast's fields.
_FORECAST = [
    *("forecast_spend_nanos", "forecast_percent", "forecast_hours", "forecast_at", "forecast_depletes_at"),
    *("forecast_balance_nanos", "forecast_floor_nanos", "forecast_peak_nanos"),
]
_GET = "SELECT" + _COLUMNS + "FROM recharges r WHERE r.org = $1 AND r.name = ANY($2::text[])"
_LOCK = "SELECT" + _COLUMNS + "FROM recharges r WHERE r.org = $1 AND r.name = $2 FOR UPDATE"
_LOCK_WALLET_OF = """
SELECT w.name FROM wallets w JOIN recharges r ON r.org = w.org AND r.wallet = w.name
WHERE r.org = $1 AND r.name = $2 FOR NO KEY UPDATE OF w
"""
_INTENTS = """
SELECT recharge, number, create_key, customer, payment_intent, status, error_code, error_mark, created_at
FROM recharge_intents WHERE org = $1 AND recharge = ANY($2::text[]) ORDER BY recharge, number
"""
_ATTEMPTS = """
SELECT recharge, number, intent_number, confirm_key, payment_method, state, decline_code, mark, answered,
       answered_code, authorized_at, ended_at
FROM recharge_attempts WHERE org = $1 AND recharge = ANY($2::text[]) ORDER BY recharge, number
"""
_LIST = """
SELECT name FROM recharges
WHERE org = $1 AND wallet = $2 AND ($3::timestamptz IS NULL OR (created_at, name) < ($3, $4))
ORDER BY created_at DESC, name DESC LIMIT $5
"""
_PENDING_OF = """
SELECT name FROM recharges WHERE org = $1 AND wallet = ANY($2::text[]) AND state = 'PENDING' ORDER BY name
"""
_PENDING_OF_MANY = """
SELECT r.org, r.name FROM unnest($1::text[], $2::text[]) AS k (org, wallet)
JOIN recharges r ON r.org = k.org AND r.wallet = k.wallet AND r.state = 'PENDING' ORDER BY r.org, r.name
"""
_OF_INTENT = "SELECT org, recharge FROM recharge_intents WHERE payment_intent = $1 LIMIT 1"
_TOUCH = """
UPDATE recharges SET version = version + $4, check_at = $3 WHERE org = $1 AND name = $2
"""
_STALLED = """
UPDATE recharges r SET check_at = $1 + $3::interval
FROM (
    SELECT org, name FROM recharges WHERE state = 'PENDING' AND check_at <= $1
    ORDER BY check_at LIMIT $2 FOR UPDATE SKIP LOCKED
) due
WHERE r.org = due.org AND r.name = due.name
RETURNING r.org, r.name
"""
_NEW_INTENT = """
INSERT INTO recharge_intents (org, recharge, number, create_key, customer, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_NEW_ATTEMPT = """
INSERT INTO recharge_attempts
    (org, recharge, number, intent_number, confirm_key, payment_method, mark, authorized_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_SET_INTENT = """
UPDATE recharge_intents SET payment_intent = $4, status = $5, error_code = $6, error_mark = $7
WHERE org = $1 AND recharge = $2 AND number = $3
"""
_ADOPT_INTENT = """
INSERT INTO recharge_intents
    (org, recharge, number, create_key, customer, payment_intent, status, error_code, error_mark, created_at)
SELECT $1, $2, coalesce(max(number), 0) + 1, 'adopted', coalesce(nullif($8, ''), min(customer), ''), $3, $4, $5, $6, $7
FROM recharge_intents WHERE org = $1 AND recharge = $2
"""
_ANSWERED = """
UPDATE recharge_attempts SET answered = TRUE, answered_code = $4
WHERE org = $1 AND recharge = $2 AND number = $3 AND state = 'OPEN'
"""
_END_ATTEMPT = """
UPDATE recharge_attempts SET state = $3, decline_code = $4, ended_at = $5
WHERE org = $1 AND recharge = $2 AND state = 'OPEN'
"""
_MOVE = "UPDATE recharges SET month = $3 WHERE org = $1 AND name = $2"
_SUCCEED = """
UPDATE recharges SET state = 'SUCCEEDED', received_nanos = $3, grant_name = $4, ended_at = $5, problem = ''
WHERE org = $1 AND name = $2
"""
_FAIL = """
UPDATE recharges SET state = 'FAILED', failure_reason = $3, ended_at = $4, problem = '' WHERE org = $1 AND name = $2
"""
_WAITS = "SELECT EXISTS (SELECT FROM outbox WHERE org = $1 AND topic = $2 AND key = $3)"
_INSTALLATION = "SELECT id FROM installation"
_PROBLEM = "UPDATE recharges SET problem = $3 WHERE org = $1 AND name = $2 AND problem <> $3 RETURNING 1"
_CLEAR = "UPDATE recharges SET problem = '' WHERE org = $1 AND name = $2 AND problem <> '' RETURNING 1"


@dataclass(frozen=True, slots=True)
class IntentRow:
    """A PaymentIntent of a recharge as stored; `payment_intent` is None while its creation is unknown."""

    number: int
    create_key: str
    customer: str
    payment_intent: str | None
    status: str
    error_code: str
    error_mark: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt as stored."""

    number: int
    intent_number: int
    confirm_key: str
    payment_method: str
    state: AttemptState
    decline_code: str
    mark: str
    answered: bool
    answered_code: str
    authorized_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class RechargeRow:
    """A recharge as stored, with all that belongs to it."""

    org: str
    name: str
    wallet: str
    state: State
    currency: str
    amount_nanos: int
    amount_minor: int
    named_month: str
    number: int
    month: str
    reason: str
    failure_reason: str
    problem: str
    received_nanos: int | None
    grant_name: str | None
    version: int
    created_at: datetime
    ended_at: datetime | None
    intents: Sequence[IntentRow] = field(default=())
    attempts: Sequence[AttemptRow] = field(default=())
    forecast: Forecast | None = None

    @property
    def intent(self) -> IntentRow | None:
        """The PaymentIntent in use."""
        return self.intents[-1] if self.intents else None

    @property
    def attempt(self) -> AttemptRow | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def open_attempt(self) -> AttemptRow | None:
        """The attempt whose outcome is not known, if there is one."""
        last = self.attempt
        return last if last is not None and last.state is AttemptState.OPEN else None

    def standing(self) -> Standing:
        """As the rule of the next step takes it."""
        return Standing(
            state=self.state,
            amount_nanos=self.amount_nanos,
            month=self.month,
            created_at=self.created_at,
            attempts=[
                Attempt(a.number, a.state, a.payment_method, a.authorized_at, a.ended_at, a.decline_code)
                for a in self.attempts
            ],
            intent_status=self.intent.status if self.intent else "",
            problem=self.problem,
            forecast=self.forecast,
        )

    def expected(self, installation: str, *, livemode: bool) -> Expected:
        """What its PaymentIntents must agree with."""
        return Expected(installation, self.name, self.wallet, self.currency, livemode, self.amount_minor)

    def question(self) -> OpenAttempt | None:
        """The open attempt as the rule of outcomes takes it."""
        attempt = self.open_attempt
        return None if attempt is None else OpenAttempt(attempt.mark, attempt.answered, attempt.answered_code)


async def installation(connection: asyncpg.Connection) -> str:
    """What tells this database's charges from those of another at the same Stripe account."""
    found: str = await connection.fetchval(_INSTALLATION)
    return found


async def get(connection: asyncpg.Connection, org: str, name: str) -> RechargeRow | None:
    """One recharge, not locked."""
    found = await get_many(connection, org, [name])
    return found[0] if found else None


async def get_many(connection: asyncpg.Connection, org: str, names: Sequence[str]) -> list[RechargeRow]:
    """The recharges that exist, in the order of the names. One organisation, not locked."""
    rows = {row["name"]: row for row in await connection.fetch(_GET, org, list(names))}
    ordered = [rows[name] for name in names if name in rows]
    return await _complete(connection, org, ordered)


async def lock(connection: asyncpg.Connection, org: str, name: str) -> RechargeRow | None:
    """One recharge, with its wallet's row and its own locked, in that order."""
    if await connection.fetchval(_LOCK_WALLET_OF, org, name) is None:
        return None
    row = await connection.fetchrow(_LOCK, org, name)
    return (await _complete(connection, org, [row]))[0]


async def _complete(connection: asyncpg.Connection, org: str, rows: Sequence[asyncpg.Record]) -> list[RechargeRow]:
    names = [row["name"] for row in rows]
    intents: dict[str, list[IntentRow]] = {name: [] for name in names}
    attempts: dict[str, list[AttemptRow]] = {name: [] for name in names}
    for recharge, *rest in await connection.fetch(_INTENTS, org, names):
        intents[recharge].append(IntentRow(*rest))
    for row in await connection.fetch(_ATTEMPTS, org, names):
        fields = dict(row)
        attempts[fields.pop("recharge")].append(AttemptRow(**{**fields, "state": AttemptState(row["state"])}))
    found = []
    for row in rows:
        fields = dict(row)
        forecast = [fields.pop(column) for column in _FORECAST]
        found.append(
            RechargeRow(
                **{**fields, "state": State(row["state"])},
                intents=tuple(intents[row["name"]]),
                attempts=tuple(attempts[row["name"]]),
                forecast=None if forecast[0] is None else Forecast(*forecast),
            )
        )
    return found


async def page(
    connection: asyncpg.Connection, org: str, wallet: str, after: tuple[datetime, str] | None, limit: int
) -> list[RechargeRow]:
    """A wallet's recharges, newest first, after the one with this creation time and name."""
    before_at, before_name = after or (None, None)
    names = [row["name"] for row in await connection.fetch(_LIST, org, wallet, before_at, before_name, limit)]
    return await get_many(connection, org, names)


async def of_intent(connection: asyncpg.Connection, payment_intent: str) -> tuple[str, str] | None:
    """(org, recharge) that a PaymentIntent is stored under."""
    row = await connection.fetchrow(_OF_INTENT, payment_intent)
    return None if row is None else (row["org"], row["recharge"])


async def touch(connection: asyncpg.Connection, row: RechargeRow, check_at: datetime, *, changed: bool) -> None:
    """Sets when the sweep looks again; `changed` makes looks at Stripe from before worthless."""
    await connection.execute(_TOUCH, row.org, row.name, check_at, int(changed))


async def take_stalled(connection: asyncpg.Connection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """(org, name) of pending recharges that nothing has happened to; the next look is put off."""
    rows = await connection.fetch(_STALLED, now, limit, NO_PROGRESS)
    return [(row["org"], row["name"]) for row in rows]


async def add_intent(
    connection: asyncpg.Connection, row: RechargeRow, number: int, *, create_key: str, customer: str, now: datetime
) -> None:
    """Stores that a PaymentIntent is about to be created."""
    await connection.execute(_NEW_INTENT, row.org, row.name, number, create_key, customer, now)


async def add_attempt(connection: asyncpg.Connection, row: RechargeRow, attempt: AttemptRow) -> None:
    """Stores an attempt before Stripe is asked."""
    await connection.execute(
        _NEW_ATTEMPT,
        row.org,
        row.name,
        attempt.number,
        attempt.intent_number,
        attempt.confirm_key,
        attempt.payment_method,
        attempt.mark,
        attempt.authorized_at,
    )


async def set_intent(connection: asyncpg.Connection, row: RechargeRow, number: int, seen: Intent) -> None:
    """Stores what Stripe said of a PaymentIntent."""
    await connection.execute(
        _SET_INTENT,
        row.org,
        row.name,
        number,
        seen.payment_intent or None,
        seen.status,
        seen.error_code,
        seen.error_mark,
    )


async def adopt_intent(connection: asyncpg.Connection, row: RechargeRow, seen: Intent, now: datetime) -> None:
    """Stores a PaymentIntent that names the recharge but that no attempt of it is known to have made."""
    await connection.execute(
        _ADOPT_INTENT,
        row.org,
        row.name,
        seen.payment_intent,
        seen.status,
        seen.error_code,
        seen.error_mark,
        now,
        seen.customer,
    )


async def mark_answered(connection: asyncpg.Connection, row: RechargeRow, attempt: int, code: str) -> None:
    """Stores that Stripe answered an attempt's confirmation."""
    await connection.execute(_ANSWERED, row.org, row.name, attempt, code)


async def end_attempt(
    connection: asyncpg.Connection, row: RechargeRow, state: AttemptState, code: str, now: datetime
) -> None:
    """Ends the open attempt, if there is one."""
    await connection.execute(_END_ATTEMPT, row.org, row.name, state.value, code, now)


async def move(connection: asyncpg.Connection, row: RechargeRow, month: str) -> None:
    """Makes a recharge count in another month, whose row exists."""
    await connection.execute(_MOVE, row.org, row.name, month)


async def succeed(
    connection: asyncpg.Connection, row: RechargeRow, received_nanos: int, grant: str, now: datetime
) -> None:
    """Ends a recharge with the grant that it became."""
    await connection.execute(_SUCCEED, row.org, row.name, received_nanos, grant, now)


async def fail(connection: asyncpg.Connection, row: RechargeRow, reason: str, now: datetime) -> None:
    """Ends a recharge that charged nothing."""
    await connection.execute(_FAIL, row.org, row.name, reason, now)


async def set_problem(connection: asyncpg.Connection, row: RechargeRow, problem: str) -> bool:
    """Stores what does not fit; returns whether that is new."""
    return await connection.fetchval(_PROBLEM, row.org, row.name, problem) is not None


async def clear_problem(connection: asyncpg.Connection, row: RechargeRow) -> bool:
    """Forgets a problem that the latest look does not find any more; returns whether there was one."""
    return await connection.fetchval(_CLEAR, row.org, row.name) is not None


async def signal(connection: asyncpg.Connection, org: str, name: str, why: str) -> None:
    """Wakes the recharge's workflow once this transaction is committed."""
    await outbox.put(connection, [OutboxRow(org, TOPIC_SIGNAL, name, why.encode())])


async def wake_pending(
    connection: asyncpg.Connection,
    org: str,
    wallets: Sequence[str],
    now: datetime,  # noqa: ARG001 - called by the ledger like the evaluation
    why: str = "its wallet has changed",
) -> None:
    """Wakes the workflows of the wallets' pending recharges once this transaction is committed."""
    names = [row["name"] for row in await connection.fetch(_PENDING_OF, org, list(wallets))]
    await outbox.put(connection, [OutboxRow(org, TOPIC_SIGNAL, name, why.encode()) for name in names])


async def wake_pending_of(connection: asyncpg.Connection, wallets: Sequence[tuple[str, str]], _now: datetime) -> None:
    """`wake_pending` for wallets of many organisations, (org, name) sorted."""
    rows = await connection.fetch(_PENDING_OF_MANY, [org for org, _ in wallets], [name for _, name in wallets])
    why = b"its wallet has changed"
    await outbox.put(connection, [OutboxRow(row["org"], TOPIC_SIGNAL, row["name"], why) for row in rows])


async def start_again(connection: asyncpg.Connection, row: RechargeRow) -> None:
    """Starts the recharge's workflow, where it does not run, unless a row that will, or is parked, is there."""
    if await connection.fetchval(_WAITS, row.org, TOPIC_START, row.name):
        return
    about = start_message(row.wallet, row.amount_nanos, row.currency, row.reason, row.created_at)
    await outbox.put(connection, [OutboxRow(row.org, TOPIC_START, row.name, about)])
