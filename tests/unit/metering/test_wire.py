"""Messages and values."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.metering.v1 import metering_pb2
from services.kit.errors import PurseError
from services.kit.rate_source import load_rate_table
from services.metering import wire
from services.metering.access import ACCESS
from services.metering.domain.cards import RateCard, RateCards
from services.metering.domain.usage import Usage, accept
from services.metering.store.recording import Recorded
from tests.support.metering import usage_event

NOW = datetime(2026, 11, 22, 12, 0, 0, 123_456, tzinfo=UTC)


def kept(event: metering_pb2.UsageEvent) -> Usage:
    cards = RateCards([RateCard("v1", datetime(1970, 1, 1, tzinfo=UTC), load_rate_table())])
    return accept(wire.given_of(event), wire.labels_json, trusted=True, now=NOW, cards=cards)[0]


def test_every_method_has_its_row_in_the_access_table() -> None:
    service = metering_pb2.DESCRIPTOR.services_by_name["MeteringService"]

    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == set(ACCESS)


def test_times_keep_their_microseconds() -> None:
    assert wire.datetime_of(wire.timestamp_of(NOW), "t") == NOW


@pytest.mark.parametrize(
    "timestamp", [Timestamp(seconds=2**40), Timestamp(seconds=-(2**40)), Timestamp(nanos=-1), Timestamp(nanos=10**9)]
)
def test_a_time_that_is_none_is_refused_by_name(timestamp: Timestamp) -> None:
    with pytest.raises(PurseError) as caught:
        wire.given_of(usage_event(occurred_at=timestamp))

    assert caught.value.field == "event.occurred_at"


def test_an_unknown_outcome_is_refused_by_name() -> None:
    event = usage_event()
    event.outcome = 7  # type: ignore[assignment]

    with pytest.raises(PurseError) as caught:
        wire.given_of(event)

    assert caught.value.field == "event.outcome"


def test_the_hash_tells_content_apart_and_ignores_the_order_of_labels() -> None:
    one = usage_event(labels={"a": "1", "b": "2"})
    same = usage_event(labels={"b": "2", "a": "1"})
    other = usage_event(labels={"a": "1", "b": "3"})

    assert wire.payload_hash(one) == wire.payload_hash(same)
    assert wire.payload_hash(one) != wire.payload_hash(other)


def test_what_is_told_is_what_was_kept() -> None:
    event = usage_event("0", model="claude-4-5-sonnet", reasoning_tokens=7)

    item = wire.usage_item(kept(event)._replace(labels='{"env": "prod"}'))

    assert (item.subject, item.source, item.id) == (event.subject, "test", "0")
    assert item.tokens == event.tokens
    assert (item.call.provider, item.call.model) == ("anthropic", "claude-sonnet-4-5")
    assert dict(item.call.labels) == {"env": "prod"}
    assert item.cost.amount_nanos == 4_500_000
    assert (item.requests, item.final, item.rate_card_version) == (1, True, "v1")


def test_unrated_usage_is_told_without_a_cost() -> None:
    event = usage_event(model="nobody-knows")

    assert not wire.usage_item(kept(event)).HasField("cost")


def test_answers_of_a_batch_are_those_of_each_call() -> None:
    one = kept(usage_event(id="1"))
    others: tuple[dict[str, Any], ...] = (
        {},
        {"id": "2", "cost_nanos": 0, "occurred_at": NOW.replace(microsecond=0)},
        {"id": "3", "cost_nanos": None, "currency": "", "rate_card_version": ""},
        {"currency": "EUR"},
        *({name: "other"} for name in ("subject", "source", "provider", "model", "rate_card_version")),
        {"recorded_at": NOW - timedelta(days=1)},
    )
    recorded = [Recorded(one._replace(**fields), duplicate=n == 4) for n, fields in enumerate([*others, *others])]
    together, apart = metering_pb2.BatchRecordUsageResponse(), metering_pb2.BatchRecordUsageResponse()
    messages = wire.RecordedMessages()
    for item in recorded:
        messages.set(together.results.add().usage, item)
        wire.set_recorded(apart.results.add().usage, item)

    assert together == apart
