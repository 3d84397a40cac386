"""Price cards as people publish them: checked, and under canonical names."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from services.kit import money
from services.kit.errors import PurseError, conflict, invalid
from services.kit.rating import (
    Card,
    Clause,
    Layers,
    Markup,
    ModelRates,
    ModelRef,
    Period,
    ProviderRates,
    Rate,
    RateError,
    RateTable,
    RateTableError,
    UnknownModelError,
    equals,
)
from services.kit.rating.entries import MAX_VARIANTS, STANDARD_TIERS
from services.kit.rating.names import MAX_NAME_LENGTH, PROVIDER_ALIASES

PRICES_MAX: Final = 10_000
"""The most prices of one card that is published price by price."""
ALIASES_MAX: Final = 16
DESCRIPTION_CHARS_MAX: Final = 500
REQUEST_ID_CHARS_MAX: Final = 128
CARDS_MAX: Final = 1_000
"""The most cards of one organisation: every replica keeps them all, since usage may arrive late."""
CONTENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""The largest card as it is stored."""

_SOURCE: Final = "published"


class Price(NamedTuple):
    """Prices of one model at one service tier, as given. Amounts are nanos for what a kind is sold by."""

    provider: str
    model: str
    aliases: tuple[str, ...]
    prices: Mapping[str, int]
    tiers: Mapping[int, Mapping[str, int]]
    service_tier: str


@dataclass(frozen=True, slots=True)
class NewCard:
    """A card on its way to be published.

    Attributes:
        org: The bare id, or `*` for the installation.
        version: Made of the request's id, so that the same request again finds its card.
        content: As it is stored.
        effective_us: From when it holds, in microseconds since 1970; None: from when it is usable.
        expected_revision: The newest card's revision as the publisher knows it; 0: none. None: whatever it is.
    """

    org: str
    version: str
    content: bytes
    effective_us: int | None
    description: str
    published_by: str
    expected_revision: int | None


def new_card(
    org: str,
    card: Card,
    *,
    request_id: str,
    effective_us: int | None,
    description: str,
    published_by: str,
    expected_revision: int | None,
) -> NewCard:
    """A card, checked.

    Raises:
        PurseError: A field is wrong; the error names it.
    """
    check_request_id(request_id)
    if len(description) > DESCRIPTION_CHARS_MAX or not description.isprintable():
        raise invalid("description", f"must be at most {DESCRIPTION_CHARS_MAX} printable characters")
    content = card.to_bytes()
    if len(content) > CONTENT_BYTES_MAX:
        raise invalid(
            "prices", f"the card has {len(content)} bytes; the limit is {CONTENT_BYTES_MAX}", "CARD_TOO_LARGE"
        )
    version = f"card-{hashlib.blake2b(f'{org}/{request_id}'.encode(), digest_size=6).hexdigest()}"
    return NewCard(org, version, content, effective_us, description, published_by, expected_revision)


def check_request_id(request_id: str) -> None:
    """Refuses an id that is empty, too long or not printable."""
    if not 0 < len(request_id) <= REQUEST_ID_CHARS_MAX or not request_id.isprintable():
        raise invalid(
            "request_id", f"is required: 1 to {REQUEST_ID_CHARS_MAX} printable characters, new for each change"
        )


def request_id_reused(request_id: str) -> PurseError:
    """The same id came with something else."""
    return conflict(
        "REQUEST_ID_REUSED",
        f"request_id: {request_id!r} was used for something else; take a new one",
        field="request_id",
    )


def card_of(prices: Sequence[Price], markups: Sequence[Markup], currency_code: str, listed: Layers) -> Card:
    """A card of prices and markups, under the names by which the price list knows the models.

    Raises:
        PurseError: A price, a markup or the currency is wrong; the error names it.
    """
    if len(prices) > PRICES_MAX:
        raise invalid("prices", f"there are {len(prices)} prices; the limit is {PRICES_MAX}", "CARD_TOO_LARGE")
    try:
        money.currency(currency_code)
    except money.MoneyError as error:
        raise invalid("currency_code", str(error)) from None
    by_model: dict[ModelRef, list[tuple[int, Price]]] = {}
    for place, price in enumerate(prices):
        by_model.setdefault(_name(place, price, listed), []).append((place, price))
    models = [(ref, _rates(ref, given)) for ref, given in by_model.items()]
    try:
        return Card(
            table_of(models, currency_code), tuple(_markup(place, one, listed) for place, one in enumerate(markups))
        )
    except RateTableError as error:
        raise invalid("markups" if "markup" in str(error) else "prices", str(error), "BAD_PRICE") from None


