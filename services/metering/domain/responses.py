"""Reads what a model provider answered: the counts of its usage object, whole or streamed. Pure.

The fields of each API are mapped by the pinned price list's own extractors, so that counts mean what its prices are
for: totals include their parts, as everywhere here.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

from genai_prices.data import providers
from genai_prices.types import Provider

from services.kit.errors import PurseError, invalid
from services.kit.rating import KINDS

BYTES_MAX: Final = 1024 * 1024
"""The largest answer, all events of a stream together."""
EVENTS_MAX: Final = 20_000
"""The most events of a stream."""
FIELD: Final = "event.provider_response"
_WHY_CHARS_MAX: Final = 200

_CORE: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "output_reasoning_tokens")
_MS: Final = {
    "audio_seconds": "audio_ms",
    "input_audio_seconds": "input_audio_ms",
    "output_audio_seconds": "output_audio_ms",
}
_STANDARD: Final = frozenset({"default", "standard", "auto", "on_demand"})
_STREAM_HINT: Final = "; for a streamed chat completion ask for it with stream_options.include_usage"
# The form of an API: whose extractor reads it, and where its usage lies.
_FORMS: Final = {
    "openai.chat": ("openai", "chat", "usage"),
    "openai.responses": ("openai", "responses", "usage"),
    "openai.images": ("openai", "images", "usage"),
    "anthropic": ("anthropic", "default", "usage"),
    "gemini": ("google", "default", "usageMetadata"),
    "bedrock": ("aws", "default", "usage"),
}


class Read(NamedTuple):
    """What an answer says. `model` and `service_tier` are '' where it does not say."""

    tokens: tuple[int, int, int, int, int]
    extra: tuple[tuple[str, int], ...]
    model: str
    service_tier: str


def read(api: str, body: bytes, events: Sequence[bytes]) -> Read:
    """Reads an answer, or the events of a streamed one.

    Raises:
        PurseError: NO_USAGE where it has none; UNREADABLE_RESPONSE where it is no JSON or of no form known here.
    """
    if api and api not in _FORMS:
        raise invalid(f"{FIELD}.api", f"{api[:64]!r} is no form known here; use {', '.join(_FORMS)}, or leave it out")
    size = len(body) + sum(map(len, events))
    if size > BYTES_MAX:
        raise invalid(FIELD, f"has {size} bytes; the limit is {BYTES_MAX}: send its usage object alone")
    if bool(body) == bool(events):
        raise invalid(FIELD, "needs either body or events", "UNREADABLE_RESPONSE")
    whole = _json(body) if body else _joined(_parsed(events))
    form = api or _form_of(whole)
    provider, flavor, root = _FORMS[form]
    if root not in whole:
        whole = {root: whole}
    usage = whole[root]
    if not isinstance(usage, Mapping) or not usage:
        raise _no_usage("its usage is empty")
    try:
        _, found = _provider(provider).extract_usage(whole, api_flavor=flavor)
    except Exception as error:  # the extractors are not ours, and what they read is not theirs: they raise anything
        raise _no_usage(str(error)[:_WHY_CHARS_MAX]) from None
    counts = {name: value for name, value in vars(found).items() if value}
    model = _text(whole.get("model")) or _text(whole.get("modelVersion"))
    tier = _text(whole.get("service_tier", usage.get("service_tier")))
    tier = "" if tier in _STANDARD else tier
    read_, cached, written, made, reasoned = (_count(name, counts.pop(name, 0)) for name in _CORE)
    return Read((read_, cached, written, made, reasoned), _extra(counts), model, tier)


def _extra(counts: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Further kinds. Text is what remains of a whole, and five minutes is what a cache write is for by itself."""
    extra = {}
    for name, value in counts.items():
        kind = _MS.get(name, name)
        if kind in KINDS and "_text_" not in kind and "_5m_" not in kind:
            extra[kind] = _count(name, value * 1_000 if name in _MS else value)
    return tuple(sorted(extra.items()))


