"""Windows: keys, bounds and the odd days of real time zones."""

import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.kit import windows
from services.kit.windows import (
    LIFETIME_KEY,
    UnknownZoneError,
    Window,
    WindowError,
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

HOUR_US = 3_600_000_000


def at(text: str) -> int:
    return unix_us(datetime.fromisoformat(text))


def iso_bounds(spec: WindowSpec, key: str) -> tuple[str, str]:
    start, end = (from_unix_us(edge).strftime("%Y-%m-%dT%H:%MZ") for edge in window_bounds(spec, key))
    return start, end


@pytest.mark.parametrize(
    ("spec", "instant", "key", "bounds"),
    [
        (
            WindowSpec(WindowKind.DAY),
            "2026-11-22T23:59:59.999999+00:00",
            "2026-11-22",
            ("2026-11-22T00:00Z", "2026-11-23T00:00Z"),
        ),
        (
            WindowSpec(WindowKind.DAY, "Asia/Kolkata"),
            "2026-11-22T18:30:00+00:00",
            "2026-11-23",
            ("2026-11-22T18:30Z", "2026-11-23T18:30Z"),
        ),
        (
            WindowSpec(WindowKind.WEEK, "Europe/Berlin"),
            "2026-11-22T22:59:00+00:00",
            "2026-11-16",
            ("2026-11-15T23:00Z", "2026-11-22T23:00Z"),
        ),
        (
            WindowSpec(WindowKind.WEEK, "UTC", week_start=7),
            "2026-11-22T00:00:00+00:00",
            "2026-11-22",
            ("2026-11-22T00:00Z", "2026-11-29T00:00Z"),
        ),
        (
            WindowSpec(WindowKind.MONTH, "America/New_York"),
            "2026-12-01T04:59:00+00:00",
            "2026-11-01",
            ("2026-11-01T04:00Z", "2026-12-01T05:00Z"),
        ),
        (
            WindowSpec(WindowKind.MONTH, "UTC", anchor_day=31),
            "2027-02-28T00:00:00+00:00",
            "2027-02-28",
            ("2027-02-28T00:00Z", "2027-03-31T00:00Z"),
        ),
        (
            WindowSpec(WindowKind.MONTH, "UTC", anchor_day=30),
            "2028-02-28T12:00:00+00:00",
            "2028-01-30",
            ("2028-01-30T00:00Z", "2028-02-29T00:00Z"),
        ),
        (
            WindowSpec(WindowKind.MONTH, "UTC", anchor_day=15),
            "2027-01-14T23:00:00+00:00",
            "2026-12-15",
            ("2026-12-15T00:00Z", "2027-01-15T00:00Z"),
        ),
        (
            WindowSpec(WindowKind.QUARTER, "Australia/Lord_Howe"),
            "2026-10-01T00:00:00+10:30",
            "2026-10-01",
            ("2026-09-30T13:30Z", "2026-12-31T13:00Z"),
        ),
    ],
)
def test_an_instant_falls_into_its_window(spec: WindowSpec, instant: str, key: str, bounds: tuple[str, str]) -> None:
    assert window_key(spec, at(instant)) == key
    assert iso_bounds(spec, key) == bounds
    assert window_at(spec, at(instant)) == Window(key, *window_bounds(spec, key))


@pytest.mark.parametrize(
    ("zone", "key", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        # Midnight does not exist: the day starts at 01:00.
        ("America/Sao_Paulo", "2017-10-15", 23),
        ("Asia/Beirut", "2022-03-27", 23),
        # 23:30 became 00:30: the day starts half an hour late.
        ("America/Toronto", "1919-03-31", 23.5),
        # 00:01 turns back to 23:01 of the day before: that hour belongs to the day that had begun.
        ("America/St_Johns", "2006-10-29", 25),
        # The date line moved.
        ("Pacific/Apia", "2011-12-29", 24),
        ("Pacific/Apia", "2011-12-31", 24),
        ("Pacific/Kwajalein", "1993-08-20", 24),
        ("Pacific/Kwajalein", "1993-08-22", 24),
        # Twenty-three hours came twice.
        ("Pacific/Kwajalein", "1969-09-30", 47),
    ],
)
def test_days_are_as_long_as_the_zone_makes_them(zone: str, key: str, hours: float) -> None:
    spec = WindowSpec(WindowKind.DAY, zone)
    start, end = window_bounds(spec, key)
    assert (end - start) / HOUR_US == hours
    assert {window_key(spec, instant) for instant in range(start, end, HOUR_US // 2)} == {key}
    assert window_key(spec, start - 1) != key
    assert window_key(spec, end) != key


def test_an_hour_that_a_clock_set_back_across_midnight_stays_in_the_day_that_began() -> None:
    spec = WindowSpec(WindowKind.DAY, "America/St_Johns")
    # 23:30 on the 28th, for the second time, after 00:00:30 on the 29th.
    again = at("2006-10-29T03:00:00+00:00")
    assert from_unix_us(again).astimezone(zone_info("America/St_Johns")).day == 28
    assert window_key(spec, again) == "2006-10-29"


def test_a_skipped_day_has_no_window_and_its_neighbours_touch() -> None:
    for zone, before, skipped, after in (
        ("Pacific/Apia", "2011-12-29", "2011-12-30", "2011-12-31"),
        ("Pacific/Kwajalein", "1993-08-20", "1993-08-21", "1993-08-22"),
    ):
        spec = WindowSpec(WindowKind.DAY, zone)
        with pytest.raises(WindowError, match="skipped"):
            window_bounds(spec, skipped)
        assert window_bounds(spec, before)[1] == window_bounds(spec, after)[0]
        assert next_key(spec, before) == after
        assert previous_key(spec, after) == before


def test_a_window_that_would_start_on_a_skipped_day_keeps_its_date_and_starts_after_it() -> None:
    spec = WindowSpec(WindowKind.MONTH, "Pacific/Apia", anchor_day=30)
    assert window_key(spec, at("2012-01-05T00:00:00+00:00")) == "2011-12-30"
    assert iso_bounds(spec, "2011-12-30")[0] == "2011-12-30T10:00Z"


def test_neighbouring_keys_follow_the_calendar() -> None:
    spec = WindowSpec(WindowKind.MONTH, "Europe/Berlin", anchor_day=31)
    assert next_key(spec, "2027-01-31") == "2027-02-28"
    assert next_key(spec, "2027-02-28") == "2027-03-31"
    assert previous_key(spec, "2027-02-28") == "2027-01-31"
    assert next_key(WindowSpec(WindowKind.QUARTER), "2026-10-01") == "2027-01-01"
    assert previous_key(WindowSpec(WindowKind.WEEK), "2026-11-16") == "2026-11-09"


def test_a_lifetime_is_one_window() -> None:
    spec = WindowSpec(WindowKind.LIFETIME, "Asia/Tokyo")
    start, end = window_bounds(spec, LIFETIME_KEY)
    assert [window_key(spec, instant) for instant in (start, 0, end - 1)] == [LIFETIME_KEY] * 3
    assert from_unix_us(start).year == 1
    assert from_unix_us(end).year == 9999
    for step in (next_key, previous_key):
        with pytest.raises(WindowError, match="LIFETIME"):
            step(spec, LIFETIME_KEY)
    with pytest.raises(WindowError, match="only key"):
        window_bounds(spec, "2026-11-01")
    with pytest.raises(WindowError, match="1 to 9999"):
        window_key(spec, end)


@pytest.mark.parametrize("key", ["", "2026-11-02", "2026-11", "20261101", "2026-13-01", "lifetime", "1800-01-01"])
def test_a_key_that_names_no_window_is_refused(key: str) -> None:
    with pytest.raises(WindowError):
        window_bounds(WindowSpec(WindowKind.MONTH), key)


@pytest.mark.parametrize("instant_us", [windows.MIN_UNIX_US - 1, windows.MAX_UNIX_US, 10**30])
def test_an_instant_outside_the_calendar_is_refused(instant_us: int) -> None:
    with pytest.raises(WindowError, match="microseconds"):
        window_key(WindowSpec(WindowKind.DAY), instant_us)


def test_the_calendars_edges_are_inside() -> None:
    for kind in (WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH, WindowKind.QUARTER):
        spec = WindowSpec(kind, "Pacific/Kiritimati", week_start=3, anchor_day=17)
        for instant in (windows.MIN_UNIX_US, windows.MAX_UNIX_US - 1):
            window = window_at(spec, instant)
            assert window.start_us <= instant < window.end_us
            assert window_bounds(spec, window.key) == window[1:]


@pytest.mark.parametrize("zone", ["", "Europe/Berln", "europe/berlin", "../../etc/passwd", "/etc/localtime", "x" * 500])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(UnknownZoneError, match="no IANA time zone") as caught:
        WindowSpec(WindowKind.DAY, zone)
    assert len(str(caught.value)) < 250


def test_an_unknown_zone_names_close_ones() -> None:
    with pytest.raises(UnknownZoneError, match="Europe/Berlin"):
        WindowSpec(WindowKind.DAY, "Europe/Berln")


@pytest.mark.parametrize("changes", [{"week_start": 0}, {"week_start": 8}, {"anchor_day": 0}, {"anchor_day": 32}])
def test_a_spec_out_of_range_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(WindowError):
        WindowSpec(WindowKind.MONTH, "UTC", **changes)


def test_zone_data_is_the_pinned_packages_own_and_not_the_machines(tmp_path: Path) -> None:
    utc = zone_file("UTC")
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Berlin").write_bytes(utc)
    zoneinfo.reset_tzpath(to=[tmp_path])
    zoneinfo.ZoneInfo.clear_cache()
    zone_info.cache_clear()
    try:
        instant = datetime(2026, 1, 1, tzinfo=UTC)
        assert instant.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).utcoffset() == timedelta(0)
        assert instant.astimezone(zone_info("Europe/Berlin")).utcoffset() == timedelta(hours=1)
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()
        zone_info.cache_clear()


def zone_file(name: str) -> bytes:
    from importlib import resources

    return resources.files("tzdata").joinpath("zoneinfo", name).read_bytes()


def test_equal_specs_are_one_key_of_a_dict() -> None:
    first, second = WindowSpec(WindowKind.DAY, "Asia/Tokyo"), WindowSpec(WindowKind.DAY, "Asia/Tokyo")
    assert first == second
    assert hash(first) == hash(second)
    assert first != WindowSpec(WindowKind.WEEK, "Asia/Tokyo")
    assert first != WindowSpec(WindowKind.DAY, "Asia/Seoul")


def test_the_memo_stays_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_memo", {})
    monkeypatch.setattr(windows, "_SPECS_MAX", 3)
    for anchor in range(1, 32):
        spec = WindowSpec(WindowKind.MONTH, "UTC", anchor_day=anchor)
        for month in range(1, 13):
            window_key(spec, at(f"2026-{month:02}-20T00:00:00+00:00"))
        assert len(windows._memo) <= 3
        assert len(windows._memo[spec]) <= 4


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(WindowError, match="aware"):
        unix_us(datetime(2026, 1, 1))  # noqa: DTZ001 (the naive time is the point)
