"""Wait for a condition, with a deadline and no fixed sleep."""

import asyncio
import time
from collections.abc import Callable

_POLL_S = 0.02


async def until(condition: Callable[[], object], *, timeout_s: float = 20.0, what: str = "the condition") -> None:
    """Return once `condition()` is true; raises AssertionError that names `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s"
        await asyncio.sleep(_POLL_S)
