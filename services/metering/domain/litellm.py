"""Reads LiteLLM's price map: prices per token as JSON numbers, by model, with tiers by input and by service."""

import json
import re
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from services.kit.errors import invalid
from services.kit.rating import KINDS, ModelRates, ModelRef, Period, Rate, RateError, RateTable
from services.kit.rating.names import MAX_NAME_LENGTH
from services.metering.domain.publishing import match_of, provider_name, table_of

CONTENT_BYTES_MAX: Final = 3 * 1024 * 1024
"""The largest file."""
MODELS_MAX: Final = 20_000
"""The most models in a file."""

_NANOS: Final = 1_000_000_000
_HOUR_S: Final = 3_600
# How many of what the field prices make one unit of sale of our kind.
_PER_KIND: Final = {kind: KINDS[kind].per for kind in KINDS} | {"input_audio_ms": _HOUR_S, "output_audio_ms": _HOUR_S}
_FIELDS: Final = {
    "input_cost_per_token": "input_tokens",
    "output_cost_per_token": "output_tokens",
    "cache_read_input_token_cost": "cache_read_tokens",
    "cache_creation_input_token_cost": "cache_write_tokens",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_tokens",
    "output_cost_per_reasoning_token": "reasoning_tokens",
    "input_cost_per_audio_token": "input_audio_tokens",
    "output_cost_per_audio_token": "output_audio_tokens",
    "cache_read_input_audio_token_cost": "cache_audio_read_tokens",
    "cache_creation_input_audio_token_cost": "cache_audio_write_tokens",
    "input_cost_per_image_token": "input_image_tokens",
    "output_cost_per_image_token": "output_image_tokens",
    "cache_read_input_image_token_cost": "cache_image_read_tokens",
    "input_cost_per_character": "input_characters",
    "input_cost_per_image": "input_images",
    "output_cost_per_image": "output_images",
    "input_cost_per_query": "requests",
    "input_cost_per_request": "requests",
    "input_cost_per_second": "input_audio_ms",
    "output_cost_per_second": "output_audio_ms",
}
_BY_SECOND: Final = frozenset({"input_cost_per_second", "output_cost_per_second"})
_AUDIO_MODES: Final = frozenset({"audio_transcription", "audio_speech", "realtime"})
_TIERS: Final = {"priority": "priority", "flex": "flex", "batches": "batch", "fast": "fast"}
_SUFFIXES: Final = re.compile(
    r"(?P<base>.+?)(?:_above_(?P<k>\d{1,6})k_tokens)?(?:_(?P<tier>priority|flex|batches|fast))?"
)
_COST: Final = re.compile(r"(?:^|_)cost(?:_|$)")
_GOOGLE: Final = "vertex_ai"


class Skipped(NamedTuple):
    """A model that was not imported, or not in full, and why."""

    model: str
    reason: str


class Imported(NamedTuple):
    """What a file holds: prices, models that were left out, and models of which a field was left out."""

    table: RateTable
    models: int
    skipped: tuple[Skipped, ...]
    partial: tuple[Skipped, ...]


class _SkipError(Exception):
    """The model cannot be imported."""


def read(content: bytes) -> Imported:
    """Reads a file.

    Raises:
        PurseError: It is no such file.
    """
    if len(content) > CONTENT_BYTES_MAX:
        raise invalid("content", f"has {len(content)} bytes; the limit is {CONTENT_BYTES_MAX}: leave out models")
    try:
        found = json.loads(content, parse_float=Decimal)
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise invalid("content", f"is no JSON: {error}", "BAD_RATE_FILE") from None
    if not isinstance(found, dict) or not all(isinstance(model, dict) for model in found.values()):
        raise invalid("content", "is no price map: an object of one object a model", "BAD_RATE_FILE")
    if len(found) > MODELS_MAX:
        raise invalid("content", f"has {len(found)} models; the limit is {MODELS_MAX}", "BAD_RATE_FILE")
    models: dict[ModelRef, tuple[str, ModelRates]] = {}
    skipped: list[Skipped] = []
    partial: list[Skipped] = []
    for key, model in found.items():
        if key == "sample_spec":
            continue
        try:
            ref, rates, ignored = _model(key, model)
        except (_SkipError, RateError) as error:
            skipped.append(Skipped(key[:MAX_NAME_LENGTH], str(error)))
            continue
        if ref in models:
            skipped.append(Skipped(key, f"is {ref} as well, which {models[ref][0]} has priced"))
            continue
        models[ref] = (key, rates)
        if ignored:
            partial.append(Skipped(key, f"is imported without {', '.join(ignored)}: not what a call is priced by here"))
    table = table_of(((ref, rates) for ref, (_, rates) in models.items()), "USD")
    return Imported(table, len(models), tuple(skipped), tuple(partial))


