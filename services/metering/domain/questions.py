"""What is asked of usage: ranges cut so that sums of rollups are exact, groups, shares and page tokens."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from services.kit import money, tokens, windows
from services.kit.errors import Code, PurseError, invalid
from services.metering.domain.rollups import bucket_of

RANGE_MAX: Final = timedelta(days=800)
"""The longest range that can be asked about."""
PAGE_MAX: Final = 1_000
"""The most groups a page."""
PAGE_DEFAULT: Final = 100
GROUP_BY_MAX: Final = 3
"""The most dimensions at once."""
EVENTS_RANGE_MAX: Final = timedelta(days=32)
"""The longest range of a question that sums cannot answer: events are read for it."""
HOURS_RANGE_MAX: Final = timedelta(days=93)
"""The longest range by hours."""
FILTER_VALUES_MAX: Final = 100
"""The most values of one field of a filter."""
TOKEN_CHARS_MAX: Final = 8_192
"""The longest page token."""

_BUCKET: Final = timedelta(minutes=15)


class GroupBy(StrEnum):
    """What usage can be grouped by."""

    DAY = "DAY"
    MODEL = "MODEL"
    SUBJECT = "SUBJECT"
    PROVIDER = "PROVIDER"
    OPERATION = "OPERATION"
    HOUR = "HOUR"
    MONTH = "MONTH"
    WORKSPACE = "WORKSPACE"
    TEAM = "TEAM"
    AGENT = "AGENT"
    EFFORT = "EFFORT"
    SESSION = "SESSION"
    RUN = "RUN"
    LABEL = "LABEL"


TIMES: Final = frozenset({GroupBy.HOUR, GroupBy.DAY, GroupBy.MONTH})
"""Dimensions of when; a question has at most one."""
_EVENTS_ONLY: Final = frozenset({GroupBy.EFFORT, GroupBy.SESSION, GroupBy.RUN, GroupBy.LABEL})


class Filter(NamedTuple):
    """Which usage is meant: one of the values of each field that has any. A model may name its provider, `p/m`."""

    providers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def from_events(self) -> bool:
        """Whether no sum tells what it asks."""
        return bool(self.efforts or self.sessions or self.runs or self.labels)


NO_FILTER: Final = Filter()


class Span(NamedTuple):
    """From an instant to another, the latter not included."""

    start: datetime
    end: datetime


YEARS: Final = Span(datetime(2000, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC))
"""What can be asked about: years in which every zone's days begin on a quarter of an hour."""


class Cut(NamedTuple):
    """A range as whole 15 minutes, which rollups answer, and what is left at its ends, which events answer."""

    whole: Span
    edges: tuple[Span, ...]


class Steps(NamedTuple):
    """The hours, days or months of a range: their labels, and when each begins, ascending."""

    labels: tuple[str, ...]
    starts: tuple[datetime, ...]


@dataclass(slots=True)
class Totals:
    """Sums of usage. `tokens` are input, cache read, cache write, output, reasoning; costs are nanos by currency.

    `extra` are further kinds by name.
    """

    tokens: list[int] = field(default_factory=lambda: [0] * 5)
    requests: int = 0
    operations: int = 0
    errors: int = 0
    unrated: int = 0
    sessions: int = 0
    costs: dict[str, int] = field(default_factory=dict)
    extra: dict[str, int] = field(default_factory=dict)

    def add(self, currency: str, sums: Sequence[int]) -> None:
        """Adds one currency's sums: tokens by kind (5), requests, operations, errors, cost. '' is UNRATED."""
        for kind in range(5):
            self.tokens[kind] += int(sums[kind])
        self.requests += int(sums[5])
        self.operations += int(sums[6])
        self.errors += int(sums[7])
        if currency:
            self.costs[currency] = self.costs.get(currency, 0) + int(sums[8])
        else:
            self.unrated += int(sums[6])

    def plus(self, other: "Totals") -> "Totals":
        """The sums of both. Distinct sessions cannot be added: they are left at 0."""
        kinds = sorted({*self.extra, *other.extra})
        extra = {kind: self.extra.get(kind, 0) + other.extra.get(kind, 0) for kind in kinds}
        return Totals(
            [one + more for one, more in zip(self.tokens, other.tokens, strict=True)],
            self.requests + other.requests,
            self.operations + other.operations,
            self.errors + other.errors,
            self.unrated + other.unrated,
            costs={code: self.costs.get(code, 0) + other.costs.get(code, 0) for code in (self.costs | other.costs)},
            extra={kind: quantity for kind, quantity in extra.items() if quantity},
        )

    @property
    def error_bps(self) -> int:
        """Errors among the operations in hundredths of a percent."""
        return share_bps(self.errors, self.operations)

    def check(self) -> None:
        """Refuses sums that the answer cannot hold.

        Raises:
            PurseError: AMOUNT_OUT_OF_RANGE.
        """
        if max(*self.tokens, self.requests, *self.costs.values(), *self.extra.values(), 0) > money.MAX_NANOS:
            raise PurseError(
                Code.OUT_OF_RANGE, "AMOUNT_OUT_OF_RANGE", "the sum is past a 64-bit integer; ask about a shorter range"
            )


