"""Between the contract's price cards and the domain's."""

from collections.abc import Iterable, Sequence
from typing import Final

from pursestrings.metering.v1 import rates_pb2
from services.kit import windows
from services.kit.errors import invalid
from services.kit.rating import INSTALLATION, Card, Markup, ModelRates, PublishedCard, Rate, RateTable
from services.metering import wire
from services.metering.domain.litellm import Imported
from services.metering.domain.publishing import Price
from services.metering.store.cards import StoredCard

SKIPPED_SHOWN_MAX: Final = 100
OWN_CARDS_BYTES_MAX: Final = 2 * 1024 * 1024
_LISTED: Final = "-"


def price_of(price: rates_pb2.ModelPrice) -> Price:
    """Prices as they are given."""
    return Price(
        price.provider,
        price.model,
        tuple(price.aliases),
        dict(price.prices),
        {tier.above_input_tokens: dict(tier.prices) for tier in price.tiers},
        price.service_tier,
    )


def markups_of(markups: Iterable[rates_pb2.PriceMarkup]) -> tuple[Markup, ...]:
    """Markups as they are given."""
    return tuple(Markup(one.provider, one.model, one.parts_per_million) for one in markups)


def card_message(stored: StoredCard, content: bytes | None = None) -> rates_pb2.RateCard:
    """A card; its markups and counts where its content is given."""
    message = rates_pb2.RateCard(
        org="" if stored.org in (INSTALLATION, _LISTED) else f"orgs/{stored.org}",
        version=stored.version,
        revision=stored.revision,
        effective_time=wire.timestamp_of(stored.effective_from),
        usable_time=wire.timestamp_of(stored.usable_from),
        description=stored.description,
        published_by=stored.published_by,
        create_time=wire.timestamp_of(stored.created_at),
    )
    if content is not None:
        card = card_in(stored, content)
        message.model_count = sum(len(provider.models) for provider in card.table.providers)
        message.currency_code = card.table.currency_code
        for provider, model, ppm in card.markups:
            message.markups.add(provider=provider, model=model, parts_per_million=ppm)
    return message


def card_in(stored: StoredCard, content: bytes) -> Card:
    """The card that is stored; a price list is one without markups."""
    return Card(RateTable.from_bytes(content)) if stored.org == _LISTED else Card.from_bytes(content)


def price_messages(card: Card) -> list[rates_pb2.ModelPrice]:
    """All prices of a card, those that hold last where they changed over time."""
    messages = []
    for provider in card.table.providers:
        for model in provider.models:
            messages += model_messages(provider.id, model)
    return messages


def model_messages(provider: str, model: ModelRates) -> list[rates_pb2.ModelPrice]:
    """The prices of a model, one a service tier, the standard one first."""
    names = [name for name in model.match.names() or () if name != model.id.lower()]
    messages = []
    for tier, periods in (("", model.periods), *model.variants):
        message = rate_message(provider, model.id, periods[-1].by_second_of_day[-1][1], tier)
        message.aliases.extend(names)
        messages.append(message)
    return messages


def rate_message(provider: str, model: str, rate: Rate, service_tier: str) -> rates_pb2.ModelPrice:
    """One rate."""
    message = rates_pb2.ModelPrice(provider=provider, model=model, prices=dict(rate.prices), service_tier=service_tier)
    for tier in rate.tiers:
        message.tiers.add(above_input_tokens=tier.above_input_tokens, prices=dict(tier.prices))
    return message


def imported_message(imported: Imported) -> rates_pb2.ImportRateCardResponse:
    """What was imported and what was not."""
    shown = [*imported.skipped, *imported.partial][:SKIPPED_SHOWN_MAX]
    return rates_pb2.ImportRateCardResponse(
        imported=imported.models,
        skipped=len(imported.skipped),
        skipped_models=[rates_pb2.SkippedModel(model=model, reason=reason) for model, reason in shown],
    )


def own_cards(cards: Sequence[PublishedCard], after: int) -> tuple[list[rates_pb2.OwnRateCard], bool]:
    """Cards after a revision, at most 2 MiB of them but one at least; and whether there are more."""
    messages: list[rates_pb2.OwnRateCard] = []
    size = 0
    for card in cards:
        if card.revision <= after:
            continue
        content = card.card.to_bytes()
        if messages and size + len(content) > OWN_CARDS_BYTES_MAX:
            return messages, True
        size += len(content)
        messages.append(
            rates_pb2.OwnRateCard(
                org=card.org,
                version=card.version,
                revision=card.revision,
                effective_time=wire.timestamp_of(windows.from_unix_us(card.effective_us)),
                usable_time=wire.timestamp_of(windows.from_unix_us(card.usable_us)),
                content=content,
            )
        )
    return messages, False


def offset_of(token: str) -> int:
    """Where a page of prices begins; refused where the token is none."""
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) < 10):
        raise invalid("page_token", "is none of this method's; give back `next_page_token` as it was")
    return int(token)
