"""Rating: the cost of a call, the checks of its counts, and the table of rates."""

from datetime import UTC, datetime

import pytest

from services.kit.rating import (
    KINDS,
    MAX_COUNT,
    Clause,
    ModelRates,
    ModelRef,
    Period,
    ProviderRates,
    Rate,
    RateError,
    RateTable,
    RateTableError,
    Tokens,
    TokensError,
    UnknownModelError,
    check_tokens,
    equals,
    rate,
)
from services.kit.rating.cost import MAX_EXTRA_KINDS
from services.kit.rating.kinds import DENOMINATOR, wholes_of
from services.kit.windows import unix_us

USD = 1_000_000_000
SONNET = Rate.of(
    {
        "input_tokens": 3 * USD,
        "cache_read_tokens": 300_000_000,
        "cache_write_tokens": 3_750_000_000,
        "output_tokens": 15 * USD,
    },
    {
        200_000: {
            "input_tokens": 6 * USD,
            "cache_read_tokens": 600_000_000,
            "cache_write_tokens": 7_500_000_000,
            "output_tokens": 22_500_000_000,
        }
    },
)


def test_a_call_costs_the_sum_of_its_parts() -> None:
    # 1,900 plain, 3,000 read, 100 written, 700 out: 5.70 + 0.90 + 0.375 + 10.50 thousandths of a dollar.
    assert rate(SONNET, Tokens(5_000, 3_000, 100, 700)) == 17_475_000


def test_a_kind_without_a_price_is_charged_as_what_it_is_part_of() -> None:
    plain = Rate.of({"input_tokens": 2 * USD, "output_tokens": 8 * USD})
    assert rate(plain, Tokens(1_000, 400, 100, 10, 5)) == rate(plain, Tokens(1_000, 0, 0, 10, 0)) == 2_080_000
    embedding = Rate.of({"input_tokens": 20_000_000})
    assert rate(embedding, Tokens(1_000_000, output_tokens=50)) == 20_000_000


def test_reasoning_has_its_own_price_where_one_is_listed() -> None:
    deep = Rate.of({"input_tokens": 0, "output_tokens": 8 * USD, "reasoning_tokens": 3 * USD})
    assert rate(deep, Tokens(output_tokens=1_000_000, reasoning_tokens=600_000)) == 5 * USD


def test_the_tier_of_the_input_prices_the_whole_call() -> None:
    assert rate(SONNET, Tokens(200_000, output_tokens=1_000)) == 615_000_000
    assert rate(SONNET, Tokens(200_001, output_tokens=1_000)) == 1_222_506_000
    three = Rate.of({"input_tokens": 1_000_000}, {10: {"input_tokens": 2_000_000}, 20: {"input_tokens": 3_000_000}})
    assert [rate(three, Tokens(count)) for count in (10, 11, 20, 21)] == [10, 22, 40, 63]


def test_requests_are_priced_by_the_thousand() -> None:
    image = Rate.of({"requests": 40 * USD})
    assert rate(image, Tokens()) == 40_000_000
    assert rate(image, Tokens(requests=0)) == 0
    assert rate(image, Tokens(requests=3)) == 120_000_000


@pytest.mark.parametrize(
    ("nanos", "tokens", "cost"),
    [(500_000, 1, 0), (500_000, 3, 2), (500_001, 1, 1), (499_999, 1, 0), (18_750_000, 1, 19), (18_500_000, 1, 18)],
)
def test_a_cost_is_rounded_once_halves_to_even(nanos: int, tokens: int, cost: int) -> None:
    assert rate(Rate.of({"input_tokens": nanos}), Tokens(tokens)) == cost


def test_kinds_are_summed_before_they_are_rounded() -> None:
    both = Rate.of({"input_tokens": 500_000, "output_tokens": 500_000})
    assert rate(both, Tokens(1, output_tokens=1)) == 1


def test_extra_kinds_are_priced_by_themselves_or_by_their_whole() -> None:
    audio = Rate.of(
        {
            "input_tokens": USD,
            "cache_read_tokens": 100_000_000,
            "input_audio_tokens": 10 * USD,
            "cache_audio_read_tokens": 2 * USD,
            "web_searches": 10 * USD,
        }
    )
    tokens = Tokens(
        1_000,
        cache_read_tokens=300,
        extra=(("input_audio_tokens", 500), ("cache_audio_read_tokens", 200), ("web_searches", 2)),
    )
    # 400 plain text, 100 read text, 300 plain audio, 200 read audio, 2 searches.
    assert rate(audio, tokens) == 400_000 + 10_000 + 3_000_000 + 400_000 + 20_000_000
    assert rate(SONNET, Tokens(1_000, extra=(("input_audio_tokens", 500),))) == 3_000_000
    assert rate(SONNET, Tokens(extra=(("web_searches", 9),))) == 0


