"""Forgets applied usage and closed reservations past their time, a bounded part at a time."""

from typing import Final

import asyncpg

from services.budget.store import retention
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_BATCH: Final = 5_000
_DAY_US: Final = 86_400_000_000
_EXTENSIONS_KEPT_DAYS: Final = 7


class Retention:
    """What the loop does; safe with several replicas, of which one works at a time.

    Args:
        pool: Budget's database.
        usage_kept_days: How long an applied event is kept by itself; its sums stay for ever.
        reservations_kept_days: How long a reservation is kept after it was closed.
    """

    def __init__(self, pool: asyncpg.Pool, *, usage_kept_days: int, reservations_kept_days: int) -> None:
        self._pool = pool
        self._usage_kept_us = usage_kept_days * _DAY_US
        self._reservations_kept_us = reservations_kept_days * _DAY_US

    async def step(self) -> bool:
        """One round; whether there may be more at once."""
        async with self._pool.acquire() as connection, connection.transaction():
            now_us = await retention.begin(connection)
            if now_us is None:
                return False
            usage_us, closed_us = now_us - self._usage_kept_us, now_us - self._reservations_kept_us
            counts = (
                await retention.trim_events(connection, usage_us, _BATCH),
                await retention.trim_corrections(connection, usage_us, _BATCH),
                await retention.forget_reservations(connection, closed_us, _BATCH),
                await retention.forget_extensions(connection, now_us - _EXTENSIONS_KEPT_DAYS * _DAY_US, _BATCH),
            )
        if any(counts):
            _log.info("forgot what is old", usage=counts[0] + counts[1], reservations=counts[2], extensions=counts[3])
        return max(counts) == _BATCH
