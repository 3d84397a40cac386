"""The rate table: which rate a provider charges for a model at a time, as one immutable, versioned value."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

from services.kit.rating import names
from services.kit.rating.clauses import Matcher
from services.kit.rating.codec import decode, encode
from services.kit.rating.cost import Rate
from services.kit.rating.entries import (
    DAY_S,
    MAX_VARIANTS,
    ModelRates,
    Period,
    ProviderRates,
    RateTableError,
    period_at,
)

MAX_MODELS: Final = 100_000
"""The most models in one table."""

_CACHE_SIZE: Final = 16_384
_SUGGEST_FROM: Final = 48


class UnknownModelError(ValueError):
    """No rate is known for this provider and model, then. The message names close matches.

    Attributes:
        field: Which field to mend, ``model`` or ``provider``.
        suggestions: Names that would be known, at most 3.
    """

    def __init__(self, field: str, message: str, suggestions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.suggestions = suggestions


class ModelRef(NamedTuple):
    """The canonical name of a model at the provider that serves it."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


class Priced(NamedTuple):
    """What ``lookup`` found: the canonical name and the rate in force."""

    ref: ModelRef
    rate: Rate


class RateTable:
    """Rates by provider, model and time; immutable, named by its digest.

    Attributes:
        snapshot: Where the prices come from, ``genai-prices-0.2.3``.
        providers: The content.
        currency_code: Of every price.
    """

    def __init__(self, snapshot: str, providers: Iterable[ProviderRates], *, currency_code: str = "USD") -> None:
        """Check and index the providers.

        Raises:
            RateTableError: The content is inconsistent or too large.
        """
        self.snapshot = snapshot
        self.providers = tuple(providers)
        self.currency_code = currency_code
        self._by_id = {provider.id: provider for provider in self.providers}
        _check(self.providers, self._by_id)
        self._matchers = {
            provider.id: Matcher((model.id, model.match) for model in provider.models) for provider in self.providers
        }
        self._resolve_cached = lru_cache(maxsize=_CACHE_SIZE)(self._resolve)

    @cached_property
    def _bytes(self) -> bytes:
        return encode(self.snapshot, self.currency_code, self.providers)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content in hexadecimal."""
        return hashlib.sha256(self._bytes).hexdigest()

    @cached_property
    def version(self) -> str:
        """What rated usage is stamped with: the snapshot's name and the first 12 digits of the digest."""
        return f"{self.snapshot}-{self.digest[:12]}"

    def to_bytes(self) -> bytes:
        """Encode the table as compact JSON that is the same for the same content; ``from_bytes`` reads it."""
        return self._bytes

    @classmethod
    def from_bytes(cls, data: bytes, *, digest: str | None = None) -> "RateTable":
        """Decode what ``to_bytes`` wrote.

        Args:
            data: The encoded table.
            digest: The digest it must have, where the sender told it.

        Raises:
            RateTableError: The bytes are no table of this format, are damaged, or have another digest.
        """
        found = hashlib.sha256(data).hexdigest()
        if digest is not None and found != digest:
            raise RateTableError(f"the rate table's digest is {found}, not {digest}; fetch it again")
        snapshot, currency_code, providers = decode(data)
        return cls(snapshot, providers, currency_code=currency_code)

    def models(self) -> Iterator[tuple[ModelRef, tuple[Period, ...]]]:
        """Yield every model of every provider with its periods."""
        for provider in self.providers:
            for model in provider.models:
                yield ModelRef(provider.id, model.id), model.periods

    def provider_id(self, name: str) -> str | None:
        """Return the canonical name of a provider; None where it is not known."""
        try:
            found = self._provider(names.clean(name))
        except names.BadNameError:
            return None
        return found.id if found is not None else None

    def resolve(self, provider: str, model: str) -> ModelRef:
        """Return the canonical name of a model; ``provider`` may be empty.

        Raises:
            UnknownModelError: The provider or the model is not known, or several providers sell it.
        """
        return self.find(provider, model)[0]

    def exact(self, provider: str, model: str) -> ModelRates | None:
        """Return the model that this very name means at this provider, both canonical; None where there is none."""
        matcher = self._matchers.get(provider)
        index = None if matcher is None else matcher.find(model)
        return None if index is None else self._by_id[provider].models[index]

    def lookup(self, provider: str, model: str, at_us: int, service_tier: str = "") -> Priced:
        """Return the canonical name and the rate in force at an instant, in microseconds since 1970.

        A service tier without a price of its own has the standard one.

        Raises:
            UnknownModelError: As ``resolve``, or the model had no price yet at that time.
        """
        ref, known = self.find(provider, model)
        period = period_at(known.at_tier(service_tier), at_us)
        if period is None:
            raise UnknownModelError("model", f"{ref} has no price for so early a time")
        return Priced(ref, period.rate_at(at_us))

    def find(self, provider: str, model: str) -> tuple[ModelRef, ModelRates]:
        """Return the canonical name of a model and its rates; ``provider`` may be empty.

        Raises:
            UnknownModelError: As ``resolve``.
        """
        short = len(provider) <= names.MAX_NAME_LENGTH and len(model) <= names.MAX_NAME_LENGTH
        # A name past the limit is refused without being remembered, so that the cache stays small in bytes too.
        found = self._resolve_cached(provider, model) if short else self._resolve(provider, model)
        if isinstance(found, _Unknown):
            raise UnknownModelError(*found)
        return found

    def _resolve(self, provider: str, model: str) -> "tuple[ModelRef, ModelRates] | _Unknown":
        """Resolve names; misses are answers too, so that they are remembered like hits."""
        field = "provider"
        try:
            wanted = names.clean(provider)
            field = "model"
            name = names.clean(model)
        except names.BadNameError as error:
            return _Unknown(field, str(error))
        if not name:
            return _Unknown("model", "the model is empty; name it, such as 'claude-sonnet-4-5'")
        if wanted and wanted not in names.GATEWAYS:
            named = self._provider(wanted)
            if named is None:
                close = _close(wanted, [*self._by_id, *names.PROVIDER_ALIASES])
                return _Unknown("provider", f"{provider[:80]!r} is no provider known here{_hint(close)}", close)
            return self._at(named, self._candidates(name)) or self._unknown(named, model)
        return self._anywhere(name)

    def _anywhere(self, name: str) -> "tuple[ModelRef, ModelRates] | _Unknown":
        """Find a model whose provider is not named: by its prefix, its form, its maker, or its only seller."""
        candidates = self._candidates(name)
        head, _, rest = name.partition("/")
        hints = [
            self._provider(head) if rest else None,
            self._by_id.get(names.served_by(name) or ""),
            self._inferred(name),
        ]
        makers = [self._by_id.get(maker) for maker in names.MAKERS]
        for provider in (*hints, *makers):
            if provider is not None and (found := self._at(provider, candidates)):
                return found
        sellers = [found for provider in self.providers if (found := self._at(provider, candidates))]
        if len(sellers) == 1:
            return sellers[0]
        if sellers:
            ids = tuple(found[0].provider for found in sellers)
            return _Unknown(
                "provider",
                f"{name[:80]!r} is sold by {len(ids)} providers at their own prices; "
                f"set provider to one of {', '.join(ids[:8])}",
                ids[:3],
            )
        return self._unknown(next((provider for provider in hints if provider is not None), None), name)

    def _provider(self, name: str) -> ProviderRates | None:
        found = self._by_id.get(name) or self._by_id.get(names.PROVIDER_ALIASES.get(name, ""))
        if found is None:
            for provider in self.providers:
                if provider.provider_match is not None and provider.provider_match.matches(name):
                    return provider
        return found

    def _inferred(self, model: str) -> ProviderRates | None:
        for provider in self.providers:
            if provider.model_match is not None and provider.model_match.matches(model):
                return provider
        return None

    def _candidates(self, name: str) -> list[str]:
        """Return the forms of a name to try: as given, then without the prefixes that name a provider."""
        texts = [name]
        bare = name
        while "/" in bare:
            head, _, bare = bare.partition("/")
            if self._provider(head) is None:
                break
            texts.append(bare)
        return list(dict.fromkeys(form for text in texts for form in names.forms(text)))

    def _at(self, provider: ProviderRates, candidates: list[str]) -> tuple[ModelRef, ModelRates] | None:
        """Find a model at a provider under any of the forms of its name."""
        for candidate in candidates:
            for seller in (provider.id, *provider.fallbacks):
                index = self._matchers[seller].find(candidate)
                if index is not None:
                    model = self._by_id[seller].models[index]
                    return ModelRef(provider.id, model.id), model
        return self._at_bedrock(provider, candidates[-1]) if provider.id == "aws" else None

    def _at_bedrock(self, provider: ProviderRates, name: str) -> tuple[ModelRef, ModelRates] | None:
        """Find the id whose family is meant; a regional endpoint before a global one, as the dearer of the two."""
        family = names.bedrock_family(name)
        same = [model for model in provider.models if names.bedrock_family(model.id.lower()) == family]
        same.sort(key=lambda model: (not model.id.startswith("regional."), model.id))
        return (ModelRef(provider.id, same[0].id), same[0]) if same else None

    def _unknown(self, provider: ProviderRates | None, model: str) -> "_Unknown":
        sellers = (
            [provider]
            if provider is not None
            else [self._by_id[maker] for maker in names.MAKERS if maker in self._by_id]
        )
        close = _close(model.lower(), [known.id for seller in sellers for known in seller.models])
        where = f" of {provider.id}" if provider is not None else ""
        return _Unknown("model", f"{model[:80]!r} is no model{where} with a known price{_hint(close)}", close)


