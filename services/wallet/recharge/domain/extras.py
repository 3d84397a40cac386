"""What was allowed beyond a month's caps, and how much of it is in force at an instant."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.kit.money import MAX_NANOS
from services.wallet.recharge.domain.policy import Extras, MonthKey, Policy, Usage

MAX_COUNT: Final = 1_000
"""The most recharges that are allowed beyond the cap of one month."""
MAX_A_MONTH: Final = 100
"""The most extras of one month."""
MAX_REASON_CHARS: Final = 256
"""The longest reason of an extra or a decision."""


class ExtraError(ValueError):
    """What is asked for cannot be allowed. `field` names the part at fault, the text says what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Granted:
    """One extra, with how its month stands.

    Attributes:
        month: The key of the month that it was allowed in.
        count: Recharges more.
        amount_nanos: Money more.
        until: Recharges begun before it count against this.
        used_then: What counted in that month when it was allowed.
        used: What counts there now.
        cap_count: The count cap when something was last let in there.
        cap_nanos: The amount cap then; None: only the count limited.
    """

    month: str
    count: int
    amount_nanos: int
    until: datetime
    used_then: Usage
    used: Usage
    cap_count: int
    cap_nanos: int | None


def in_force(granted: Sequence[Granted], policy: Policy, month: str, at: datetime) -> Extras:
    """What is in force beyond a policy's caps in a month, for a recharge that begins at an instant.

    An extra is so much more than the caps, and than what counted when it was allowed: it lets in what it says even
    where the caps were lowered, or where what counted had come in by an extra that is over. One that lasts past its
    month's end counts on with what the month left of it, so it lets in no more than it says, in whichever month.

    Args:
        granted: The wallet's extras, oldest first.
        policy: Whose caps.
        month: The key of the month that the recharge counts in.
        at: When it begins.
    """
    lasting = [one for one in granted if one.until > at and one.month <= month]
    own = [one for one in lasting if one.month == month]
    before: dict[str, list[Granted]] = {}
    for one in lasting:
        if one.month < month:
            before.setdefault(one.month, []).append(one)
    count = _beyond(
        policy.max_count,
        sum(_left([one.count for one in some], some[0].used.count, _count_base(some[0])) for some in before.values()),
        [(one.used_then.count, one.count) for one in own],
    )
    if policy.max_amount_nanos is None:
        return Extras(count, 0)
    nanos = _beyond(
        policy.max_amount_nanos,
        sum(
            _left([one.amount_nanos for one in some], some[0].used.amount_nanos, _nanos_base(some[0]))
            for some in before.values()
        ),
        [(one.used_then.amount_nanos, one.amount_nanos) for one in own],
    )
    return Extras(count, min(nanos, MAX_NANOS))


def _beyond(cap: int, carried: int, own: Sequence[tuple[int, int]]) -> int:
    """By how much the highest of what the month's extras reach, as (used then, more), lies above the cap."""
    reached, since = cap + carried + sum(more for _, more in own), 0
    for used, more in reversed(own):
        since += more
        reached = max(reached, used + since)
    return reached - cap


def _left(more: Sequence[int], used: int, base: int) -> int:
    """What a month left of its extras, whatever it used beyond its base being of those that last."""
    return max(0, sum(more) - max(0, used - base))


def _count_base(first: Granted) -> int:
    return max(first.cap_count, first.used_then.count)


def _nanos_base(first: Granted) -> int:
    """Without a cap nothing was used of what was allowed beyond one."""
    return first.used.amount_nanos if first.cap_nanos is None else max(first.cap_nanos, first.used_then.amount_nanos)


def check(
    granted: Sequence[Granted],
    *,
    count: int,
    amount_nanos: int,
    until: datetime | None,
    month: MonthKey,
    last_end: datetime,
    now: datetime,
) -> datetime:
    """Until when an extra that is asked for lasts.

    Args:
        granted: The wallet's extras, of which those of the month count against the limits.
        count: Recharges beyond the count cap.
        amount_nanos: Money beyond the amount cap.
        until: As asked for; None: to the end of the month.
        month: The month in force.
        last_end: The end of the month that follows it.
        now: The deciding clock.

    Raises:
        ExtraError: Nothing is asked for, or too much, or for a time that is not.
    """
    if not 0 <= count <= MAX_COUNT:
        raise ExtraError("extra_count", f"is {count}; allow 1 to {MAX_COUNT} recharges more")
    if amount_nanos < 0:
        raise ExtraError("extra_amount", "must be above 0: money beyond the cap")
    if not count and not amount_nanos:
        raise ExtraError("extra_count", "is 0 and so is extra_amount: allow some recharges, some money, or both")
    until = month.end if until is None else until
    if not now < until <= last_end:
        raise ExtraError("until_time", f"must lie ahead, at most at the end of the next month, {last_end.isoformat()}")
    same = [one for one in granted if one.month == month.key]
    if len(same) >= MAX_A_MONTH:
        raise ExtraError(
            "wallet", f"has {MAX_A_MONTH} extras in {month.key}, which is the limit; raise the policy's caps"
        )
    if sum(one.count for one in same) + count > MAX_COUNT:
        raise ExtraError("extra_count", f"would make more than {MAX_COUNT} recharges beyond the cap of {month.key}")
    if sum(one.amount_nanos for one in same) + amount_nanos > MAX_NANOS:
        raise ExtraError("extra_amount", f"would make more beyond the cap of {month.key} than an amount can be")
    return until
