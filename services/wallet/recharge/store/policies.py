"""Policies and months: what is stored of them, and the evaluation that every change of a balance runs."""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timedelta

import asyncpg

from services.kit import money, outbox
from services.kit import subject as subjects
from services.kit.outbox import OutboxRow
from services.wallet.recharge.domain import policy as rules
from services.wallet.recharge.domain.attempts import MAX_AGE, WalletState
from services.wallet.recharge.domain.extras import Granted, in_force
from services.wallet.recharge.domain.policy import (
    CAPS,
    Block,
    Blocked,
    Extras,
    Forecast,
    MonthKey,
    Policy,
    Predictive,
    Situation,
    Start,
    Usage,
)
from services.wallet.recharge.names import recharge_name
from services.wallet.recharge.store import months, reviews
from services.wallet.recharge.store.reviews import ROOM_AGAIN
from services.wallet.recharge.store.topics import TOPIC_ALERT, TOPIC_START

SWEEP_EVERY = timedelta(minutes=10)
"""How long after an evaluation the sweep looks at a policy again, whatever happens in between."""
NO_PROGRESS = timedelta(minutes=10)
"""After how long without a change a pending recharge is looked at, and its workflow started again if it is gone."""
_DUE_AGAIN = timedelta(minutes=1)

# Balance = available + escrow − debt; a debt account's credits − debits is minus the debt.
_FACTS = """
SELECT w.name AS wallet, w.subject, w.currency, w.state AS wallet_state, w.time_zone, w.payment_method,
       w.stripe_customer, p.enabled, p.threshold_nanos, p.amount_nanos, p.max_count, p.max_amount_nanos,
       p.cooldown_us, p.paused_reason, p.paused_by, p.paused_at, p.target_nanos, p.min_nanos, p.max_nanos,
       p.hours_ahead, p.quantile_percent, p.lead_time, p.check_at, m.month, m.zone, m.count,
       m.amount_nanos AS month_amount_nanos,
       (SELECT coalesce(sum(a.credits_nanos - a.debits_nanos), 0)::bigint FROM accounts a
        WHERE a.org = w.org AND a.wallet = w.name AND a.kind IN ('available', 'escrow', 'debt')) AS balance_nanos,
       x.extras,
       (SELECT coalesce(max(greatest(a.credits_nanos, a.debits_nanos)), 0) FROM accounts a
        WHERE a.org = w.org AND a.wallet = w.name) AS moved_nanos,
       EXISTS (SELECT FROM recharges r WHERE r.org = w.org AND r.wallet = w.name AND r.state = 'PENDING') AS pending,
       (SELECT max(r.created_at) FROM recharges r WHERE r.org = w.org AND r.wallet = w.name) AS last_started
FROM wallets w
LEFT JOIN recharge_policies p ON p.org = w.org AND p.wallet = w.name
LEFT JOIN LATERAL (
    SELECT * FROM recharge_months m WHERE m.org = w.org AND m.wallet = w.name ORDER BY m.month DESC LIMIT 1
) m ON TRUE
LEFT JOIN LATERAL (
    SELECT array_agg(
        (x.month, x.extra_count, x.extra_nanos, x.until_at, x.used_count, x.used_nanos, y.count, y.amount_nanos,
         y.cap_count, y.cap_amount_nanos) ORDER BY x.created_at, x.number
    ) AS extras
    FROM recharge_extras x JOIN recharge_months y ON y.org = x.org AND y.wallet = x.wallet AND y.month = x.month
    WHERE x.org = w.org AND x.wallet = w.name AND x.until_at > $4::timestamptz - $5::interval
) x ON TRUE
WHERE w.org = $1 AND w.name = ANY($2::text[]) AND (p.org IS NOT NULL OR NOT $3)
ORDER BY w.name
"""
# Whose policy may do something: a balance that is not below the threshold starts nothing and tells nobody.
_LOW = """
SELECT k.org, k.wallet FROM unnest($1::text[], $2::text[]) AS k (org, wallet)
JOIN recharge_policies p ON p.org = k.org AND p.wallet = k.wallet
WHERE p.enabled AND p.threshold_nanos > (
    SELECT coalesce(sum(a.credits_nanos - a.debits_nanos), 0) FROM accounts a
    WHERE a.org = k.org AND a.wallet = k.wallet AND a.kind IN ('available', 'escrow', 'debt')
)
"""
_START = """
INSERT INTO recharges
    (org, name, wallet, currency, amount_nanos, amount_minor, named_month, number, month, reason, created_at, check_at,
     forecast_spend_nanos, forecast_percent, forecast_hours, forecast_at, forecast_depletes_at,
     forecast_balance_nanos, forecast_floor_nanos, forecast_peak_nanos)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""
_RECHECK = "UPDATE recharge_policies SET check_at = $3 WHERE org = $1 AND wallet = $2 AND check_at > $3"
_SWEPT = "UPDATE recharge_policies SET check_at = $3 WHERE org = $1 AND wallet = $2"
_DUE = """
UPDATE recharge_policies p SET check_at = $1 + $3::interval
FROM (
    SELECT org, wallet FROM recharge_policies WHERE enabled AND check_at <= $1
    ORDER BY check_at LIMIT $2 FOR UPDATE SKIP LOCKED
) due
WHERE p.org = due.org AND p.wallet = due.wallet
RETURNING p.org, p.wallet
"""
_PUT = """
INSERT INTO recharge_policies
    (org, wallet, enabled, threshold_nanos, amount_nanos, max_count, max_amount_nanos, cooldown_us, paused_reason,
     check_at, updated_at, target_nanos, min_nanos, max_nanos, hours_ahead, quantile_percent, lead_time,
     paused_by, paused_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
        CASE WHEN $9 <> '' THEN $18 ELSE '' END, CASE WHEN $9 <> '' THEN $11::timestamptz END)