class _Unknown(NamedTuple):
    field: str
    message: str
    suggestions: tuple[str, ...] = ()


def _close(name: str, known: list[str]) -> tuple[str, ...]:
    """Return at most 3 known names like ``name``, comparing only the 48 that share most words with it."""
    words = _words(name[:80])
    ranked = sorted(known, key=lambda text: -len(words & _words(text)))[:_SUGGEST_FROM]
    return tuple(difflib.get_close_matches(name[:80], ranked, n=3, cutoff=0.6))


@lru_cache(maxsize=_CACHE_SIZE)
def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]{2,}", name.lower()))


def _hint(close: tuple[str, ...]) -> str:
    return f"; did you mean {', '.join(close)}?" if close else "; give the cost yourself or have a rate added"


def _check(providers: tuple[ProviderRates, ...], by_id: dict[str, ProviderRates]) -> None:
    if len(by_id) != len(providers):
        raise RateTableError("a provider is listed twice")
    if sum(len(provider.models) for provider in providers) > MAX_MODELS:
        raise RateTableError(f"the table has more than {MAX_MODELS} models")
    for provider in providers:
        if any(fallback not in by_id for fallback in provider.fallbacks):
            raise RateTableError(f"{provider.id} falls back to a provider that is not in the table")
        ids = {model.id.lower() for model in provider.models}
        if len(ids) != len(provider.models):
            raise RateTableError(f"{provider.id} lists a model twice")
        for model in provider.models:
            tiers = [tier for tier, _ in model.variants]
            if tiers != sorted(set(tiers)) or len(tiers) > MAX_VARIANTS:
                raise RateTableError(f"{provider.id}/{model.id} has service tiers out of order, or too many")
            for periods in (model.periods, *(of_tier for _, of_tier in model.variants)):
                _check_periods(f"{provider.id}/{model.id}", periods)


def _check_periods(model: str, periods: tuple[Period, ...]) -> None:
    starts = [period.effective_from_us for period in periods]
    if not starts or starts != sorted(set(starts)):
        raise RateTableError(f"{model} has no periods, or they are out of order")
    for period in periods:
        seconds = [second for second, _ in period.by_second_of_day]
        if seconds[:1] != [0] or seconds != sorted(set(seconds)) or seconds[-1] >= DAY_S:
            raise RateTableError(f"{model} has times of day out of order")
