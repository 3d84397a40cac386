"""What may be carved out of a budget: base limits of equal dimension, currency, window and selector."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from services.budget.domain.budgets import AMOUNT_MAX, Budget, OverAllocation
from services.kit.errors import PurseError, conflict, invalid
from services.kit.subject import Subject

ALLOCATIONS_MAX: Final = 100
"""The most allocations of one request."""


class Share(NamedTuple):
    """What one budget is to have."""

    subject: Subject
    budget_id: str
    amount: int

    @property
    def name(self) -> str:
        """The budget's."""
        return f"{self.subject.name}/budgets/{self.budget_id}"


class Held(NamedTuple):
    """A budget that may be allocated to, and what its running window has used and holds."""

    budget: Budget
    used: int


def check_shares(parent: Subject, shares: Sequence[Share]) -> None:
    """Refuses shares that no state of the books would make right."""
    if not 1 <= len(shares) <= ALLOCATIONS_MAX:
        raise invalid("allocations", f"are {len(shares)}; send 1 to {ALLOCATIONS_MAX} at once")
    if len({share.name for share in shares}) < len(shares):
        raise invalid("allocations", "name a budget twice; give each its one amount")
    for share in shares:
        if share.subject.name == parent.name or not share.subject.is_within(parent):
            raise invalid(
                "allocations.subject", f"{share.subject.name} does not lie below {parent.name}, which allocates"
            )
        if not 0 <= share.amount <= AMOUNT_MAX:
            raise invalid(
                "allocations.amount", f"is {share.amount}; it must be 0 to {AMOUNT_MAX}", "AMOUNT_OUT_OF_RANGE"
            )


def shared(parent: Budget, share: Share, held: Held | None, now_us: int) -> Budget:
    """The budget that a share makes or changes; number 0: a new one.

    Raises:
        PurseError: The budget that is there cannot be allocated to, or has used more than it is to have.
    """
    if held is None:
        return replace(
            parent,
            no=0,
            subject=share.subject.name,
            id=share.budget_id,
            display_name="",
            limit=share.amount,
            generation=1,
            revision=1,
            created_us=now_us,
            updated_us=now_us,
            from_us=now_us,
            rollover_cap=None,
            allocated_from=parent.name,
            over_allocation=OverAllocation.BLOCK,
            raises=(),
        )
    child = held.budget
    if child.allocated_from not in ("", parent.name):
        raise conflict(
            "ALLOCATED_ELSEWHERE",
            f"{child.name} is allocated out of {child.allocated_from}; delete it, or allocate another id",
            field="allocations.budget_id",
            budget=child.name,
            allocated_from=child.allocated_from,
        )
    if unlike := _unlike(parent, child):
        raise conflict(
            "ALLOCATION_MISMATCH",
            f"{child.name} differs from {parent.name} in its {unlike}, so it cannot be a part of it; use another id",
            field="allocations.budget_id",
            budget=child.name,
        )
    if share.amount < child.limit and share.amount < held.used:
        raise conflict(
            "ALLOCATION_IN_USE",
            f"{child.name} has used and holds {held.used} in its window; it can be lowered to that, not {share.amount}",
            field="allocations.amount",
            budget=child.name,
            used=str(held.used),
        )
    return replace(
        child,
        limit=share.amount,
        allocated_from=parent.name,
        generation=child.generation + (share.amount > child.limit),
        revision=child.revision + 1,
        updated_us=now_us,
    )


def _unlike(parent: Budget, child: Budget) -> str:
    for words, ours, theirs in (
        ("dimension", parent.dimension, child.dimension),
        ("currency", parent.currency, child.currency),
        ("window", parent.window, child.window),
        ("selector", parent.selector, child.selector),
    ):
        if ours != theirs:
            return words
    return ""


def over(parent: Budget, allocated: int) -> str:
    """Whether more is allocated than there is: what to tell people; empty: there is enough.

    Raises:
        PurseError: OVER_ALLOCATED, where the budget blocks that.
    """
    if allocated <= parent.limit:
        return ""
    words = f"{allocated} would be allocated out of {parent.name}, which has {parent.limit}"
    if parent.over_allocation is OverAllocation.BLOCK:
        raise conflict(
            "OVER_ALLOCATED",
            f"{words}: {allocated - parent.limit} too much; lower other allocations or raise its limit",
            field="amount",
            budget=parent.name,
            limit=str(parent.limit),
            allocated=str(allocated),
        )
    return words


def check_change(before: Budget, after: Budget, allocated: int | None, siblings: Mapping[Budget, int]) -> list[str]:
    """Whether an update leaves the allocations of and out of a budget right; what to tell people.

    Args:
        before: The definition as it was.
        after: As it becomes.
        allocated: What is allocated out of it; None: nothing ever was.
        siblings: The budget it was allocated out of, with what others have of that; empty: none.

    Raises:
        PurseError: OVER_ALLOCATED, or ALLOCATION_FIXED.
    """
    told = []
    if (allocated is not None or siblings) and _unlike(before, after):
        raise conflict(
            "ALLOCATION_FIXED",
            f"{before.name} is part of an allocation, and all parts have one {_unlike(before, after)}; "
            "delete the allocated budgets and allocate anew",
            field="update_mask",
        )
    tighter = after.limit < before.limit or after.over_allocation < before.over_allocation
    if allocated is not None and tighter:
        told.append(over(after, allocated))
    for parent, others in siblings.items():
        if after.limit > before.limit:
            told.append(over(parent, others + after.limit))
    return [words for words in told if words]


def refuse_delete(budget: Budget, children: int) -> PurseError | None:
    """Why a budget that others were carved out of stays; None: none were."""
    if not children:
        return None
    return conflict(
        "HAS_ALLOCATIONS",
        f"{children} budgets are allocated out of {budget.name}; delete them first",
        budgets=str(children),
    )