def table_of(models: Iterable[tuple[ModelRef, ModelRates]], currency_code: str) -> RateTable:
    """A table of models by provider, each in the order given."""
    by_provider: dict[str, list[ModelRates]] = {}
    for ref, rates in models:
        by_provider.setdefault(ref.provider, []).append(rates)
    providers = [ProviderRates(provider, tuple(rates)) for provider, rates in sorted(by_provider.items())]
    return RateTable(_SOURCE, providers, currency_code=currency_code)


def with_others(table: RateTable, before: RateTable) -> RateTable:
    """A table with what only the one before has added to it.

    Raises:
        PurseError: CURRENCY_MISMATCH.
    """
    if before.currency_code != table.currency_code and any(before.models()):
        raise conflict(
            "CURRENCY_MISMATCH",
            f"keep_others: the newest card's prices are in {before.currency_code}, these in {table.currency_code}",
            field="keep_others",
        )
    merged = {ModelRef(one.id, model.id): model for one in before.providers for model in one.models}
    merged |= {ModelRef(one.id, model.id): model for one in table.providers for model in one.models}
    return table_of(merged.items(), table.currency_code)


def provider_name(provider: str) -> str:
    """A provider's canonical name."""
    name = provider.strip().lower()
    return PROVIDER_ALIASES.get(name, name)


def match_of(names: Iterable[str]) -> Clause:
    """A clause that these names pass."""
    clauses = tuple(equals(name) for name in dict.fromkeys(names))
    return clauses[0] if len(clauses) == 1 else Clause("any", parts=clauses)


def _name(place: int, price: Price, listed: Layers) -> ModelRef:
    field = f"prices[{place}]"
    for name, what in ((price.provider, "provider"), (price.model, "model")):
        if len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise invalid(f"{field}.{what}", f"must be at most {MAX_NAME_LENGTH} printable characters")
    if not price.model.strip():
        raise invalid(f"{field}.model", "is empty; name the model")
    try:
        return listed.resolve(price.provider, price.model)
    except UnknownModelError:
        pass
    if not price.provider.strip():
        raise invalid(f"{field}.provider", f"is empty, and {price.model!r} is no listed model; name its provider")
    return ModelRef(provider_name(price.provider), price.model.strip().lower())


def _rates(ref: ModelRef, given: Sequence[tuple[int, Price]]) -> ModelRates:
    standard: tuple[Period, ...] | None = None
    variants: dict[str, tuple[Period, ...]] = {}
    aliases: list[str] = []
    for place, price in given:
        field = f"prices[{place}]"
        if len(price.aliases) > ALIASES_MAX or any(not 0 < len(one) <= MAX_NAME_LENGTH for one in price.aliases):
            raise invalid(f"{field}.aliases", f"give at most {ALIASES_MAX}, each of 1 to {MAX_NAME_LENGTH} characters")
        aliases += price.aliases
        try:
            periods = (Period(0, ((0, Rate.of(price.prices, price.tiers)),)),)
        except RateError as error:
            raise invalid(f"{field}.prices", str(error), "BAD_PRICE") from None
        if not price.prices:
            raise invalid(f"{field}.prices", f"{ref} has no price; a free model has prices of 0", "BAD_PRICE")
        tier = price.service_tier.strip().lower()
        if tier in variants or (tier in STANDARD_TIERS and standard is not None):
            raise invalid(field, f"{ref} is priced twice; give one price a service tier", "BAD_PRICE")
        if tier in STANDARD_TIERS:
            standard = periods
        else:
            variants[tier] = periods
    if standard is None or len(variants) > MAX_VARIANTS:
        place = given[0][0]
        raise invalid(
            f"prices[{place}]", f"{ref} needs a standard price, and at most {MAX_VARIANTS} further tiers", "BAD_PRICE"
        )
    return ModelRates(ref.model, match_of([ref.model, *aliases]), standard, tuple(sorted(variants.items())))


def _markup(place: int, markup: Markup, listed: Layers) -> Markup:
    if not markup.model:
        return markup._replace(provider=provider_name(markup.provider))
    try:
        return Markup(*listed.resolve(markup.provider, markup.model), markup.ppm)
    except UnknownModelError as error:
        raise invalid(f"markups[{place}].{error.field}", str(error), "UNKNOWN_MODEL") from None
