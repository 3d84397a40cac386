"""Rates usage whose price came later, bit by bit, in the background."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import asyncpg

from services.kit.telemetry import get_logger
from services.metering.domain import corrections
from services.metering.domain.corrections import RERATING
from services.metering.prices import Prices
from services.metering.store import corrections as store
from services.metering.store.corrections import Adjustment, Correction, Known, UnratedModel

_log = get_logger(__name__)
EVENTS_MAX: Final = 200
"""The most events rated in one transaction."""
MODELS_MAX: Final = 200
"""The most models looked at in one step."""
_REASON: Final = "its model has a price now"
_BY: Final = "metering"
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Rerating:
    """Looks again at models without a price whenever prices changed, and once an hour.

    Args:
        pool: The books.
        prices: The rate cards.
        recorded: Called after usage was rated.
        clock: The time, aware.
    """

    def __init__(
        self, pool: asyncpg.Pool, prices: Prices, *, recorded: Callable[[], None], clock: Callable[[], datetime]
    ) -> None:
        self._pool = pool
        self._prices = prices
        self._recorded = recorded
        self._clock = clock
        self._after = ("", "", "")

    async def step(self) -> bool:
        """Looks at some models and rates some events; returns whether there is more to do at once."""
        models = await store.all_unrated_models(self._pool, self._after, MODELS_MAX)
        now = self._clock()
        for model in models:
            known = self._known(model.org, now)
            if model.checked != known:
                await self._look_at(model, now)
                async with self._pool.acquire() as connection:
                    await store.set_checked(connection, model, known)
        full = len(models) == MODELS_MAX
        self._after = models[-1][:3] if full else ("", "", "")
        return full

    def _known(self, org: str, now: datetime) -> str:
        # Once an hour all is looked at again: a replica that read a card late may have left something behind.
        return f"{self._prices.cards.known(org, now)}@{now:%Y%m%d%H}"

    async def _look_at(self, model: UnratedModel, now: datetime) -> None:
        after = (_FIRST, "", "")
        while True:
            async with self._pool.acquire() as connection:
                found = await store.unrated_of(connection, model, after, EVENTS_MAX)
                if not found:
                    return
                last = found[-1]
                after = (last.occurred_at, last.source, last.id)
                try:
                    async with connection.transaction():
                        known = await store.known_events(connection, model.org, found)
                        made = [one for event in known if (one := self._adjustment(event, now)) is not None]
                        if made:
                            await store.apply(connection, made)
                except asyncpg.UniqueViolationError:
                    # Another replica or a correction was faster with one of them; within the hour comes the next look.
                    continue
            if made:
                self._recorded()
                _log.info("usage rated later", org=model.org, model=model.given_model, events=len(made))
            if not made and len(known) == len(found):
                # Prices are by model: where the oldest events have none, later ones may, so go on, but only so far.
                return

    def _adjustment(self, known: Known, now: datetime) -> Adjustment | None:
        event = known.event
        said = corrections.rerated(event, known.last, now=now, cards=self._prices.cards)
        if said is None:
            return None
        id_ = corrections.rerating_id(event.source, event.id)
        made = Correction(
            event.org,
            event.source,
            event.id,
            known.n + 1,
            RERATING,
            id_,
            event.occurred_at,
            said,
            _REASON,
            _BY,
            now,
            known.last,
        )
        return Adjustment(known, made, id_.encode()[:16])