ON CONFLICT (org, wallet) DO UPDATE
SET enabled = EXCLUDED.enabled, threshold_nanos = EXCLUDED.threshold_nanos, amount_nanos = EXCLUDED.amount_nanos,
    max_count = EXCLUDED.max_count, max_amount_nanos = EXCLUDED.max_amount_nanos,
    cooldown_us = EXCLUDED.cooldown_us, check_at = EXCLUDED.check_at, updated_at = EXCLUDED.updated_at,
    target_nanos = EXCLUDED.target_nanos, min_nanos = EXCLUDED.min_nanos, max_nanos = EXCLUDED.max_nanos,
    hours_ahead = EXCLUDED.hours_ahead, quantile_percent = EXCLUDED.quantile_percent, lead_time = EXCLUDED.lead_time,
    paused_reason = CASE WHEN $19 THEN '' WHEN $9 <> '' THEN $9 ELSE recharge_policies.paused_reason END,
    paused_by = CASE WHEN $19 THEN '' WHEN $9 = '' OR $9 = recharge_policies.paused_reason
        THEN recharge_policies.paused_by ELSE $18 END,
    paused_at = CASE WHEN $19 THEN NULL WHEN $9 = '' OR $9 = recharge_policies.paused_reason
        THEN recharge_policies.paused_at ELSE $11 END,
    paused_by_failure = recharge_policies.paused_by_failure AND NOT $19 AND $9 IN ('', recharge_policies.paused_reason)
"""
_PAUSE = """
UPDATE recharge_policies SET paused_reason = $3, paused_by_failure = TRUE, paused_by = 'wallet', paused_at = $4
WHERE org = $1 AND wallet = $2 AND paused_reason = ''
"""
_UNPAUSE = """
UPDATE recharge_policies SET paused_reason = '', paused_by_failure = FALSE, paused_by = '', paused_at = NULL
WHERE org = $1 AND wallet = $2 AND paused_by_failure
"""
_SET_METHOD = "UPDATE wallets SET stripe_customer = $3, payment_method = $4 WHERE org = $1 AND name = $2"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is stored of one wallet that a decision about recharging needs.

    Attributes:
        policy: None where it has none.
        moved_nanos: What the fullest side of its accounts has taken in all.
        usage: Of the month in force.
        paused_by: Who paused the policy, and `paused_at`: since when.
        granted: What was allowed beyond the caps, and may have been in force when a pending recharge was begun.
        extras: What of it is in force for a recharge that begins now.
    """

    wallet: str
    subject: str
    currency: str
    wallet_state: WalletState
    customer: str | None
    payment_method: str | None
    policy: Policy | None
    check_at: datetime | None
    balance_nanos: int
    moved_nanos: int
    pending: bool
    last_started: datetime | None
    month: MonthKey
    usage: Usage
    paused_by: str = ""
    paused_at: datetime | None = None
    granted: Sequence[Granted] = ()
    extras: Extras = rules.NO_EXTRAS

    def extras_at(self, begun: datetime) -> Extras:
        """What is in force beyond the caps of the month for a recharge that was begun at an instant, in it or before.

        What ended with an earlier month is over for one that has moved here.
        """
        if self.policy is None:
            return rules.NO_EXTRAS
        since = max(begun, rules.month_start(self.month.end, self.month.zone))
        return in_force(self.granted, self.policy, self.month.key, since)

    def situation(self) -> Situation:
        """As the policy's rule takes it."""
        return Situation(
            balance_nanos=self.balance_nanos,
            month=self.month,
            usage=self.usage,
            pending=self.pending,
            last_started=self.last_started,
            is_open=self.wallet_state is WalletState.OPEN,
            has_card=self.payment_method is not None,
            currency=self.currency,
            extras=self.extras,
        )


