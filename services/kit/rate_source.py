"""Compiles the price list of the installed, pinned ``genai-prices`` package into a rate table, offline.

Prices are compiled with their history, their times of day and their service tiers (batch, flex, priority, fast).
Prices that depend on anything else (a router's upstream, a kind of search) are not: such a call is rated at the
standard price unless its cost is given. What a rate cannot express, and what has no price though it is not free, is
left out with a reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Final

import genai_prices
from genai_prices import types as source
from genai_prices.data import providers as source_providers
from genai_prices.data_units import unit_data

from services.kit.rating import (
    KINDS,
    Clause,
    ModelRates,
    Period,
    ProviderRates,
    Rate,
    RateError,
    RateTable,
    equals,
)
from services.kit.rating.clauses import Op
from services.kit.rating.entries import STANDARD_TIERS

_NANOS: Final = 1_000_000_000
_RENAMED: Final = {
    "output_reasoning_tokens": ("reasoning_tokens", 1),
    "audio_seconds": ("audio_ms", 1_000),
    "input_audio_seconds": ("input_audio_ms", 1_000),
    "output_audio_seconds": ("output_audio_ms", 1_000),
}
"""The source's kinds that are named or counted otherwise here: our name, and how many of ours make one."""

_TIER_KEYS: Final = frozenset({"processing", "service_tier", "speed"})
"""What the source calls a service tier; each names its own values."""

_FREE: Final = frozenset({
    ("github-copilot", "gpt-3.5-turbo"),
    ("github-copilot", "gpt-4.1"),
    ("github-copilot", "gpt-4o"),
    ("github-copilot", "gpt-4o-mini"),
    ("google", "gemma-3"),
    ("google", "gemma-3n"),
    ("google", "gemma-4-26b-a4b-it"),
    ("google", "gemma-4-31b-it"),
    ("openai", "moderation"),
})  # fmt: skip
"""Models without any price that their providers give away or include in a subscription."""

_MINIMUM_BILLED: Final = frozenset({("groq", "whisper-large-v3"), ("groq", "whisper-large-v3-turbo")})
"""Models that bill at least ten seconds of audio a call, which a rate cannot say."""

_PER_IMAGE: Final = {
    "dall-e-2": Decimal("0.020"),
    "dall-e-3": Decimal("0.040"),
}
"""USD per image of OpenAI models that the source lacks: 1024 by 1024 in standard quality, one image a request."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model that has no rate, and why."""

    provider: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rounded:
    """A price that is no whole number of nanos and was rounded half-even; off by half a nano per unit at most."""

    provider: str
    model: str
    kind: str
    exact_nanos: Decimal


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled price list.

    Attributes:
        table: The rates.
        left_out: Models without a rate.
        rounded: Prices that had to be rounded.
        special_prices: How many prices depend on what a service tier does not say, and are not compiled.
    """

    table: RateTable
    left_out: tuple[LeftOut, ...]
    rounded: tuple[Rounded, ...]
    special_prices: int


class _CannotExpressError(Exception):
    """A price list says something that a rate cannot."""


@lru_cache(maxsize=1)
def compile_rates() -> Compiled:
    """Compile the bundled price list; done once a process, in about a tenth of a second."""
    left_out: list[LeftOut] = []
    rounded: list[Rounded] = []
    providers = tuple(_provider(provider, left_out, rounded) for provider in source_providers)
    special = sum(
        _tier_of(variant) is None
        for provider in source_providers
        for model in provider.models
        for variant in model.price_variants or ()
    )
    table = RateTable(f"genai-prices-{genai_prices.__version__}", providers)
    return Compiled(table, tuple(left_out), tuple(rounded), special)


def load_rate_table() -> RateTable:
    """Return the compiled table alone."""
    return compile_rates().table


def _provider(provider: source.Provider, left_out: list[LeftOut], rounded: list[Rounded]) -> ProviderRates:
    models = []
    for model in provider.models:
        try:
            models.append(_model(provider.id, model, rounded))
        except (_CannotExpressError, RateError) as error:
            left_out.append(LeftOut(provider.id, model.id, str(error)))
    if provider.id == "openai":
        models += [_supplement(id_, price) for id_, price in _PER_IMAGE.items() if provider.find_model(id_) is None]
    return ProviderRates(
        provider.id,
        tuple(models),
        None if provider.provider_match is None else _clause(provider.provider_match),
        None if provider.model_match is None else _clause(provider.model_match),
        tuple(provider.fallback_model_providers or ()),
    )


def _supplement(id_: str, usd: Decimal) -> ModelRates:
    rate = Rate.of({"requests": int(usd * KINDS["requests"].per * _NANOS)})
    return ModelRates(id_, equals(id_), (Period(0, ((0, rate),)),))


def _model(provider: str, model: source.ModelInfo, rounded: list[Rounded]) -> ModelRates:
    if (provider, model.id) in _MINIMUM_BILLED:
        raise _CannotExpressError("bills at least ten seconds of audio a call")
    standard = _periods(provider, model, None, rounded)
    variants = []
    for tier, context in sorted(_tiers(model).items()):
        periods = _periods(provider, model, context, rounded)
        if periods != standard:
            variants.append((tier, periods))
    return ModelRates(model.id, _clause(model.match), standard, tuple(variants))


def _periods(
    provider: str, model: source.ModelInfo, context: dict[str, str] | None, rounded: list[Rounded]
) -> tuple[Period, ...]:
    periods: list[Period] = []
    for day in _start_dates(model):
        by_second: list[tuple[int, Rate]] = []
        for second in _seconds_of_day(model):
            moment = datetime.combine(day, time(tzinfo=UTC)) + timedelta(seconds=second)
            rate = _rate(provider, model.id, model.get_prices(moment, context), rounded)
            if not by_second or by_second[-1][1] != rate:
                by_second.append((second, rate))
        if not periods or periods[-1].by_second_of_day != tuple(by_second):
            starts_us = (day - date(1970, 1, 1)).days * 86_400_000_000
            periods.append(Period(starts_us, tuple(by_second)))
    return tuple(periods)


def _tier_of(variant: source.PriceVariant) -> str | None:
    """Return the service tier that a variant's price is for; None where it is for something else."""
    if len(variant.when) == 1:
        key, value = next(iter(variant.when.items()))
        if key in _TIER_KEYS:
            return value
    return None