def test_a_part_of_a_part_falls_back_to_the_nearest_price() -> None:
    tokens = Tokens(100, 0, 100, extra=(("cache_write_1h_tokens", 40), ("cache_write_5m_tokens", 60)))
    assert rate(SONNET, tokens) == 375_000
    hour = Rate.of({**dict(SONNET.prices), "cache_write_1h_tokens": 6 * USD})
    assert rate(hour, tokens) == 40 * 6_000 + 60 * 3_750


@pytest.mark.parametrize(
    ("tokens", "field", "says"),
    [
        (Tokens(-1), "input_tokens", "0 or more"),
        (Tokens(5, -1), "cache_read_tokens", "0 or more"),
        (Tokens(5, 0, -1), "cache_write_tokens", "0 or more"),
        (Tokens(output_tokens=-1), "output_tokens", "0 or more"),
        (Tokens(requests=-1), "requests", "0 or more"),
        (Tokens(5, 6), "cache_read_tokens", "total and includes"),
        (Tokens(5, 2, 4), "cache_write_tokens", "total and includes"),
        (Tokens(output_tokens=1, reasoning_tokens=2), "reasoning_tokens", "total and includes"),
        (Tokens(MAX_COUNT + 1), "input_tokens", "limit"),
        (Tokens(output_tokens=MAX_COUNT + 1), "output_tokens", "limit"),
        (Tokens(requests=MAX_COUNT + 1), "requests", "limit"),
        (Tokens(5, extra=(("input_audio_tokens", 6),)), "input_audio_tokens", "total and includes"),
        (Tokens(9, 5, extra=(("input_audio_tokens", 5),)), "cache_read_tokens", "total and includes"),
        (Tokens(extra=(("web_searches", -1),)), "web_searches", "0 or more"),
        (Tokens(extra=(("nonsense", 1),)), "extra", "no kind"),
        (Tokens(extra=(("requests", 1),)), "extra", "twice"),
        (Tokens(extra=(("web_searches", 1), ("web_searches", 1))), "extra", "twice"),
        (Tokens(extra=(("web_searches", 1),) * (MAX_EXTRA_KINDS + 1)), "extra", "limit"),
    ],
)
def test_counts_that_contradict_each_other_are_refused_by_field(tokens: Tokens, field: str, says: str) -> None:
    for check in (lambda: rate(SONNET, tokens), lambda: check_tokens(tokens)):
        with pytest.raises(TokensError, match=says) as caught:
            check()
        assert caught.value.field == field


def test_a_cost_past_the_limit_is_refused() -> None:
    dear = Rate.of({"output_tokens": 2**62})
    with pytest.raises(TokensError, match="limit"):
        rate(dear, Tokens(output_tokens=MAX_COUNT))


@pytest.mark.parametrize(
    ("prices", "tiers", "says"),
    [
        ({"nonsense": 1}, None, "no kind"),
        ({"input_tokens": -1}, None, "must be 0"),
        ({"input_tokens": 2**63}, None, "must be 0"),
        ({"cache_read_tokens": 1}, None, "which it is part of, has none"),
        ({"input_tokens": 1, "cache_read_tokens": 1, "input_audio_tokens": 1}, None, "overlap"),
        ({"input_tokens": 1}, {0: {"cache_read_tokens": 1}}, "has none"),
        ({"input_tokens": 1}, {-1: {"input_tokens": 1}}, "ascending"),
        ({"input_tokens": 1}, {at: {"input_tokens": 1} for at in range(17)}, "at most 16"),
    ],
)
def test_a_rate_that_leaves_a_count_ambiguous_is_refused(
    prices: dict[str, int], tiers: dict[int, dict[str, int]] | None, says: str
) -> None:
    with pytest.raises(RateError, match=says):
        Rate.of(prices, tiers)


def test_every_kind_divides_the_common_denominator() -> None:
    assert all(DENOMINATOR % kind.per == 0 for kind in KINDS.values())
    assert wholes_of("cache_audio_write_1h_tokens")[-1] == "input_tokens"
    assert wholes_of("input_tokens") == ()


# --- the table ---

OLD, NEW, NIGHT = (Rate.of({"input_tokens": nanos}) for nanos in (1_000_000, 2_000_000, 500_000))


def at(text: str) -> int:
    return unix_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def always(price: Rate) -> tuple[Period, ...]:
    return (Period(0, ((0, price),)),)


def model(id_: str, *names: str, price: Rate = OLD) -> ModelRates:
    return ModelRates(id_, Clause("any", parts=tuple(equals(name) for name in (id_, *names))), always(price))