def _text(value: Any) -> str:
    """A text that can be stored, or '': JSON can write halves of a character, which no encoding has."""
    is_text = isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
    return value if is_text else ""


def _count(name: str, value: Any) -> int:
    try:
        exact = Decimal(str(value))
    except (ValueError, ArithmeticError):
        exact = Decimal("NaN")
    if not exact.is_finite() or exact < 0 or exact != exact.to_integral_value():
        raise invalid(FIELD, f"{name} is {value}; a count is a whole number of 0 or more", "UNREADABLE_RESPONSE")
    return int(exact)


@lru_cache(maxsize=16)
def _provider(id_: str) -> Provider:
    return next(provider for provider in providers if provider.id == id_)


def _form_of(whole: Mapping[str, Any]) -> str:
    if "usageMetadata" in whole or whole.keys() & {"promptTokenCount", "candidatesTokenCount", "totalTokenCount"}:
        return "gemini"
    usage = whole.get("usage", whole)
    if not isinstance(usage, Mapping):
        raise _no_usage("it has no usage object")
    names = usage.keys()
    if "inputTokens" in names:
        return "bedrock"
    if "prompt_tokens" in names:
        return "openai.chat"
    if "input_tokens" in names:
        if "input_tokens_details" in names and {"text_tokens", "image_tokens"} <= _details(usage):
            return "openai.images"
        if whole.get("object") == "response" or names & {
            "input_tokens_details",
            "output_tokens_details",
            "total_tokens",
        }:
            return (
                "anthropic"
                if names & {"cache_read_input_tokens", "cache_creation_input_tokens"}
                else "openai.responses"
            )
        return "anthropic"
    raise _no_usage(f"none of its fields is a count of a form known here ({', '.join(_FORMS)})")


def _details(usage: Mapping[str, Any]) -> set[str]:
    details = usage["input_tokens_details"]
    return set(details) if isinstance(details, Mapping) else set()


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise invalid(FIELD, "is no JSON; send the provider's answer as it came", "UNREADABLE_RESPONSE") from None
    if not isinstance(found, dict):
        raise invalid(FIELD, "is no JSON object; send the provider's answer as it came", "UNREADABLE_RESPONSE")
    return found


def _parsed(events: Sequence[bytes]) -> list[dict[str, Any]]:
    """The events of a stream; one that came in a piece is taken apart by the lines of server-sent events."""
    parts: list[bytes] = []
    for event in events:
        text = event.strip()
        if text.startswith((b"data:", b"event:", b"id:", b":")):
            lines = (line.strip() for line in text.splitlines())
            parts += [line[5:].strip() for line in lines if line.startswith(b"data:")]
        else:
            parts.append(text)
    if len(parts) > EVENTS_MAX:
        raise invalid(FIELD, f"has {len(parts)} events; the limit is {EVENTS_MAX}: send those with usage alone")
    return [_json(part) for part in parts if part and part != b"[DONE]"]


def _joined(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One answer made of a stream's events: what each says of use takes the place of what was said before.

    OpenAI's chat and Gemini say all of it in the last chunk; OpenAI's responses and Bedrock in an event of its own;
    Anthropic says the input at the start and the output, cumulated, in each delta.
    """
    whole: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    root = "usage"
    for event in events:
        inner = next((event[name] for name in _WRAPPERS if isinstance(event.get(name), Mapping)), event)
        for name in ("model", "modelVersion", "service_tier", "object"):
            if isinstance(inner.get(name), str):
                whole[name] = inner[name]
        for name in ("usage", "usageMetadata"):
            said = inner.get(name, event.get(name))
            if isinstance(said, Mapping):
                root = name
                usage |= {key: value for key, value in said.items() if value is not None}
    if not usage:
        raise _no_usage(f"none of its {len(events)} events says what was used{_STREAM_HINT}")
    return whole | {root: usage}


_WRAPPERS: Final = ("message", "response", "metadata")


def _no_usage(why: str) -> PurseError:
    return invalid(FIELD, f"has no usage that can be read: {why}; or give the counts as tokens", "NO_USAGE")