@dataclass(frozen=True, slots=True)
class Question:
    """A page of grouped usage, checked.

    Attributes:
        subject: Whose, descendants included.
        span: Of when.
        group_by: By what, in the order of the keys.
        zone: Where days begin.
        page_size: The most groups.
        after: The last page's last keys; empty on the first page.
        fingerprint: Of what was asked, so that a page token is not used for another question.
        wanted: Which usage.
        label_key: Whose values are the keys of LABEL.
        fill_zeros: Whether times without usage are groups too.
        count_sessions: Whether distinct sessions are counted.
    """

    subject: str
    span: Span
    group_by: tuple[GroupBy, ...]
    zone: str
    page_size: int
    after: tuple[str, ...]
    fingerprint: str
    wanted: Filter = NO_FILTER
    label_key: str = ""
    fill_zeros: bool = False
    count_sessions: bool = False

    @property
    def from_events(self) -> bool:
        """Whether events have to be read, since no sum tells what is asked."""
        return self.wanted.from_events or not _EVENTS_ONLY.isdisjoint(self.group_by)

    def next_token(self, last_keys: Sequence[str]) -> str:
        """The token of the page that begins after these keys; it keeps the span, though time goes on."""
        content = [
            self.fingerprint,
            windows.unix_us(self.span.start),
            windows.unix_us(self.span.end),
            list(last_keys),
        ]
        return tokens.write(content)


def ask(
    subject: str,
    *,
    start: datetime | None,
    end: datetime | None,
    group_by: Sequence[GroupBy],
    zone: str,
    page_size: int,
    page_token: str,
    now: datetime,
    wanted: Filter = NO_FILTER,
    label_key: str = "",
    fill_zeros: bool = False,
    count_sessions: bool = False,
) -> Question:
    """Checks a question and fills in what was left out: this month in the zone, up to now; 100 groups.

    Raises:
        PurseError: A field is wrong; the error names it.
    """
    zone = check_zone(zone)
    if len(group_by) > GROUP_BY_MAX or len(set(group_by)) != len(group_by):
        raise invalid("group_by", f"name at most {GROUP_BY_MAX} dimensions, each once")
    if not 0 <= page_size <= PAGE_MAX:
        raise invalid("page_size", f"is {page_size}; use 1 to {PAGE_MAX}, or 0 for {PAGE_DEFAULT}")
    if len(TIMES.intersection(group_by)) > 1:
        raise invalid("group_by", "names more than one of HOUR, DAY and MONTH; each usage has one time")
    if (GroupBy.LABEL in group_by) != bool(label_key):
        raise invalid("label_key", "names the label whose values are the groups; give it with LABEL, and only then")
    if fill_zeros and TIMES.isdisjoint(group_by):
        raise invalid("fill_zeros", "fills times without usage; group by HOUR, DAY or MONTH")
    check_filter(wanted)
    asked = [subject, str(start), str(end), *group_by, zone, wanted, label_key, fill_zeros]
    fingerprint = hashlib.blake2b(json.dumps(asked).encode(), digest_size=9).hexdigest()
    if page_token:
        span, after = _read_token(page_token, fingerprint, len(group_by))
    else:
        month = windows.window_at(windows.WindowSpec(windows.WindowKind.MONTH, zone), windows.unix_us(now))
        span, after = Span(start or windows.from_unix_us(month.start_us), end or now), ()
    question = Question(
        subject,
        check_span(span),
        tuple(group_by),
        zone,
        page_size or PAGE_DEFAULT,
        after,
        fingerprint,
        wanted,
        label_key,
        fill_zeros,
        count_sessions,
    )
    for too_long, longest, why in (
        (question.from_events, EVENTS_RANGE_MAX, "effort, session, run and label are read from the events"),
        (GroupBy.HOUR in group_by, HOURS_RANGE_MAX, "it has that many hours"),
    ):
        if too_long and span.end - span.start > longest:
            raise invalid("start_time", f"the range is longer than {longest.days} days, and {why}; ask in parts")
    return question


def check_span(span: Span) -> Span:
    """The range; refused where it cannot be asked about.

    Raises:
        PurseError: It names `start_time` or `end_time`.
    """
    if span.start < YEARS.start:
        raise invalid("start_time", f"{span.start.isoformat()} is before {YEARS.start.year}; there is no usage then")
    if span.end > YEARS.end:
        raise invalid("end_time", f"{span.end.isoformat()} is past {YEARS.end.year}; leave it out for now")
    if span.end <= span.start:
        raise invalid("end_time", f"{span.end.isoformat()} is not after the start, {span.start.isoformat()}")
    if span.end - span.start > RANGE_MAX:
        raise invalid("start_time", f"the range is longer than {RANGE_MAX.days} days; ask in parts")
    return span


