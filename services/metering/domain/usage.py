"""What a metered call is, when it is accepted, and what it costs. Pure: the time and the rate cards are passed in."""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from services.kit import money, subject
from services.kit.errors import Code, PurseError, invalid
from services.kit.rating import (
    CORE_KINDS,
    KINDS,
    Layers,
    Tokens,
    TokensError,
    UnknownModelError,
    check_tokens,
    rate,
)
from services.metering.domain.cards import RateCards
from services.metering.domain.cards import unix_us as _unix_us
from services.metering.domain.kinds import extra_json

BATCH_MAX: Final = 1_000
"""The most events a batch."""
KEY_CHARS_MAX: Final = 128
"""The longest source and the longest id, in characters."""
NAME_CHARS_MAX: Final = 128
"""The longest session, run and status, in characters."""
OPERATION_CHARS_MAX: Final = 63
"""The longest operation and effort, in characters."""
PROVIDER_CHARS_MAX: Final = 63
MODEL_BYTES_MAX: Final = 256
"""The longest model name in bytes: it is part of the rollups' key, which has to fit an index row."""
LABELS_MAX: Final = 16
LABEL_KEY_CHARS_MAX: Final = 63
LABEL_VALUE_CHARS_MAX: Final = 255
SERVICE_TIER_CHARS_MAX: Final = 32
PROMPT_HASH_BYTES_MAX: Final = 64
AGENT_COUNT_MAX: Final = 100_000_000
"""The most of any one kind that an agent may say a call used; operators and services go to the limit of rating."""
OWN_SOURCE: Final = "pursestrings."
"""What the sources of events that metering itself writes begin with; no caller's may."""

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far clocks may disagree."""
AGENT_PAST: Final = timedelta(hours=1)
"""How long ago an agent may say that an unreserved call happened."""
AGENT_RESERVED_PAST: Final = timedelta(hours=24)
"""The same for a call with a reservation. The rule is "since the reservation was made", which is the budget service's
to know; asking it would put a second service in the way of every call. A reservation lives for a day at the most."""
PAST_MAX: Final = timedelta(days=90)
"""How long ago anybody may say that a call happened: as long as ids are deduplicated."""
KEYS_KEPT: Final = PAST_MAX + timedelta(days=1)
"""How long ids are kept: longer than any event that could come again is accepted."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


LabelsJson = Callable[[tuple[tuple[str, str], ...]], str]
"""Labels as JSON text."""


class Given(NamedTuple):
    """A call as its caller reports it."""

    subject: str
    source: str
    id: str
    provider: str
    model: str
    operation: str
    labels: tuple[tuple[str, str], ...]
    tokens: tuple[int, int, int, int, int]
    """Input, cache read, cache write, output, reasoning."""
    extra: tuple[tuple[str, int], ...]
    """Further kinds, sorted by name."""
    requests: int | None
    cost: tuple[str, int] | None
    """Currency and nanos."""
    occurred_at: datetime | None
    session: str
    run: str
    effort: str
    failed: bool
    status: str
    reservation: str
    final: bool
    service_tier: str
    prompt_hash: bytes = b""


class Usage(NamedTuple):
    """A call as it is kept, in the order of the table's columns. Amounts are nanos; `cost_nanos` None is UNRATED."""

    org: str
    occurred_at: datetime
    source: str
    id: str
    subject: str
    provider: str
    model: str
    given_provider: str
    given_model: str
    operation: str
    labels: str
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    requests: int
    cost_nanos: int | None
    currency: str
    rate_card_version: str
    session: str
    run: str
    effort: str
    failed: bool
    status: str
    reservation: str
    final: bool
    recorded_at: datetime
    service_tier: str = ""
    extra: str | None = None
    """Further kinds of use as JSON text."""
    operations: int = 1
    """How many calls it stands for: 0 or -1 where it adjusts another event."""
    corrects_source: str | None = None
    corrects_id: str | None = None
    prompt_hash: bytes | None = None
    """By which calls that asked the same are told; the caller's own."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What deduplicates it."""
        return (self.org, self.source, self.id)