TABLE = RateTable(
    "test-1",
    [
        ProviderRates(
            "anthropic",
            (
                ModelRates(
                    "claude-sonnet-4-5",
                    Clause("starts", "claude-sonnet-4-5"),
                    (
                        Period(at("2026-01-01"), ((0, OLD),)),
                        Period(at("2026-11-01"), ((0, NEW), (16 * 3600, NIGHT), (20 * 3600, NEW))),
                    ),
                ),
                model("claude-3-5-sonnet"),
            ),
            provider_match=Clause("contains", "anthropic"),
            model_match=Clause("contains", "claude"),
        ),
        ProviderRates("openai", (model("gpt-4o", "gpt-4o-2024-08-06"), model("llama-x", price=NEW))),
        ProviderRates("azure", (model("phi-4"),), fallbacks=("openai", "anthropic")),
        ProviderRates("groq", (model("Meta/Llama-X"), model("solo"), model("shared"))),
        ProviderRates("together", (model("shared", price=NEW),)),
        ProviderRates(
            "aws",
            (
                model("global.anthropic.claude-haiku-4-5-20251001-v1:0"),
                model("regional.anthropic.claude-haiku-4-5-20251001-v1:0", price=NEW),
            ),
        ),
    ],
)


@pytest.mark.parametrize(
    ("provider", "name", "expected"),
    [
        ("", "claude-4-5-sonnet", "anthropic/claude-sonnet-4-5"),
        ("", " Claude-Sonnet-4-5 ", "anthropic/claude-sonnet-4-5"),
        ("", "claude-3-5-sonnet", "anthropic/claude-3-5-sonnet"),
        ("", "anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("my-anthropic", "claude-sonnet-4-5@20250929", "anthropic/claude-sonnet-4-5"),
        ("OpenAI", "openai/GPT-4o", "openai/gpt-4o"),
        ("", "gpt-4o-2099-01-01", "openai/gpt-4o"),
        ("openai", "gpt-4o-latest", "openai/gpt-4o"),
        ("azure_ai", "gpt-4o", "azure/gpt-4o"),
        ("azure", "phi-4", "azure/phi-4"),
        ("azure", "claude-sonnet-4-5", "azure/claude-sonnet-4-5"),
        ("litellm", "azure/gpt-4o", "azure/gpt-4o"),
        ("", "groq/meta/llama-x", "groq/Meta/Llama-X"),
        ("groq", "meta/llama-x", "groq/Meta/Llama-X"),
        ("", "solo", "groq/solo"),
        ("", "models/solo", "groq/solo"),
        ("bedrock", "claude-haiku-4-5", "aws/regional.anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("", "eu.anthropic.claude-haiku-4-5-20251001-v1:0", "aws/regional.anthropic.claude-haiku-4-5-20251001-v1:0"),
        (
            "",
            "global.anthropic.claude-haiku-4-5-20251001-v1:0",
            "aws/global.anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
    ],
)
def test_what_people_write_is_made_canonical(provider: str, name: str, expected: str) -> None:
    assert str(TABLE.resolve(provider, name)) == expected


@pytest.mark.parametrize(
    ("provider", "name", "field", "says"),
    [
        ("nobody", "gpt-4o", "provider", "no provider"),
        ("opnai", "gpt-4o", "provider", "did you mean openai"),
        ("openai", "gpt-4oo", "model", "did you mean gpt-4o"),
        ("", "claude-sonet-4-5", "model", "did you mean claude-sonnet-4-5"),
        ("", "zzz", "model", "give the cost"),
        ("", "", "model", "empty"),
        ("openai", "  ", "model", "empty"),
        ("", "x" * 300, "model", "limit is 256"),
        ("x" * 300, "gpt-4o", "provider", "limit is 256"),
        ("", "gpt\x00", "model", "printed"),
        ("", "shared", "provider", "groq, together"),
        ("openai", "claude-sonnet-4-5", "model", "no model of openai"),
    ],
)
def test_an_unknown_model_is_refused_by_field_with_close_matches(
    provider: str, name: str, field: str, says: str
) -> None:
    for _ in range(2):  # The second answer comes from the cache.
        with pytest.raises(UnknownModelError, match=says) as caught:
            TABLE.resolve(provider, name)
        assert caught.value.field == field
        assert len(caught.value.suggestions) <= 3
        assert len(str(caught.value)) < 400


def test_names_past_the_limit_are_not_remembered() -> None:
    table = RateTable.from_bytes(TABLE.to_bytes())
    for size in range(300, 320):
        with pytest.raises(UnknownModelError):
            table.resolve("", "x" * size)
    assert table._resolve_cached.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("time", "price"),
    [
        ("2026-01-01", OLD),
        ("2026-10-31T23:59:59.999999", OLD),
        ("2026-11-01", NEW),
        ("2026-11-01T15:59:59.999999", NEW),
        ("2026-11-22T16:00:00", NIGHT),
        ("2026-11-22T19:59:59", NIGHT),
        ("2026-11-22T20:00:00", NEW),
    ],
)
def test_the_rate_is_the_one_in_force_then(time: str, price: Rate) -> None:
    assert TABLE.lookup("", "claude-sonnet-4-5", at(time)) == (ModelRef("anthropic", "claude-sonnet-4-5"), price)


def test_before_its_first_price_a_model_has_none() -> None:
    with pytest.raises(UnknownModelError, match="so early"):
        TABLE.lookup("", "claude-sonnet-4-5", at("2025-12-31T23:59:59"))
    with pytest.raises(UnknownModelError, match="so early"):
        TABLE.lookup("", "gpt-4o", -1)


def test_a_table_survives_its_bytes() -> None:
    data = TABLE.to_bytes()
    copy = RateTable.from_bytes(data, digest=TABLE.digest)
    assert copy.to_bytes() == data
    assert copy.version == TABLE.version == f"test-1-{TABLE.digest[:12]}"
    assert copy.providers == TABLE.providers
    assert dict(copy.models()) == dict(TABLE.models())
    assert copy.lookup("azure", "gpt-4o", at("2026-11-22")) == TABLE.lookup("azure", "gpt-4o", at("2026-11-22"))


def test_another_price_is_another_version() -> None:
    first, second = (RateTable("s", [ProviderRates("p", (model("m", price=price),))]) for price in (OLD, NEW))
    assert first.version != second.version


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        TABLE.to_bytes()[:-2],
        TABLE.to_bytes().replace(b'"format":2', b'"format":3'),
        TABLE.to_bytes().replace(b'"input_tokens":1000000', b'"input_tokens":1.5'),
        TABLE.to_bytes().replace(b'"input_tokens":1000000', b'"input_tokens":true'),
        TABLE.to_bytes().replace(b'"input_tokens":1000000', b'"output_token":1000000'),
        TABLE.to_bytes().replace(b'"claude-3-5-sonnet"', b'"claude-sonnet-4-5"'),
        TABLE.to_bytes().replace(b'"fallbacks":', b'"x":').replace(b'["openai","anthropic"]', b'["nobody"]'),
    ],
)
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RateTableError):
        RateTable.from_bytes(data)


