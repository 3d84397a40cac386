"""Calendar windows: which day, week, month or quarter an instant belongs to, in any IANA time zone.

A window's **key** is the calendar date at which it starts, ``"2026-11-01"``; a reset is a new key. Instants
are whole microseconds since 1970-01-01T00:00Z (``unix_us`` and ``from_unix_us`` convert). A window takes in
its start and leaves out its end.

The start of date *D* is the first instant whose local date is *D*, or later where the zone skipped *D*. That
makes windows tile time in every zone: an hour that a clock set back across midnight repeats belongs to the
day that had already begun. Zone data comes from the pinned ``tzdata`` package, never from the machine, so
that every replica agrees.
"""

import calendar
import difflib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

LIFETIME_KEY: Final = "lifetime"
"""The one key of every LIFETIME window."""
MIN_UNIX_US: Final = -2_208_988_800_000_000
"""1900-01-01T00:00Z, the first instant that a calendar window can be asked about."""
MAX_UNIX_US: Final = 32_503_680_000_000_000
"""3000-01-01T00:00Z, the first instant past the calendar's end."""
LIFETIME_START_US: Final = -62_135_596_800_000_000
"""0001-01-01T00:00Z."""
LIFETIME_END_US: Final = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z, the last instant that a ``datetime`` and PostgreSQL both hold."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_ZONES_MAX: Final = 1024
_STARTS_MAX: Final = 65_536
_SPECS_MAX: Final = 16_384
_MEMO_MAX: Final = 4


class UnknownZoneError(ValueError):
    """The time zone is not in the pinned IANA data. The message names close matches."""


class WindowError(ValueError):
    """A window's definition, key or instant is invalid. The message says what is expected."""


class WindowKind(StrEnum):
    """How long a window is."""

    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    QUARTER = "QUARTER"
    LIFETIME = "LIFETIME"


class Window(NamedTuple):
    """One window: ``start_us`` ≤ instant < ``end_us``."""

    key: str
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True, eq=False)
class WindowSpec:
    """A way to cut time into windows; immutable and hashable. Specs with equal parts are equal.

    Attributes:
        kind: The length.
        zone: An IANA zone's name, spelled as IANA does. LIFETIME does not depend on it.
        week_start: ISO weekday on which a WEEK begins, 1 Monday to 7 Sunday.
        anchor_day: Day on which a MONTH begins, 1 to 31; a shorter month begins it on its last day. A QUARTER
            begins on the first of January, April, July and October.

    Raises:
        UnknownZoneError: The zone is not in the pinned data.
        WindowError: ``week_start`` or ``anchor_day`` is out of range.
    """

    kind: WindowKind
    zone: str = "UTC"
    week_start: int = 1
    anchor_day: int = 1
    _hash: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", WindowKind(self.kind))
        zone_info(self.zone)
        if not 1 <= self.week_start <= 7:
            raise WindowError(f"week_start is {self.week_start}; use an ISO weekday, 1 (Monday) to 7 (Sunday)")
        if not 1 <= self.anchor_day <= 31:
            raise WindowError(f"anchor_day is {self.anchor_day}; use a day of the month, 1 to 31")
        object.__setattr__(self, "_hash", hash(self._parts()))

    def _parts(self) -> tuple[str, str, int, int]:
        return (self.kind.value, self.zone, self.week_start, self.anchor_day)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, WindowSpec) and self._parts() == other._parts())

    def __hash__(self) -> int:
        return self._hash


def unix_us(instant: datetime) -> int:
    """Turn an aware ``datetime`` into whole microseconds since 1970-01-01T00:00Z.

    Raises:
        WindowError: The ``datetime`` has no time zone.
    """
    if instant.tzinfo is None:
        raise WindowError("the time has no zone; pass an aware datetime")
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_unix_us(at_us: int) -> datetime:
    """Turn microseconds since 1970-01-01T00:00Z into a ``datetime`` in UTC."""
    return _EPOCH + timedelta(microseconds=at_us)


def window_key(spec: WindowSpec, at_us: int) -> str:
    """Return the key of the window that holds the instant.

    Raises:
        WindowError: The instant is outside the years 1900 to 2999.
    """
    for window in _memo.get(spec, ()):
        if window[1] <= at_us < window[2]:
            return window[0]
    return _compute(spec, at_us).key


def window_at(spec: WindowSpec, at_us: int) -> Window:
    """Return the window that holds the instant; errors as ``window_key``."""
    for window in _memo.get(spec, ()):
        if window.start_us <= at_us < window.end_us:
            return window
    return _compute(spec, at_us)


def window_bounds(spec: WindowSpec, key: str) -> tuple[int, int]:
    """Return the window's start and end (exclusive) in microseconds since 1970-01-01T00:00Z.

    Raises:
        WindowError: The key names no window of this spec: no date, no start, or a day that the zone skipped.
    """
    if spec.kind is WindowKind.LIFETIME:
        if key != LIFETIME_KEY:
            raise WindowError(f"{key!r} is no LIFETIME window; its only key is {LIFETIME_KEY!r}")
        return LIFETIME_START_US, LIFETIME_END_US
    try:
        label = date.fromisoformat(key)
    except ValueError:
        label = date.min
    if label.isoformat() != key or not 1899 <= label.year <= 3000:
        raise WindowError(f"{key!r} is no window key; a key is a date such as '2026-11-01'")
    if _label(spec, label) != label:
        raise WindowError(f"no {spec.kind} window of this budget starts on {key}; {_label(spec, label)} does")
    start, end = _start_of(spec.zone, label), _start_of(spec.zone, _next_label(spec, label))
    if start == end:
        raise WindowError(f"{spec.zone} skipped {key}; that day has no window")
    return start, end


