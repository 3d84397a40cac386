"""The rate cards in memory: published once, read again now and then, so that every replica rates alike."""

import asyncpg

from services.kit.rating import PriceCards, PublishedCard, RateTable
from services.kit.telemetry import get_logger
from services.metering.domain.cards import RateCards
from services.metering.domain.publishing import NewCard
from services.metering.store import cards as store
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
        self._delay_s = interval_s * _DELAY_INTERVALS
        self._tables: dict[str, RateTable] = {}
        self._listed: list[tuple[str, float]] = []
        self._own: list[PublishedCard] = []
        self._cards: RateCards | None = None

    @property
    def cards(self) -> RateCards:
        """What is known; `publish` must have run."""
        if self._cards is None:
            raise RuntimeError("publish() first")
        return self._cards

    @property
    def own(self) -> list[PublishedCard]:
        """Cards of organisations and the installation, in the order of publishing."""
        return self._own

    async def publish(self, table: RateTable) -> None:
        """Stores a table as a rate card, unless its version is stored already, and reads them all."""
        self._tables[table.version] = table
        if await upkeep.add_card(self._pool, table, self._delay_s):
            _log.info("rate card published", version=table.version)
        await self.refresh()

    async def publish_own(self, new: NewCard) -> tuple[store.StoredCard, bytes]:
        """Stores a card of an organisation or the installation; the same request again returns the same.

        Raises:
            PurseError: As `store.cards.publish`.
        """
        stored = await store.publish(self._pool, new, self._delay_s)
        await self.refresh()
        return stored

    async def refresh(self) -> bool:
        """Reads cards that others published; returns whether there may be more at once."""
        listed = await upkeep.load_cards(self._pool, self._tables)
        newer = await store.load_after(self._pool, self._own[-1].revision if self._own else 0)
        times = [(card.version, card.effective_from.timestamp()) for card in listed]
        # Kept as they are while nothing changes: they remember what they resolved.
        if self._cards is None or newer or times != self._listed:
            self._own = [*self._own, *newer]
            self._listed = times
            self._cards = RateCards(listed, PriceCards(self._own))
        return bool(newer)
