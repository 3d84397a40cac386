"""A rate table as compact JSON: the same content always gives the same bytes, so a digest names it."""

import json
import re
from typing import Any, Final

from services.kit.rating.clauses import MAX_DEPTH, OPS, Clause
from services.kit.rating.cost import Rate, RateError, Tier
from services.kit.rating.entries import ModelRates, Period, ProviderRates, RateTableError

FORMAT: Final = 2
"""The version of the encoding."""
READ_FORMATS: Final = frozenset({1, FORMAT})
"""What is read: tables of the first format have no service tiers."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""The largest encoded table."""

_OP_CODES: Final = {op: index for index, op in enumerate(OPS)}


def encode(snapshot: str, currency_code: str, providers: tuple[ProviderRates, ...]) -> bytes:
    """Encode a table; each distinct rate is written once and referred to by its position."""
    rates: dict[Rate, int] = {}
    body = [
        [
            provider.id,
            _clause_out(provider.provider_match),
            _clause_out(provider.model_match),
            list(provider.fallbacks),
            [
                [
                    model.id,
                    _clause_out(model.match),
                    _periods_out(model.periods, rates),
                    *([[tier, _periods_out(periods, rates)] for tier, periods in model.variants]),
                ]
                for model in provider.models
            ],
        ]
        for provider in providers
    ]
    content = {
        "format": FORMAT,
        "snapshot": snapshot,
        "currency": currency_code,
        "rates": [_rate_out(rate) for rate in rates],
        "providers": body,
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def decode(data: bytes) -> tuple[str, str, tuple[ProviderRates, ...]]:
    """Decode a table into its snapshot's name, currency and providers.

    Raises:
        RateTableError: The bytes are too many, or no table of this format.
    """
    if len(data) > MAX_BYTES:
        raise RateTableError(f"the rate table has {len(data)} bytes; the limit is {MAX_BYTES}")
    try:
        content = json.loads(data)
        if content["format"] not in READ_FORMATS:
            raise RateTableError(
                f"the rate table has format {content['format']!r}, this release reads {FORMAT}; update this service"
            )
        rates = [_rate_in(raw) for raw in content["rates"]]
        providers = tuple(_provider_in(raw, rates) for raw in content["providers"])
        return str(content["snapshot"]), str(content["currency"]), providers
    except RateTableError:
        raise
    except RateError as error:
        raise RateTableError(f"the rate table holds an invalid rate: {error}") from error
    except (ValueError, TypeError, LookupError, RecursionError, re.error) as error:
        raise RateTableError(f"these bytes are no rate table ({type(error).__name__}); fetch it again") from error


def _periods_out(periods: tuple[Period, ...], rates: dict[Rate, int]) -> list[Any]:
    return [
        [
            period.effective_from_us,
            [[second, rates.setdefault(rate, len(rates))] for second, rate in period.by_second_of_day],
        ]
        for period in periods
    ]


def _periods_in(raw: list[Any], rates: list[Rate]) -> tuple[Period, ...]:
    return tuple(
        Period(_int(start), tuple((_int(second), rates[_int(at)]) for second, at in by_second))
        for start, by_second in raw
    )


def _rate_out(rate: Rate) -> list[Any]:
    tiers = [[tier.above_input_tokens, dict(tier.prices)] for tier in rate.tiers]
    return [dict(rate.prices), tiers] if tiers else [dict(rate.prices)]


def _rate_in(raw: list[Any]) -> Rate:
    tiers = raw[1] if len(raw) > 1 else []
    return Rate(_prices_in(raw[0]), tuple(Tier(_int(above), _prices_in(prices)) for above, prices in tiers))


def _prices_in(raw: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    return tuple((kind, _int(nanos)) for kind, nanos in sorted(raw.items()))


def _provider_in(raw: list[Any], rates: list[Rate]) -> ProviderRates:
    id_, provider_match, model_match, fallbacks, models = raw
    return ProviderRates(
        str(id_),
        tuple(
            ModelRates(
                str(model_id),
                _clause_in(match),
                _periods_in(periods, rates),
                tuple((str(tier), _periods_in(of_tier, rates)) for tier, of_tier in variants),
            )
            for model_id, match, periods, *variants in models
        ),
        None if provider_match is None else _clause_in(provider_match),
        None if model_match is None else _clause_in(model_match),
        tuple(str(fallback) for fallback in fallbacks),
    )


def _clause_out(clause: Clause | None) -> list[Any] | None:
    if clause is None:
        return None
    if clause.op in {"any", "all"}:
        return [_OP_CODES[clause.op], [_clause_out(part) for part in clause.parts]]
    return [_OP_CODES[clause.op], clause.text]


def _clause_in(raw: list[Any], depth: int = 0) -> Clause:
    if depth > MAX_DEPTH:
        raise RateTableError(f"a clause nests deeper than {MAX_DEPTH}")
    op = OPS[_int(raw[0])]
    if op in {"any", "all"}:
        return Clause(op, parts=tuple(_clause_in(part, depth + 1) for part in raw[1]))
    if op == "regex":
        re.compile(raw[1])
    return Clause(op, str(raw[1]))


def _int(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise RateTableError(f"{str(value)[:40]!r} stands where a whole number of 0 or more belongs")
    return value