def next_key(spec: WindowSpec, key: str) -> str:
    """Return the key of the window that begins where this one ends.

    Raises:
        WindowError: The key is invalid, or the window is a LIFETIME, which has no next.
    """
    if spec.kind is WindowKind.LIFETIME:
        raise WindowError("a LIFETIME window has no next one")
    return window_key(spec, window_bounds(spec, key)[1])


def previous_key(spec: WindowSpec, key: str) -> str:
    """Return the key of the window that ends where this one begins.

    Raises:
        WindowError: The key is invalid, or the window is a LIFETIME, which has no previous one.
    """
    if spec.kind is WindowKind.LIFETIME:
        raise WindowError("a LIFETIME window has no previous one")
    return window_key(spec, window_bounds(spec, key)[0] - 1)


@lru_cache(maxsize=_ZONES_MAX)
def zone_info(name: str) -> ZoneInfo:
    """Load a zone from the pinned ``tzdata`` package.

    Raises:
        UnknownZoneError: The package has no zone of that exact name.
    """
    zones = _zone_names()
    if name not in zones:
        close = difflib.get_close_matches(name[:64], zones, n=3, cutoff=0.6)
        hint = f"did you mean {', '.join(close)}?" if close else "use an IANA name such as 'Europe/Berlin'"
        raise UnknownZoneError(f"{name[:64]!r} is no IANA time zone; {hint}")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as stream:
        return ZoneInfo.from_file(stream, key=name)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


_memo: dict[WindowSpec, tuple[Window, ...]] = {}
"""The windows each spec was asked about last, newest first: a memo of pure results, bounded both ways."""


def _compute(spec: WindowSpec, at_us: int) -> Window:
    window = _window_at(spec, at_us)
    if len(_memo) >= _SPECS_MAX and spec not in _memo:
        _memo.clear()
    _memo[spec] = (window, *_memo.get(spec, ())[: _MEMO_MAX - 1])
    return window


def _window_at(spec: WindowSpec, at_us: int) -> Window:
    if spec.kind is WindowKind.LIFETIME:
        if not LIFETIME_START_US <= at_us < LIFETIME_END_US:
            raise WindowError("the time is outside the years 1 to 9999")
        return Window(LIFETIME_KEY, LIFETIME_START_US, LIFETIME_END_US)
    if not MIN_UNIX_US <= at_us < MAX_UNIX_US:
        raise WindowError("the time is outside the years 1900 to 2999; check the unit, it is microseconds")
    label = _label(spec, _day_of(spec.zone, at_us))
    end = _start_of(spec.zone, _next_label(spec, label))
    return Window(label.isoformat(), _start_of(spec.zone, label), end)


def _day_of(zone: str, at_us: int) -> date:
    """Return the last date that has begun: the local date, or a later one that a clock set back left."""
    day = from_unix_us(at_us).astimezone(zone_info(zone)).date()
    while _start_of(zone, day + _DAY) <= at_us:
        day += _DAY
    return day


def _label(spec: WindowSpec, day: date) -> date:
    """Return the date on which the window that holds ``day`` starts."""
    match spec.kind:
        case WindowKind.DAY:
            return day
        case WindowKind.WEEK:
            return day - timedelta(days=(day.isoweekday() - spec.week_start) % 7)
        case WindowKind.MONTH:
            start = _anchored(day.year, day.month, spec.anchor_day)
            if start <= day:
                return start
            year, month = (day.year, day.month - 1) if day.month > 1 else (day.year - 1, 12)
            return _anchored(year, month, spec.anchor_day)
        case _:
            return date(day.year, (day.month - 1) // 3 * 3 + 1, 1)


def _next_label(spec: WindowSpec, label: date) -> date:
    match spec.kind:
        case WindowKind.DAY:
            return label + _DAY
        case WindowKind.WEEK:
            return label + 7 * _DAY
        case WindowKind.MONTH:
            return _months_on(label, 1, spec.anchor_day)
        case _:
            return _months_on(label, 3, 1)


def _months_on(label: date, months: int, anchor_day: int) -> date:
    month = label.month - 1 + months
    return _anchored(label.year + month // 12, month % 12 + 1, anchor_day)


def _anchored(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, calendar.monthrange(year, month)[1]))


@lru_cache(maxsize=_STARTS_MAX)
def _start_of(zone: str, day: date) -> int:
    """Return the first instant whose local date is ``day`` or, where the zone skipped it, later."""
    info = zone_info(zone)
    # For a local time that occurs twice, fold=0 is the first; for one that a gap swallowed, it is read with
    # the offset before the gap, so it lies at or past the transition.
    midnight = datetime(day.year, day.month, day.day, tzinfo=info)
    candidate = unix_us(midnight.astimezone(UTC))
    if from_unix_us(candidate).astimezone(info).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return candidate
    # In a gap: the start is the transition, which lies after midnight read with the offset past the gap. It
    # falls on a whole second, and the local date passes ``day`` there and nowhere else in between.
    low = unix_us(midnight.replace(fold=1).astimezone(UTC)) // 1_000_000 - 1
    high = candidate // 1_000_000
    while high - low > 1:
        middle = (low + high) // 2
        if from_unix_us(middle * 1_000_000).astimezone(info).date() >= day:
            high = middle
        else:
            low = middle
    return high * 1_000_000
