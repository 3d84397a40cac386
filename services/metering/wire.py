"""Between the contract's messages and the domain's values. Fields that cannot be read are refused here, by name."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from services.kit.errors import invalid
from services.metering.domain import responses
from services.metering.domain.questions import Filter, GroupBy, Totals
from services.metering.domain.usage import Given, Usage
from services.metering.store.parked import Parked
from services.metering.store.recording import Recorded

PAGE_MAX: Final = 1_000
_PAGE_DEFAULT: Final = 100
_ROW_ID_DIGITS: Final = 19
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CALL_BYTES_KNOWN_MAX: Final = 512
"""Calls with longer names and labels are read each time, so that those that are remembered take 4 MB at the most."""
# Found here once: a message looks for a field of that name first.
_CALL_BYTES: Final = type_pb2.CallAttributes.SerializeToString
_EVENT_BYTES: Final = metering_pb2.UsageEvent.SerializeToString
_HASH: Final = hashlib.blake2b(digest_size=16)
"""Of nothing yet. To copy it takes a sixth less than to make one anew for each event."""
_new: Final = tuple.__new__
_ANSWERED_ALIKE: Final = itemgetter(*(
    Usage._fields.index(name)
    for name in ("subject", "source", "provider", "model", "currency", "rate_card_version", "recorded_at")
))  # fmt: skip
_FAILED: Final = {
    metering_pb2.CALL_OUTCOME_UNSPECIFIED: False,
    metering_pb2.CALL_OUTCOME_SUCCESS: False,
    metering_pb2.CALL_OUTCOME_ERROR: True,
}
_DIMENSIONS: Final = {
    metering_pb2.USAGE_DIMENSION_DAY: GroupBy.DAY,
    metering_pb2.USAGE_DIMENSION_MODEL: GroupBy.MODEL,
    metering_pb2.USAGE_DIMENSION_SUBJECT: GroupBy.SUBJECT,
    metering_pb2.USAGE_DIMENSION_PROVIDER: GroupBy.PROVIDER,
    metering_pb2.USAGE_DIMENSION_OPERATION: GroupBy.OPERATION,
    metering_pb2.USAGE_DIMENSION_HOUR: GroupBy.HOUR,
    metering_pb2.USAGE_DIMENSION_MONTH: GroupBy.MONTH,
    metering_pb2.USAGE_DIMENSION_WORKSPACE: GroupBy.WORKSPACE,
    metering_pb2.USAGE_DIMENSION_TEAM: GroupBy.TEAM,
    metering_pb2.USAGE_DIMENSION_AGENT: GroupBy.AGENT,
    metering_pb2.USAGE_DIMENSION_EFFORT: GroupBy.EFFORT,
    metering_pb2.USAGE_DIMENSION_SESSION: GroupBy.SESSION,
    metering_pb2.USAGE_DIMENSION_RUN: GroupBy.RUN,
    metering_pb2.USAGE_DIMENSION_LABEL: GroupBy.LABEL,
}


def given_of(event: metering_pb2.UsageEvent) -> Given:
    """The call that an event reports.

    Raises:
        PurseError: The outcome is unknown or the time is no time.
    """
    counts, has = event.tokens, event.HasField
    failed = _FAILED.get(event.outcome)
    if failed is None:
        raise invalid("event.outcome", f"{event.outcome} is no outcome known here; leave it out for success")
    call = _CALL_BYTES(event.call)
    provider, model, operation, labels, service_tier = (
        _call_of(call) if len(call) <= _CALL_BYTES_KNOWN_MAX else _call_of.__wrapped__(call)
    )
    extra = counts.extra
    # In the order of the fields, and past `_make`: names or its check would cost as much as reading the event does.
    given = _new(Given, (
        event.subject,
        event.source,
        event.id,
        provider,
        model,
        operation,
        labels,
        (
            counts.input_tokens,
            counts.cache_read_tokens,
            counts.cache_write_tokens,
            counts.output_tokens,
            counts.reasoning_tokens,
        ),
        _extra_of(extra) if extra else (),
        event.requests if has("requests") else None,
        (event.cost.currency_code, event.cost.amount_nanos) if has("cost") else None,
        datetime_of(event.occurred_at, "event.occurred_at") if has("occurred_at") else None,
        event.session,
        event.run,
        event.effort,
        failed,
        event.status,
        event.reservation,
        not has("final") or event.final,
        service_tier,
        event.prompt_hash,
    ))  # fmt: skip
    return _with_response(given, event) if has("provider_response") else given


@lru_cache(maxsize=4_096)
def _call_of(call: bytes) -> tuple[str, str, str, tuple[tuple[str, str], ...], str]:
    """Provider, model, operation, labels and service tier of a call's bytes.

    Few calls of a batch differ in these: to look their bytes up takes a third of reading them, and the strings that
    are got are the same ones, whose hashes are known.
    """
    message = type_pb2.CallAttributes.FromString(call)
    return message.provider, message.model, message.operation, tuple(message.labels.items()), message.service_tier


def _with_response(given: Given, event: metering_pb2.UsageEvent) -> Given:
    """The call with the counts, and what it does not say itself, of the provider's answer."""
    if event.HasField("tokens"):
        raise invalid("event.tokens", "is given beside provider_response; give one of them")
    response = event.provider_response
    found = responses.read(response.api, response.body, response.events)
    return given._replace(
        tokens=found.tokens,
        extra=found.extra,
        model=given.model or found.model,
        service_tier=given.service_tier or found.service_tier,
    )


