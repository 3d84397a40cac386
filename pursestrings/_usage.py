"""Reads what model providers say about the use of one call."""

from collections.abc import Mapping
from typing import Final

from pursestrings.type.v1 import type_pb2

PROMPT_HASH_BYTES_MAX: Final = 64
"""The longest hash of a prompt."""
_INT64_MAX: Final = 2**63 - 1
_SHAPES: Final = (
    "pass the usage object of an OpenAI chat completion or response or of an Anthropic message "
    "(object or mapping), another provider's answer as Answer(answer), a TokenCounts, "
    "or the counts by name: input_tokens=…, output_tokens=…"
)


def token_counts(
    *,
    input_tokens: int = 0,
    output_tokens: int = 0,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    reasoning_tokens: int = 0,
) -> type_pb2.TokenCounts:
    """Checked counts. Input includes the cached tokens, output includes the reasoning tokens.

    Raises:
        TypeError: A count is no int.
        ValueError: A count is negative or beyond int64, or a part is larger than its whole.
    """
    counts = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cache_read_tokens": cache_read_tokens,
        "cache_write_tokens": cache_write_tokens,
        "reasoning_tokens": reasoning_tokens,
    }
    for name, count in counts.items():
        check_count(name, count)
    if cache_read_tokens + cache_write_tokens > input_tokens:
        raise ValueError(
            f"cache_read_tokens {cache_read_tokens} and cache_write_tokens {cache_write_tokens} are parts of "
            f"input_tokens, which is only {input_tokens}"
        )
    if reasoning_tokens > output_tokens:
        raise ValueError(f"reasoning_tokens {reasoning_tokens} is a part of output_tokens {output_tokens}")
    return type_pb2.TokenCounts(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cache_read_tokens,
        cache_write_tokens=cache_write_tokens,
        reasoning_tokens=reasoning_tokens,
    )


def check_count(name: str, count: object) -> int:
    """The count, if it is one; the errors name it."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name} must be an int, not {count!r}")
    if not 0 <= count <= _INT64_MAX:
        raise ValueError(f"{name} must be 0 or more and fit int64, not {count}")
    return count


def check_hash(value: object) -> bytes:
    """A hash of a prompt, if it is one; empty for none."""
    if not isinstance(value, bytes):
        raise TypeError(
            f"prompt_hash must be bytes, such as hashlib.sha256(prompt).digest(), not {type(value).__name__}"
        )
    if len(value) > PROMPT_HASH_BYTES_MAX:
        raise ValueError(f"prompt_hash has {len(value)} bytes; a hash has at most {PROMPT_HASH_BYTES_MAX}")
    return value


def read_usage(usage: object) -> type_pb2.TokenCounts:
    """The token counts of a provider's usage object, or of a response that carries one as `usage`.

    Raises:
        TypeError: No shape that is known.
        ValueError: Impossible counts.
    """
    if isinstance(usage, type_pb2.TokenCounts):
        return usage
    inner = _get(usage, "usage")
    if inner is not None:
        usage = inner
    if _has(usage, "prompt_tokens"):
        return _openai(
            usage, "prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"
        )
    if _has(usage, "cache_read_input_tokens") or _has(usage, "cache_creation_input_tokens"):
        return _anthropic(usage)
    if _has(usage, "input_tokens"):
        return _openai(usage, "input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")
    raise TypeError(f"{type(usage).__name__} is no usage that can be read: {_SHAPES}")


def _openai(usage: object, in_: str, out: str, in_details: str, out_details: str) -> type_pb2.TokenCounts:
    """OpenAI counts the cached tokens in the input and the reasoning tokens in the output, as we do."""
    details, produced = _get(usage, in_details), _get(usage, out_details)
    return token_counts(
        input_tokens=_count(usage, in_),
        output_tokens=_count(usage, out),
        cache_read_tokens=_count(details, "cached_tokens"),
        cache_write_tokens=_count(details, "cache_write_tokens"),
        reasoning_tokens=_count(produced, "reasoning_tokens"),
    )


def _anthropic(usage: object) -> type_pb2.TokenCounts:
    """Anthropic's `input_tokens` leaves out what was read from the cache and written to it."""
    read, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    return token_counts(
        input_tokens=_count(usage, "input_tokens") + read + written,
        output_tokens=_count(usage, "output_tokens"),
        cache_read_tokens=read,
        cache_write_tokens=written,
    )


def _has(value: object, name: str) -> bool:
    return name in value if isinstance(value, Mapping) else hasattr(value, name)


def _get(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _count(value: object, name: str) -> int:
    """A count that may be absent or None, which is 0."""
    found = _get(value, name)
    return 0 if found is None else check_count(name, found)
