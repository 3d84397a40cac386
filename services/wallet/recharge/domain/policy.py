"""Whether a wallet recharges itself now: the policy, the month whose caps count, and the decision by level.

Nothing here knows a clock or a database: `now` and what is stored are passed in.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.kit import money, prediction, windows

MAX_COUNT: Final = 1_000
"""The most recharges a month that a policy can allow."""
MAX_CHARGE_MINOR: Final = 99_999_999
"""The largest single charge that Stripe takes, in minor units."""
MAX_COOLDOWN: Final = timedelta(days=366)
"""The longest cooldown."""
MAX_REASON_CHARS: Final = 256
"""The longest reason of a pause."""
MAX_HOURS_AHEAD: Final = 720
"""How far a forecast may look."""
QUANTILES: Final = frozenset({50, 90, 99})
"""Quantiles of a forecast, in percent."""
FORECAST_LIFE: Final = timedelta(hours=1)
"""How old a forecast may be that starts a recharge."""


class PolicyError(ValueError):
    """A policy can never work as written. `field` names the part at fault, the text says what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class CurrencyError(PolicyError):
    """An amount is not in the wallet's currency."""


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount as somebody wrote it."""

    currency: str
    nanos: int


@dataclass(frozen=True, slots=True)
class Predictive:
    """What a policy by forecast goes by.

    Attributes:
        hours_ahead: How far it looks.
        quantile_percent: Of the forecast; one of `QUANTILES`.
        lead_time: Whether it looks only as far as a recharge takes, at most `hours_ahead`.
    """

    hours_ahead: int
    quantile_percent: int
    lead_time: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """A policy as asked for, before it is checked. None: not given. By forecast, `threshold` is the floor."""

    enabled: bool
    threshold: Amount | None
    amount: Amount | None
    max_count: int
    max_amount: Amount | None
    cooldown: timedelta
    paused_reason: str = ""
    target: Amount | None = None
    least: Amount | None = None
    most: Amount | None = None
    predictive: Predictive | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """When and by how much a wallet recharges itself.

    Attributes:
        enabled: Whether it is in force.
        threshold_nanos: It recharges while the balance is below this, by forecast too: there it is the floor.
        amount_nanos: What it charges; a multiple of what the currency can pay. None: up to the target.
        max_count: The most recharges a month.
        max_amount_nanos: The most money a month; None where only the count limits.
        cooldown: The shortest time between the starts of two recharges.
        paused_reason: Why it is paused; empty where it is not.
        target_nanos: The balance that it charges up to; None: a fixed amount.
        min_nanos: The least that one recharge charges.
        max_nanos: The most that one charges; None: what Stripe takes at once.
        predictive: None: by threshold.
    """

    enabled: bool
    threshold_nanos: int
    amount_nanos: int | None
    max_count: int
    max_amount_nanos: int | None
    cooldown: timedelta
    paused_reason: str = ""
    target_nanos: int | None = None
    min_nanos: int = 0
    max_nanos: int | None = None
    predictive: Predictive | None = None

    def charge_nanos(self, balance_nanos: int, currency: str) -> int:
        """What a recharge at this balance charges, a multiple of what the currency can pay; 0: nothing is missing."""
        if self.amount_nanos is not None:
            return self.amount_nanos
        assert self.target_nanos is not None, "a policy has an amount or a target"
        if balance_nanos >= self.target_nanos:
            return 0
        most = self.max_nanos or _most(currency)
        missing = min(self.target_nanos - balance_nanos, most)
        return max(money.round_charge_up(missing, currency), self.min_nanos, _least(currency))


@dataclass(frozen=True, slots=True)
class Forecast:
    """Why a recharge is started before the balance is low.

    Attributes:
        spend_nanos: What is spent over the hours ahead at the quantile.
        quantile_percent: One of `QUANTILES`.
        hours_ahead: How far it looks.
        as_of: From when on it is.
        depletes_at: When the balance is used up; None where the forecast does not reach so far.
        balance_nanos: When the recharge was started.
        floor_nanos: What must be left.
        peak_nanos: The most ever spent while a recharge was on its way; 0: the policy does not go by lead time.
    """

    spend_nanos: int
    quantile_percent: int
    hours_ahead: int
    as_of: datetime
    depletes_at: datetime | None = None
    balance_nanos: int = 0
    floor_nanos: int = 0
    peak_nanos: int = 0

    @property
    def cover_nanos(self) -> int:
        """What the balance must exceed, besides what must be left of it."""
        return prediction.to_cover(self.spend_nanos, self.peak_nanos)

    def reaches(self, balance_nanos: int) -> bool:
        """Whether what it says is to be covered leaves no more than what must be left."""
        return balance_nanos <= prediction.due_at(self.floor_nanos, self.cover_nanos)


def check(draft: Draft, currency: str) -> Policy:
    """The policy that a draft asks for, with what is charged rounded to what can be.

    Raises:
        CurrencyError: An amount is in another currency than the wallet.
        PolicyError: A part is missing, out of range, or makes a policy that can never fire.
    """
    threshold_nanos = _threshold(draft, currency)
    min_nanos, max_nanos = _bounds(draft, currency)
    amount_nanos = target_nanos = None
    if (draft.amount is None) == (draft.target is None):
        raise PolicyError("amount", "set exactly one of amount (a fixed charge) and target (charge up to a balance)")
    if draft.target is not None:
        target_nanos, smallest = _target(draft, threshold_nanos, currency)
        smallest = max(min(smallest, max_nanos or smallest), min_nanos, _least(currency))
    else:
        amount_nanos = smallest = _charge(draft.amount, "amount", currency)
        _fits_bounds(amount_nanos, min_nanos, max_nanos, currency)
    if not 1 <= draft.max_count <= MAX_COUNT:
        raise PolicyError(
            "max_count_per_month",
            f"is {draft.max_count}; allow 1 to {MAX_COUNT} recharges a month, or set enabled to false",
        )
    if not timedelta(0) <= draft.cooldown <= MAX_COOLDOWN:
        raise PolicyError("cooldown", f"must be from 0 to {MAX_COOLDOWN.days} days")
    return Policy(
        draft.enabled,
        threshold_nanos,
        amount_nanos,
        draft.max_count,
        _month_cap(draft, smallest, currency),
        draft.cooldown,
        draft.paused_reason,
        target_nanos=target_nanos,
        min_nanos=min_nanos,
        max_nanos=max_nanos,
        predictive=None if draft.predictive is None else _predictive(draft.predictive),
    )


def _threshold(draft: Draft, currency: str) -> int:
    if draft.predictive is None:
        nanos = _required(draft.threshold, "threshold", currency)
        if nanos <= 0:
            raise PolicyError("threshold", "must be above 0: an empty wallet would never recharge")
        return nanos
    nanos = 0 if draft.threshold is None else _required(draft.threshold, "predictive.floor", currency)
    if nanos < 0:
        raise PolicyError("predictive.floor", "must be 0 or more: what must be left of the balance")
    return nanos


def _bounds(draft: Draft, currency: str) -> tuple[int, int | None]:
    """The least and the most of one recharge."""
    least = 0 if draft.least is None else _charge(draft.least, "min_amount", currency)
    if draft.most is None:
        return least, None
    most = _required(draft.most, "max_amount", currency)
    try:
        most = money.round_charge_down(most, currency)
        money.check_charge(most, currency)
    except money.MoneyError as error:
        raise PolicyError("max_amount", str(error)) from None
    if most > _most(currency):
        raise PolicyError(
            "max_amount", f"is more than one charge can take; say at most {_text(_most(currency), currency)}"
        )
    if most < least:
        raise PolicyError(
            "max_amount", f"of {_text(most, currency)} is below min_amount of {_text(least, currency)}; raise it"
        )
    return least, most


def _fits_bounds(amount_nanos: int, least: int, most: int | None, currency: str) -> None:
    if amount_nanos < least:
        raise PolicyError(
            "amount",
            f"of {_text(amount_nanos, currency)} is below min_amount; charge at least {_text(least, currency)}",
        )
    if most is not None and amount_nanos > most:
        raise PolicyError(
            "amount", f"of {_text(amount_nanos, currency)} is above max_amount; charge at most {_text(most, currency)}"
        )


def _target(draft: Draft, threshold_nanos: int, currency: str) -> tuple[int, int]:
    """The target, and the least that is ever missing to it when a recharge starts below the threshold."""
    target_nanos = _required(draft.target, "target", currency)
    if target_nanos <= threshold_nanos:
        what = "threshold" if draft.predictive is None else "predictive.floor"
        raise PolicyError(
            "target",
            f"must be above the {what} of {_text(threshold_nanos, currency)}: nothing would ever be missing",
        )
    # By forecast a recharge may start when hardly anything is missing.
    missing = target_nanos - threshold_nanos if draft.predictive is None else 1
    try:
        return target_nanos, money.round_charge_up(missing, currency)
    except money.MoneyError as error:
        raise PolicyError("target", str(error)) from None


def _month_cap(draft: Draft, smallest: int, currency: str) -> int | None:
    if draft.max_amount is None:
        return None
    nanos = _required(draft.max_amount, "max_amount_per_month", currency)
    if nanos < smallest:
        raise PolicyError(
            "max_amount_per_month",
            f"of {_text(nanos, currency)} is below the smallest charge of {_text(smallest, currency)}, so the policy "
            "could never fire; raise it, or charge less at once",
        )
    return nanos


def _predictive(asked: Predictive) -> Predictive:
    if not 1 <= asked.hours_ahead <= MAX_HOURS_AHEAD:
        raise PolicyError(
            "predictive.predict_hours_ahead", f"is {asked.hours_ahead}; look 1 to {MAX_HOURS_AHEAD} ahead"
        )
    if asked.quantile_percent not in QUANTILES:
        raise PolicyError("predictive.quantile_percent", f"is {asked.quantile_percent}; say 50, 90 or 99")
    return asked


def _required(amount: Amount | None, field: str, currency: str) -> int:
    if amount is None:
        raise PolicyError(field, "is required")
    if amount.currency != currency:
        raise CurrencyError(f"{field}.currency_code", f"is {amount.currency[:16]!r}; the wallet is in {currency}")
    return amount.nanos


def _charge(asked: Amount | None, field: str, currency: str) -> int:
    """The charge to make, a multiple of the currency's increment and within what Stripe takes at once."""
    asked_nanos = _required(asked, field, currency)
    if asked_nanos <= 0:
        raise PolicyError(field, "must be above 0: a recharge of nothing refills nothing")
    try:
        amount_nanos = money.round_charge_up(asked_nanos, currency)
        money.check_charge(amount_nanos, currency)
    except money.MoneyError as error:
        raise PolicyError(field, str(error)) from None
    if amount_nanos > _most(currency):
        most = _text(_most(currency), currency)
        raise PolicyError(field, f"is more than one charge can take; charge at most {most}, more often")
    return amount_nanos


