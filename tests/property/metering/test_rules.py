"""Rules of metering for any input."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import PurseError
from services.kit.rate_source import load_rate_table
from services.kit.windows import WindowKind, zone_info
from services.metering.domain.cards import RateCard, RateCards
from services.metering.domain.questions import Span, cut, days_of, share_bps, window_span
from services.metering.domain.rollups import bucket_of, roll_up
from services.metering.domain.usage import Given, Usage, accept
from tests.support.metering import recording

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CARDS = RateCards([RateCard("v1", EPOCH, load_rate_table())])
# Offsets of a quarter, daylight saving of half an hour or at midnight, a day that was skipped.
ZONES = [
    "UTC", "Asia/Kathmandu", "Pacific/Chatham", "Australia/Lord_Howe", "Australia/Eucla", "America/Havana",
    "America/Santiago", "Asia/Beirut", "Africa/Cairo", "Pacific/Apia", "America/St_Johns", "Asia/Tehran",
]  # fmt: skip
instants = st.datetimes(datetime(2000, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(instants, st.timedeltas(timedelta(microseconds=1), timedelta(hours=2)))
def test_a_cut_range_is_the_range(start: datetime, length: timedelta) -> None:
    span = Span(start, start + length)

    whole, edges = cut(span)

    parts = sorted([part for part in (whole, *edges) if part.start < part.end])
    assert parts[0].start == span.start
    assert parts[-1].end == span.end
    assert all(before.end == after.start for before, after in itertools.pairwise(parts))
    assert bucket_of(whole.start) == whole.start.timestamp()
    assert bucket_of(whole.end) == whole.end.timestamp()
    assert all(edge.end - edge.start < timedelta(minutes=15) for edge in edges)


@given(st.sampled_from(ZONES), instants)
def test_days_and_months_begin_on_a_quarter_of_an_hour(zone: str, at: datetime) -> None:
    for kind in (WindowKind.DAY, WindowKind.MONTH):
        span = window_span(kind, zone, at)
        assert span.start <= at < span.end
        assert bucket_of(span.start) == span.start.timestamp()


@given(st.sampled_from(ZONES), instants, st.timedeltas(timedelta(microseconds=1), timedelta(days=5)))
def test_every_instant_of_a_range_is_in_its_local_day(zone: str, start: datetime, length: timedelta) -> None:
    span = Span(start, start + length)

    days = days_of(span, zone)

    assert days.starts[0] <= span.start
    assert list(days.starts) == sorted(set(days.starts))
    assert len(days.labels) == len(set(days.labels)) == len(days.starts)
    last = span.end - timedelta(microseconds=1)
    assert days.labels[0] >= span.start.astimezone(zone_info(zone)).date().isoformat()
    assert days.labels[-1] >= last.astimezone(zone_info(zone)).date().isoformat()
    assert days.starts[-1] <= last


counts = st.integers(0, 10**12)
events = st.builds(
    lambda **fields: recording(occurred_at=fields.pop("at"), id_="x", **fields).usage,
    at=st.integers(0, 4_000).map(lambda s: NOW + timedelta(seconds=s)),
    subject=st.sampled_from(["orgs/acme", "orgs/acme/agents/a"]),
    model=st.sampled_from(["m", "n"]),
    currency=st.sampled_from(["USD", "EUR"]),
    input_tokens=counts,
    output_tokens=counts,
    requests=counts,
    cost_nanos=st.integers(0, 2**63 - 1),
    failed=st.booleans(),
    session=st.sampled_from(["", "s", "t"]),
)


@given(st.lists(events, max_size=30))
def test_rollups_lose_and_invent_nothing(batch: list[Any]) -> None:
    sums, sessions = roll_up(batch)

    for column, name in enumerate(
        ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "requests")
    ):
        assert sum(entry[column] for entry in sums.values()) == sum(getattr(event, name) for event in batch)
    assert sum(entry[6] for entry in sums.values()) == len(batch)
    assert sum(entry[7] for entry in sums.values()) == sum(event.failed for event in batch)
    for currency in ("USD", "EUR"):
        assert sum(entry[8] for key, entry in sums.items() if key.currency == currency) == sum(
            event.cost_nanos for event in batch if event.currency == currency
        )
    assert {key.session for key in sessions} == {event.session for event in batch if event.session}
    assert all(key.bucket_s % 900 == 0 for key in sums)


texts = st.text(max_size=130)
given_events = st.builds(
    Given,
    subject=st.one_of(texts, st.just("orgs/acme")),
    source=texts,
    id=texts,
    provider=st.one_of(texts, st.sampled_from(["", "anthropic", "litellm"])),
    model=st.one_of(texts, st.sampled_from(["", "claude-sonnet-4-5", "gpt-4o"])),
    operation=texts,
    labels=st.dictionaries(texts, texts, max_size=20).map(lambda labels: tuple(labels.items())),
    tokens=st.tuples(*[st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 50))] * 5),
    requests=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 3)),
    cost=st.one_of(st.none(), st.tuples(st.sampled_from(["USD", "", "usd"]), st.integers(-(2**63), 2**63 - 1))),
    occurred_at=st.one_of(st.none(), st.datetimes(timezones=st.just(UTC))),
    session=texts,
    run=texts,
    effort=texts,
    failed=st.booleans(),
    status=texts,
    reservation=st.one_of(texts, st.just("orgs/acme/reservations/r")),
    final=st.booleans(),
    extra=st.just(()),
    service_tier=st.just(""),
)


@given(given_events, st.booleans())
def test_any_call_is_accepted_within_bounds_or_refused_by_a_field(asked: Given, trusted: bool) -> None:
    try:
        kept, refusal = accept(asked, str, trusted=trusted, now=NOW, cards=CARDS)
    except PurseError as error:
        field = error.field or ""
    else:
        field = "event."
        check_bounds(kept, refusal)
    assert field.startswith("event.")


def check_bounds(kept: Usage, refusal: PurseError | None) -> None:
    assert refusal is None or refusal.field == "event.occurred_at"
    assert kept.cost_nanos is None or 0 <= kept.cost_nanos < 2**63
    assert (kept.cost_nanos is None) == (kept.currency == "")
    assert len(kept.model.encode()) <= 256
    assert max(map(len, (kept.source, kept.id, kept.session, kept.run, kept.status))) <= 128
    assert "\0" not in "".join(value for value in kept if isinstance(value, str))


@given(st.lists(st.integers(0, 10**20), min_size=1, max_size=50))
def test_shares_add_up_to_the_whole(parts: list[int]) -> None:
    shares = [share_bps(part, sum(parts)) for part in parts]

    assert all(0 <= share <= 10_000 for share in shares)
    assert abs(sum(shares) - (10_000 if sum(parts) else 0)) <= len(parts)
