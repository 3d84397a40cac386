"""What a budget is: its definition, what it counts, and the keys of its windows.

Amounts are integers: nano-units for COST, counts otherwise. Times are whole microseconds since 1970 (`_us`).
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from services.budget.domain.pauses import ResumeMode
from services.kit.windows import LIFETIME_KEY, WindowSpec

AMOUNT_MAX: Final = 2**63 - 1
"""The largest amount, spent or held: that of a signed 64-bit integer."""
FOREVER_US: Final = 2**62
"""Later than any instant."""


def countable(amount: int) -> int:
    """The amount, or where it is past what can be counted the nearest that is not."""
    return max(-AMOUNT_MAX, min(AMOUNT_MAX, amount))


class Dimension(IntEnum):
    """What a budget counts; the numbers of the contract, and the places in an item's amounts."""

    COST = 1
    TOKENS = 2
    INPUT_TOKENS = 3
    OUTPUT_TOKENS = 4
    REQUESTS = 5


class OnExceed(IntEnum):
    """What happens when a spend does not fit; the numbers of the contract."""

    BLOCK = 1
    WARN = 2
    ALERT = 3
    PAUSE = 4


BLOCKING: Final = frozenset({OnExceed.BLOCK, OnExceed.PAUSE})


class OverAllocation(IntEnum):
    """What happens when more than a budget's limit would be allocated out of it; the numbers of the contract."""

    BLOCK = 1
    ALERT = 2


@dataclass(slots=True, frozen=True)
class Selector:
    """Which calls a budget counts: every list that is not empty must match. Names are lower case."""

    providers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


class Raise(NamedTuple):
    """A temporary raise of a limit: `from_us` ≤ instant < `until_us`."""

    amount: int
    from_us: int
    until_us: int


_LIMITS_MAX: Final = 64
"""The most limits in force, and the most windows' raises, remembered with a definition."""


@dataclass(slots=True, eq=False)
class Budget:
    """One budget's definition, as the policy cache keeps it.

    Attributes:
        no: Its number in the database; another after a change of the window.
        name: `{subject}/budgets/{id}`.
        limit: The most a window may use; in a copy made by `with_limit` what is carried and raises besides.
        thresholds: Percentages of the limit that alert, ascending.
        selector: Which calls count; None for all.
        generation: Grows when the limit rises.
        revision: Grows with every change; the etag.
        from_us: Use before it is not counted.
        until_us: Use from then on is not counted.
        rollover_cap: The most that is carried into a window; None: nothing ever was, 0: nothing any more.
        allocated_from: Name of the budget that it was carved from; empty: none.
        over_allocation: What happens when more than its limit would be allocated out of it.
        raises: Temporary raises that may still matter.
        resume: How pauses that it makes end.
    """

    no: int
    org: str
    subject: str
    id: str
    display_name: str
    dimension: Dimension
    currency: str
    limit: int
    window: WindowSpec
    on_exceed: OnExceed
    thresholds: tuple[int, ...]
    selector: Selector | None
    generation: int
    revision: int
    created_us: int
    updated_us: int
    from_us: int
    until_us: int = FOREVER_US
    rollover_cap: int | None = None
    allocated_from: str = ""
    over_allocation: OverAllocation = OverAllocation.BLOCK
    raises: tuple[Raise, ...] = ()
    resume: ResumeMode = ResumeMode.MANUAL
    name: str = field(init=False)
    _with_limits: dict[tuple[int, int], "Budget"] = field(init=False, repr=False)
    _touching: dict[tuple[int, int], tuple[Raise, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.name = f"{self.subject}/budgets/{self.id}"
        self._with_limits = {}
        self._touching = {}

    def touching(self, start_us: int, end_us: int) -> tuple[Raise, ...]:
        """The raises that touch a window, which are all that matter to it."""
        found = self._touching.get((start_us, end_us))
        if found is None:
            if len(self._touching) >= _LIMITS_MAX:
                self._touching.clear()
            found = tuple(one for one in self.raises if one.from_us < end_us and start_us < one.until_us)
            self._touching[(start_us, end_us)] = found
        return found

    def with_limit(self, limit: int, generation: int) -> "Budget":
        """The definition with the limit in force in one window: always the same copy, itself for its own limit."""
        if limit == self.limit and generation == self.generation:
            return self
        key = (limit, generation)
        found = self._with_limits.get(key)
        if found is None:
            if len(self._with_limits) >= _LIMITS_MAX:
                self._with_limits.clear()
            found = self._with_limits[key] = replace(self, limit=limit, generation=generation)
        return found


LIFETIME_NUMBER: Final = 0


@lru_cache(maxsize=4096)
def key_number(key: str) -> int:
    """A window's key as the database has it: 2026-11-01 is 20261101, and LIFETIME 0."""
    return LIFETIME_NUMBER if key == LIFETIME_KEY else int(key.replace("-", ""))


@lru_cache(maxsize=4096)
def key_text(number: int) -> str:
    """The inverse of `key_number`."""
    if number == LIFETIME_NUMBER:
        return LIFETIME_KEY
    digits = f"{number:08d}"
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