def _tiers(model: source.ModelInfo) -> dict[str, dict[str, str]]:
    """Return a model's service tiers, each with what the price list asks for it."""
    tiers: dict[str, dict[str, str]] = {}
    for variant in model.price_variants or ():
        tier = _tier_of(variant)
        if tier is not None and tier not in STANDARD_TIERS:
            tiers[tier] = dict(variant.when)
    return tiers


def _constraints(
    model: source.ModelInfo,
) -> Iterator[source.StartDateConstraint | source.TimeOfDateConstraint]:
    listed = model.prices if isinstance(model.prices, list) else []
    for conditional in (*listed, *(model.price_variants or ())):
        if conditional.constraint is not None:
            yield conditional.constraint


def _start_dates(model: source.ModelInfo) -> list[date]:
    """Return the UTC dates on which prices may change; 1970-01-01 stands for the first prices known."""
    dates = {date(1970, 1, 1)}
    for constraint in _constraints(model):
        if isinstance(constraint, source.StartDateConstraint):
            dates.add(max(constraint.start_date, date(1970, 1, 1)))
    return sorted(dates)


def _seconds_of_day(model: source.ModelInfo) -> list[int]:
    """Return the seconds of the UTC day at which prices may change."""
    seconds = {0}
    for constraint in _constraints(model):
        if isinstance(constraint, source.TimeOfDateConstraint):
            for edge in (constraint.start_time, constraint.end_time):
                offset = edge.utcoffset() or timedelta()
                second = timedelta(hours=edge.hour, minutes=edge.minute, seconds=edge.second) - offset
                if edge.microsecond or second % timedelta(seconds=1):
                    raise _CannotExpressError("changes its price within a second")
                seconds.add(int(second.total_seconds()) % 86_400)
    return sorted(seconds)


def _rate(provider: str, model: str, prices: source.ModelPrice, rounded: list[Rounded]) -> Rate:
    listed = {key: value for key, value in prices.__dict__.items() if value is not None}
    if not listed and not model.endswith(":free") and (provider, model) not in _FREE:
        raise _CannotExpressError("the price list has no price for it and does not say that it is free")
    starts = {tier.start for value in listed.values() if isinstance(value, source.TieredPrices) for tier in value.tiers}
    base: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {start: {} for start in starts}
    for key, value in listed.items():
        kind, scale = _kind(key)
        for above, prices_of_band in ((-1, base), *tiers.items()):
            exact = _usd_above(value, above) * scale
            nanos = exact.to_integral_value(ROUND_HALF_EVEN)
            if exact != nanos:
                rounded.append(Rounded(provider, model, kind, exact))
            prices_of_band[kind] = int(nanos)
    return Rate.of(base, tiers)


def _usd_above(value: Decimal | source.TieredPrices, above: int) -> Decimal:
    """Return the price of a call whose input is one more than ``above``; all of it has the price of its tier."""
    if isinstance(value, Decimal):
        return value
    reached = [tier.price for tier in value.tiers if tier.start <= above]
    return reached[-1] if reached else value.base


@lru_cache(maxsize=256)
def _kind(price_key: str) -> tuple[str, Decimal]:
    """Return our kind for a price of the source, and the factor from its USD to our nanos."""
    for usage_key, unit in unit_data.items():
        if unit["price_key"] == price_key:
            name, ours_per_theirs = _RENAMED.get(usage_key, (usage_key, 1))
            if name in KINDS:
                return name, Decimal(_NANOS) * KINDS[name].per / (unit["per"] * ours_per_theirs)
    raise _CannotExpressError(f"is priced by {price_key}, a kind that is not known here")


_OPS: Final[dict[type, tuple[Op, str]]] = {
    source.ClauseEquals: ("equals", "equals"),
    source.ClauseStartsWith: ("starts", "starts_with"),
    source.ClauseEndsWith: ("ends", "ends_with"),
    source.ClauseContains: ("contains", "contains"),
    source.ClauseRegex: ("regex", "regex"),
    source.ClauseOr: ("any", "or_"),
    source.ClauseAnd: ("all", "and_"),
}


def _clause(clause: object) -> Clause:
    op, attribute = _OPS[type(clause)]
    value = getattr(clause, attribute)
    if op in {"any", "all"}:
        return Clause(op, parts=tuple(_clause(part) for part in value))
    return Clause(op, value if op == "regex" else value.lower())
