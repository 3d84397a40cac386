"""The gRPC face of corrections, and of usage without a price."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.metering.v1 import corrections_pb2
from services.kit import windows
from services.kit.auth import identity
from services.kit.errors import invalid
from services.kit.rating import UnknownModelError
from services.metering import wire
from services.metering.domain import corrections
from services.metering.domain.corrections import CORRECTION, Change
from services.metering.domain.publishing import check_request_id
from services.metering.domain.usage import KEY_CHARS_MAX, parse_subject
from services.metering.prices import Prices
from services.metering.store import corrections as store
from services.metering.store.corrections import Adjustment, Correction, Known, Unrated

_Context = grpc.aio.ServicerContext[Any, Any]
MODELS_SHOWN_MAX: Final = 100
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SEPARATOR: Final = "\x1f"


class CorrectionsPart:
    """Answers about later words on usage; a part of the service."""

    _pool: asyncpg.Pool
    _prices: Prices
    _clock: Callable[[], datetime]
    _recorded: Callable[[], None]

    async def CorrectUsage(
        self, request: corrections_pb2.CorrectUsageRequest, context: _Context
    ) -> corrections_pb2.CorrectUsageResponse:
        """Says anew what an event used or cost."""
        check_request_id(request.request_id)
        corrections.check_reason(request.reason)
        org, change, now = _org_of(request.org), _change_of(request), self._clock()
        who = identity().subject
        payload_hash = hashlib.blake2b(request.SerializeToString(deterministic=True), digest_size=16).digest()
        occurred_at = wire.datetime_of(request.occurred_at, "occurred_at") if request.HasField("occurred_at") else None

        def decide(known: Known) -> Adjustment:
            said = corrections.restated(known.event, known.last, change, now=now, cards=self._prices.cards)
            made = Correction(
                org,
                request.source,
                request.id,
                known.n + 1,
                CORRECTION,
                request.request_id,
                known.event.occurred_at,
                said,
                request.reason,
                who,
                now,
                known.last,
            )
            return Adjustment(known, made, payload_hash)

        made, duplicate = await store.correct(
            self._pool,
            (org, request.source, request.id),
            occurred_at,
            ((CORRECTION, request.request_id), payload_hash),
            decide,
        )
        self._recorded()
        message = _message(made)
        message.duplicate = duplicate
        return corrections_pb2.CorrectUsageResponse(usage=message)

    async def ListCorrections(
        self, request: corrections_pb2.ListCorrectionsRequest, context: _Context
    ) -> corrections_pb2.ListCorrectionsResponse:
        """A page of what was corrected."""
        if request.id and not request.source:
            raise invalid("source", "is required with id")
        size, org = wire.page_size_of(request.page_size), _org_of(request.org)
        after = _corrections_after(request.page_token)
        found = await store.page(self._pool, (org, request.source, request.id), after, size + 1)
        response = corrections_pb2.ListCorrectionsResponse(corrections=[_message(made) for made in found[:size]])
        if len(found) > size:
            last = found[size - 1]
            response.next_page_token = _SEPARATOR.join((last.source, last.id, str(last.n)))
        return response

    async def ListUnratedUsage(
        self, request: corrections_pb2.ListUnratedUsageRequest, context: _Context
    ) -> corrections_pb2.ListUnratedUsageResponse:
        """A page of usage without a price."""
        size, org = wire.page_size_of(request.page_size), _org_of(request.org)
        found = await store.unrated(self._pool, org, _unrated_after(request.page_token), size + 1)
        response = corrections_pb2.ListUnratedUsageResponse()
        for one in found[:size]:
            _set_unrated(response.usage.add(), one)
        if len(found) > size:
            last = found[size - 1]
            at_us = str(windows.unix_us(last.occurred_at))
            response.next_page_token = _SEPARATOR.join(
                (last.given_provider, last.given_model, at_us, last.source, last.id)
            )
        if not request.page_token:
            await self._add_models(response, org)
        return response

    async def _add_models(self, response: corrections_pb2.ListUnratedUsageResponse, org: str) -> None:
        now = self._clock()
        layers = self._prices.cards.layers(org, now, now)
        for model in await store.unrated_models(self._pool, org, MODELS_SHOWN_MAX):
            reason = "has a price now; its usage is about to be rated"
            try:
                layers.lookup(model.given_provider, model.given_model, windows.unix_us(now))
            except UnknownModelError as error:
                reason = str(error)
            response.models.add(
                provider=model.given_provider,
                model=model.given_model,
                first_seen_time=wire.timestamp_of(model.first_seen_at),
                reason=reason,
            )


def _org_of(name: str) -> str:
    if not name:
        raise invalid("org", "is required, orgs/ID")
    return parse_subject(name, "org").org


def _change_of(request: corrections_pb2.CorrectUsageRequest) -> Change:
    for value, field in ((request.source, "source"), (request.id, "id")):
        if not 0 < len(value) <= KEY_CHARS_MAX or not value.isprintable():
            raise invalid(field, f"is required: the event's, 1 to {KEY_CHARS_MAX} printable characters")
    if not (request.HasField("tokens") or request.HasField("requests") or request.HasField("cost")):
        raise invalid("tokens", "is absent, and so are requests and cost; say what is to be corrected")
    return Change(
        wire.tokens_of(request.tokens) if request.HasField("tokens") else None,
        wire.extra_of(request.tokens),
        request.requests if request.HasField("requests") else None,
        (request.cost.currency_code, request.cost.amount_nanos) if request.HasField("cost") else None,
    )


def _message(made: Correction) -> corrections_pb2.CorrectedUsage:
    said = made.said
    message = corrections_pb2.CorrectedUsage(
        org=f"orgs/{made.org}",
        source=made.source,
        id=made.id,
        n=made.n,
        tokens=wire.tokens_message(said.tokens, said.extra),
        requests=said.requests,
        rate_card_version=said.rate_card_version,
        reason=made.reason,
        corrected_by=made.corrected_by,
        record_time=wire.timestamp_of(made.recorded_at),
        occurred_at=wire.timestamp_of(made.occurred_at),
        correction_source=made.correction_source,
        correction_id=made.correction_id,
    )
    if said.cost_nanos is not None:
        message.cost.CopyFrom(wire.money_message(said.currency, said.cost_nanos))
        if made.before is not None:
            differs = said.cost_nanos - (made.before.cost_nanos or 0)
            message.cost_difference.CopyFrom(wire.money_message(said.currency, differs))
    return message


def _set_unrated(target: corrections_pb2.UnratedUsage, one: Unrated) -> None:
    target.subject = one.subject
    target.source = one.source
    target.id = one.id
    target.provider = one.given_provider
    target.model = one.given_model
    target.occurred_at.CopyFrom(wire.timestamp_of(one.occurred_at))


def _corrections_after(token: str) -> tuple[str, str, int]:
    if not token:
        return "", "", 0
    source, id_, n = _parts(token, 3)
    if not (n.isascii() and n.isdecimal() and len(n) < 10):
        raise _bad_token()
    return source, id_, int(n)


def _unrated_after(token: str) -> tuple[str, str, datetime, str, str]:
    if not token:
        return "", "", _FIRST, "", ""
    provider, model, at_us, source, id_ = _parts(token, 5)
    try:
        return provider, model, windows.from_unix_us(int(at_us)), source, id_
    except (ValueError, OverflowError):
        raise _bad_token() from None


def _parts(token: str, count: int) -> list[str]:
    parts = token.split(_SEPARATOR)
    if len(parts) != count or not "".join(parts).isprintable():
        raise _bad_token()
    return parts


def _bad_token() -> Exception:
    return invalid("page_token", "is none of this method's; give back `next_page_token` as it was")
