"""I11 by another way: windows of every distinct set of clock rules, against local dates looked up one by one."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib import resources

from services.kit.windows import WindowKind, WindowSpec, from_unix_us, unix_us, window_at, window_bounds, zone_info

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US


class WindowError(AssertionError):
    """A window is not what the local dates say."""


def rule_sets(first: int, last: int) -> dict[tuple[tuple[int, int], ...], list[str]]:
    """Zones by what their clocks do from the year `first` to `last`: the offset at the start and each change of it."""
    zones = resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split()
    found: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for zone in sorted(zones):
        found.setdefault(tuple(_changes(zone, _year(first), _year(last + 1))), []).append(zone)
    return found


def check(zone: str, first: int, last: int) -> int:
    """Checks every window of every kind of these years in a zone; how many.

    Raises:
        WindowError: One of them.
    """
    specs = [
        WindowSpec(WindowKind.DAY, zone),
        *(WindowSpec(WindowKind.WEEK, zone, week_start=start) for start in (1, 6, 7)),
        *(WindowSpec(WindowKind.MONTH, zone, anchor_day=anchor) for anchor in (1, 15, 29, 30, 31)),
        WindowSpec(WindowKind.QUARTER, zone),
    ]
    starts = _starts(zone, date(first, 1, 1), date(last + 2, 1, 2))
    return sum(_check(spec, starts, first, last) for spec in specs)


def _check(spec: WindowSpec, starts: dict[date, int], first: int, last: int) -> int:
    """Walks from window to window: no gap, no overlap, and each from the first instant of its date."""
    window = window_at(spec, starts[date(first, 1, 1)])
    checked = 0
    while window.start_us < starts[date(last + 1, 1, 1)]:
        label = date.fromisoformat(window.key)
        if label >= date(first, 1, 1):
            _same(spec, f"{window.key} starts", window.start_us, starts[label])
        after = window_at(spec, window.end_us)
        _same(spec, f"{window.key} ends where {after.key} starts", window.end_us, after.start_us)
        _same(spec, f"{after.key} begins a period", _begins(spec, date.fromisoformat(after.key)), expected=True)
        for at_us in (window.start_us, (window.start_us + window.end_us) // 2, window.end_us - 1):
            _same(spec, f"{window.key} holds {from_unix_us(at_us)}", window_at(spec, at_us), window)
        _same(spec, f"{window.key} by its key", window_bounds(spec, window.key), (window.start_us, window.end_us))
        inside = _between(spec, label, date.fromisoformat(after.key))
        _same(spec, f"a period begins inside {window.key}", inside, expected=False)
        window, checked = after, checked + 1
    return checked


def _begins(spec: WindowSpec, day: date) -> bool:
    """Whether a period begins on a date, by what people call it."""
    match spec.kind:
        case WindowKind.DAY:
            return True
        case WindowKind.WEEK:
            return day.isoweekday() == spec.week_start
        case WindowKind.MONTH:
            is_last = (day + timedelta(days=1)).day == 1
            return day.day == spec.anchor_day or (is_last and day.day < spec.anchor_day)
        case _:
            return day.day == 1 and day.month in (1, 4, 7, 10)


def _between(spec: WindowSpec, label: date, after: date) -> bool:
    """Whether a period that has an instant begins between two dates; a zone may skip a date."""
    zone = spec.zone
    day = label + timedelta(days=1)
    while day < after:
        if _begins(spec, day) and _start(zone, day) < _start(zone, day + timedelta(days=1)):
            return True
        day += timedelta(days=1)
    return False


def _starts(zone: str, first: date, end: date) -> dict[date, int]:
    days = (first + timedelta(days=n) for n in range((end - first).days))
    return {day: _start(zone, day) for day in days}


@lru_cache(maxsize=20_000)
def _start(zone: str, day: date) -> int:
    """The first instant at which the local date is this day or later, found by looking at hours, then at seconds."""
    info = zone_info(zone)
    noon_us = unix_us(datetime(day.year, day.month, day.day, 12, tzinfo=UTC))

    def has_begun(at_us: int) -> bool:
        return from_unix_us(at_us).astimezone(info).date() >= day

    before_us = next(
        at_us for at_us in range(noon_us - 30 * HOUR_US, noon_us + 30 * HOUR_US, HOUR_US) if has_begun(at_us)
    )
    low, high = (before_us - HOUR_US) // SECOND_US, before_us // SECOND_US
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if has_begun(middle * SECOND_US) else (middle, high)
    return high * SECOND_US


def _changes(zone: str, from_us: int, until_us: int) -> Iterator[tuple[int, int]]:
    """When, and to which offset in seconds, the clocks change; the first is that of the start."""
    info = zone_info(zone)

    def offset(at_us: int) -> int:
        found = from_unix_us(at_us).astimezone(info).utcoffset()
        assert found is not None
        return int(found.total_seconds())

    last = offset(from_us)
    yield from_us, last
    for at_us in range(from_us, until_us, 7 * DAY_US):
        if (now := offset(at_us + 7 * DAY_US)) != last:
            low, high = at_us // SECOND_US, (at_us + 7 * DAY_US) // SECOND_US
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle * SECOND_US) == last else (low, middle)
            last = now
            yield high * SECOND_US, now


def _year(year: int) -> int:
    return unix_us(datetime(year, 1, 1, tzinfo=UTC))


def _same(spec: WindowSpec, what: str, got: object, expected: object) -> None:
    if got != expected:
        raise WindowError(f"{spec.kind} in {spec.zone}: {what}: {got}, not {expected}")
