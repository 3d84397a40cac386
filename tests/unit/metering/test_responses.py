"""What providers answer, as their documentation shows it, is read into counts whose totals include their parts."""

import json
from typing import Any

import pytest

from services.kit.errors import PurseError
from services.metering.domain.responses import BYTES_MAX, read

CHAT = {
    "object": "chat.completion",
    "model": "gpt-audio-2025-08-28",
    "service_tier": "priority",
    "usage": {
        "prompt_tokens": 1_000,
        "completion_tokens": 300,
        "total_tokens": 1_300,
        "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 50},
        "completion_tokens_details": {"reasoning_tokens": 100, "audio_tokens": 20, "accepted_prediction_tokens": 0},
    },
}
RESPONSE = {
    "object": "response",
    "model": "gpt-5-2025-08-07",
    "service_tier": "default",
    "usage": {
        "input_tokens": 1_000,
        "input_tokens_details": {"cached_tokens": 400},
        "output_tokens": 300,
        "output_tokens_details": {"reasoning_tokens": 100},
        "total_tokens": 1_300,
    },
}
MESSAGE = {
    "type": "message",
    "model": "claude-sonnet-4-5-20250929",
    "usage": {
        "input_tokens": 500,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 400,
        "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
        "output_tokens": 300,
        "server_tool_use": {"web_search_requests": 2},
        "service_tier": "batch",
    },
}
GEMINI = {
    "modelVersion": "gemini-2.5-flash",
    "usageMetadata": {
        "promptTokenCount": 1_000,
        "cachedContentTokenCount": 400,
        "candidatesTokenCount": 200,
        "thoughtsTokenCount": 100,
        "totalTokenCount": 1_300,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 950}, {"modality": "AUDIO", "tokenCount": 50}],
    },
}
CONVERSE = {
    "output": {"message": {"role": "assistant"}},
    "usage": {
        "inputTokens": 500,
        "outputTokens": 300,
        "cacheReadInputTokens": 400,
        "cacheWriteInputTokens": 100,
        "totalTokens": 1_300,
    },
}


def body(answer: Any, api: str = "") -> tuple[Any, ...]:
    found = read(api, json.dumps(answer).encode(), ())
    return found.tokens, dict(found.extra), found.model, found.service_tier


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            CHAT,
            (
                (1_000, 400, 0, 300, 100),
                {"input_audio_tokens": 50, "output_audio_tokens": 20},
                "gpt-audio-2025-08-28",
                "priority",
            ),
        ),
        (RESPONSE, ((1_000, 400, 0, 300, 100), {}, "gpt-5-2025-08-07", "")),
        (
            MESSAGE,
            (
                (1_000, 400, 100, 300, 0),
                {"cache_write_1h_tokens": 60, "web_searches": 2},
                "claude-sonnet-4-5-20250929",
                "batch",
            ),
        ),
        (GEMINI, ((1_000, 400, 0, 300, 100), {"input_audio_tokens": 50}, "gemini-2.5-flash", "")),
        (CONVERSE, ((1_000, 400, 100, 300, 0), {}, "", "")),
    ],
    ids=["chat", "responses", "anthropic", "gemini", "bedrock"],
)
def test_an_answer_is_read_whole_or_as_its_usage_alone(answer: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert body(answer) == expected
    usage = answer.get("usage", answer.get("usageMetadata"))
    assert body(usage)[:2] == expected[:2]


@pytest.mark.parametrize(
    ("events", "tokens", "model"),
    [
        (
            [
                {"model": "gpt-4o", "choices": [{"delta": {"content": "a"}}], "usage": None},
                {"model": "gpt-4o", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
            ],
            (9, 0, 0, 4, 0),
            "gpt-4o",
        ),
        (
            [
                {"type": "response.created", "response": {"object": "response", "model": "gpt-5", "usage": None}},
                {"type": "response.output_text.delta", "delta": "a"},
                {"type": "response.completed", "response": RESPONSE},
            ],
            (1_000, 400, 0, 300, 100),
            "gpt-5-2025-08-07",
        ),
        (
            [
                {
                    "type": "message_start",
                    "message": {
                        "model": "claude-sonnet-4-5",
                        "usage": {"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 1},
                    },
                },
                {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}},
                {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}},
            ],
            (12, 7, 0, 15, 0),
            "claude-sonnet-4-5",
        ),
        (
            [
                {"usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 8}, "modelVersion": "gemini-2.5-pro"},
                {"usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 6, "totalTokenCount": 14}},
            ],
            (8, 0, 0, 6, 0),
            "gemini-2.5-pro",
        ),
        (
            [{"contentBlockDelta": {}}, {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 2}, "metrics": {}}}],
            (3, 0, 0, 2, 0),
            "",
        ),
    ],
    ids=["chat", "responses", "anthropic", "gemini", "bedrock"],
)
def test_a_stream_ends_in_what_was_used(events: list[Any], tokens: tuple[int, ...], model: str) -> None:
    each = [json.dumps(event).encode() for event in events]
    as_it_came = b"".join(b"event: e\ndata: %s\n\n" % event for event in each) + b"data: [DONE]\n\n"

    for given in (each, [as_it_came]):
        found = read("", b"", given)
        assert (found.tokens, found.model) == (tokens, model)


@pytest.mark.parametrize(
    ("api", "answer", "events", "reason"),
    [
        ("", b'{"choices": []}', (), "NO_USAGE"),
        ("", b'{"usage": null}', (), "NO_USAGE"),
        ("", b'{"usage": {}}', (), "NO_USAGE"),
        ("openai.chat", b'{"usage": {"input_tokens": 1}}', (), "NO_USAGE"),
        ("", b"", (b'{"choices": []}',), "NO_USAGE"),
        # The extractor fails with an AttributeError.
        (
            "",
            b'{"usageMetadata": {"promptTokenCount": 360, "promptTokensDetails": [{"modality": 1}]}}',
            (),
            "NO_USAGE",
        ),
        ("", b"no json", (), "UNREADABLE_RESPONSE"),
        ("", b"[1]", (), "UNREADABLE_RESPONSE"),
        ("", b"[" * 100_000, (), "UNREADABLE_RESPONSE"),
        ("", b"", (), "UNREADABLE_RESPONSE"),
        ("", b'{"usage": {"prompt_tokens": 1.5, "completion_tokens": 1}}', (), "UNREADABLE_RESPONSE"),
        ("", b" " * (BYTES_MAX + 1), (), "INVALID_ARGUMENT"),
        ("aol", b"{}", (), "INVALID_ARGUMENT"),
    ],
)
def test_an_answer_without_usage_says_so(api: str, answer: bytes, events: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(PurseError) as caught:
        read(api, answer, events)
    assert caught.value.reason == reason
    assert (caught.value.field or "").startswith("event.provider_response")


def test_a_model_that_no_encoding_can_write_is_not_taken_over() -> None:
    answer = b'{"model": "\\ud800", "service_tier": "\\ud800", "usage": {"prompt_tokens": 3, "completion_tokens": 1}}'

    found = read("", answer, ())

    assert (found.tokens, found.model, found.service_tier) == ((3, 0, 0, 1, 0), "", "")
