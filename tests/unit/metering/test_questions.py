"""Ranges, pages and shares."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.kit.errors import PurseError
from services.kit.windows import WindowKind
from services.metering.domain.questions import (
    GroupBy,
    Question,
    Span,
    Totals,
    ask,
    cut,
    days_of,
    share_bps,
    window_span,
)

NOW = datetime(2026, 11, 22, 12, 7, 30, tzinfo=UTC)


def at(*parts: int) -> datetime:
    return datetime(2026, *parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def asked(**fields: Any) -> Question:
    values: dict[str, Any] = {
        "start": None,
        "end": None,
        "group_by": [GroupBy.MODEL],
        "zone": "",
        "page_size": 0,
        "page_token": "",
        "now": NOW,
    }
    return ask("orgs/acme", **(values | fields))


def test_what_is_left_out_is_this_month_up_to_now() -> None:
    question = asked(zone="Asia/Kathmandu")

    assert question.span == Span(at(10, 31, 18, 15), NOW)
    assert question.page_size == 100


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"zone": "Mars/Olympus"}, "time_zone", "UNKNOWN_TIME_ZONE"),
        ({"group_by": [GroupBy.DAY, GroupBy.DAY]}, "group_by", "INVALID_ARGUMENT"),
        ({"group_by": list(GroupBy)[:4]}, "group_by", "INVALID_ARGUMENT"),
        ({"page_size": -1}, "page_size", "INVALID_ARGUMENT"),
        ({"page_size": 1_001}, "page_size", "INVALID_ARGUMENT"),
        ({"start": NOW}, "end_time", "INVALID_ARGUMENT"),
        (
            {"start": datetime(1, 1, 1, tzinfo=UTC), "end": datetime(1, 1, 2, tzinfo=UTC)},
            "start_time",
            "INVALID_ARGUMENT",
        ),
        ({"end": datetime(9999, 1, 1, tzinfo=UTC)}, "end_time", "INVALID_ARGUMENT"),
        ({"start": NOW - timedelta(days=801)}, "start_time", "INVALID_ARGUMENT"),
        ({"page_token": "x"}, "page_token", "INVALID_ARGUMENT"),
        ({"page_token": "e" * 9_000}, "page_token", "INVALID_ARGUMENT"),
        ({"page_token": "ü"}, "page_token", "INVALID_ARGUMENT"),
    ],
)
def test_a_bad_question_names_the_field(fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(PurseError) as caught:
        asked(**fields)

    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_a_page_token_keeps_the_range_though_time_goes_on() -> None:
    first = asked()

    second = asked(page_token=first.next_token(["anthropic/x"]), now=NOW + timedelta(days=1))

    assert second.span == first.span
    assert second.after == ("anthropic/x",)


def test_a_page_token_of_another_question_is_refused() -> None:
    token = asked().next_token(["anthropic/x"])

    for other in ({"group_by": [GroupBy.SUBJECT]}, {"zone": "Europe/Berlin"}, {"start": at(11, 1)}):
        with pytest.raises(PurseError) as caught:
            asked(page_token=token, **other)
        assert caught.value.field == "page_token"


@pytest.mark.parametrize(
    ("start", "end", "whole", "edges"),
    [
        (at(11, 1), at(11, 2), (at(11, 1), at(11, 2)), ()),
        (
            at(11, 1, 0, 1),
            at(11, 1, 1, 7),
            (at(11, 1, 0, 15), at(11, 1, 1)),
            ((at(11, 1, 0, 1), at(11, 1, 0, 15)), (at(11, 1, 1), at(11, 1, 1, 7))),
        ),
        (at(11, 1, 0, 1), at(11, 1, 0, 14), None, ((at(11, 1, 0, 1), at(11, 1, 0, 14)),)),
        (at(11, 1), at(11, 1, 0, 14), None, ((at(11, 1), at(11, 1, 0, 14)),)),
        (
            at(11, 1, 0, 1),
            at(11, 1, 0, 16),
            None,
            ((at(11, 1, 0, 1), at(11, 1, 0, 15)), (at(11, 1, 0, 15), at(11, 1, 0, 16))),
        ),
    ],
)
def test_a_range_is_cut_at_the_quarters(
    start: datetime, end: datetime, whole: tuple[datetime, datetime] | None, edges: tuple[Any, ...]
) -> None:
    parts = cut(Span(start, end))

    if whole is None:
        assert parts.whole.start == parts.whole.end
    else:
        assert parts.whole == whole
    assert parts.edges == edges


def test_days_are_the_zones_own_over_a_change_of_clocks() -> None:
    days = days_of(Span(at(10, 24, 12), at(10, 26, 12)), "Europe/Berlin")

    assert days.labels == ("2026-10-24", "2026-10-25", "2026-10-26")
    assert days.starts == (at(10, 23, 22), at(10, 24, 22), at(10, 25, 23))


def test_the_day_and_month_that_hold_an_instant() -> None:
    assert window_span(WindowKind.DAY, "Pacific/Chatham", NOW) == Span(at(11, 22, 10, 15), at(11, 23, 10, 15))
    assert window_span(WindowKind.MONTH, "UTC", NOW) == Span(at(11, 1), at(12, 1))


@pytest.mark.parametrize(
    ("part", "whole", "expected"), [(1, 3, 3333), (2, 3, 6667), (0, 0, 0), (5, 5, 10_000), (1, 10**12, 0)]
)
def test_shares_are_in_hundredths_of_a_percent(part: int, whole: int, expected: int) -> None:
    assert share_bps(part, whole) == expected


def test_totals_keep_currencies_and_what_is_unrated_apart() -> None:
    totals = Totals()
    totals.add("USD", [1, 0, 0, 2, 0, 1, 1, 0, 5])
    totals.add("EUR", [1, 0, 0, 2, 0, 1, 1, 1, 7])
    totals.add("USD", [1, 0, 0, 2, 0, 1, 1, 0, 5])
    totals.add("", [1, 0, 0, 2, 0, 1, 3, 0, 0])

    assert totals.costs == {"USD": 10, "EUR": 7}
    assert (totals.tokens, totals.operations, totals.errors, totals.unrated) == ([4, 0, 0, 8, 0], 6, 1, 3)


def test_a_sum_past_the_answers_integers_is_refused() -> None:
    totals = Totals(costs={"USD": 2**63})

    with pytest.raises(PurseError) as caught:
        totals.check()

    assert caught.value.reason == "AMOUNT_OUT_OF_RANGE"
