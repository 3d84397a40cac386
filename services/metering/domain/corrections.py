"""Later words on an event: what is said of it now, and the adjusting rows that bring the sums there. Pure.

Nothing is edited. A correction appends a row whose counts and cost are the signed differences to what was last said,
so any sum over rows is the sum of what was last said of each event. The budget service is told of that row as it is.
An event without a price is counted apart from priced ones; two further rows, of which nobody is told, move what was
said of it over when it gets its price.
"""

import hashlib
from datetime import datetime
from typing import Final, NamedTuple

from services.kit import money
from services.kit.errors import conflict, invalid
from services.kit.rating import KINDS, Tokens, TokensError, UnknownModelError, check_tokens, rate
from services.metering.domain.cards import RateCards, unix_us
from services.metering.domain.kinds import extra_json, extra_of
from services.metering.domain.usage import OWN_SOURCE, Usage, price_later

CORRECTION: Final = f"{OWN_SOURCE}correction"
"""The source of adjusting events that a person asked for."""
RERATING: Final = f"{OWN_SOURCE}rerating"
"""The source of adjusting events of usage whose price came later."""
TAKEN_BACK: Final = f"{OWN_SOURCE}unpriced"
"""The source of rows that take back what was said of an event without a price."""
MOVED: Final = f"{OWN_SOURCE}priced"
"""The source of rows that say it again among events with a price."""
REASON_CHARS_MAX: Final = 500
CORRECTIONS_MAX: Final = 1_000
"""The most corrections of one event."""


Counts = tuple[int, int, int, int, int]
"""Input, cache read, cache write, output, reasoning."""


class Said(NamedTuple):
    """What is said of an event. `cost_nanos` None is UNRATED, the currency '' then."""

    tokens: Counts
    extra: tuple[tuple[str, int], ...]
    requests: int
    cost_nanos: int | None
    currency: str
    rate_card_version: str


class Change(NamedTuple):
    """What shall be said anew; None leaves it as it is."""

    tokens: Counts | None
    extra: tuple[tuple[str, int], ...]
    requests: int | None
    cost: tuple[str, int] | None


class Difference(NamedTuple):
    """What the budget service is told: signed differences; the whole cost where there was none."""

    tokens: Counts
    extra: tuple[tuple[str, int], ...]
    requests: int
    cost: tuple[str, int] | None


def said_by(event: Usage) -> Said:
    """What an event itself says."""
    counts = (
        event.input_tokens,
        event.cache_read_tokens,
        event.cache_write_tokens,
        event.output_tokens,
        event.reasoning_tokens,
    )
    return Said(
        counts, extra_of(event.extra), event.requests, event.cost_nanos, event.currency, event.rate_card_version
    )


def restated(event: Usage, last: Said, change: Change, *, now: datetime, cards: RateCards) -> Said:
    """What is said of an event after a change.

    Raises:
        PurseError: A count or the cost is wrong, or nothing would change.
    """
    given_tokens = change.tokens is not None
    tokens = change.tokens if change.tokens is not None else last.tokens
    extra = change.extra if given_tokens else last.extra
    requests = last.requests if change.requests is None else change.requests
    counts = Tokens(*tokens, requests, extra)
    try:
        check_tokens(counts)
        if change.cost is not None:
            said = Said(tokens, extra, requests, *_given(change.cost, last))
        elif last.cost_nanos is not None and not last.rate_card_version:
            said = last._replace(tokens=tokens, extra=extra, requests=requests)
        else:
            said = Said(tokens, extra, requests, *_rated(event, last, counts, now, cards))
    except TokensError as error:
        field = f"tokens.{error.field}" if error.field in KINDS and error.field != "requests" else error.field
        raise invalid(field, str(error), "AMOUNT_OUT_OF_RANGE") from None
    if said == last:
        raise conflict("NOTHING_TO_CORRECT", "this is what was last said of the event; nothing was changed")
    return said


def rerated(event: Usage, last: Said, *, now: datetime, cards: RateCards) -> Said | None:
    """What is said of an UNRATED event once its model has a price; None: it has none yet, or cannot be rated."""
    if last.cost_nanos is not None:
        return None
    try:
        priced = price_later(event, Tokens(*last.tokens, last.requests, last.extra), now=now, cards=cards)
    except TokensError:
        return None
    if priced is None:
        return None
    return last._replace(
        cost_nanos=priced.cost_nanos, currency=priced.currency, rate_card_version=priced.rate_card_version
    )


def rerating_id(source: str, id_: str) -> str:
    """The id of an event's re-rating: the same whoever does it, so that it is done once."""
    return hashlib.blake2b(f"{source}\0{id_}".encode(), digest_size=16).hexdigest()


