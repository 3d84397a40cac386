"""I11: windows tile time without gap or overlap, in every zone and through every change of its clocks."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.kit import windows
from services.kit.windows import (
    WindowKind,
    WindowSpec,
    from_unix_us,
    next_key,
    previous_key,
    unix_us,
    window_at,
    window_bounds,
    window_key,
    zone_info,
)

ZONES = tuple(sorted(resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split()))
# Zones that skipped or repeated a date, or that move their clocks at midnight, come up more often than others.
ODD = (
    "Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati", "Pacific/Fakaofo", "America/St_Johns",
    "America/Toronto", "America/Sao_Paulo", "Asia/Beirut", "Asia/Amman", "Asia/Gaza", "Africa/Cairo",
    "America/Havana", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Pyongyang", "Antarctica/Troll",
    "Asia/Manila", "America/Nuuk", "Europe/Dublin",
)  # fmt: skip
KINDS = tuple(kind for kind in WindowKind if kind is not WindowKind.LIFETIME)
FIRST_US, LAST_US = (unix_us(datetime(year, 1, 1, tzinfo=UTC)) for year in (1990, 2041))
DAY_US = 86_400_000_000


@lru_cache
def clock_changes(zone: str) -> tuple[int, ...]:
    """Return when the zone changed its offset from UTC, to the second, since 1901."""
    info = zone_info(zone)

    def offset(at_us: int) -> timedelta | None:
        return from_unix_us(at_us).astimezone(info).utcoffset()

    changes = []
    for week in range(unix_us(datetime(1901, 1, 1, tzinfo=UTC)), LAST_US, 7 * DAY_US):
        low, high = week // 1_000_000, (week + 7 * DAY_US) // 1_000_000
        if offset(week) != offset(high * 1_000_000):
            before = offset(week)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle * 1_000_000) == before else (low, middle)
            changes.append(high * 1_000_000)
    return tuple(changes)


@st.composite
def specs(draw: st.DrawFn) -> WindowSpec:
    return WindowSpec(
        draw(st.sampled_from(KINDS)),
        draw(st.one_of(st.sampled_from(ZONES), st.sampled_from(ODD))),
        week_start=draw(st.integers(1, 7)),
        anchor_day=draw(st.integers(1, 31)),
    )


@st.composite
def instants(draw: st.DrawFn, zone: str) -> int:
    """Any instant, one within a minute of a local midnight, or one near a change of the zone's clocks."""
    at_us = draw(st.integers(FIRST_US, LAST_US))
    near = draw(st.sampled_from(["any", "midnight", "change"]))
    if near == "midnight":
        local = from_unix_us(at_us).astimezone(zone_info(zone))
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        return unix_us(midnight) + draw(st.integers(-60_000_000, 60_000_000))
    if near == "change" and zone in ODD and clock_changes(zone):
        return draw(st.sampled_from(clock_changes(zone))) + draw(st.integers(-DAY_US // 12, DAY_US // 12))
    return at_us


@pytest.mark.parametrize("zone", ODD)
def test_around_every_change_of_the_clocks_a_day_is_the_last_date_that_has_begun(zone: str) -> None:
    spec, info = WindowSpec(WindowKind.DAY, zone), zone_info(zone)
    changes = clock_changes(zone)
    assert changes
    for change in changes:
        grid = {change + minutes * 60_000_000 for minutes in range(-1_500, 1_500, 20)}
        latest = ""
        for at_us in sorted(grid | {change - 1_000_000, change, change + 1_000_000}):
            latest = max(latest, from_unix_us(at_us).astimezone(info).date().isoformat())
            windows._memo.clear()  # A window remembered from the last instant would hide a wrong answer.
            assert window_key(spec, at_us) == latest


@given(st.data(), specs())
@settings(max_examples=500, deadline=None)
def test_windows_tile_time(data: st.DataObject, spec: WindowSpec) -> None:
    at_us = data.draw(instants(spec.zone))
    window = window_at(spec, at_us)
    assert window.start_us <= at_us < window.end_us
    assert window_key(spec, at_us) == window.key
    assert window_bounds(spec, window.key) == (window.start_us, window.end_us)
    after = window_at(spec, window.end_us)
    before = window_at(spec, window.start_us - 1)
    assert after.start_us == window.end_us
    assert before.end_us == window.start_us
    assert before.key < window.key < after.key
    assert (previous_key(spec, window.key), next_key(spec, window.key)) == (before.key, after.key)


@given(st.data(), specs())
@settings(max_examples=250, deadline=None)
def test_a_window_starts_at_the_first_instant_of_its_date(data: st.DataObject, spec: WindowSpec) -> None:
    window = window_at(spec, data.draw(instants(spec.zone)))
    zone = zone_info(spec.zone)

    def local_date(at_us: int) -> str:
        return from_unix_us(at_us).astimezone(zone).date().isoformat()

    assert local_date(window.start_us) >= window.key
    # Every second of the hour before, and every quarter of an hour of the two days before, are of an earlier date.
    for step_us, reach in ((1_000_000, timedelta(minutes=61)), (900_000_000, timedelta(days=2))):
        earlier = range(window.start_us - 1, window.start_us - reach // timedelta(microseconds=1), -step_us)
        assert all(local_date(at_us) < window.key for at_us in earlier)


@given(st.data(), specs())
@settings(max_examples=250, deadline=None)
def test_keys_never_go_back_in_time(data: st.DataObject, spec: WindowSpec) -> None:
    one, other = sorted((data.draw(instants(spec.zone)), data.draw(instants(spec.zone))))
    assert window_key(spec, one) <= window_key(spec, other)


@given(st.sampled_from(ZONES + ODD), st.integers(1990, 2040))
@settings(max_examples=40, deadline=None)
def test_the_days_of_a_year_add_up(zone: str, year: int) -> None:
    spec = WindowSpec(WindowKind.DAY, zone)
    quarters = WindowSpec(WindowKind.QUARTER, zone)
    edge, end = window_bounds(quarters, f"{year}-01-01")[0], window_bounds(quarters, f"{year}-10-01")[1]
    keys = []
    while edge < end:
        window = window_at(spec, edge)
        assert window.start_us == edge
        keys.append(window.key)
        edge = window.end_us
    assert edge == end
    assert keys == sorted(set(keys))
    assert len(keys) in {364, 365, 366}
