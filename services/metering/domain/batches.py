"""Many calls checked and rated at once, each as `usage.accept` would: what they share is looked at once. Pure."""

from collections.abc import Callable, Iterable
from datetime import datetime
from operator import itemgetter
from typing import Final, NamedTuple

from services.kit.errors import PurseError
from services.kit.rating import Rate, Tokens, TokensError, UnknownModelError, rate
from services.metering.domain.cards import RateCards, unix_us
from services.metering.domain.usage import (
    AGENT_COUNT_MAX,
    AGENT_PAST,
    CLOCK_SKEW,
    KEY_CHARS_MAX,
    NAME_CHARS_MAX,
    PAST_MAX,
    PROMPT_HASH_BYTES_MAX,
    Given,
    Usage,
    accept,
)

_SHARED: Final = itemgetter(*(
    Given._fields.index(name)
    for name in (
        "subject", "source", "provider", "model", "operation", "labels", "effort", "status", "reservation",
        "service_tier",
    )
))  # fmt: skip


class _Shape(NamedTuple):
    """What calls share that differ in nothing but their own: ids, counts, time.

    Attributes:
        first: One of them, as it was accepted.
        rate: Their rate; None where it is not the same for all times of the batch, or they are not rated.
    """

    first: Usage
    rate: Rate | None


class Batch:
    """Checks and rates the calls of one request.

    Args:
        times: When its calls happened, as far as they say; in any order.
        labels_json: Labels as they are stored.
        trusted: As for `accept`.
        now: The time, aware.
        cards: The prices.
    """

    def __init__(
        self,
        times: Iterable[datetime],
        labels_json: Callable[[tuple[tuple[str, str], ...]], str],
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
        oldest, newest = now - (PAST_MAX if trusted else AGENT_PAST), now + CLOCK_SKEW
        usual = [at for at in times if oldest <= at <= newest]
        self._oldest, self._newest = min(usual, default=now), max(usual, default=now)
        self._oldest, self._newest = min(self._oldest, now), max(self._newest, now)
        self._shapes: dict[tuple[object, ...], _Shape] = {}

    def accept(self, given: Given) -> tuple[Usage, PurseError | None]:
        """What `usage.accept` returns for the call, or raises."""
        shared = _SHARED(given)
        shape = self._shapes.get(shared)
        if shape is not None and shape.rate is not None:
            usage = self._like(shape.first, shape.rate, given)
            if usage is not None:
                return usage, None
        accepted = accept(
            given, self._labels_json(given.labels), trusted=self._trusted, now=self._now, cards=self._cards
        )
        if shape is None and given.cost is None and self._oldest <= accepted[0].occurred_at <= self._newest:
            self._shapes[shared] = _Shape(accepted[0], self._rate_of(given, accepted[0].org))
        return accepted

    def _rate_of(self, given: Given, org: str) -> Rate | None:
        """The rate of a model if it is one and the same for all times of the batch."""
        layers = self._cards.layers(org, self._newest, self._now)
        if layers is not self._cards.layers(org, self._oldest, self._now):
            return None
        try:
            found = layers.lookup_between(
                given.provider, given.model, unix_us(self._oldest), unix_us(self._newest), given.service_tier
            )
        except UnknownModelError:
            return None
        return None if found is None else found.rate

    def _like(self, first: Usage, price: Rate, given: Given) -> Usage | None:
        """A call that shares all but its own with one that was accepted; None: it must be looked at by itself."""
        (
            _, source, id_, _, _, _, _, counts, extra, requests, cost, at,
            session, run, effort, failed, status, reservation, final, tier, prompt_hash,
        ) = given  # fmt: skip
        if at is None:
            at = self._now
        if (
            extra
            or cost is not None
            or not self._oldest <= at <= self._newest
            or not 0 < len(id_) <= KEY_CHARS_MAX
            or len(session) > NAME_CHARS_MAX
            or len(run) > NAME_CHARS_MAX
            or len(prompt_hash) > PROMPT_HASH_BYTES_MAX
            or not f"{id_}{session}{run}".isprintable()
        ):
            return None
        if requests is None:
            requests = 1 if final else 0
        if self._count_max is not None and max(*counts, requests) > self._count_max:
            return None
        try:
            cost_nanos = rate(price, Tokens._make((*counts, requests, ())))
        except TokensError:
            return None
        # In the order of the fields: names would cost as much as all the rest.
        return Usage._make((
            first.org, at, source, id_, first.subject, first.provider, first.model, first.given_provider,
            first.given_model, first.operation, first.labels, *counts, requests, cost_nanos, first.currency,
            first.rate_card_version, session, run, effort, failed, status, reservation, final, self._now, tier,
            None, 1, None, None, prompt_hash or None,
        ))  # fmt: skip
