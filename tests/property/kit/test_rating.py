"""Rating agrees with its source to the rounding, and keeps the rules that a price must keep."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import pytest
from genai_prices import types as source
from genai_prices.data import providers
from hypothesis import given, settings
from hypothesis import strategies as st

from services.kit.rate_source import compile_rates
from services.kit.rating import KINDS, Rate, RateTable, Tokens, rate
from services.kit.rating.kinds import CORE_KINDS
from services.kit.windows import unix_us

COMPILED = compile_rates()
TABLE = RateTable.from_bytes(COMPILED.table.to_bytes())
ROUNDED = {(item.provider, item.model): item for item in COMPILED.rounded}
LEFT_OUT = {(item.provider, item.model) for item in COMPILED.left_out}
MODELS = [
    (provider, model) for provider in providers for model in provider.models if (provider.id, model.id) not in LEFT_OUT
]
# Kinds that are in no more specific one of this list; totals are summed up from them.
LEAVES = (*CORE_KINDS, "cache_write_1h_tokens", "input_audio_tokens", "cache_audio_read_tokens",
          "input_image_tokens", "cache_image_read_tokens", "input_video_tokens", "output_audio_tokens",
          "output_image_tokens", "output_video_tokens", "output_citation_tokens", "web_searches")  # fmt: skip
SOURCE_NAMES = {"reasoning_tokens": "output_reasoning_tokens"}


def totals(exclusive: dict[str, int]) -> dict[str, int]:
    """Add to every kind what is in its parts."""
    return {
        kind: sum(count for part, count in exclusive.items() if part == kind or KINDS[part].is_part_of(KINDS[kind]))
        for kind in exclusive
    }


def as_tokens(counts: dict[str, int]) -> Tokens:
    extra = tuple((kind, count) for kind, count in counts.items() if kind not in CORE_KINDS)
    return Tokens(*(counts[kind] for kind in CORE_KINDS), extra=extra)  # type: ignore[misc, arg-type]


def source_nanos(provider: source.Provider, model: source.ModelInfo, counts: dict[str, int], at: datetime) -> Decimal:
    usage = source.Usage(
        **{SOURCE_NAMES.get(kind, kind): count for kind, count in counts.items() if kind != "requests"}
    )
    with localcontext(prec=50):
        return model.calc_price(usage, provider, genai_request_timestamp=at).total_price * 1_000_000_000


def compare(provider: source.Provider, model: source.ModelInfo, counts: dict[str, int], at: datetime) -> None:
    ours = rate(TABLE.lookup(provider.id, model.id, unix_us(at)).rate, as_tokens(counts))
    theirs = source_nanos(provider, model, counts, at)
    if (provider.id, model.id) in ROUNDED:
        # Each count's price is off by half a nano a million at most.
        slack = Decimal(sum(counts.values())) / 1_000_000 / 2 + Decimal("0.5")
        assert abs(ours - theirs) <= slack
    else:
        assert ours == theirs.to_integral_value(ROUND_HALF_EVEN)


def some_counts(chance: random.Random, *, extra: bool) -> dict[str, int]:
    leaves = LEAVES if extra else CORE_KINDS
    size = chance.choice([10, 2_000, 60_000, 400_000])
    exclusive = {kind: chance.choice([0, chance.randrange(size)]) for kind in leaves}
    exclusive["requests"] = 1
    return totals(exclusive)


def moments(chance: random.Random) -> Iterator[datetime]:
    start = datetime(2023, 1, 1, tzinfo=UTC)
    for _ in range(3):
        yield start + timedelta(seconds=chance.randrange(5 * 366 * 86_400))


@pytest.mark.parametrize("part", range(8))
def test_every_model_costs_what_the_source_says(part: int) -> None:
    chance = random.Random(part)  # noqa: S311 (a sample, not a secret)
    for provider, model in MODELS[part::8]:
        for at in moments(chance):
            compare(provider, model, some_counts(chance, extra=chance.random() < 0.5), at)


TIERED = [pair for pair in MODELS if "TieredPrices" in repr(pair[1].prices)]
CHANGING = [pair for pair in MODELS if isinstance(pair[1].prices, list)]
COUNT = st.one_of(st.sampled_from([0, 1, 99_999, 100_000, 128_000, 199_999, 200_000, 272_000]), st.integers(0, 600_000))


@given(
    st.one_of(st.sampled_from(MODELS), st.sampled_from(TIERED), st.sampled_from(CHANGING)),
    st.lists(COUNT, min_size=len(LEAVES), max_size=len(LEAVES)),
    st.datetimes(datetime(2023, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 (bounds are naive)
)
@settings(max_examples=300, deadline=None)
def test_any_mix_at_any_time_costs_what_the_source_says(
    pair: tuple[source.Provider, source.ModelInfo], counts: list[int], at: datetime
) -> None:
    compare(*pair, totals({**dict(zip(LEAVES, counts, strict=True)), "requests": 1}), at)


def test_every_tier_begins_where_the_source_says() -> None:
    at = datetime(2026, 11, 22, tzinfo=UTC)
    for provider, model in TIERED:
        for tier in TABLE.lookup(provider.id, model.id, unix_us(at)).rate.tiers:
            for count in (tier.above_input_tokens - 1, tier.above_input_tokens, tier.above_input_tokens + 1):
                compare(provider, model, dict.fromkeys(CORE_KINDS, 0) | {"input_tokens": count, "requests": 1}, at)


def test_the_sample_has_tiers_history_and_times_of_day() -> None:
    assert len(TIERED) > 50
    assert len(CHANGING) > 100
    by_day = [ref for ref, periods in TABLE.models() if any(len(p.by_second_of_day) > 1 for p in periods)]
    assert any(ref.provider == "deepseek" for ref in by_day)


PRICES = st.integers(0, 10**12)
SMALL = st.integers(0, 10**6)


@st.composite
def rates(draw: st.DrawFn) -> Rate:
    def prices() -> dict[str, int]:
        return {kind: draw(PRICES) for kind in CORE_KINDS}

    return Rate.of(prices(), {draw(st.integers(0, 10**6)): prices()} if draw(st.booleans()) else None)


@st.composite
def calls(draw: st.DrawFn) -> Tokens:
    read, write, rest, reasoning, spoken = (draw(SMALL) for _ in range(5))
    return Tokens(read + write + rest, read, write, reasoning + spoken, reasoning, draw(st.integers(0, 100)))


def exact(price: Rate, call: Tokens) -> Fraction:
    reached = [tier.prices for tier in price.tiers if call.input_tokens > tier.above_input_tokens]
    of = dict(reached[-1] if reached else price.prices)
    counts = {
        "input_tokens": call.input_tokens - call.cache_read_tokens - call.cache_write_tokens,
        "cache_read_tokens": call.cache_read_tokens,
        "cache_write_tokens": call.cache_write_tokens,
        "output_tokens": call.output_tokens - call.reasoning_tokens,
        "reasoning_tokens": call.reasoning_tokens,
        "requests": call.requests,
    }
    return sum((Fraction(of[kind] * count, KINDS[kind].per) for kind, count in counts.items()), Fraction())


@given(rates(), calls())
def test_a_cost_is_the_exact_sum_rounded_once_and_never_negative(price: Rate, call: Tokens) -> None:
    cost = rate(price, call)
    assert cost == round(exact(price, call))
    assert cost >= 0


@given(rates(), calls())
def test_counts_given_as_extra_zeros_change_nothing(price: Rate, call: Tokens) -> None:
    padded = call._replace(extra=(("input_audio_tokens", 0), ("cache_write_1h_tokens", 0), ("web_searches", 0)))
    assert rate(price, padded) == rate(price, call)


def weigh(first: int, one: Tokens, second: int, other: Tokens) -> Tokens:
    return Tokens()._replace(
        **{kind: first * getattr(one, kind) + second * getattr(other, kind) for kind in CORE_KINDS}
    )


@given(rates(), calls(), calls())
def test_without_tiers_cost_is_linear_to_the_rounding(price: Rate, one: Tokens, other: Tokens) -> None:
    flat = Rate(price.prices)
    both, thrice = weigh(1, one, 1, other), weigh(3, one, 0, other)
    assert abs(rate(flat, both) - rate(flat, one) - rate(flat, other)) <= 1
    assert abs(rate(flat, thrice) - 3 * rate(flat, one)) <= 2


@given(rates(), calls(), st.sampled_from(["output_tokens", "requests"]), SMALL)
def test_using_more_never_costs_less(price: Rate, call: Tokens, kind: str, more: int) -> None:
    bigger = call._replace(**{kind: getattr(call, kind) + more})
    assert rate(price, bigger) >= rate(price, call)
