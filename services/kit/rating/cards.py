"""Price cards: prices and markups of an organisation or an installation, laid over the price list.

Three layers, the nearest first: the organisation's card, the installation's card, the price list. A price comes from
the nearest layer that has one for the model. A markup holds for prices from layers below its own; the nearest card
that has one for the model decides, and markups do not add up. A marked-up price is the listed one times the factor,
rounded half-even to a whole number of nanos per unit of sale: a price list of its own, rated like any other.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

from services.kit.money import divide_half_even
from services.kit.rating import names
from services.kit.rating.cost import MAX_PRICE_NANOS, Rate, Tier
from services.kit.rating.entries import ModelRates, Period, RateTableError, period_at
from services.kit.rating.table import ModelRef, RateTable, UnknownModelError

INSTALLATION: Final = "*"
"""Stands for the installation where an organisation's id would stand."""
MARKUPS_MAX: Final = 1_000
"""The most markups of one card."""
MARKUP_MAX_PPM: Final = 10_000_000
"""The highest markup in millionths: eleven times the price."""
MARKUP_MIN_PPM: Final = -1_000_000
"""The lowest: nothing is charged."""
_FORMAT: Final = 1
_WHOLE_PPM: Final = 1_000_000
_CACHE_SIZE: Final = 4_096
_LAYERS_CACHED: Final = 1_024


class Markup(NamedTuple):
    """What is added to listed prices, in millionths; empty names mean all. The more exact of two decides."""

    provider: str
    model: str
    ppm: int