def _model(key: str, model: Mapping[str, Any]) -> tuple[ModelRef, ModelRates, list[str]]:
    name = key.strip().lower()
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise _SkipError(f"its name is empty, not printable or longer than {MAX_NAME_LENGTH} characters")
    ref = ModelRef(_provider(model), _bare(name, _provider(model)))
    prices, ignored = _prices(model)
    if not prices:
        raise _SkipError("has no price that a call is priced by here")
    if not any(prices.values()):
        raise _SkipError("has only prices of 0, which may mean that they are not known; publish it if it is free")
    levels = sorted({level for _, level, _ in prices})
    standard = _periods(prices, levels, "")
    tiers = sorted({tier for _, _, tier in prices if tier})
    variants = tuple((tier, _periods(prices, levels, tier)) for tier in tiers)
    return ref, ModelRates(ref.model, match_of([ref.model, name]), standard, variants), ignored


def _provider(model: Mapping[str, Any]) -> str:
    given = model.get("litellm_provider")
    if not isinstance(given, str) or not given.strip() or len(given) > MAX_NAME_LENGTH:
        raise _SkipError("names no litellm_provider")
    name = given.strip().lower()
    if name.startswith(_GOOGLE):
        name = _GOOGLE
    return provider_name(name.removeprefix("text-completion-"))


def _bare(name: str, provider: str) -> str:
    """The name without the prefix that names its provider."""
    head, _, rest = name.partition("/")
    return rest if rest and provider_name(head) == provider else name


def _prices(model: Mapping[str, Any]) -> tuple[dict[tuple[str, int, str], int], list[str]]:
    """Nanos by (kind, above how many input tokens or -1, service tier), and price fields that mean nothing here."""
    prices: dict[tuple[str, int, str], int] = {}
    ignored: list[str] = []
    for field, value in model.items():
        if not isinstance(value, int | Decimal) or isinstance(value, bool) or not _COST.search(field):
            continue
        parts = _SUFFIXES.fullmatch(field)
        kind = _FIELDS.get(parts["base"]) if parts else None
        if parts is None or kind is None or (field in _BY_SECOND and model.get("mode") not in _AUDIO_MODES):
            if value:
                ignored.append(field)
            continue
        exact = Decimal(value) * _NANOS * _PER_KIND[kind]
        if not exact.is_finite() or exact < 0:
            raise _SkipError(f"{field} is {value}; a price is 0 or more")
        level = int(parts["k"]) * 1_000 if parts["k"] else -1
        prices[kind, level, _TIERS.get(parts["tier"], "")] = int(exact.to_integral_value(ROUND_HALF_EVEN))
    return prices, ignored


def _periods(prices: Mapping[tuple[str, int, str], int], levels: list[int], tier: str) -> tuple[Period, ...]:
    kinds = sorted({kind for kind, _, _ in prices})
    bands: dict[int, dict[str, int]] = {}
    for level in levels:
        band = {}
        for kind in kinds:
            found = _price(prices, kind, [below for below in reversed(levels) if below <= level], tier)
            if found is not None:
                band[kind] = found
        bands[level] = _with_overlaps(band)
    return (Period(0, ((0, Rate.of(bands.pop(-1, {}), bands)),)),)


def _price(prices: Mapping[tuple[str, int, str], int], kind: str, levels_down: list[int], tier: str) -> int | None:
    """A level before a service tier, as LiteLLM itself looks prices up."""
    for level in levels_down:
        for name in dict.fromkeys((tier, "")):
            if (kind, level, name) in prices:
                return prices[kind, level, name]
    return None


def _with_overlaps(band: dict[str, int]) -> dict[str, int]:
    """Prices what two priced kinds share (audio read from a cache) as the one that says what it was used for."""
    by_dimensions = {kind.dimensions: kind.name for kind in KINDS.values()}
    priced = dict(band)
    for first in sorted(band):
        for second in sorted(band):
            a, b = KINDS[first].dimensions, KINDS[second].dimensions
            shared = by_dimensions.get(a | b)
            if first == second or shared is None or shared in priced:
                continue
            used = first if any(name == "use" for name, _ in a) else second
            priced[shared] = band[used]
    return priced
