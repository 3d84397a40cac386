"""The twin's clock: real time plus what it has been advanced by."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_OFFSET_S = 10 * 365 * 24 * 3600.0


class Clock:
    """Seconds since the epoch, `offset_s` ahead of the machine. It only ever moves forward."""

    def __init__(self, offset_s: float = 0.0, *, wall: Callable[[], float] = time.time) -> None:
        self.offset_s = offset_s
        self._wall = wall

    def now(self) -> float:
        """The twin's time."""
        return self._wall() + self.offset_s

    def wall(self) -> float:
        """The machine's time, which a webhook's receiver checks the signature against."""
        return self._wall()

    def advance(self, seconds: float) -> None:
        """Move ahead; raises ValueError when `seconds` is negative or the clock would be over 10 years ahead."""
        if not 0 <= seconds <= MAX_OFFSET_S - self.offset_s:
            raise ValueError(f"advance_s must be from 0 to {MAX_OFFSET_S - self.offset_s:g}, not {seconds:g}")
        self.offset_s += seconds