class Priced(NamedTuple):
    """What a call costs and under which names it was found. `cost_nanos` None is UNRATED, the currency '' then."""

    provider: str
    model: str
    cost_nanos: int | None
    currency: str
    rate_card_version: str


def accept(
    given: Given, labels_json: LabelsJson, *, trusted: bool, now: datetime, cards: RateCards
) -> tuple[Usage, PurseError | None]:
    """Checks and rates a call.

    Args:
        given: The call.
        labels_json: Labels as they are stored; asked for those alone that are within the limits.
        trusted: Whether the caller may set a cost and a time long past.
        now: The time, aware.
        cards: The prices.

    Returns:
        The call as it is to be kept, and why its time is refused, if it is. That is told apart because it does not
        hold for a call that was recorded before: sent again late, it is still the same call.

    Raises:
        PurseError: A field is wrong; the error names it.
    """
    who = parse_subject(given.subject, "event.subject")
    _check_texts(given)
    if len(given.prompt_hash) > PROMPT_HASH_BYTES_MAX:
        raise invalid(
            "event.prompt_hash", f"has {len(given.prompt_hash)} bytes; a hash has at most {PROMPT_HASH_BYTES_MAX}"
        )
    _check_labels(given.labels)
    check_reservation(given.reservation)
    requests = given.requests
    if requests is None:
        requests = 1 if given.final else 0
    tokens = Tokens(*given.tokens, requests, given.extra)
    if not trusted:
        _check_agent_counts(tokens)
    occurred_at = given.occurred_at or now
    refusal = None if given.occurred_at is None else _check_time(given, trusted=trusted, now=now)
    try:
        priced = _price(given, tokens, occurred_at, cards.layers(who.org, occurred_at, now))
    except TokensError as error:
        raise _bad_count(error, "event.") from None
    if given.cost is not None:
        priced = _given_cost(given.cost, priced, trusted=trusted)
    usage = Usage(
        who.org, occurred_at, given.source, given.id, who.name,
        priced.provider, priced.model, given.provider, given.model, given.operation, labels_json(given.labels),
        *given.tokens, requests,
        priced.cost_nanos, priced.currency, priced.rate_card_version,
        given.session, given.run, given.effort, given.failed, given.status, given.reservation, given.final, now,
        given.service_tier, extra_json(given.extra), prompt_hash=given.prompt_hash or None,
    )  # fmt: skip
    return usage, refusal


def key_of(source: str, id_: str) -> bytes:
    """What deduplicates an event within its organisation; neither part may hold the separator.

    As `usage_key_of` in the database. 128 bits of a cryptographic hash: two ids never meet in one.
    """
    return hashlib.sha256(f"{source}\x1f{id_}".encode()).digest()[:16]


def parse_subject(name: str, field: str) -> subject.Subject:
    """The subject that a field of a request names; refused as MALFORMED_SUBJECT."""
    try:
        return subject.parse(name)
    except subject.SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_SUBJECT") from None


def _check_texts(given: Given) -> None:
    source, id_, provider, operation = given.source, given.id, given.provider, given.operation
    session, run, effort, status = given.session, given.run, given.effort, given.status
    tier = given.service_tier
    _check_model(given.model)
    if source.startswith(OWN_SOURCE):
        raise invalid("event.source", f"begins with {OWN_SOURCE!r}, which is kept for metering's own; name another")
    if (
        0 < len(source) <= KEY_CHARS_MAX
        and 0 < len(id_) <= KEY_CHARS_MAX
        and len(provider) <= PROVIDER_CHARS_MAX
        and len(operation) <= OPERATION_CHARS_MAX
        and len(session) <= NAME_CHARS_MAX
        and len(run) <= NAME_CHARS_MAX
        and len(effort) <= OPERATION_CHARS_MAX
        and len(status) <= NAME_CHARS_MAX
        and len(tier) <= SERVICE_TIER_CHARS_MAX
        and f"{source}{id_}{provider}{operation}{session}{run}{effort}{status}{tier}".isprintable()
    ):
        return  # nearly all: one look instead of nine
    _check_text(source, "event.source", KEY_CHARS_MAX, required=True)
    _check_text(id_, "event.id", KEY_CHARS_MAX, required=True)
    _check_text(provider, "event.call.provider", PROVIDER_CHARS_MAX)
    _check_text(operation, "event.call.operation", OPERATION_CHARS_MAX)
    _check_text(session, "event.session", NAME_CHARS_MAX)
    _check_text(run, "event.run", NAME_CHARS_MAX)
    _check_text(effort, "event.effort", OPERATION_CHARS_MAX)
    _check_text(status, "event.status", NAME_CHARS_MAX)
    _check_text(tier, "event.call.service_tier", SERVICE_TIER_CHARS_MAX)


