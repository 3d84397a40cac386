"""Whether a wallet recharges itself now: the policy, the month whose caps count, and the decision by level.

Nothing here knows a clock or a database: `now` and what is stored are passed in.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.kit import money, windows

MAX_COUNT: Final = 1_000
"""The most recharges a month that a policy can allow."""
MAX_CHARGE_MINOR: Final = 99_999_999
"""The largest single charge that Stripe takes, in minor units."""
MAX_COOLDOWN: Final = timedelta(days=366)
"""The longest cooldown."""
MAX_REASON_CHARS: Final = 256
"""The longest reason of a pause."""


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
class Draft:
    """A policy as asked for, before it is checked. None: not given."""

    enabled: bool
    threshold: Amount | None
    amount: Amount | None
    max_count: int
    max_amount: Amount | None
    cooldown: timedelta
    paused_reason: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """When and by how much a wallet recharges itself.

    Attributes:
        enabled: Whether it is in force.
        threshold_nanos: It recharges while the balance is below this.
        amount_nanos: What it charges; a multiple of what the currency can pay.
        max_count: The most recharges a month.
        max_amount_nanos: The most money a month; None where only the count limits.
        cooldown: The shortest time between the starts of two recharges.
        paused_reason: Why it is paused; empty where it is not.
    """

    enabled: bool
    threshold_nanos: int
    amount_nanos: int
    max_count: int
    max_amount_nanos: int | None
    cooldown: timedelta
    paused_reason: str = ""


def check(draft: Draft, currency: str) -> Policy:
    """The policy that a draft asks for, with the amount rounded up to what can be charged.

    Raises:
        CurrencyError: An amount is in another currency than the wallet.
        PolicyError: A part is missing, out of range, or makes a policy that can never fire.
    """
    threshold_nanos = _required(draft.threshold, "threshold", currency)
    if threshold_nanos <= 0:
        raise PolicyError("threshold", "must be above 0: an empty wallet would never recharge")
    amount_nanos = _charge(_required(draft.amount, "amount", currency), currency)
    if not 1 <= draft.max_count <= MAX_COUNT:
        raise PolicyError(
            "max_count_per_month",
            f"is {draft.max_count}; allow 1 to {MAX_COUNT} recharges a month, or set enabled to false",
        )
    max_amount_nanos = None
    if draft.max_amount is not None:
        max_amount_nanos = _required(draft.max_amount, "max_amount_per_month", currency)
        if max_amount_nanos < amount_nanos:
            raise PolicyError(
                "max_amount_per_month",
                f"of {money.format_nanos(max_amount_nanos, currency)} is below one charge of "
                f"{money.format_nanos(amount_nanos, currency)}, so the policy could never fire",
            )
    if not timedelta(0) <= draft.cooldown <= MAX_COOLDOWN:
        raise PolicyError("cooldown", f"must be from 0 to {MAX_COOLDOWN.days} days")
    return Policy(
        draft.enabled,
        threshold_nanos,
        amount_nanos,
        draft.max_count,
        max_amount_nanos,
        draft.cooldown,
        draft.paused_reason,
    )


def _required(amount: Amount | None, field: str, currency: str) -> int:
    if amount is None:
        raise PolicyError(field, "is required")
    if amount.currency != currency:
        raise CurrencyError(f"{field}.currency_code", f"is {amount.currency[:16]!r}; the wallet is in {currency}")
    return amount.nanos


def _charge(asked_nanos: int, currency: str) -> int:
    """The charge to make, a multiple of the currency's increment and within what Stripe takes at once."""
    if asked_nanos <= 0:
        raise PolicyError("amount", "must be above 0: a recharge of nothing refills nothing")
    try:
        amount_nanos = money.round_charge_up(asked_nanos, currency)
        amount_minor = money.check_charge(amount_nanos, currency)
    except money.MoneyError as error:
        raise PolicyError("amount", str(error)) from None
    if amount_minor > MAX_CHARGE_MINOR:
        most = money.format_nanos(money.from_minor_units(MAX_CHARGE_MINOR, currency), currency)
        raise PolicyError("amount", f"is more than one charge can take; charge at most {most}, more often")
    return amount_nanos


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


class Block(StrEnum):
    """Why no recharge starts."""

    DISABLED = "DISABLED"
    PAUSED = "PAUSED"
    ENOUGH = "ENOUGH"
    PENDING = "PENDING"
    NOT_OPEN = "NOT_OPEN"
    NO_CARD = "NO_CARD"
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
    """

    balance_nanos: int
    month: MonthKey
    usage: Usage
    pending: bool
    last_started: datetime | None
    is_open: bool
    has_card: bool


def should_recharge(policy: Policy, situation: Situation, now: datetime) -> Start | Blocked:
    """Whether a recharge starts now: by level, so that it does not matter which event asks."""
    blocks = (
        (not policy.enabled, Block.DISABLED),
        (situation.balance_nanos >= policy.threshold_nanos, Block.ENOUGH),
        (bool(policy.paused_reason), Block.PAUSED),
        (situation.pending, Block.PENDING),
        (not situation.is_open, Block.NOT_OPEN),
        (not situation.has_card, Block.NO_CARD),
    )
    for holds, block in blocks:
        if holds:
            return Blocked(block)
    if situation.last_started is not None and now < situation.last_started + policy.cooldown:
        return Blocked(Block.COOLDOWN, situation.last_started + policy.cooldown)
    full = over_cap(policy, situation.usage, policy.amount_nanos)
    if full is not None:
        return Blocked(full, situation.month.end)
    return Start(policy.amount_nanos)


def over_cap(policy: Policy, usage: Usage, amount_nanos: int) -> Block | None:
    """Which cap one more recharge of this amount would pass; None where it fits. A part is never charged."""
    if usage.count + 1 > policy.max_count:
        return Block.COUNT_CAP
    if policy.max_amount_nanos is not None and usage.amount_nanos + amount_nanos > policy.max_amount_nanos:
        return Block.AMOUNT_CAP
    return None