def difference(last: Said, said: Said) -> Difference:
    """What changed."""
    before = dict(last.extra)
    after = dict(said.extra)
    kinds = sorted(before.keys() | after.keys())
    extra = tuple((kind, after.get(kind, 0) - before.get(kind, 0)) for kind in kinds)
    cost = None
    if said.cost_nanos is not None:
        cost = (said.currency, said.cost_nanos - (last.cost_nanos or 0))
    new, old = said.tokens, last.tokens
    return Difference(
        (new[0] - old[0], new[1] - old[1], new[2] - old[2], new[3] - old[3], new[4] - old[4]),
        tuple((kind, count) for kind, count in extra if count),
        said.requests - last.requests,
        cost,
    )


def adjusting(event: Usage, last: Said, said: Said, *, source: str, id_: str, now: datetime) -> list[Usage]:
    """The rows that bring the sums from what was last said to what is said now, all of when the event happened.

    The first is the one that the budget service is told of.
    """
    common = event._replace(
        rate_card_version=said.rate_card_version,
        recorded_at=now,
        corrects_source=event.source,
        corrects_id=event.id,
        prompt_hash=None,
    )
    changed = difference(last, said)
    cost_nanos = None if changed.cost is None else changed.cost[1]
    signed = said._replace(tokens=changed.tokens, extra=changed.extra, requests=changed.requests, cost_nanos=cost_nanos)
    rows = [_row(common, (source, id_), signed, 0)]
    if last.cost_nanos is None and said.cost_nanos is not None:
        negative = last._replace(
            tokens=_negated(last.tokens),
            extra=tuple((kind, -count) for kind, count in last.extra),
            requests=-last.requests,
        )
        moved = said._replace(tokens=last.tokens, extra=last.extra, requests=last.requests, cost_nanos=0)
        rows += [_row(common, (TAKEN_BACK, id_), negative, -1), _row(common, (MOVED, id_), moved, 1)]
    return rows


def check_reason(reason: str) -> None:
    """Refuses a reason that is empty, too long or not printable."""
    if not 0 < len(reason) <= REASON_CHARS_MAX or not reason.isprintable():
        raise invalid("reason", f"is required: 1 to {REASON_CHARS_MAX} printable characters that say why")


def _row(common: Usage, key: tuple[str, str], signed: Said, operations: int) -> Usage:
    read, cached, written, made, reasoned = signed.tokens
    return common._replace(
        source=key[0],
        id=key[1],
        input_tokens=read,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=made,
        reasoning_tokens=reasoned,
        requests=signed.requests,
        extra=extra_json(signed.extra),
        cost_nanos=signed.cost_nanos,
        currency=signed.currency if signed.cost_nanos is not None else "",
        operations=operations,
    )


def _negated(tokens: Counts) -> Counts:
    read, cached, written, made, reasoned = tokens
    return -read, -cached, -written, -made, -reasoned


def _given(cost: tuple[str, int], last: Said) -> tuple[int, str, str]:
    code, amount_nanos = cost
    try:
        money.currency(code)
    except money.MoneyError as error:
        raise invalid("cost.currency_code", str(error)) from None
    if last.currency and code != last.currency:
        raise invalid(
            "cost.currency_code",
            f"is {code}, but the event's cost is in {last.currency}; a currency cannot be corrected",
            "CURRENCY_MISMATCH",
        )
    if not 0 <= amount_nanos <= money.MAX_NANOS:
        raise invalid("cost.amount_nanos", f"{amount_nanos} is no cost: it is zero or more", "AMOUNT_OUT_OF_RANGE")
    return amount_nanos, code, ""


def _rated(event: Usage, last: Said, counts: Tokens, now: datetime, cards: RateCards) -> tuple[int | None, str, str]:
    """The cost of corrected counts by the prices of when the event happened."""
    if last.cost_nanos is None:
        priced = price_later(event, counts, now=now, cards=cards)
        return (priced.cost_nanos, priced.currency, priced.rate_card_version) if priced else (None, "", "")
    at_us = unix_us(event.occurred_at)
    try:
        found = cards.layers(event.org, event.occurred_at, now).lookup(
            event.given_provider, event.given_model, at_us, event.service_tier
        )
    except UnknownModelError as error:
        raise invalid("cost", f"is required: {error}", "UNKNOWN_MODEL") from None
    if found.currency_code != last.currency:
        raise invalid(
            "cost", f"is required in {last.currency}: prices are in {found.currency_code}", "CURRENCY_MISMATCH"
        )
    return rate(found.rate, counts), found.currency_code, found.version
