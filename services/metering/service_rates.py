"""The gRPC face of prices: publish, import, show."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import asyncpg
import grpc

from pursestrings.metering.v1 import metering_pb2, rates_pb2
from services.kit import windows
from services.kit.auth import identity
from services.kit.errors import invalid, not_found
from services.kit.rating import INSTALLATION, Card, Markup, RateTable, UnknownModelError
from services.metering import wire, wire_rates
from services.metering.domain import litellm, publishing
from services.metering.domain.publishing import NewCard
from services.metering.domain.usage import parse_subject
from services.metering.prices import Prices
from services.metering.store import cards as store

_Context = grpc.aio.ServicerContext[Any, Any]
_EVERYBODY = "orgs/-"
_LISTED = "-"


class RatesPart:
    """Answers about prices; a part of the service."""

    _pool: asyncpg.Pool
    _prices: Prices
    _clock: Callable[[], datetime]

    async def PublishRateCard(
        self, request: rates_pb2.PublishRateCardRequest, context: _Context
    ) -> rates_pb2.PublishRateCardResponse:
        """Publishes prices and markups."""
        org, now = org_or_installation(request.org), self._clock()
        # Names are made canonical by the price list, not by what was published before.
        listed = self._prices.cards.layers("", now, now)
        card = publishing.card_of(
            [wire_rates.price_of(price) for price in request.prices],
            wire_rates.markups_of(request.markups),
            request.currency_code or "USD",
            listed,
        )
        stored, content = await self._publish(
            request, org, card, request.expected_revision if request.HasField("expected_revision") else None
        )
        return rates_pb2.PublishRateCardResponse(card=wire_rates.card_message(stored, content))

    async def ImportRateCard(
        self, request: rates_pb2.ImportRateCardRequest, context: _Context
    ) -> rates_pb2.ImportRateCardResponse:
        """Publishes prices from a file."""
        org = org_or_installation(request.org)
        if request.format != rates_pb2.RATE_FORMAT_LITELLM:
            raise invalid("format", f"{request.format} is no format known here; use RATE_FORMAT_LITELLM")
        publishing.check_request_id(request.request_id)
        imported = litellm.read(request.content)
        response = wire_rates.imported_message(imported)
        if request.validate_only:
            return response
        if not imported.models:
            raise invalid("content", "has no model with a price; nothing was published", "BAD_RATE_FILE")
        newest = await store.find(self._pool, org, "")
        table: RateTable = imported.table
        markups: tuple[Markup, ...] = ()
        if newest is not None:
            before = wire_rates.card_in(*newest)
            markups = before.markups
            if request.keep_others:
                table = publishing.with_others(table, before.table)
        # The card may be what this very request stored before, so its revision is no condition.
        stored, content = await self._publish(request, org, Card(table, markups), None)
        response.card.CopyFrom(wire_rates.card_message(stored, content))
        return response

    async def ListRateCards(
        self, request: rates_pb2.ListRateCardsRequest, context: _Context
    ) -> rates_pb2.ListRateCardsResponse:
        """A page of cards, the newest first."""
        size = wire.page_size_of(request.page_size)
        found = await store.page(self._pool, org_or_installation(request.org), _after(request.page_token), size + 1)
        response = rates_pb2.ListRateCardsResponse(cards=[wire_rates.card_message(card) for card in found[:size]])
        if len(found) > size:
            last = found[size - 1]
            response.next_page_token = f"{last.revision}.{windows.unix_us(last.created_at)}"
        return response

    async def GetRateCard(
        self, request: rates_pb2.GetRateCardRequest, context: _Context
    ) -> rates_pb2.GetRateCardResponse:
        """A card and a page of its prices."""
        size, start = wire.page_size_of(request.page_size), wire_rates.offset_of(request.page_token)
        org = org_or_installation(request.org)
        found = await store.find(self._pool, org, request.version)
        if found is None and org == INSTALLATION:
            found = await store.find(self._pool, _LISTED, request.version)
        if found is None:
            raise not_found(
                f"a rate card {request.version} of {request.org or 'the installation'}", "RATE_CARD_UNKNOWN"
            )
        prices = wire_rates.price_messages(wire_rates.card_in(*found))
        response = rates_pb2.GetRateCardResponse(
            card=wire_rates.card_message(*found), prices=prices[start : start + size]
        )
        if start + size < len(prices):
            response.next_page_token = str(start + size)
        return response

    async def GetRate(self, request: rates_pb2.GetRateRequest, context: _Context) -> rates_pb2.GetRateResponse:
        """What a model costs."""
        who, now = parse_subject(request.subject, "subject"), self._clock()
        at = wire.datetime_of(request.at_time, "at_time") if request.HasField("at_time") else now
        call = request.call
        try:
            found = self._prices.cards.layers(who.org, at, now).lookup(
                call.provider, call.model, windows.unix_us(at), call.service_tier
            )
        except UnknownModelError as error:
            raise invalid(
                f"call.{error.field}", str(error), "UNKNOWN_MODEL", suggestions=", ".join(error.suggestions)
            ) from None
        return rates_pb2.GetRateResponse(
            price=wire_rates.rate_message(*found.ref, found.rate, call.service_tier),
            currency_code=found.currency_code,
            rate_card_version=found.version,
        )

    async def GetRateTable(
        self, request: metering_pb2.GetRateTableRequest, context: _Context
    ) -> metering_pb2.GetRateTableResponse:
        """The price list in force and, to services of the suite alone, everybody's cards."""
        card = self._prices.cards.at(self._clock())
        content = b"" if card.version == request.have_version else card.table.to_bytes()
        response = metering_pb2.GetRateTableResponse(version=card.version, content=content)
        who = identity()
        if who.has("service") and who.subject == _EVERYBODY:
            own, more = wire_rates.own_cards(self._prices.own, request.have_revision)
            response.own_cards.extend(own)
            response.more_own_cards = more
        return response

    async def _publish(
        self,
        request: rates_pb2.PublishRateCardRequest | rates_pb2.ImportRateCardRequest,
        org: str,
        card: Card,
        expected_revision: int | None,
    ) -> tuple[store.StoredCard, bytes]:
        effective_us = None
        if request.HasField("effective_time"):
            effective_us = windows.unix_us(wire.datetime_of(request.effective_time, "effective_time"))
        new: NewCard = publishing.new_card(
            org,
            card,
            request_id=request.request_id,
            effective_us=effective_us,
            description=request.description,
            published_by=identity().subject,
            expected_revision=expected_revision,
        )
        stored, content = await self._prices.publish_own(new)
        same_time = effective_us is None or windows.unix_us(stored.effective_from) == effective_us
        imports = isinstance(request, rates_pb2.ImportRateCardRequest)
        if not same_time or (content != new.content and not imports):
            raise publishing.request_id_reused(request.request_id)
        return stored, content


def org_or_installation(name: str) -> str:
    """The organisation's bare id; the installation's where none is named."""
    return parse_subject(name, "org").org if name else INSTALLATION


def _after(token: str) -> tuple[int, datetime] | None:
    if not token:
        return None
    revision, _, at_us = token.partition(".")
    try:
        return int(revision), windows.from_unix_us(int(at_us))
    except (ValueError, OverflowError):
        raise invalid("page_token", "is none of this method's; give back `next_page_token` as it was") from None
