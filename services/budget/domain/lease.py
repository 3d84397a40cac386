"""The arithmetic of a funding lease: how much to ask for, what to give back, what a capture is made of."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from services.budget.domain.budgets import AMOUNT_MAX
from services.budget.domain.model import WalletState

LINES_MAX: Final = 1000
"""The most lines of one capture; what is left over is the next one's."""
_COMFORT_FACTOR: Final = 64
_SLACK_SHARE: Final = 4


class Account(NamedTuple):
    """A lease's totals, all cumulative but `reserved`; and what the wallet last said.

    Attributes:
        target: How much unspent money the wallet wants held here; None: it has not said.
    """

    extended: int
    returned: int
    drawn: int
    reserved: int
    target: int | None
    state: int

    @property
    def unspent(self) -> int:
        """What the lease still has, held parts included; below 0 after overage."""
        return self.extended - self.returned - self.drawn

    @property
    def free(self) -> int:
        """What may still be reserved."""
        return self.unspent - self.reserved


def ask(account: Account, need: int) -> int:
    """How much to ask for when `need` more is wanted: many more spends like these, or up to what the wallet wants held.

    The wallet gives less where that is more than the recent burn calls for, or than it can spare. Asking for little
    would only mean asking often: an extension costs both services a transaction, and a spend may wait for it.
    """
    wanted = 0 if account.target is None else account.target - account.unspent
    return min(max(need * _COMFORT_FACTOR, account.reserved, wanted), AMOUNT_MAX)


def is_low(account: Account, granted_last: int) -> bool:
    """Whether to ask for more before any spend has to wait: half of the last extension is used up.

    Not when the wallet wants no more to be held here.
    """
    if account.target is None or account.unspent >= account.target:
        return False
    return account.state == WalletState.OPEN and account.free * 2 < granted_last


def give_back(account: Account, *, idle: bool) -> int:
    """How much of the unreserved part to return, 0 for nothing.

    Above the target with some slack, so that the target's own movement does not make a return of every sync; all of it
    when nothing was spent for long; all above the target, without slack, when the wallet pays for nothing new.
    """
    free = account.free
    if free <= 0 or account.target is None:
        return 0
    if idle:
        return free
    excess = account.unspent - account.target
    slack = account.target // _SLACK_SHARE
    if excess <= (slack if account.state == WalletState.OPEN else 0):
        return 0
    return min(free, excess)


class Line(NamedTuple):
    """What money went to, and how many calls it was."""

    provider: str
    model: str
    month: str
    amount: int
    calls: int


def merge(draws: Iterable[Line]) -> tuple[list[Line], list[Line]]:
    """Adds draws of the same provider, model and month up, and cuts after `LINES_MAX` lines.

    Returns:
        The lines of a capture, sorted, and those that must wait for the next one.
    """
    sums: dict[tuple[str, str, str], list[int]] = {}
    for draw in draws:
        total = sums.setdefault(draw[:3], [0, 0])
        total[0] += draw.amount
        total[1] += draw.calls
    lines = [Line(*key, *total) for key, total in sorted(sums.items())]
    return lines[:LINES_MAX], lines[LINES_MAX:]


def fit(lines: Iterable[Line], room: int) -> tuple[list[Line], list[Line]]:
    """Cuts lines where their amounts reach `room`; a line across the cut becomes two, its calls in the first.

    Returns:
        The lines before the cut, and those after it.
    """
    before, after = [], []
    for line in lines:
        part = min(line.amount, room)
        room -= part
        if part:
            before.append(line._replace(amount=part))
        if rest := line.amount - part:
            after.append(line._replace(amount=rest, calls=0 if part else line.calls))
    return before, after