def check_filter(wanted: Filter) -> None:
    """Refuses a filter with too many values, or with text that no usage can have."""
    for name, values in wanted._asdict().items():
        if len(values) > FILTER_VALUES_MAX:
            raise invalid(f"filter.{name}", f"has {len(values)} values; the limit is {FILTER_VALUES_MAX}")
        texts = [text for value in values for text in ([value] if isinstance(value, str) else value)]
        if any("\0" in text for text in texts):
            raise invalid(f"filter.{name}", "holds control characters; no usage does")


def check_zone(zone: str) -> str:
    """The zone's name, UTC where it is empty.

    Raises:
        PurseError: UNKNOWN_TIME_ZONE.
    """
    name = zone or "UTC"
    try:
        windows.zone_info(name)
    except windows.UnknownZoneError as error:
        raise invalid("time_zone", str(error), "UNKNOWN_TIME_ZONE") from None
    return name


def window_span(kind: windows.WindowKind, zone: str, now: datetime) -> Span:
    """The day or month that holds an instant in a zone."""
    window = windows.window_at(windows.WindowSpec(kind, zone), windows.unix_us(now))
    return Span(windows.from_unix_us(window.start_us), windows.from_unix_us(window.end_us))


def cut(span: Span) -> Cut:
    """Cuts a range at the 15 minutes of the rollups, so that the parts' sums are exactly the range's."""
    first = datetime.fromtimestamp(bucket_of(span.start), UTC)
    start = first if first == span.start else first + _BUCKET
    end = datetime.fromtimestamp(bucket_of(span.end), UTC)
    if end < start:
        return Cut(Span(start, start), (span,))
    edges = (Span(span.start, start), Span(end, span.end))
    return Cut(Span(start, end), tuple(edge for edge in edges if edge.start < edge.end))


def steps_of(question: Question) -> Steps:
    """The hours, days or months that a question groups by, as far as its range touches them; none without such."""
    for dimension in question.group_by:
        if dimension is GroupBy.MONTH:
            months = _windows(question.span, windows.WindowKind.MONTH, question.zone)
            return Steps(tuple(label[:7] for label in months.labels), months.starts)
        if dimension is GroupBy.DAY:
            return days_of(question.span, question.zone)
        if dimension is GroupBy.HOUR:
            return hours_of(question.span, question.zone)
    return Steps((), ())


def days_of(span: Span, zone: str) -> Steps:
    """The days that a range touches, in a zone, by their dates."""
    return _windows(span, windows.WindowKind.DAY, zone)


def hours_of(span: Span, zone: str) -> Steps:
    """The hours that a range touches, counted from the start of each day in a zone, by their start in UTC."""
    starts = []
    for start in days_of(span, zone).starts:
        end = min(span.end, window_span(windows.WindowKind.DAY, zone, start).end)
        at = start
        while at < end:
            if at + timedelta(hours=1) > span.start:
                starts.append(at)
            at += timedelta(hours=1)
    return Steps(tuple(f"{at:%Y-%m-%dT%H:%MZ}" for at in starts), tuple(starts))


def _windows(span: Span, kind: windows.WindowKind, zone: str) -> Steps:
    spec = windows.WindowSpec(kind, zone)
    end_us = windows.unix_us(span.end)
    labels, starts = [], []
    at_us = windows.unix_us(span.start)
    while at_us < end_us:
        window = windows.window_at(spec, at_us)
        labels.append(window.key)
        starts.append(windows.from_unix_us(window.start_us))
        at_us = window.end_us
    return Steps(tuple(labels), tuple(starts))


def share_bps(part_nanos: int, whole_nanos: int) -> int:
    """A part's share in hundredths of a percent, rounded half-even; 0 of nothing."""
    return money.divide_half_even(part_nanos * 10_000, whole_nanos) if whole_nanos > 0 else 0


def sum_totals(rows: Iterable[tuple[str, Sequence[int]]]) -> Totals:
    """The totals of rows of (currency, sums)."""
    totals = Totals()
    for currency, sums in rows:
        totals.add(currency, sums)
    return totals


def _read_token(token: str, fingerprint: str, keys: int) -> tuple[Span, tuple[str, ...]]:
    wrong = invalid("page_token", "is not one of this question's; send the `next_page_token` of the page before")
    try:
        known, start_us, end_us, after = tokens.read(token, TOKEN_CHARS_MAX)
        span = Span(windows.from_unix_us(start_us), windows.from_unix_us(end_us))
    except (ValueError, TypeError, OverflowError):
        raise wrong from None
    if known != fingerprint or not isinstance(after, list) or len(after) != keys:
        raise wrong
    if not all(isinstance(key, str) and "\0" not in key and _is_text(key) for key in after):
        raise wrong
    return span, tuple(after)


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8, which half a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