def _check_agent_counts(tokens: Tokens) -> None:
    if max(tokens[:6]) <= AGENT_COUNT_MAX and not tokens.extra:
        return
    for kind, count in (*zip(CORE_KINDS, tokens[:6], strict=True), *tokens.extra):
        if count > AGENT_COUNT_MAX:
            raise _bad_count(
                TokensError(kind, f"{kind} is {count}; the limit of one call is {AGENT_COUNT_MAX} for the role agent"),
                "event.",
            )


@lru_cache(maxsize=16_384)
def _check_model(name: str) -> None:
    _check_text(name, "event.call.model", MODEL_BYTES_MAX)
    size = len(name.encode())
    if size > MODEL_BYTES_MAX:
        raise invalid("event.call.model", f"is {size} bytes long; the limit is {MODEL_BYTES_MAX}")


def _check_text(value: str, field: str, chars_max: int, *, required: bool = False) -> None:
    if required and not value:
        raise invalid(field, "is empty; it is required, for it is part of what tells events apart")
    if len(value) > chars_max:
        raise invalid(field, f"is {len(value)} characters long; the limit is {chars_max}")
    if not value.isprintable() and _CONTROL.search(value):
        raise invalid(field, "holds control characters; remove them")


@lru_cache(maxsize=4_096)
def _check_labels(labels: tuple[tuple[str, str], ...]) -> None:
    if len(labels) > LABELS_MAX:
        raise invalid("event.call.labels", f"there are {len(labels)} labels; the limit is {LABELS_MAX}")
    for key, value in labels:
        if not key:
            raise invalid("event.call.labels", "a label's key is empty; name it")
        _check_text(key, "event.call.labels", LABEL_KEY_CHARS_MAX)
        _check_text(value, f"event.call.labels.{key}", LABEL_VALUE_CHARS_MAX)


def check_reservation(name: str) -> None:
    """Refuses what is no reservation's name, as MALFORMED_NAME; empty: none."""
    if not name:
        return
    try:
        subject.parse_resource(name, "reservations")
    except subject.SubjectError as error:
        raise invalid("event.reservation", str(error), "MALFORMED_NAME") from None


def _check_time(given: Given, *, trusted: bool, now: datetime) -> PurseError | None:
    occurred_at = given.occurred_at
    assert occurred_at is not None
    if occurred_at > now + CLOCK_SKEW:
        return invalid(
            "event.occurred_at",
            f"{occurred_at.isoformat()} is in the future; it is {now.isoformat()} here, and clocks may differ by "
            f"{CLOCK_SKEW}: set the sender's clock, or leave the field empty for now",
            "IN_THE_FUTURE",
        )
    if occurred_at < now - PAST_MAX:
        return invalid(
            "event.occurred_at",
            f"{occurred_at.isoformat()} is more than {PAST_MAX.days} days ago, longer than events are told apart; "
            "an operator may correct the books instead",
            "TOO_OLD",
        )
    if trusted:
        return None
    past = AGENT_RESERVED_PAST if given.reservation else AGENT_PAST
    if occurred_at < now - past - CLOCK_SKEW:
        return invalid(
            "event.occurred_at",
            f"{occurred_at.isoformat()} is too long ago for the role agent, which may go back {past} "
            f"{'with' if given.reservation else 'without'} a reservation; "
            "leave the field empty for now, or let an operator or service record it",
            "TOO_OLD",
        )
    return None


