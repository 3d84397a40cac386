"""Many calls checked and rated at once, each as `usage.accept` would: what they share is looked at once. Pure."""

from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final

from services.kit.errors import PurseError
from services.kit.rating import Rate, Tokens, TokensError, UnknownModelError, rate
from services.metering.domain.cards import RateCards, unix_us
from services.metering.domain.usage import (
    AGENT_COUNT_MAX,
    AGENT_PAST,
    CLOCK_SKEW,
    KEY_CHARS_MAX,
    NAME_CHARS_MAX,
    OPERATION_CHARS_MAX,
    PAST_MAX,
    PROMPT_HASH_BYTES_MAX,
    Given,
    LabelsJson,
    Usage,
    accept,
    check_reservation,
)

_SHARED: Final = itemgetter(
    *(Given._fields.index(name) for name in ("subject", "source", "provider", "model", "labels", "service_tier"))
)
_new: Final = tuple.__new__

_SPANS: Final = (PAST_MAX, timedelta(hours=1), timedelta(minutes=1))
"""How far around a call others may be rated as it was: the widest of these in which its rate does not change."""

_Alike = tuple[str, str, str, str, str, str, str, str, str, str, Rate, datetime, datetime]
"""What calls share whose subject, source, model and labels are the same, as one of them was accepted.

Organisation, source, subject, provider, model, provider and model as given, labels, currency, card, rate, and from when
to when that rate holds, both included.
"""
_Asked = tuple[str, str, str, str, datetime, datetime]
"""What a rate is looked up by: organisation, provider, model, service tier, from when and to when it must hold."""


class Batch:
    """Checks and rates the calls of one request.

    Args:
        labels_json: As for `accept`.
        trusted: As for `accept`.
        now: The time, aware.
        cards: The prices.
    """

    def __init__(
        self,
        labels_json: LabelsJson,
        *,
        trusted: bool,
        now: datetime,
        cards: RateCards,
    ) -> None:
        self._labels_json = labels_json
        self._trusted = trusted
        self._now = now
        self._cards = cards
        self._count_max = None if trusted else AGENT_COUNT_MAX
        # Between these nobody's time is refused, so nothing else of it needs to be looked at.
        self._oldest, self._newest = now - (PAST_MAX if trusted else AGENT_PAST), now + CLOCK_SKEW
        # None: they are not rated, or their rate changes all the time.
        self._alike: dict[tuple[object, ...], _Alike | None] = {}
        self._rates: dict[_Asked, Rate | None] = {}

    def accept(self, given: Given) -> tuple[Usage, PurseError | None]:
        """What `usage.accept` returns for the call, or raises."""
        shared = _SHARED(given)
        alike = self._alike.get(shared)
        if alike is not None:
            usage = self._like(alike, given)
            if usage is not None:
                return usage, None
        accepted = accept(given, self._labels_json, trusted=self._trusted, now=self._now, cards=self._cards)
        first = accepted[0]
        if (
            (shared not in self._alike if alike is None else not alike[-2] <= first.occurred_at <= alike[-1])
            and given.cost is None
            and self._oldest <= first.occurred_at <= self._newest
        ):
            self._alike[shared] = self._alike_of(given, first)
        return accepted

    def _alike_of(self, given: Given, first: Usage) -> _Alike | None:
        at = first.occurred_at
        for span in _SPANS:
            low, high = max(at - span, self._oldest), min(at + span, self._newest)
            asked = first.org, given.provider, given.model, given.service_tier, low, high
            if asked not in self._rates:
                self._rates[asked] = self._rate_of(asked)
            price = self._rates[asked]
            if price is not None:
                return (
                    first.org, first.source, first.subject, first.provider, first.model, first.given_provider,
                    first.given_model, first.labels, first.currency, first.rate_card_version, price, low, high,
                )  # fmt: skip
        return None

    def _rate_of(self, asked: _Asked) -> Rate | None:
        """The rate of a model, if it is one and the same from one time to another."""
        org, provider, model, service_tier, low, high = asked
        layers = self._cards.layers(org, high, self._now)
        if layers is not self._cards.layers(org, low, self._now):
            return None
        try:
            found = layers.lookup_between(provider, model, unix_us(low), unix_us(high), service_tier)
        except UnknownModelError:
            return None
        return None if found is None else found.rate

    def _like(self, alike: _Alike, given: Given) -> Usage | None:
        """A call that shares what is in `alike` with one that was accepted; None: it must be looked at by itself."""
        (
            _, _, id_, _, _, operation, _, counts, extra, requests, cost, at,
            session, run, effort, failed, status, reservation, final, tier, prompt_hash,
        ) = given  # fmt: skip
        if at is None:
            at = self._now
        # Of plain tuples, in the order of the fields: names would cost as much as all the rest.
        (
            org, source, subject, provider, model, given_provider, given_model, labels, currency, version,
            price, low, high,
        ) = alike  # fmt: skip
        own = f"{id_}{session}{run}{operation}{effort}{status}"
        if (
            extra
            or cost is not None
            or not low <= at <= high
            or not id_
            or len(id_) > KEY_CHARS_MAX
            or len(session) > NAME_CHARS_MAX
            or len(run) > NAME_CHARS_MAX
            or len(operation) > OPERATION_CHARS_MAX
            or len(effort) > OPERATION_CHARS_MAX
            or len(status) > NAME_CHARS_MAX
            or len(prompt_hash) > PROMPT_HASH_BYTES_MAX
            or not own.isprintable()
        ):
            return None
        if reservation:
            check_reservation(reservation)
        if requests is None:
            requests = 1 if final else 0
        if self._count_max is not None and max(*counts, requests) > self._count_max:
            return None
        read, cached, written, made, reasoned = counts
        try:
            cost_nanos = rate(price, _new(Tokens, (read, cached, written, made, reasoned, requests, ())))
        except TokensError:
            return None
        return _new(Usage, (
            org, at, source, id_, subject, provider, model, given_provider, given_model, operation, labels,
            read, cached, written, made, reasoned, requests, cost_nanos, currency, version,
            session, run, effort, failed, status, reservation, final, self._now, tier,
            None, 1, None, None, prompt_hash or None,
        ))  # fmt: skip
