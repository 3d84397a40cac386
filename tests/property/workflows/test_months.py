"""Each month of an organisation is closed exactly once, however often and however late somebody looks."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.kit import windows
from services.kit.windows import WindowKind, WindowSpec
from workflows.month_close.rules import GRACE_US, MONTHS_BACK, due_months

# DST in both hemispheres and at midnight, offsets of half and quarter hours, a skipped day, both ends of the day.
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Etc/GMT+12",
)
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
FIRST_US = windows.unix_us(datetime(2010, 1, 1, tzinfo=UTC))
zones = st.sampled_from(ZONES)
instants = st.integers(FIRST_US, FIRST_US + 7000 * DAY_US)
# From looking every few minutes to not looking for two months.
gaps = st.lists(st.one_of(st.integers(1, 2 * HOUR_US), st.integers(1, 60 * DAY_US)), min_size=1, max_size=40)


def month(zone: str, label: str) -> tuple[int, int]:
    return windows.window_bounds(WindowSpec(WindowKind.MONTH, zone), f"{label}-01")


@given(zone=zones, since_us=instants, gaps=gaps)
def test_each_month_is_closed_exactly_once(zone: str, since_us: int, gaps: list[int]) -> None:
    closed: list[str] = []
    now_us = since_us
    for gap in gaps:
        now_us += gap
        due = [label for label in due_months(zone, since_us, now_us) if label not in closed]
        for label in due:
            assert month(zone, label)[1] + GRACE_US <= now_us
        closed += due
    spec = WindowSpec(WindowKind.MONTH, zone)
    window = windows.window_at(spec, since_us)
    expected = []
    while window.end_us + GRACE_US <= now_us:
        expected.append(window.key[:7])
        window = windows.window_at(spec, window.end_us)
    assert closed == expected


@given(zone=zones, since_us=instants, now_us=instants)
def test_what_is_due_is_over_in_order_and_bounded(zone: str, since_us: int, now_us: int) -> None:
    due = due_months(zone, since_us, now_us)
    assert due == sorted(set(due))
    assert len(due) <= MONTHS_BACK
    for label in due:
        start_us, end_us = month(zone, label)
        assert end_us + GRACE_US <= now_us
        assert end_us > since_us
        assert start_us < end_us


@given(zone=zones, now_us=instants)
def test_a_month_is_due_an_hour_after_its_end_and_not_before(zone: str, now_us: int) -> None:
    window = windows.window_at(WindowSpec(WindowKind.MONTH, zone), now_us)
    at_us = window.end_us + GRACE_US
    assert due_months(zone, window.start_us, at_us) == [window.key[:7]]
    assert due_months(zone, window.start_us, at_us - 1) == []