def _least(currency: str) -> int:
    """The least that Stripe charges."""
    return money.from_minor_units(money.currency(currency).minimum_charge_minor, currency)


def _most(currency: str) -> int:
    """The most that Stripe charges at once, as a multiple of the increment and within what an amount can be."""
    found = money.currency(currency)
    steps = min(MAX_CHARGE_MINOR, money.MAX_NANOS // found.minor_nanos) // found.increment_minor
    return steps * found.increment_nanos


def _text(nanos: int, currency: str) -> str:
    return money.format_nanos(nanos, currency)


@dataclass(frozen=True, slots=True)
class MonthKey:
    """A month of a wallet: `2026-11` in a zone, and the instant at which it ends."""

    key: str
    zone: str
    end: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What counts against a month's caps: recharges that are pending or succeeded."""

    count: int
    amount_nanos: int


@dataclass(frozen=True, slots=True)
class Extras:
    """What is in force beyond a month's caps; the amount in nano-units."""

    count: int = 0
    amount_nanos: int = 0


NO_EXTRAS: Final = Extras()


def month_in_force(last: tuple[str, str] | None, zone: str, now: datetime) -> MonthKey:
    """The month that a recharge started now counts in.

    A change of the wallet's zone takes effect with the next month: while the month last used still runs in the
    zone it was opened in, it stays in force.

    Args:
        last: Key and zone of the wallet's latest stored month, if any.
        zone: The wallet's zone today.
        now: When.
    """
    if last is not None and (open_month := _month(last[1], now)).key == last[0]:
        return open_month
    return _month(zone, now)


def _month(zone: str, now: datetime) -> MonthKey:
    window = windows.window_at(windows.WindowSpec(windows.WindowKind.MONTH, zone), windows.unix_us(now))
    return MonthKey(window.key[:7], zone, windows.from_unix_us(window.end_us))


def month_start(end: datetime, zone: str) -> datetime:
    """When the month of a zone begins that ends at an instant."""
    spec = windows.WindowSpec(windows.WindowKind.MONTH, zone)
    return windows.from_unix_us(windows.window_at(spec, windows.unix_us(end) - 1).start_us)


class Block(StrEnum):
    """Why no recharge starts."""

    DISABLED = "DISABLED"
    PAUSED = "PAUSED"
    ENOUGH = "ENOUGH"
    PENDING = "PENDING"
    NOT_OPEN = "NOT_OPEN"
    NO_CARD = "NO_CARD"
    AT_TARGET = "AT_TARGET"
    STALE = "STALE"
    COOLDOWN = "COOLDOWN"
    COUNT_CAP = "COUNT_CAP"
    AMOUNT_CAP = "AMOUNT_CAP"


CAPS: Final = frozenset({Block.COUNT_CAP, Block.AMOUNT_CAP})
"""The blocks that a human is told of."""


@dataclass(frozen=True, slots=True)
class Start:
    """A recharge starts."""

    amount_nanos: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """None starts. `recheck_at`: when the block ends by itself; None where some event ends it."""

    why: Block
    recheck_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of a wallet when its policy is evaluated.

    Attributes:
        balance_nanos: available + escrow − debt.
        month: The month in force.
        usage: What counts in it already.
        pending: Whether a recharge is on its way.
        last_started: When the latest recharge was started, whatever became of it.
        is_open: Whether the wallet is open: neither frozen nor closed.
        has_card: Whether a payment method is on file.
        currency: The wallet's.
        extras: What is in force beyond the caps.
    """

    balance_nanos: int
    month: MonthKey
    usage: Usage
    pending: bool
    last_started: datetime | None
    is_open: bool
    has_card: bool
    currency: str
    extras: Extras = NO_EXTRAS


def should_recharge(
    policy: Policy, situation: Situation, now: datetime, forecast: Forecast | None = None
) -> Start | Blocked:
    """Whether a recharge starts now: by level, so that it does not matter which event asks.

    Args:
        policy: In force or not.
        situation: What is known.
        now: The deciding clock.
        forecast: Of the policy's quantile, where one is the reason.
    """
    blocks = (
        (not policy.enabled, Block.DISABLED),
        (not needed(policy, situation.balance_nanos, forecast), Block.ENOUGH),
        (bool(policy.paused_reason), Block.PAUSED),
        (situation.pending, Block.PENDING),
        (not situation.is_open, Block.NOT_OPEN),
        (not situation.has_card, Block.NO_CARD),
    )
    for holds, block in blocks:
        if holds:
            return Blocked(block)
    last = situation.last_started
    # What was forecast before the latest recharge knows nothing of its money: one forecast starts one at most.
    if forecast is not None and last is not None and forecast.as_of <= last:
        return Blocked(Block.STALE)
    if last is not None and now < last + policy.cooldown:
        return Blocked(Block.COOLDOWN, last + policy.cooldown)
    amount_nanos = policy.charge_nanos(situation.balance_nanos, situation.currency)
    if not amount_nanos:
        return Blocked(Block.AT_TARGET)
    full = over_cap(policy, situation.usage, amount_nanos, situation.extras)
    if full is not None:
        return Blocked(full, situation.month.end)
    return Start(amount_nanos)


def needed(policy: Policy, balance_nanos: int, forecast: Forecast | None) -> bool:
    """Whether the balance is low: below the threshold or the floor, or the forecast reaches it."""
    if balance_nanos < policy.threshold_nanos:
        return True
    return forecast is not None and policy.predictive is not None and forecast.reaches(balance_nanos)


def over_cap(policy: Policy, usage: Usage, amount_nanos: int, extras: Extras = NO_EXTRAS) -> Block | None:
    """Which cap one more recharge of this amount would pass; None where it fits. A part is never charged."""
    if usage.count + 1 > policy.max_count + extras.count:
        return Block.COUNT_CAP
    cap = policy.max_amount_nanos
    if cap is not None and usage.amount_nanos + amount_nanos > cap + extras.amount_nanos:
        return Block.AMOUNT_CAP
    return None