def price_later(usage: Usage, tokens: Tokens, *, now: datetime, cards: RateCards) -> Priced | None:
    """What an UNRATED call costs by the first prices that have its model, from when it happened on; None: none yet.

    Raises:
        TokensError: The counts cannot be rated.
    """
    at_us = _unix_us(usage.occurred_at)
    for layers in cards.later_layers(usage.org, usage.occurred_at, now):
        try:
            found = layers.lookup(usage.given_provider, usage.given_model, at_us, usage.service_tier)
        except UnknownModelError:
            continue
        return Priced(*found.ref, rate(found.rate, tokens), found.currency_code, found.version)
    return None


def estimate(
    name: str, provider: str, model: str, tokens: Tokens, *, now: datetime, cards: RateCards, service_tier: str = ""
) -> Priced:
    """What a call would cost now.

    Raises:
        PurseError: UNKNOWN_MODEL with close names, or a malformed subject or count; the error names the field.
    """
    who = parse_subject(name, "subject")
    try:
        found = cards.layers(who.org, now, now).lookup(provider, model, _unix_us(now), service_tier)
        cost_nanos = rate(found.rate, tokens)
    except UnknownModelError as error:
        raise _unknown_model(error) from None
    except TokensError as error:
        raise _bad_count(error, "") from None
    return Priced(*found.ref, cost_nanos, found.currency_code, found.version)


def _price(given: Given, tokens: Tokens, occurred_at: datetime, layers: Layers) -> Priced:
    try:
        found = layers.lookup(given.provider, given.model, _unix_us(occurred_at), given.service_tier)
    except UnknownModelError:
        check_tokens(tokens)
        provider, model = _canonical(given, layers)
        return Priced(provider, model, None, "", "")
    return Priced(*found.ref, rate(found.rate, tokens), found.currency_code, found.version)


def _canonical(given: Given, layers: Layers) -> tuple[str, str]:
    """The names of a model without a price then: it may be a known one all the same.

    A name that no table knows is told apart by neither case nor blanks, as names that are known are.
    """
    try:
        return layers.resolve(given.provider, given.model)
    except UnknownModelError:
        return given.provider.strip().lower(), given.model.strip().lower()


def _given_cost(cost: tuple[str, int], priced: Priced, *, trusted: bool) -> Priced:
    if not trusted:
        raise PurseError(
            Code.PERMISSION_DENIED,
            "COST_NOT_YOURS",
            "event.cost: the role agent may not set a cost; leave it out, and the rate card prices the call",
            field="event.cost",
        )
    code, amount_nanos = cost
    try:
        money.currency(code)
    except money.MoneyError as error:
        raise invalid("event.cost.currency_code", str(error)) from None
    if amount_nanos < 0:
        raise invalid(
            "event.cost.amount_nanos",
            f"{amount_nanos} is negative; a cost is zero or more, and less is a correction",
            "AMOUNT_OUT_OF_RANGE",
        )
    return Priced(priced.provider, priced.model, amount_nanos, code, "")


def _bad_count(error: TokensError, prefix: str) -> PurseError:
    field = f"{prefix}requests" if error.field == "requests" else f"{prefix}tokens.{error.field}"
    if error.field in KINDS and error.field not in CORE_KINDS:
        field = f"{prefix}tokens.extra.{error.field}"
    reason = "UNKNOWN_KIND" if error.field == "extra" else "AMOUNT_OUT_OF_RANGE"
    return invalid(field.removesuffix(".tokens"), str(error), reason)


def _unknown_model(error: UnknownModelError) -> PurseError:
    return invalid(f"call.{error.field}", str(error), "UNKNOWN_MODEL", suggestions=", ".join(error.suggestions))