async def facts(
    connection: asyncpg.Connection, org: str, wallets: Sequence[str], now: datetime, *, with_policy: bool = False
) -> list[Facts]:
    """Facts of the wallets that exist (with a policy, where asked), sorted by name."""
    rows = await connection.fetch(_FACTS, org, list(wallets), with_policy, now, MAX_AGE)
    return [_facts(row, now) for row in rows]


def _facts(row: asyncpg.Record, now: datetime) -> Facts:
    policy = None if row["enabled"] is None else policy_of(row)
    last = None if row["month"] is None else (row["month"], row["zone"])
    month = rules.month_in_force(last, row["time_zone"], now)
    counts = last is not None and last[0] == month.key
    granted = [_granted(one) for one in row["extras"] or ()]
    return Facts(
        wallet=row["wallet"],
        subject=row["subject"],
        currency=row["currency"],
        wallet_state=WalletState(row["wallet_state"]),
        customer=row["stripe_customer"],
        payment_method=row["payment_method"],
        policy=policy,
        check_at=row["check_at"],
        balance_nanos=row["balance_nanos"],
        moved_nanos=row["moved_nanos"],
        pending=row["pending"],
        last_started=row["last_started"],
        month=month,
        usage=Usage(row["count"], row["month_amount_nanos"]) if counts else Usage(0, 0),
        paused_by=row["paused_by"] or "",
        paused_at=row["paused_at"],
        granted=granted,
        extras=in_force(granted, policy, month.key, now) if policy else rules.NO_EXTRAS,
    )


def _granted(row: asyncpg.Record) -> Granted:
    month, count, nanos, until, used_count, used_nanos, now_count, now_nanos, cap_count, cap_nanos = row
    used_then, used = Usage(used_count, used_nanos), Usage(now_count, now_nanos)
    return Granted(month, count, nanos, until, used_then, used, cap_count, cap_nanos)


def policy_of(row: asyncpg.Record) -> Policy:
    """The policy in a row of the policies' columns."""
    predictive = None
    if row["hours_ahead"] is not None:
        predictive = Predictive(row["hours_ahead"], row["quantile_percent"], row["lead_time"])
    return Policy(
        row["enabled"],
        row["threshold_nanos"],
        row["amount_nanos"],
        row["max_count"],
        row["max_amount_nanos"],
        timedelta(microseconds=row["cooldown_us"]),
        row["paused_reason"],
        target_nanos=row["target_nanos"],
        min_nanos=row["min_nanos"],
        max_nanos=row["max_nanos"],
        predictive=predictive,
    )


async def evaluate(connection: asyncpg.Connection, org: str, wallets: Sequence[str], now: datetime) -> None:
    """Starts the recharges that are due, in the caller's transaction.

    The caller holds the locks of the wallets' rows and has written their accounts. It is called wherever a balance
    falls or a block ends; what it decides depends on the state alone, so calling it once more changes nothing.

    Args:
        connection: In a transaction.
        org: The organisation's bare id.
        wallets: Full names; those without a policy cost nothing but their look-up.
        now: PostgreSQL's clock, read after the locks.
    """
    for known in await facts(connection, org, wallets, now, with_policy=True):
        assert known.policy is not None, "only wallets with a policy were asked for"
        decision = rules.should_recharge(known.policy, known.situation(), now)
        if isinstance(decision, Start):
            await _start(connection, known, decision, now)
        else:
            await _note_block(connection, org, known, decision, now)