@lru_cache(maxsize=4_096)
def labels_json(labels: tuple[tuple[str, str], ...]) -> str:
    """Labels as they are stored."""
    return json.dumps(dict(labels), ensure_ascii=False)


def payload_hash(event: metering_pb2.UsageEvent) -> bytes:
    """What tells an event sent again from another under the same id: its content as the caller gave it."""
    made = _HASH.copy()
    made.update(_EVENT_BYTES(event, deterministic=True))
    return made.digest()


def usage_item(usage: Usage) -> budget_pb2.UsageItem:
    """What the budget service is told of a recorded call. Fields are set one by one: half the time of keywords."""
    item = budget_pb2.UsageItem()
    item.subject = usage.subject
    item.source = usage.source
    item.id = usage.id
    call = item.call
    call.provider = usage.provider
    call.model = usage.model
    call.operation = usage.operation
    call.service_tier = usage.service_tier
    if usage.labels != "{}":
        call.labels.update(json.loads(usage.labels))
    tokens = item.tokens
    tokens.input_tokens = usage.input_tokens
    tokens.cache_read_tokens = usage.cache_read_tokens
    tokens.cache_write_tokens = usage.cache_write_tokens
    tokens.output_tokens = usage.output_tokens
    tokens.reasoning_tokens = usage.reasoning_tokens
    if usage.extra is not None:
        tokens.extra.update(json.loads(usage.extra))
    item.requests = usage.requests
    if usage.cost_nanos is not None:
        _set_cost(item.cost, usage)
    _set_time(item.occurred_at, usage.occurred_at)
    item.reservation = usage.reservation
    item.final = usage.final
    item.rate_card_version = usage.rate_card_version
    if usage.corrects_source is not None:
        item.corrects.source = usage.corrects_source
        item.corrects.id = usage.corrects_id or ""
    return item


def page_size_of(size: int) -> int:
    """How many rows a page has; refused where that is out of range."""
    if not 0 <= size <= PAGE_MAX:
        raise invalid("page_size", f"is {size}; it must be 1 to {PAGE_MAX}, or 0 for {_PAGE_DEFAULT}")
    return size or _PAGE_DEFAULT


def parked_token(last: Parked) -> str:
    """What the next page of parked usage is asked for with."""
    return f"{last.row_id}.{last.org}"


def parked_after(token: str) -> tuple[str, int]:
    """The organisation and row that a page begins after; refused where the token is no `parked_token`."""
    row_id, _, org = token.partition(".")
    if not token:
        return "", 0
    if not (row_id.isascii() and row_id.isdecimal() and len(row_id) < _ROW_ID_DIGITS and org.isprintable()):
        raise invalid("page_token", "is none of this method's; give back `next_page_token` as it was")
    return org, int(row_id)


def parked_message(parked: Parked) -> metering_pb2.ParkedUsage:
    """A parked event; without source and id where it is not in the books any more."""
    return metering_pb2.ParkedUsage(
        org=f"orgs/{parked.org}",
        source=parked.source,
        id=parked.id,
        tries=parked.tries,
        last_error=parked.last_error,
        park_time=timestamp_of(parked.parked_at),
    )


def set_recorded(target: metering_pb2.RecordedUsage, recorded: Recorded) -> None:
    """Fills in the answer for a recorded call."""
    usage = recorded.usage
    target.subject = usage.subject
    target.source = usage.source
    target.id = usage.id
    target.provider = usage.provider
    target.model = usage.model
    if usage.cost_nanos is not None:
        _set_cost(target.cost, usage)
    target.rate_card_version = usage.rate_card_version
    _set_time(target.occurred_at, usage.occurred_at)
    # The same for all calls of a batch.
    recorded_at = target.recorded_at
    recorded_at.seconds, recorded_at.nanos = _recorded_at(usage.recorded_at)
    if recorded.duplicate:
        target.duplicate = True


class RecordedMessages:
    """Fills in the answers of one batch: what calls share is copied as a whole, in less time than field by field."""

    def __init__(self) -> None:
        # The last answer of those that are alike, and its parts: to get hold of a part takes as long as to set it.
        self._alike: dict[object, tuple[metering_pb2.RecordedUsage, type_pb2.Money, Timestamp]] = {}

    def set(self, target: metering_pb2.RecordedUsage, recorded: Recorded) -> None:
        """As `set_recorded`."""
        usage, duplicate = recorded
        cost_nanos = usage.cost_nanos
        if duplicate or cost_nanos is None:
            set_recorded(target, recorded)
            return
        key = _ANSWERED_ALIKE(usage)
        alike = self._alike.get(key)
        if alike is None:
            like = metering_pb2.RecordedUsage()
            set_recorded(like, recorded)
            alike = self._alike[key] = like, like.cost, like.occurred_at
        like, cost, at = alike
        like.id = usage.id
        cost.amount_nanos = cost_nanos
        since = usage.occurred_at - _EPOCH
        at.seconds = since.days * 86_400 + since.seconds
        at.nanos = since.microseconds * 1000
        target.CopyFrom(like)


