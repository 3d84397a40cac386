"""The prices in force at a time: price lists, and what organisations and the installation lay over them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.kit import windows
from services.kit.rating import Layers, PriceCards, RateTable

unix_us = windows.unix_us


@dataclass(frozen=True, slots=True)
class RateCard:
    """A price list, and from when it is in force."""

    version: str
    effective_from: datetime
    table: RateTable


class RateCards:
    """All versions of the prices.

    Args:
        cards: The price lists, at least one; the earliest also rates what happened before it.
        own: The prices and markups of organisations and of this installation, which are laid over them.
    """

    def __init__(self, cards: Sequence[RateCard], own: PriceCards | None = None) -> None:
        if not cards:
            raise ValueError("there is no rate card")
        self.own = own or PriceCards()
        self._plain = {card.version: Layers((), card.table, card.version) for card in cards}
        # Of two that begin together the later version name wins, on every replica alike.
        self._newest_first = sorted(cards, key=lambda card: (card.effective_from, card.version), reverse=True)

    def at(self, instant: datetime) -> RateCard:
        """The price list in force at an instant."""
        for card in self._newest_first:
            if card.effective_from <= instant:
                return card
        return self._newest_first[-1]

    def layers(self, org: str, instant: datetime, now: datetime) -> Layers:
        """The prices of an organisation at an instant, as they are known now."""
        card = self.at(instant)
        if self.own.empty:
            return self._plain[card.version]
        return self.own.layers(org, card.table, card.version, unix_us(instant), unix_us(now))

    def known(self, org: str, now: datetime) -> str:
        """Names the prices of an organisation that hold by now, so that a change shows."""
        listed = sum(card.effective_from <= now for card in self._newest_first)
        return f"{listed}.{self.own.count(org, unix_us(now))}"

    def later_layers(self, org: str, instant: datetime, now: datetime) -> Iterator[Layers]:
        """The prices of an organisation at an instant, then after each change up to now, in order of time."""
        now_us = unix_us(now)
        starts = self.own.starts_after(org, unix_us(instant), now_us)
        starts += [unix_us(card.effective_from) for card in self._newest_first if card.effective_from > instant]
        yield self.layers(org, instant, now)
        for start_us in sorted(set(starts)):
            if start_us <= now_us:
                yield self.layers(org, windows.from_unix_us(start_us), now)