@dataclass(frozen=True)
class Card:
    """Prices of its own, and markups on those of others.

    Attributes:
        table: The prices; may be empty.
        markups: At most one for a (provider, model).

    Raises:
        RateTableError: Markups out of range, twice, or too many.
    """

    table: RateTable
    markups: tuple[Markup, ...] = ()

    def __post_init__(self) -> None:
        if len(self.markups) > MARKUPS_MAX:
            raise RateTableError(f"there are {len(self.markups)} markups; the limit is {MARKUPS_MAX}")
        if len(self._ppm) != len(self.markups):
            raise RateTableError("a provider and model has two markups; give one")
        for markup in self.markups:
            if markup.model and not markup.provider:
                raise RateTableError(f"the markup of {markup.model} names no provider; name it too")
            if not MARKUP_MIN_PPM <= markup.ppm <= MARKUP_MAX_PPM:
                raise RateTableError(
                    f"a markup of {markup.ppm} millionths is out of range; use {MARKUP_MIN_PPM} to {MARKUP_MAX_PPM}"
                )

    @cached_property
    def _ppm(self) -> dict[tuple[str, str], int]:
        return {(markup.provider, markup.model): markup.ppm for markup in self.markups}

    def markup_of(self, ref: ModelRef) -> int | None:
        """Return the markup of a model in millionths; None where there is none, which is not the same as 0."""
        for key in (ref, (ref.provider, ""), ("", "")):
            if key in self._ppm:
                return self._ppm[key]
        return None

    def price_of(self, known: ModelRef | None, provider: str, model: str) -> tuple[ModelRef, ModelRates] | None:
        """Return this card's own rates for a model.

        Args:
            known: What the price list calls it; None where it does not know it.
            provider: As given.
            model: As given.
        """
        if known is None:
            try:
                return self.table.find(provider, model)
            except UnknownModelError:
                return None
        # By exact names only: a dated release with a listed price of its own is not what an undated price is for.
        for name in (model.strip().lower(), known.model.lower()):
            found = self.table.exact(known.provider, name)
            if found is not None:
                return known, found
        return None

    def to_bytes(self) -> bytes:
        """Encode as JSON that is the same for the same content; ``from_bytes`` reads it."""
        content = {
            "format": _FORMAT,
            "table": json.loads(self.table.to_bytes()),
            "markups": sorted(self.markups),
        }
        return json.dumps(content, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Card":
        """Decode what ``to_bytes`` wrote.

        Raises:
            RateTableError: These bytes are no card of this format.
        """
        try:
            content: dict[str, Any] = json.loads(data)
            if content["format"] != _FORMAT:
                raise RateTableError(
                    f"the card has format {content['format']!r}, this release reads {_FORMAT}; update this service"
                )
            markups = tuple(Markup(str(provider), str(model), int(ppm)) for provider, model, ppm in content["markups"])
            return cls(RateTable.from_bytes(json.dumps(content["table"]).encode()), markups)
        except RateTableError:
            raise
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise RateTableError(f"these bytes are no price card ({type(error).__name__}); fetch it again") from error


@dataclass(frozen=True, slots=True, eq=False)
class PublishedCard:
    """A card, whose it is and when it holds.

    Attributes:
        org: The organisation's bare id, or ``INSTALLATION``.
        version: What usage that it prices is stamped with.
        revision: Its place in the order of publishing; of two that begin together the later one holds.
        effective_us: From when it holds, in microseconds since 1970.
        usable_us: From when on it is used at all: by then every replica has read it.
        card: The content.
    """

    org: str
    version: str
    revision: int
    effective_us: int
    usable_us: int
    card: Card


class Found(NamedTuple):
    """A rate in force: of which model, in which currency, and which versions made it."""

    ref: ModelRef
    rate: Rate
    currency_code: str
    version: str


class _Resolved(NamedTuple):
    ref: ModelRef
    rates: ModelRates
    currency_code: str
    version: str


class Layers:
    """The prices of one organisation at one time: cards over a price list; immutable.

    Args:
        cards: The nearest first.
        base: The price list.
        version: The price list's.
    """

    def __init__(self, cards: Sequence[PublishedCard], base: RateTable, version: str) -> None:
        self._cards = tuple(cards)
        self._base = base
        self._version = version
        self._resolve_cached = lru_cache(maxsize=_CACHE_SIZE)(self._resolve)

    def resolve(self, provider: str, model: str) -> ModelRef:
        """Return the canonical name of a model; ``provider`` may be empty.

        Raises:
            UnknownModelError: As ``RateTable.resolve``, of every layer.
        """
        return self._find(provider, model).ref

    def lookup(self, provider: str, model: str, at_us: int, service_tier: str = "") -> Found:
        """Return the rate in force at an instant, in microseconds since 1970.

        Raises:
            UnknownModelError: As ``resolve``, or the model had no price yet at that time.
        """
        ref, rates, currency_code, version = self._find(provider, model)
        period = period_at(rates.at_tier(service_tier) if service_tier else rates.periods, at_us)
        if period is None:
            raise UnknownModelError("model", f"{ref} has no price for so early a time")
        return Found(ref, period.rate_at(at_us), currency_code, version)

    def lookup_between(
        self, provider: str, model: str, first_us: int, last_us: int, service_tier: str = ""
    ) -> Found | None:
        """Return the rate that is in force at every instant from one to another; None where there is no such one.

        Raises:
            UnknownModelError: As ``resolve``.
        """
        ref, rates, currency_code, version = self._find(provider, model)
        periods = rates.at_tier(service_tier)
        period = period_at(periods, first_us)
        if period is None or period is not period_at(periods, last_us) or len(period.by_second_of_day) > 1:
            return None
        return Found(ref, period.rate_at(first_us), currency_code, version)

    def _find(self, provider: str, model: str) -> _Resolved:
        short = len(provider) <= names.MAX_NAME_LENGTH and len(model) <= names.MAX_NAME_LENGTH
        found = self._resolve_cached(provider, model) if short else self._resolve(provider, model)
        if isinstance(found, UnknownModelError):
            raise UnknownModelError(found.field, str(found), found.suggestions)
        return found

    def _resolve(self, provider: str, model: str) -> _Resolved | UnknownModelError:
        try:
            listed = self._base.find(provider, model)
        except UnknownModelError as error:
            listed, refusal = None, error
        for place, published in enumerate(self._cards):
            own = published.card.price_of(listed and listed[0], provider, model)
            if own is not None:
                table = published.card.table
                return self._marked_up(_Resolved(*own, table.currency_code, published.version), place)
        if listed is None:
            return refusal
        return self._marked_up(_Resolved(*listed, self._base.currency_code, self._version), len(self._cards))

    def _marked_up(self, found: _Resolved, place: int) -> _Resolved:
        """Return rates with the markup of the nearest card above them that has one."""
        for published in self._cards[:place]:
            ppm = published.card.markup_of(found.ref)
            if ppm is not None:
                rates = marked_up(found.rates, ppm)
                return found._replace(rates=rates, version=f"{found.version}+{published.version}")
        return found


class PriceCards:
    """Every card of everybody, and which of them hold when.

    Args:
        cards: In any order.
    """

    def __init__(self, cards: Iterable[PublishedCard] = ()) -> None:
        self._newest_first: dict[str, list[PublishedCard]] = {}
        for card in sorted(cards, key=lambda one: (one.effective_us, one.revision), reverse=True):
            self._newest_first.setdefault(card.org, []).append(card)
        self._layers = lru_cache(maxsize=_LAYERS_CACHED)(Layers)

    @property
    def empty(self) -> bool:
        """Whether there is no card at all."""
        return not self._newest_first

    def at(self, org: str, at_us: int, now_us: int) -> PublishedCard | None:
        """Return the card of an organisation, or of ``INSTALLATION``, that holds at an instant, as known now."""
        for card in self._newest_first.get(org, ()):
            if card.effective_us <= at_us and card.usable_us <= now_us:
                return card
        return None

    def layers(self, org: str, base: RateTable, version: str, at_us: int, now_us: int) -> Layers:
        """Return an organisation's prices at an instant, over a price list and its version."""
        found = (self.at(org, at_us, now_us), self.at(INSTALLATION, at_us, now_us))
        return self._layers(tuple(card for card in found if card is not None), base, version)

    def count(self, org: str, now_us: int) -> int:
        """Return how many cards of an organisation and the installation hold or held by now."""
        return sum(
            card.effective_us <= now_us and card.usable_us <= now_us
            for whose in (org, INSTALLATION)
            for card in self._newest_first.get(whose, ())
        )

    def starts_after(self, org: str, at_us: int, now_us: int) -> list[int]:
        """Return when later cards of an organisation or the installation begin, ascending, as known now."""
        return sorted({
            card.effective_us
            for whose in (org, INSTALLATION)
            for card in self._newest_first.get(whose, ())
            if card.effective_us > at_us and card.usable_us <= now_us
        })  # fmt: skip


def marked_up(rates: ModelRates, ppm: int) -> ModelRates:
    """Return a model's rates with every price raised by millionths, each rounded half-even to whole nanos."""
    if ppm == 0:
        return rates
    return ModelRates(
        rates.id,
        rates.match,
        _marked_up_periods(rates.periods, ppm),
        tuple((tier, _marked_up_periods(periods, ppm)) for tier, periods in rates.variants),
    )


def _marked_up_periods(periods: tuple[Period, ...], ppm: int) -> tuple[Period, ...]:
    return tuple(
        Period(
            period.effective_from_us, tuple((at, _marked_up_rate(rate, ppm)) for at, rate in period.by_second_of_day)
        )
        for period in periods
    )


def _marked_up_rate(rate: Rate, ppm: int) -> Rate:
    tiers = tuple(Tier(tier.above_input_tokens, _marked_up_prices(tier.prices, ppm)) for tier in rate.tiers)
    return Rate(_marked_up_prices(rate.prices, ppm), tiers)


def _marked_up_prices(prices: tuple[tuple[str, int], ...], ppm: int) -> tuple[tuple[str, int], ...]:
    # A price at the edge of 64 bits stays there: no call at it can be rated anyway.
    return tuple(
        (kind, min(MAX_PRICE_NANOS, divide_half_even(nanos * (_WHOLE_PPM + ppm), _WHOLE_PPM))) for kind, nanos in prices
    )
