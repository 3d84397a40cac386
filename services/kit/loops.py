"""Background loops of a service: they look again at an interval, at once when woken, and never die of an error."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from services.kit.errors import Code, PurseError
from services.kit.telemetry import LOOP_ERRORS, get_logger

_log = get_logger(__name__)
_JITTER = 0.1
_ERROR_REST_MAX_S = 10.0


class Loop:
    """Runs a step again and again.

    Args:
        name: For logs and metrics.
        step: Does some work; returns True when there is more to do at once.
        interval_s: How long to rest when there is nothing to do, in seconds, give or take a tenth.
        error_rest_max_s: The longest rest after failures, in seconds.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[bool]],
        interval_s: float,
        *,
        error_rest_max_s: float = _ERROR_REST_MAX_S,
    ) -> None:
        self.name = name
        self._step = step
        self._interval_s = interval_s
        self._error_rest_max_s = error_rest_max_s
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Ends the rest."""
        self._woken.set()

    async def run(self) -> None:
        """Steps until cancelled. Errors are logged and followed by a growing rest."""
        errors = 0
        while True:
            self._woken.clear()
            try:
                more = await self._step()
                errors = 0
            except Exception as error:
                more = False
                errors += 1
                LOOP_ERRORS.labels(self.name).inc()
                _report(self.name, error)
            if more:
                await asyncio.sleep(0)
                continue
            # What failed is tried again soon, however long the loop rests between successes.
            rest_s = min(self._error_rest_max_s, 0.1 * 2 ** min(errors, 10)) if errors else self._interval_s
            await self._rest(rest_s * random.uniform(1 - _JITTER, 1 + _JITTER), deaf=bool(errors))  # noqa: S311 - jitter

    async def _rest(self, seconds: float, *, deaf: bool) -> None:
        if deaf:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return


def _report(name: str, error: Exception) -> None:
    if isinstance(error, OSError) or (isinstance(error, PurseError) and error.code == Code.UNAVAILABLE):
        _log.warning("loop step failed", loop=name, error=repr(error))
    else:
        _log.error("loop step failed", loop=name, exc_info=error)


class Loops:
    """Runs loops while the `async with` block runs, and ends them with it."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._loops = loops
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(loop.run(), name=loop.name) for loop in self._loops]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
