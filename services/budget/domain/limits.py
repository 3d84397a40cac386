"""The limit in force in a window: the definition's, what is carried over, and temporary raises."""

from collections.abc import Iterable, Sequence
from typing import Final

from services.budget.domain.budgets import AMOUNT_MAX, Budget, Raise
from services.budget.domain.model import Counter
from services.kit.errors import conflict, invalid

LASTING_MAX: Final = 32
"""The most raises of one budget that count at once."""
REMEMBERED_MAX: Final = 200
"""The most raises of one budget that may still matter: those of the last 200 days, ended or not."""
_LONGEST_US: Final = 366 * 86_400 * 1_000_000


def check_grant(budget: Budget, amount: int, until_us: int, now_us: int) -> None:
    """Refuses a raise of a budget that is no raise, lasts too long, or is one too many.

    Raises:
        PurseError: The field at fault, or TOO_MANY_OVERRIDES.
    """
    lasting = [one for one in budget.raises if now_us < one.until_us]
    most = AMOUNT_MAX - budget.limit - sum(one.amount for one in lasting) - (budget.rollover_cap or 0)
    if not 1 <= amount <= max(1, most):
        raise invalid("amount", f"is {amount}; it must be 1 to {max(1, most)}", "AMOUNT_OUT_OF_RANGE")
    if not now_us < until_us <= now_us + _LONGEST_US:
        raise invalid("end_time", "must lie in the future, at most 366 days from now")
    if len(lasting) >= LASTING_MAX:
        raise conflict(
            "TOO_MANY_OVERRIDES",
            f"{budget.name} has {len(lasting)} overrides that count, which is the limit; raise its limit instead",
        )
    if len(budget.raises) >= REMEMBERED_MAX:
        raise conflict(
            "TOO_MANY_OVERRIDES",
            f"{budget.name} had {len(budget.raises)} overrides in 200 days, which is the limit; raise its own",
        )


def raised(raises: Iterable[Raise], start_us: int, end_us: int, at_us: int) -> tuple[int, int, int]:
    """What raises add to a window, and from when until when exactly that holds.

    A window that is over stays as it was at its end, one to come is as it will be at its start.

    Args:
        raises: Of the budget.
        start_us: When the window starts.
        end_us: When it ends.
        at_us: The time.
    """
    at_us = max(start_us, min(at_us, end_us - 1))
    amount, from_us, until_us = 0, start_us, end_us
    for one in raises:
        if one.from_us <= at_us < one.until_us:
            amount += one.amount
        for edge_us in (one.from_us, one.until_us):
            if edge_us <= at_us:
                from_us = max(from_us, edge_us)
            else:
                until_us = min(until_us, edge_us)
    return min(amount, AMOUNT_MAX), from_us, until_us


def has_fallen(raises: Iterable[Raise], start_us: int, at_us: int) -> bool:
    """Whether a raise of the window has ended since it started."""
    return any(start_us < one.until_us <= at_us for one in raises)


def remaining(raises: Sequence[Raise], room_before: int) -> list[int]:
    """What is left of each raise that counts, in the order given; the earliest to end is used first.

    Args:
        raises: Those that count now.
        room_before: What the limit without them leaves; below 0 is what raises are used for.
    """
    used = max(0, -room_before)
    left = [0] * len(raises)
    for index in sorted(range(len(raises)), key=lambda i: (raises[i].until_us, raises[i].from_us, i)):
        taken = min(used, raises[index].amount)
        used -= taken
        left[index] = raises[index].amount - taken
    return left


def carry_over(before: Counter, after: Counter) -> None:
    """Computes what a window was carried anew after the one before has changed."""
    carry = after.carry
    if carry is None:
        return
    amount = carry.amount(before.spent + before.reserved)
    if amount == after.carried:
        return
    after.rises += amount > after.carried
    after.lowered = after.lowered or amount < after.carried
    after.carried = amount
    after.carry_changed = True
    after.set_limit()
