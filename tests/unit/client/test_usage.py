"""Usage objects of providers."""

from types import SimpleNamespace

import pytest

from pursestrings._usage import read_usage
from pursestrings.type.v1 import type_pb2

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
RESPONSES = {
    "input_tokens": 100,
    "output_tokens": 50,
    "input_tokens_details": {"cached_tokens": 30},
    "output_tokens_details": {"reasoning_tokens": 20},
}
ANTHROPIC = {
    "input_tokens": 60,
    "cache_read_input_tokens": 30,
    "cache_creation_input_tokens": 10,
    "output_tokens": 50,
}


def as_object(value: object) -> object:
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_object(inner) for key, inner in value.items()})
    return value


@pytest.mark.parametrize("shape", [lambda value: value, as_object], ids=["mapping", "object"])
@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (CHAT, (100, 30, 0, 50, 20)),
        (RESPONSES, (100, 30, 0, 50, 20)),
        (ANTHROPIC, (100, 30, 10, 50, 0)),
        ({"usage": CHAT, "model": "gpt-4o"}, (100, 30, 0, 50, 20)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}, (5, 0, 0, 2, 0)),
        ({"input_tokens": 5, "output_tokens": 2}, (5, 0, 0, 2, 0)),
        ({"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": None}, (5, 0, 0, 2, 0)),
        ({"prompt_tokens": 5}, (5, 0, 0, 0, 0)),
    ],
)
def test_the_shapes_of_providers(shape: object, usage: object, expected: tuple[int, ...]) -> None:
    counts = read_usage(shape(usage))  # type: ignore[operator]
    assert expected == (
        counts.input_tokens,
        counts.cache_read_tokens,
        counts.cache_write_tokens,
        counts.output_tokens,
        counts.reasoning_tokens,
    )


def test_counts_pass_as_they_are() -> None:
    counts = type_pb2.TokenCounts(input_tokens=3)
    assert read_usage(counts) is counts


@pytest.mark.parametrize("unknown", [{"tokens": 5}, 7, "usage", object()])
def test_an_unknown_shape_says_what_is_known(unknown: object) -> None:
    with pytest.raises(TypeError, match="OpenAI"):
        read_usage(unknown)


@pytest.mark.parametrize(
    ("usage", "kind", "expected"),
    [
        ({"prompt_tokens": -1}, ValueError, "prompt_tokens"),
        ({"prompt_tokens": 2**63}, ValueError, "prompt_tokens"),
        ({"prompt_tokens": 1.5}, TypeError, "prompt_tokens"),
        ({"prompt_tokens": True}, TypeError, "prompt_tokens"),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}, ValueError, "cache_read_tokens"),
        ({"prompt_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 1}}, ValueError, "reasoning"),
    ],
)
def test_impossible_counts_are_refused(usage: object, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        read_usage(usage)