async def evaluate_low(connection: asyncpg.Connection, wallets: Sequence[tuple[str, str]], now: datetime) -> None:
    """`evaluate` for wallets of many organisations, as (org, name): one look finds those that it may matter to."""
    rows = await connection.fetch(_LOW, [org for org, _ in wallets], [name for _, name in wallets])
    low: dict[str, list[str]] = {}
    for org, wallet in sorted((row[0], row[1]) for row in rows):
        low.setdefault(org, []).append(wallet)
    for org, names in low.items():
        await evaluate(connection, org, names, now)


async def start_by_forecast(
    connection: asyncpg.Connection, org: str, known: Facts, forecast: Forecast, now: datetime
) -> str | Blocked:
    """Starts a recharge that a forecast asks for, or says what stands in the way; returns the recharge's name.

    Args:
        connection: In a transaction that holds the lock of the wallet's row.
        org: The organisation's bare id.
        known: Read under that lock; its policy goes by forecast.
        forecast: Of the policy's quantile.
        now: PostgreSQL's clock, read after the lock.
    """
    assert known.policy is not None, "a forecast is a policy's"
    decision = rules.should_recharge(known.policy, known.situation(), now, forecast)
    if isinstance(decision, Start):
        return await _start(connection, known, decision, now, forecast)
    await _note_block(connection, org, known, decision, now)
    return decision


async def _start(
    connection: asyncpg.Connection, known: Facts, start: Start, now: datetime, forecast: Forecast | None = None
) -> str:
    assert known.policy is not None, "a start needs a policy"
    org = subjects.parse_resource(known.wallet, "wallets")[0].org
    await reviews.end_open(connection, org, known.wallet, ROOM_AGAIN, now)
    await months.lock_month(connection, org, known.wallet, known.month)
    number = await months.hold(
        *(connection, org, known.wallet, known.month.key, start.amount_nanos),
        policy=known.policy,
        extras=known.extras,
        new=True,
    )
    name = recharge_name(known.wallet, known.month.key, number)
    reason = _reason(known, known.policy, forecast)
    await connection.execute(
        _START,
        org,
        name,
        known.wallet,
        known.currency,
        start.amount_nanos,
        money.to_minor_units(start.amount_nanos, known.currency),
        known.month.key,
        number,
        reason,
        now,
        now + NO_PROGRESS,
        *(astuple(forecast) if forecast is not None else [None] * len(fields(Forecast))),
    )
    about = start_message(known.wallet, start.amount_nanos, known.currency, reason, now)
    await outbox.put(connection, [OutboxRow(org, TOPIC_START, name, about)])
    return name


def _reason(known: Facts, policy: Policy, forecast: Forecast | None) -> str:
    balance = money.format_nanos(known.balance_nanos, known.currency)
    if forecast is None:
        what = "threshold" if policy.predictive is None else "floor"
        level = money.format_nanos(policy.threshold_nanos, known.currency)
        return f"the balance of {balance} is below the {what} of {level}"
    cover = money.format_nanos(forecast.cover_nanos, known.currency)
    within = f"within {forecast.hours_ahead} h (p{forecast.quantile_percent})"
    if forecast.cover_nanos > forecast.spend_nanos:
        within = "while a recharge is on its way, as much as ever was and half as much again,"
    ends = f", which is used up by {forecast.depletes_at:%Y-%m-%d %H:%M} UTC" if forecast.depletes_at else ""
    leave = f"; {money.format_nanos(forecast.floor_nanos, known.currency)} must be left" if forecast.floor_nanos else ""
    return f"{cover} may be spent {within} of the balance of {balance}{ends}{leave}"


def start_message(wallet: str, amount_nanos: int, currency: str, reason: str, created_at: datetime) -> bytes:
    """What the outbox row that starts a workflow says of the recharge, for people."""
    about = {
        "wallet": wallet,
        "amount": money.format_nanos(amount_nanos, currency),
        "reason": reason,
        "created_at": created_at.isoformat(),
    }
    return json.dumps(about).encode()


