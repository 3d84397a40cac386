"""The compiled price list: what it holds, what it leaves out, and the names it understands."""

from datetime import UTC, datetime

import pytest
from genai_prices.data import providers

from services.kit.rate_source import compile_rates, load_rate_table
from services.kit.rating import RateTable, Tokens, rate
from services.kit.windows import unix_us

NOW_US = unix_us(datetime(2026, 11, 22, tzinfo=UTC))


def test_every_model_is_compiled_or_left_out_with_a_reason() -> None:
    compiled = compile_rates()
    known = {ref for ref, _ in compiled.table.models()}
    left_out = {(item.provider, item.model): item.reason for item in compiled.left_out}
    listed = {(provider.id, model.id) for provider in providers for model in provider.models}
    assert listed - known == set(left_out)
    assert all(left_out.values())
    assert len(left_out) < 0.01 * len(listed)
    assert known - listed <= {("openai", "dall-e-2"), ("openai", "dall-e-3")}


def test_what_has_no_price_and_is_not_said_to_be_free_is_left_out() -> None:
    left_out = {(item.provider, item.model) for item in compile_rates().left_out}
    assert ("openrouter", "google/lyria-3-pro-preview") in left_out
    free = load_rate_table().lookup("openrouter", "openai/gpt-oss-20b:free", NOW_US)
    assert rate(free.rate, Tokens(1_000_000, output_tokens=1_000_000)) == 0


def test_rounded_prices_are_listed_and_off_by_half_a_nano_at_most() -> None:
    for item in compile_rates().rounded:
        assert item.exact_nanos % 1 != 0
        assert abs(item.exact_nanos - round(item.exact_nanos)) <= 0.5


def test_canonical_names_are_their_own_canonical_names() -> None:
    table = load_rate_table()
    assert [ref for ref, _ in table.models() if table.resolve(*ref) != ref] == []


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("", "claude-4-5-sonnet", "anthropic/claude-sonnet-4-5"),
        ("", "claude-4.5-haiku", "anthropic/claude-haiku-4-5"),
        ("", "claude-3-5-sonnet-20241022", "anthropic/claude-3-5-sonnet"),
        ("", "gemini/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("", "models/gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("vertex_ai", "gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("", "openai/gpt-4o", "openai/gpt-4o"),
        ("", "gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("", "gpt-5.2-20251211", "openai/gpt-5.2"),
        ("", "text-embedding-3-small", "openai/text-embedding-3-small"),
        ("", "dall-e-3", "openai/dall-e-3"),
        ("azure_ai", "gpt-4o", "azure/gpt-4o"),
        ("", "openrouter/anthropic/claude-sonnet-4.5", "openrouter/anthropic/claude-sonnet-4.5"),
        ("", "deepseek/deepseek-chat", "deepseek/deepseek-chat"),
        ("", "xai/grok-4", "x-ai/grok-4-0709"),
        (
            "bedrock",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "aws/regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
    ],
)
def test_names_in_use_are_understood(provider: str, model: str, expected: str) -> None:
    assert str(load_rate_table().resolve(provider, model)) == expected


def test_well_known_prices_are_what_their_makers_charge() -> None:
    table = load_rate_table()
    usage = Tokens(10_000, cache_read_tokens=4_000, cache_write_tokens=1_000, output_tokens=2_000)
    # 5,000 at $3, 4,000 at $0.30, 1,000 at $3.75 and 2,000 at $15 a million.
    assert rate(table.lookup("", "claude-sonnet-4-5", NOW_US).rate, usage) == 49_950_000
    assert rate(table.lookup("", "dall-e-3", NOW_US).rate, Tokens()) == 40_000_000


def test_the_table_travels_as_bytes_within_a_grpc_message() -> None:
    table = load_rate_table()
    data = table.to_bytes()
    assert len(data) < 1_000_000
    assert RateTable.from_bytes(data, digest=table.digest).version == table.version
    assert table.version.startswith("genai-prices-")
