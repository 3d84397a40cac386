"""The loops of approvals in the budget service: relays to Temporal, and the sweep that needs none.

All are safe with several replicas. What has expired ends here if no workflow has ended it, and workflows that were lost
are started again.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from services.budget.approvals import events
from services.budget.approvals.requests import Approvals
from services.budget.approvals.store import approvals
from services.budget.approvals.temporal import approval
from services.budget.settings import BudgetSettings
from services.budget.store import budgets
from services.kit.errors import PurseError
from services.kit.loops import Loop
from services.kit.outbox import Relay
from services.kit.subject import Subject, parse
from services.kit.telemetry import get_logger
from services.kit.temporal import Temporal

_RELAY_BATCH_MAX: Final = 16
# What this replica writes wakes the relays; this is for the rows of others.
_RELAY_INTERVAL_S: Final = 1.0
_SWEEP_BATCH_MAX: Final = 100
_FORGET_INTERVAL_S: Final = 60.0
_FORGET_MAX: Final = 1_000
_US: Final = 1_000_000
_KEPT_US: Final = 400 * 86_400 * _US
# The workflow ends what has expired to the second; this is for those that are lost.
_GRACE_US: Final = 10 * _US
_LOST_AFTER_US: Final = 120 * _US
_LOST_AGAIN_US: Final = 600 * _US

_log = get_logger(__name__)


class ApprovalLoops:
    """The loops, and one way to wake them.

    Args:
        pool: Budget's database.
        settings: Where Temporal is, and how often to look.
    """

    def __init__(self, pool: asyncpg.Pool, settings: BudgetSettings) -> None:
        temporal = Temporal(settings)
        self._pool = pool
        self._sweep_interval_s = settings.sweep_interval_s
        self._start = Relay(
            pool,
            events.TOPIC_START,
            temporal.starting(approval),
            batch_max=_RELAY_BATCH_MAX,
            interval_s=_RELAY_INTERVAL_S,
        )
        self._signal = Relay(
            pool, events.TOPIC_SIGNAL, temporal.wake, batch_max=_RELAY_BATCH_MAX, interval_s=_RELAY_INTERVAL_S
        )

    def wake(self) -> None:
        """Says that there may be something to relay; called after a commit."""
        self._start.wake()
        self._signal.wake()

    @property
    def relays(self) -> list[Loop]:
        """What carries rows to Temporal, where there is one."""
        return [self._start.loop, self._signal.loop]

    def loops(self, found: Approvals) -> list[Loop]:
        """What runs while the service does, Temporal or not."""
        sweep = Sweep(self._pool, found)
        return [
            Loop("approvals", sweep.step, self._sweep_interval_s),
            Loop("forget approvals", sweep.forget, _FORGET_INTERVAL_S),
        ]


class Sweep:
    """Ends what has expired, starts what was lost and does its work meanwhile, and forgets what is old.

    Args:
        pool: Budget's database.
        found: Ends approvals, and does what is due of them.
    """

    def __init__(self, pool: asyncpg.Pool, found: Approvals) -> None:
        self._pool = pool
        self._approvals = found

    async def step(self, grace_us: int = _GRACE_US) -> bool:
        """One round; whether there may be more at once."""
        async with self._pool.acquire() as connection:
            now_us = await budgets.now_us(connection)
            due = await approvals.due(connection, now_us - grace_us, _SWEEP_BATCH_MAX)
            left = await approvals.left_alone(connection, now_us - _LOST_AFTER_US, _SWEEP_BATCH_MAX)
        ended = await self._each(due, self._approvals.expire, "an approval cannot be ended yet")
        async with self._pool.acquire() as connection, connection.transaction():
            lost = await approvals.take_lost(
                connection, now_us - _LOST_AFTER_US, now_us + _LOST_AGAIN_US, events.TOPIC_START, _SWEEP_BATCH_MAX
            )
            await events.start(connection, lost)
        # A hold must not run out because Temporal is away.
        moved = await self._each(left, self._approvals.advance, "what is due of an approval cannot be done yet")
        return _SWEEP_BATCH_MAX in {ended, moved, len(lost)}

    async def _each(
        self, found: list[tuple[str, str, str]], work: Callable[[Subject, str], Awaitable[object]], trouble: str
    ) -> int:
        """Does it to each by itself; with how many it worked."""
        done = 0
        for _, id_, subject in found:
            try:
                await work(parse(subject), id_)
                done += 1
            except PurseError as error:
                _log.warning(trouble, approval=f"{subject}/approvals/{id_}", error=repr(error))
        return done

    async def forget(self) -> bool:
        """Forgets approvals that ended long ago."""
        async with self._pool.acquire() as connection, connection.transaction():
            now_us = await budgets.now_us(connection)
            return await approvals.forget(connection, now_us - _KEPT_US, _FORGET_MAX) == _FORGET_MAX