def test_bytes_with_another_digest_are_refused() -> None:
    with pytest.raises(RateTableError, match="digest"):
        RateTable.from_bytes(TABLE.to_bytes(), digest="0" * 64)


def test_an_invalid_pattern_is_refused_when_the_table_is_read() -> None:
    bad = ModelRates("m", Clause("regex", "a("), always(OLD))
    with pytest.raises(RateTableError, match="no rate table"):
        RateTable.from_bytes(RateTable("s", [ProviderRates("p", (bad,))]).to_bytes())


@pytest.mark.parametrize(
    ("providers", "says"),
    [
        ([ProviderRates("p", ()), ProviderRates("p", ())], "twice"),
        ([ProviderRates("p", (model("m"), model("M")))], "twice"),
        ([ProviderRates("p", (), fallbacks=("q",))], "falls back"),
        ([ProviderRates("p", (ModelRates("m", equals("m"), ()),))], "no periods"),
        ([ProviderRates("p", (ModelRates("m", equals("m"), always(OLD) * 2),))], "out of order"),
        ([ProviderRates("p", (ModelRates("m", equals("m"), (Period(0, ((5, OLD),)),)),))], "times of day"),
        ([ProviderRates("p", (ModelRates("m", equals("m"), (Period(0, ()),)),))], "times of day"),
    ],
)
def test_an_inconsistent_table_is_refused(providers: list[ProviderRates], says: str) -> None:
    with pytest.raises(RateTableError, match=says):
        RateTable("s", providers)


def test_the_first_clause_in_order_wins_whatever_its_form() -> None:
    table = RateTable(
        "s",
        [
            ProviderRates(
                "p",
                (
                    ModelRates("fuzzy", Clause("contains", "abc"), always(OLD)),
                    ModelRates("exact", equals("xabcx"), always(NEW)),
                    ModelRates("late", Clause("all", parts=(Clause("starts", "q"), Clause("ends", "z"))), always(OLD)),
                    ModelRates("digits", Clause("regex", r"^q\d+z?$"), always(OLD)),
                ),
            )
        ],
    )
    assert [table.resolve("p", name).model for name in ("xabcx", "exact", "q1z", "q1")] == [
        "fuzzy",
        "exact",
        "late",
        "digits",
    ]