async def _note_block(connection: asyncpg.Connection, org: str, known: Facts, blocked: Blocked, now: datetime) -> None:
    if blocked.recheck_at is not None and known.check_at is not None and blocked.recheck_at < known.check_at:
        await connection.execute(_RECHECK, org, known.wallet, blocked.recheck_at)
    if blocked.why in CAPS:
        assert known.policy is not None, "a cap is a policy's"
        charge_nanos = known.policy.charge_nanos(known.balance_nanos, known.currency)
        await alert_cap(connection, org, known, blocked.why, charge_nanos=charge_nanos, now=now)


async def alert_cap(
    connection: asyncpg.Connection, org: str, known: Facts, cap: Block, *, charge_nanos: int, now: datetime
) -> None:
    """Tells a human that a cap stopped a recharge, and has somebody decide whether more is allowed.

    Once per wallet, month and cap, and again once what is in force has changed.
    """
    if not await months.alerted(connection, org, known.wallet, known.month, cap):
        return
    assert known.policy is not None, "a cap is a policy's"
    review = await reviews.start(
        *(connection, org, known.wallet, known.month),
        cap=cap,
        charge_nanos=charge_nanos,
        currency=known.currency,
        now=now,
    )
    await alert(
        connection,
        org,
        known.wallet,
        {
            "kind": "RECHARGE_CAP_REACHED",
            "wallet": known.wallet,
            "subject": known.subject,
            "cap": cap.value,
            "month": known.month.key,
            "month_end": known.month.end.isoformat(),
            "count": known.usage.count,
            "amount_nanos": known.usage.amount_nanos,
            "max_count": known.policy.max_count,
            "max_amount_nanos": known.policy.max_amount_nanos,
            "extra_count": known.extras.count,
            "extra_amount_nanos": known.extras.amount_nanos,
            "charge_nanos": charge_nanos,
            "balance_nanos": known.balance_nanos,
            "currency_code": known.currency,
            "review": review,
        },
    )


async def alert(connection: asyncpg.Connection, org: str, about: str, message: dict[str, object]) -> None:
    """Writes one message for a human."""
    payload = json.dumps(message, sort_keys=True).encode()
    await outbox.put(connection, [OutboxRow(org, TOPIC_ALERT, about, payload)])


async def take_due(connection: asyncpg.Connection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """(org, wallet) of policies that the sweep should look at; should that fail, each comes back a little later."""
    return [(row["org"], row["wallet"]) for row in await connection.fetch(_DUE, now, limit, _DUE_AGAIN)]


async def swept(connection: asyncpg.Connection, org: str, wallet: str, now: datetime) -> None:
    """Says that a policy was looked at; called before the evaluation, which may bring the next look forward."""
    await connection.execute(_SWEPT, org, wallet, now + SWEEP_EVERY)


async def put(
    connection: asyncpg.Connection, org: str, wallet: str, policy: Policy, now: datetime, *, resume: bool, by: str
) -> None:
    """Stores a policy. A pause stays unless it is ended by `resume` or replaced by another reason of `by`'s."""
    predictive = policy.predictive
    await connection.execute(
        _PUT,
        org,
        wallet,
        policy.enabled,
        policy.threshold_nanos,
        policy.amount_nanos,
        policy.max_count,
        policy.max_amount_nanos,
        policy.cooldown // timedelta(microseconds=1),
        policy.paused_reason,
        now + SWEEP_EVERY,
        now,
        policy.target_nanos,
        policy.min_nanos,
        policy.max_nanos,
        *((predictive.hours_ahead, predictive.quantile_percent) if predictive else (None, None)),
        predictive is not None and predictive.lead_time,
        by,
        resume,
    )


async def pause(connection: asyncpg.Connection, org: str, wallet: str, reason: str, now: datetime) -> None:
    """Pauses a policy after a failure, so that it does not start the same again at once."""
    await connection.execute(_PAUSE, org, wallet, reason[: rules.MAX_REASON_CHARS], now)


async def end_failure_pause(connection: asyncpg.Connection, org: str, wallet: str) -> None:
    """Ends a pause that a failed recharge made; one that a human made stays."""
    await connection.execute(_UNPAUSE, org, wallet)


async def set_payment_method(
    connection: asyncpg.Connection, org: str, wallet: str, customer: str, payment_method: str
) -> None:
    """Puts a payment method on a locked wallet."""
    await connection.execute(_SET_METHOD, org, wallet, customer, payment_method)
