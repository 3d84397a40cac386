"""The rule of recharges by forecast, the same for whoever asks for one, who decides and who proves it. Pure.

Amounts are whole nano-units.
"""

from typing import Final

WEEK_HOURS: Final = 168
"""With less spend to go by than this, half of a recharge must be left where no floor is set."""
DELAY_S: Final = 3_600
"""How long a recharge is taken to need until `DELAYS_MIN` have shown it, unless those took longer."""
DELAYS_MIN: Final = 10
"""So many recharges tell how long one takes."""

_HOUR_S: Final = 3_600


def delay_s(succeeded: int, p99_s: float) -> int:
    """How long a wallet's recharge takes, in whole seconds, rounded up.

    Args:
        succeeded: How many recharges are known.
        p99_s: The 99 % quantile of how long they took from their start to the money; 0 where there are none.
    """
    measured = max(0, -int(-p99_s // 1))
    return measured if succeeded >= DELAYS_MIN else max(measured, DELAY_S)


def hours_to_cover(hours_ahead: int, recharge_delay_s: int | None) -> int:
    """How many hours ahead are looked at: as many as the policy says, or, by lead time, the delay and one hour.

    Args:
        hours_ahead: The policy's, the outer limit.
        recharge_delay_s: How long a recharge takes; None where the policy does not go by lead time.
    """
    if recharge_delay_s is None:
        return hours_ahead
    return min(hours_ahead, peak_hours(recharge_delay_s) + 1)


def peak_hours(recharge_delay_s: int) -> int:
    """In how many whole hours a recharge is there, at least one."""
    return max(1, -(-recharge_delay_s // _HOUR_S))


def to_cover(forecast: int, peak: int) -> int:
    """What the balance must exceed, besides what must be left of it.

    A forecast knows bursts by their hours alone, and a burst comes at any: so by lead time the largest one ever, and
    half as much again, is covered too. Greater ones follow great ones.

    Args:
        forecast: Spend over the hours ahead at the policy's quantile.
        peak: The most that was ever spent while a recharge was on its way; 0: the policy does not go by lead time.
    """
    return max(forecast, peak + peak // 2)


def to_leave(floor: int, charge: int, history_hours: int) -> int:
    """What must be left of the balance: the policy's floor, or in the first week of spend half of a recharge.

    Args:
        floor: The policy's; 0: none.
        charge: What a recharge charges when the wallet is empty.
        history_hours: For how long there has been spend.
    """
    return floor or (charge // 2 if history_hours < WEEK_HOURS else 0)


def due_at(leave: int, cover: int) -> int:
    """The balance at which, and below which, a recharge is due.

    Args:
        leave: What must be left; less than that is due whatever comes.
        cover: The spend that is to be covered; that it leaves exactly so much is not enough.
    """
    return leave + cover if cover > 0 else leave - 1
