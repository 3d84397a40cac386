"""The pieces that a range is read in are exactly the range, and each can be trusted."""

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.metering.domain.periods import DAY, HOUR, PIECES_MAX, Fold, parts_of, pieces_of
from services.metering.domain.questions import Span, days_of

START = datetime(2026, 10, 20, tzinfo=UTC)
minutes = st.integers(0, 8 * 24 * 60)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = ["UTC", "Asia/Kathmandu", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]


@given(
    st.tuples(minutes, minutes).filter(lambda pair: pair[0] != pair[1]),
    st.integers(0, 8 * 24),
    st.sets(st.integers(0, 8 * 24), max_size=40),
    st.sampled_from(ZONES),
    st.sampled_from([0, 15]),
)
def test_a_range_is_tiled_by_what_can_be_trusted(
    ends: tuple[int, int], through: int, late: set[int], zone: str, snap: int
) -> None:
    low, high = (START + timedelta(minutes=n // snap * snap if snap else n, seconds=snap and 0) for n in sorted(ends))
    if low == high:
        return
    span = Span(low, high)
    fold = Fold(START + through * HOUR, frozenset(START + n * HOUR for n in late))
    borders = days_of(span, zone).starts

    parts = parts_of(span, fold, borders)

    pieces = sorted((*parts.days, *parts.hours, *parts.quarters, *parts.events))
    assert pieces[0].start == span.start
    assert pieces[-1].end == span.end
    assert all(one.end == two.start for one, two in itertools.pairwise(pieces))
    assert len(parts.days) + len(parts.hours) + len(parts.quarters) <= PIECES_MAX
    for spans, width in ((parts.days, DAY), (parts.hours, HOUR), (parts.quarters, timedelta(minutes=15))):
        for piece in spans:
            assert (piece.start - EPOCH) % width == timedelta()
            assert (piece.end - EPOCH) % width == timedelta()
            assert not any(piece.start < at < piece.end and (at - EPOCH) % width for at in borders)
    for piece in (*parts.days, *parts.hours):
        assert piece.end <= fold.through
        assert not any(piece.start <= hour < piece.end for hour in fold.late)
    assert all(piece.end - piece.start < timedelta(minutes=15) for piece in parts.events)


def test_a_month_of_utc_is_read_by_days() -> None:
    month = Span(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))

    parts = parts_of(month, Fold(month.end), days_of(month, "UTC").starts)

    assert parts == ((month,), (), (), ())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=4))
def test_ranges_are_cut_into_pieces_that_each_is_made_of(ends: list[tuple[int, int]]) -> None:
    spans = [Span(START + low * HOUR, START + high * HOUR) for low, high in map(sorted, ends)]

    pieces = pieces_of(spans)

    assert all(one.end <= two.start for one, two in itertools.pairwise(pieces))
    for n in range(30):
        hour = Span(START + n * HOUR, START + (n + 1) * HOUR)
        found = [piece for piece in pieces if piece.start <= hour.start and hour.end <= piece.end]
        wanted = [span for span in spans if span.start <= hour.start and hour.end <= span.end]
        assert len(found) == bool(wanted)
        # Whole in each range that has a part of it.
        assert all(
            wanted == [span for span in spans if max(span.start, piece.start) < min(span.end, piece.end)]
            for piece in found
        )
