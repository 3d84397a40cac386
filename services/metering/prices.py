"""The rate cards in memory: published once, read again now and then, so that every replica rates alike."""

import asyncpg

from services.kit.rating import RateTable
from services.kit.telemetry import get_logger
from services.metering.domain.cards import RateCards
from services.metering.store import upkeep

_log = get_logger(__name__)
_DELAY_INTERVALS = 3


class Prices:
    """All rate cards.

    Args:
        pool: Where they are kept.
        interval_s: How often `refresh` is called. A new card takes effect after three such intervals, when every
            replica has read it.
    """

    def __init__(self, pool: asyncpg.Pool, interval_s: float) -> None:
        self._pool = pool
        self._interval_s = interval_s
        self._tables: dict[str, RateTable] = {}
        self._cards: RateCards | None = None

    @property
    def cards(self) -> RateCards:
        """What is known; `publish` must have run."""
        if self._cards is None:
            raise RuntimeError("publish() first")
        return self._cards

    async def publish(self, table: RateTable) -> None:
        """Stores a table as a rate card, unless its version is stored already, and reads them all."""
        self._tables[table.version] = table
        if await upkeep.add_card(self._pool, table, self._interval_s * _DELAY_INTERVALS):
            _log.info("rate card published", version=table.version)
        await self.refresh()

    async def refresh(self) -> bool:
        """Reads cards that others published; returns False, for there is nothing more to do at once."""
        self._cards = RateCards(await upkeep.load_cards(self._pool, self._tables))
        return False