def totals_message(totals: Totals) -> metering_pb2.UsageTotals:
    """The answer's sums."""
    return metering_pb2.UsageTotals(
        tokens=counts_message(totals.tokens, totals.extra),
        total_tokens=totals.tokens[0] + totals.tokens[3],
        costs=[money_message(code, nanos) for code, nanos in sorted(totals.costs.items())],
        requests=totals.requests,
        operations=totals.operations,
        sessions=totals.sessions,
        errors=totals.errors,
        unrated=totals.unrated,
        error_rate_bps=totals.error_bps,
    )


def counts_message(counts: Sequence[int], extra: Mapping[str, int]) -> type_pb2.TokenCounts:
    """Tokens by kind, in the domain's order, and further kinds by name."""
    read, cached, written, made, reasoned = counts
    return type_pb2.TokenCounts(
        input_tokens=read,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=made,
        reasoning_tokens=reasoned,
        extra=extra,
    )


def money_message(currency_code: str, amount_nanos: int) -> type_pb2.Money:
    """An amount."""
    return type_pb2.Money(currency_code=currency_code, amount_nanos=amount_nanos)


def tokens_of(tokens: type_pb2.TokenCounts) -> tuple[int, int, int, int, int]:
    """Tokens by kind, as the domain orders them."""
    return (
        tokens.input_tokens,
        tokens.cache_read_tokens,
        tokens.cache_write_tokens,
        tokens.output_tokens,
        tokens.reasoning_tokens,
    )


def tokens_message(
    tokens: tuple[int, int, int, int, int], extra: tuple[tuple[str, int], ...] = ()
) -> type_pb2.TokenCounts:
    """Tokens by kind as a message."""
    read, cached, written, made, reasoned = tokens
    return type_pb2.TokenCounts(
        input_tokens=read,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=made,
        reasoning_tokens=reasoned,
        extra=dict(extra),
    )


def extra_of(tokens: type_pb2.TokenCounts) -> tuple[tuple[str, int], ...]:
    """Further kinds, sorted by name; none counted is none given."""
    return _extra_of(tokens.extra)


def _extra_of(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((kind, count) for kind, count in counts.items() if count))


def group_by_of(request: metering_pb2.QueryUsageRequest) -> list[GroupBy]:
    """The dimensions that a query names.

    Raises:
        PurseError: One is not known.
    """
    unknown = [value for value in request.group_by if value not in _DIMENSIONS]
    if unknown:
        raise invalid("group_by", f"{unknown[0]} is no dimension known here; use {', '.join(GroupBy)}")
    return [_DIMENSIONS[value] for value in request.group_by]


def filter_of(message: metering_pb2.UsageFilter) -> Filter:
    """Which usage a filter means."""
    return Filter(
        tuple(message.providers),
        tuple(message.models),
        tuple(message.operations),
        tuple(message.efforts),
        tuple(message.sessions),
        tuple(message.runs),
        tuple(sorted(message.labels.items())),
    )


def datetime_of(timestamp: Timestamp, field: str) -> datetime:
    """A timestamp to the microsecond, as the books keep it.

    Raises:
        PurseError: It is outside the years 1 to 9999, or its nanos are no part of a second.
    """
    nanos = timestamp.nanos
    if 0 <= nanos < 1_000_000_000:
        try:
            # A product, for it takes half the time of a timedelta made of its parts.
            return _EPOCH + _MICROSECOND * (timestamp.seconds * 1_000_000 + nanos // 1000)
        except OverflowError:
            pass
    raise invalid(field, "is no timestamp: seconds since 1970 of the years 1 to 9999, and nanos 0 to 999,999,999")


def timestamp_of(instant: datetime) -> Timestamp:
    """An instant as a message."""
    timestamp = Timestamp()
    _set_time(timestamp, instant)
    return timestamp


def _set_time(target: Timestamp, instant: datetime) -> None:
    target.seconds, target.nanos = _seconds_and_nanos(instant)


@lru_cache(maxsize=256)
def _recorded_at(instant: datetime) -> tuple[int, int]:
    return _seconds_and_nanos(instant)


def _seconds_and_nanos(instant: datetime) -> tuple[int, int]:
    since = instant - _EPOCH
    return since.days * 86_400 + since.seconds, since.microseconds * 1000


def _set_cost(target: type_pb2.Money, usage: Usage) -> None:
    assert usage.cost_nanos is not None
    target.currency_code = usage.currency
    target.amount_nanos = usage.cost_nanos
