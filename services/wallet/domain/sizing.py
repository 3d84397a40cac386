"""How much of a wallet a lease should hold: by recent burn, and less and less near the end of the balance.

The recent burn is a sum that halves every `HALF_LIFE_S`; at a steady rate it is about 87 s of spending. All in
integers, so that every replica sizes alike.
"""

from datetime import datetime, timedelta
from typing import Final

HALF_LIFE_S: Final = 60
"""After so many seconds half of a decayed sum is forgotten."""
COVER: Final = 4
"""A lease should hold so many times its recent burn: about six minutes of spending."""
GRANT_SHARE: Final = 4
"""An extension takes at most 1/4 of what is free, unless more is needed at once: others need some too."""
TARGET_SHARE: Final = 2
"""A holder keeps at most 1/2 of what it and the wallet have; more than an extension leaves it, so that money does
not go to and fro."""
FLOOR_NANOS: Final = 10_000_000_000
"""A lease without history may hold 10 units of the currency."""

_US: Final = timedelta(microseconds=1)
_HALVINGS_MAX: Final = 63


def decayed(amount: int, since: datetime, now: datetime) -> int:
    """What is left of a decayed sum of `since` at `now`, in nano-units; a clock that went back changes nothing."""
    elapsed_us = max(0, (now - since) // _US)
    halvings, rest_us = divmod(elapsed_us, HALF_LIFE_S * 1_000_000)
    if halvings > _HALVINGS_MAX:
        return 0
    halved = amount >> halvings
    # Between two halvings a straight line.
    return halved - halved * rest_us // (2 * HALF_LIFE_S * 1_000_000)


def comfort(burn: int, pull: int, floor: int) -> int:
    """How much a lease may hold, in nano-units, for its recent captures and extensions."""
    return max(floor, COVER * max(burn, pull))


def grant_size(*, ask: int, need: int, available: int, room: int) -> int:
    """How much to extend, in nano-units.

    Never more than asked, needed or free; at least what is needed if there is so much. Where there is less than
    needed, all of it: smaller spends that wait for the same answer may still fit.

    Args:
        ask: What the holder would like.
        need: What waits for it.
        available: What the wallet has free.
        room: The lease's `comfort`.
    """
    return min(available, max(need, min(ask, room, available // GRANT_SHARE)))


def target(*, pays: bool, available: int, escrow: int, comfortable: int) -> int:
    """How much unspent money the holder should keep, in nano-units; 0 where the wallet pays for nothing new."""
    return min(comfortable, (available + escrow) // TARGET_SHARE) if pays else 0
