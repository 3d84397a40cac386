"""What a rate table is made of: providers, their models, and the periods of their rates."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, NamedTuple

from services.kit.rating.clauses import Clause
from services.kit.rating.cost import Rate

DAY_S: Final = 86_400
"""Seconds in a day."""

_SECOND_US: Final = 1_000_000


class RateTableError(ValueError):
    """A rate table is inconsistent: a model twice, periods out of order, a fall-back that does not exist."""


def first(pair: tuple[int, object]) -> int:
    """Return what a pair is ordered by."""
    return pair[0]


class Period(NamedTuple):
    """The rates of a model from an instant on.

    Attributes:
        effective_from_us: Microseconds since 1970-01-01T00:00Z; 0 for the first price known.
        by_second_of_day: (second of the UTC day, rate) in ascending order from second 0; one entry unless the
            provider charges by the time of day.
    """

    effective_from_us: int
    by_second_of_day: tuple[tuple[int, Rate], ...]

    def rate_at(self, at_us: int) -> Rate:
        """Return the rate that the time of day calls for."""
        if len(self.by_second_of_day) == 1:
            return self.by_second_of_day[0][1]
        second = at_us // _SECOND_US % DAY_S
        return self.by_second_of_day[bisect_right(self.by_second_of_day, second, key=first) - 1][1]


STANDARD_TIERS: Final = frozenset({"", "standard", "default", "auto", "on_demand", "standard_only"})
"""Names of the service tier that all models have."""
MAX_VARIANTS: Final = 16
"""The most service tiers of one model beside the standard one."""


@dataclass(frozen=True, slots=True)
class ModelRates:
    """One model of one provider: its id, which other names mean it, and its rates in order of time.

    Attributes:
        id: Canonical name.
        match: Which other names mean it.
        periods: Standard rates.
        variants: (service tier, its rates), sorted; a tier that is not here has the standard rates.
    """

    id: str
    match: Clause
    periods: tuple[Period, ...]
    variants: tuple[tuple[str, tuple[Period, ...]], ...] = ()

    def at_tier(self, service_tier: str) -> tuple[Period, ...]:
        """Return the rates of a service tier."""
        if service_tier and self.variants:
            wanted = service_tier.strip().lower()
            for name, periods in self.variants:
                if name == wanted:
                    return periods
        return self.periods


def period_at(periods: tuple[Period, ...], at_us: int) -> Period | None:
    """Return the period of an instant, or None before the first."""
    if len(periods) == 1:
        return periods[0] if at_us >= periods[0].effective_from_us else None
    index = bisect_right(periods, at_us, key=first) - 1
    return periods[index] if index >= 0 else None


@dataclass(frozen=True, slots=True)
class ProviderRates:
    """One provider's models.

    Attributes:
        id: Canonical name.
        models: In the order in which their clauses are tried.
        provider_match: Which other names mean this provider; None for none.
        model_match: Which models mean this provider where none is named; None for none.
        fallbacks: Providers whose prices hold for models that this one resells.
    """

    id: str
    models: tuple[ModelRates, ...]
    provider_match: Clause | None = None
    model_match: Clause | None = None
    fallbacks: tuple[str, ...] = ()
