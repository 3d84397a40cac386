"""The price list against what providers publish, by hand: ten models with caches and tiers.

Compared on 2026-11-22 with Anthropic's pricing page (platform.claude.com/docs/en/about-claude/pricing: input, writes
for five minutes and an hour, reads, output), with Google's figures for Gemini as its forum and price guides quote them
(input, cache, output, up to and above 200,000 tokens), and with OpenAI's as price guides quote them (input, cached
input, output). Figures are dollars a million tokens; the sums were done by hand, not by the code under test.
"""

import pytest

from services.kit.rate_source import load_rate_table
from services.kit.rating import Tokens, rate

AT_US = 1_795_000_000_000_000  # 2026-11-18
TABLE = load_rate_table()
HOUR = (("cache_write_1h_tokens", 10_000),)


@pytest.mark.parametrize(
    ("model", "tokens", "dollars_e9"),
    [
        # 50,000 plain, 20,000 read, 20,000 written for 5 minutes and 10,000 for an hour; 1,000 out.
        # 10, 0.25, 12.50, 20 and 50: 0.5 + 0.005 + 0.25 + 0.2 + 0.05
        ("claude-fable-5-1", Tokens(100_000, 20_000, 30_000, 1_000, extra=HOUR), 1_005_000_000),
        # 5, 0.50, 6.25, 10 and 25: 0.25 + 0.01 + 0.125 + 0.1 + 0.025
        ("claude-opus-5", Tokens(100_000, 20_000, 30_000, 1_000, extra=HOUR), 510_000_000),
        ("claude-opus-4-5", Tokens(100_000, 20_000, 30_000, 1_000, extra=HOUR), 510_000_000),
        # 15, 1.50, 18.75, 30 and 75: 0.75 + 0.03 + 0.375 + 0.3 + 0.075
        ("claude-opus-4-1", Tokens(100_000, 20_000, 30_000, 1_000, extra=HOUR), 1_530_000_000),
        # Haiku 5.5 up to 100,000 in: 0.10, 0.01, 0.125, 0.20 and 0.50: 0.005 + 0.0002 + 0.0025 + 0.002 + 0.0005
        ("claude-haiku-5-5", Tokens(100_000, 20_000, 30_000, 1_000, extra=HOUR), 10_200_000),
        # One token more, and the whole call is at 0.50, 0.05, 0.625, 1.00 and 2.50.
        ("claude-haiku-5-5", Tokens(100_001, 20_000, 30_000, 1_000, extra=HOUR), 51_000_500),
        # Sonnet 5.5: 2, 0.10, 2.50, 4 and 10: 0.1 + 0.002 + 0.05 + 0.04 + 0.01
        ("claude-sonnet-5-5", Tokens(100_000, 20_000, 30_000, 1_000, extra=HOUR), 202_000_000),
        # Gemini 2.5 Pro up to 200,000 in: 1.25, 0.125 and 10: 0.125 + 0.0125 + 0.05
        ("gemini-2.5-pro", Tokens(200_000, 100_000, 0, 5_000, 4_000), 187_500_000),
        # Above: 2.50, 0.25 and 15: 0.2500025 + 0.025 + 0.075
        ("gemini-2.5-pro", Tokens(200_001, 100_000, 0, 5_000, 4_000), 350_002_500),
        # 0.30 in, 0.03 cached, 2.50 out: 0.27 + 0.003 + 0.025
        ("gemini-2.5-flash", Tokens(1_000_000, 100_000, 0, 10_000), 298_000_000),
        # 2.50 in, 1.25 cached, 10 out: 0.15 + 0.05 + 0.01
        ("gpt-4o", Tokens(100_000, 40_000, 0, 1_000), 210_000_000),
        # 0.15 in, 0.075 cached, 0.60 out: 0.009 + 0.003 + 0.0006
        ("gpt-4o-mini", Tokens(100_000, 40_000, 0, 1_000), 12_600_000),
        # 2 in, 0.50 cached, 8 out: 0.12 + 0.02 + 0.008
        ("gpt-4.1", Tokens(100_000, 40_000, 0, 1_000), 148_000_000),
    ],
)
def test_a_call_costs_what_its_provider_publishes(model: str, tokens: Tokens, dollars_e9: int) -> None:
    assert rate(TABLE.lookup("", model, AT_US).rate, tokens) == dollars_e9


@pytest.mark.parametrize("model", ["claude-opus-5", "claude-haiku-5-5", "gpt-4o", "gemini-2.5-pro"])
def test_batches_cost_half_of_input_and_output(model: str) -> None:
    tokens = Tokens(50_000, 0, 0, 1_000)
    standard, batch = (rate(TABLE.lookup("", model, AT_US, tier).rate, tokens) for tier in ("", "batch"))
    assert 2 * batch == standard
