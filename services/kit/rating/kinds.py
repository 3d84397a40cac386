"""What can be priced: the kinds of use, the units their prices are quoted in, and which kind is part of which.

A kind is a set of dimensions. One kind is **part of** another when it has all of its dimensions and more:
``cache_read_tokens`` (tokens, input, cache_read) is part of ``input_tokens`` (tokens, input). Counts are totals, so
a part is counted in its whole as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of use.

    Attributes:
        name: How counts and prices name it, ``input_tokens``.
        per: How many of it one price buys: a million tokens or characters, a thousand requests, an hour of audio.
        dimensions: What it is; a kind with all of another's dimensions and more is part of that other.
    """

    name: str
    per: int
    dimensions: frozenset[tuple[str, str]]

    def is_part_of(self, whole: "Kind") -> bool:
        """Whether every one of these is also one of ``whole``."""
        return whole.dimensions < self.dimensions


_MILLION: Final = 1_000_000
_THOUSAND: Final = 1_000
_HOUR_MS: Final = 3_600_000
_MODALITIES: Final = ("text", "audio", "image", "video")


def _token_kinds() -> dict[str, dict[str, str]]:
    """Name every kind of token: direction, then what it was used for, each with or without a modality."""
    kinds: dict[str, dict[str, str]] = {}
    for modality in ("", *_MODALITIES):
        of = f"{modality}_" if modality else ""
        extra = {"modality": modality} if modality else {}
        given = {"direction": "input", **extra}
        made = {"direction": "output", **extra}
        kinds[f"input_{of}tokens"] = given
        kinds[f"cache_{of}read_tokens"] = {**given, "use": "cache_read"}
        kinds[f"cache_{of}write_tokens"] = {**given, "use": "cache_write"}
        for ttl in ("5m", "1h"):
            kinds[f"cache_{of}write_{ttl}_tokens"] = {**given, "use": "cache_write", "ttl": ttl}
        kinds[f"input_{of}tool_tokens"] = {**given, "use": "tool"}
        kinds[f"output_{of}tokens"] = made
        kinds[f"output_{of}citation_tokens"] = {**made, "use": "citation"}
        reasoning = f"output_{of}reasoning_tokens" if modality else "reasoning_tokens"
        kinds[reasoning] = {**made, "use": "reasoning"}
    return {name: {"family": "tokens", **dimensions} for name, dimensions in kinds.items()}


_OTHER_KINDS: Final = {
    "requests": (_THOUSAND, {"family": "requests"}),
    "input_characters": (_MILLION, {"family": "characters", "direction": "input"}),
    "input_text_messages": (_THOUSAND, {"family": "messages", "direction": "input"}),
    "input_document_pages": (_THOUSAND, {"family": "pages", "direction": "input"}),
    "input_annotated_document_pages": (
        _THOUSAND,
        {"family": "pages", "direction": "input", "page_type": "annotated"},
    ),
    "input_images": (_THOUSAND, {"family": "images", "direction": "input"}),
    "output_images": (_THOUSAND, {"family": "images", "direction": "output"}),
    "audio_ms": (_HOUR_MS, {"family": "durations", "modality": "audio"}),
    "input_audio_ms": (_HOUR_MS, {"family": "durations", "modality": "audio", "direction": "input"}),
    "output_audio_ms": (_HOUR_MS, {"family": "durations", "modality": "audio", "direction": "output"}),
    "rerank_searches": (_THOUSAND, {"family": "rerank"}),
    "web_searches": (_THOUSAND, {"family": "tool_calls", "tool": "web_search"}),
    "social_searches": (_THOUSAND, {"family": "tool_calls", "tool": "social_search"}),
    "storage_searches": (_THOUSAND, {"family": "tool_calls", "tool": "storage_search"}),
    "code_executions": (_THOUSAND, {"family": "tool_calls", "tool": "code_execution"}),
}


def _build() -> Mapping[str, Kind]:
    table = {name: Kind(name, _MILLION, frozenset(dimensions.items())) for name, dimensions in _token_kinds().items()}
    for name, (per, dimensions) in _OTHER_KINDS.items():
        table[name] = Kind(name, per, frozenset(dimensions.items()))
    return MappingProxyType(table)


KINDS: Final = _build()
"""Every kind by name."""
CORE_KINDS: Final = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "requests",
)
"""The kinds that have a field of their own in ``Tokens``."""
DENOMINATOR: Final = 18_000_000
"""A multiple of every kind's ``per``: costs are summed in nanos / DENOMINATOR and rounded once."""


@lru_cache(maxsize=len(KINDS))
def wholes_of(name: str) -> tuple[str, ...]:
    """Return the kinds that ``name`` is part of, the most specific first."""
    kind = KINDS[name]
    wholes = [other for other in KINDS.values() if kind.is_part_of(other)]
    wholes.sort(key=lambda other: (-len(other.dimensions), other.name))
    return tuple(other.name for other in wholes)


@lru_cache(maxsize=4_096)
def coverage_gap(priced: frozenset[str]) -> str | None:
    """Return why a set of priced kinds would be ambiguous, or None.

    A part may be priced only where its wholes are, and where two priced kinds overlap, their overlap must have a
    price of its own; so each count has exactly one price that is most specific.
    """
    for name in sorted(priced):
        missing = [whole for whole in wholes_of(name) if whole not in priced]
        if missing:
            return f"{name} has a price but {missing[0]}, which it is part of, has none"
    by_dimensions = {kind.dimensions: kind.name for kind in KINDS.values()}
    for first in sorted(priced):
        for second in sorted(priced):
            a, b = KINDS[first].dimensions, KINDS[second].dimensions
            if first >= second or any(dict(b).get(key, value) != value for key, value in a):
                continue
            both = by_dimensions.get(a | b)
            if both is not None and both not in priced:
                return f"{first} and {second} overlap in {both}, which has no price"
    return None
