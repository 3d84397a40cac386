"""LiteLLM's price map becomes rates: tiers by input, by service, caches; what cannot be priced is left out by name."""

import json
from typing import Any

import pytest

from services.kit.errors import PurseError
from services.kit.rating import Tokens, rate
from services.metering.domain.litellm import Imported, read

AT_US = 1_795_000_000_000_000


def imported(**models: dict[str, Any]) -> Imported:
    named = {key.replace("__", "/"): value for key, value in models.items()}
    return read(json.dumps({"sample_spec": {"input_cost_per_token": 0}} | named).encode())


def cost(found: Imported, provider: str, model: str, tokens: Tokens, tier: str = "") -> int:
    return rate(found.table.lookup(provider, model, AT_US, tier).rate, tokens)


PRO = {
    "litellm_provider": "vertex_ai-language-models",
    "mode": "chat",
    "input_cost_per_token": 1.25e-06,
    "input_cost_per_token_above_200k_tokens": 2.5e-06,
    "output_cost_per_token": 1e-05,
    "output_cost_per_token_above_200k_tokens": 1.5e-05,
    "cache_read_input_token_cost": 1.25e-07,
    "cache_read_input_token_cost_above_200k_tokens": 2.5e-07,
    "input_cost_per_token_batches": 6.25e-07,
    "output_cost_per_token_batches": 5e-06,
    "input_cost_per_token_priority": 2.5e-06,
    "max_tokens": 65_535,
}


def test_tiers_caches_and_service_tiers_are_read() -> None:
    found = imported(pro=PRO)

    assert (found.models, found.skipped, found.partial) == (1, (), ())
    # Up to 200,000 tokens in: 99,000 at $1.25 a million, 1,000 from the cache at $0.125, 1,000 out at $10.
    assert cost(found, "google", "pro", Tokens(100_000, 1_000, 0, 1_000)) == 123_750_000 + 125_000 + 10_000_000
    # Above: the whole call at $2.50, $0.25 and $15.
    assert cost(found, "google", "pro", Tokens(200_001, 1, 0, 1_000)) == 500_000_000 + 250 + 15_000_000
    assert cost(found, "google", "pro", Tokens(100_000, 0, 0, 1_000), "batch") == 62_500_000 + 5_000_000
    # A tier's price that is not there is the standard one.
    assert cost(found, "google", "pro", Tokens(100_000, 0, 0, 1_000), "priority") == 250_000_000 + 10_000_000


def test_an_hour_in_the_cache_audio_and_images_have_their_prices() -> None:
    claude = {
        "litellm_provider": "anthropic",
        "input_cost_per_token": 3e-06,
        "output_cost_per_token": 1.5e-05,
        "cache_creation_input_token_cost": 3.75e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
    }
    audio = {
        "litellm_provider": "openai",
        "input_cost_per_token": 2.5e-06,
        "input_cost_per_audio_token": 4e-05,
        "output_cost_per_token": 1e-05,
        "output_cost_per_audio_token": 8e-05,
        "cache_read_input_token_cost": 1.25e-06,
    }
    image = {"litellm_provider": "openai", "mode": "image_generation", "output_cost_per_image": 0.04}
    found = imported(claude=claude, openai__audio=audio, image=image)

    hour = Tokens(1_000, 0, 1_000, 0, extra=(("cache_write_1h_tokens", 400),))
    assert cost(found, "anthropic", "claude", hour) == 600 * 3_750 + 400 * 6_000
    spoken = Tokens(100, 0, 0, 100, extra=(("input_audio_tokens", 60), ("output_audio_tokens", 10)))
    assert cost(found, "openai", "audio", spoken) == 40 * 2_500 + 60 * 40_000 + 90 * 10_000 + 10 * 80_000
    assert cost(found, "openai", "image", Tokens(extra=(("output_images", 3),))) == 120_000_000


def test_what_cannot_be_priced_is_left_out_and_named() -> None:
    found = imported(
        pro=PRO,
        free={"litellm_provider": "ollama", "input_cost_per_token": 0, "output_cost_per_token": 0},
        nobody={"input_cost_per_token": 1},
        negative={"litellm_provider": "openai", "input_cost_per_token": -1},
        lone={"litellm_provider": "openai", "cache_read_input_token_cost": 1e-6},
        vertex_ai__pro=PRO,
        video={"litellm_provider": "openai", "input_cost_per_token": 1e-6, "output_cost_per_video_per_second": 0.1},
    )

    assert found.models == 2
    assert [one.model for one in found.skipped] == ["free", "nobody", "negative", "lone", "vertex_ai/pro"]
    assert [one.model for one in found.partial] == ["video"]
    assert "output_cost_per_video_per_second" in found.partial[0].reason


@pytest.mark.parametrize("content", [b"", b"[]", b'{"m": 1}', b"\xff", b"[" * 100_000, b" " * (3 * 1024 * 1024 + 1)])
def test_what_is_no_price_map_is_refused(content: bytes) -> None:
    with pytest.raises(PurseError) as caught:
        read(content)
    assert caught.value.field == "content"
