"""Which parts of a range are read from sums of days, of hours, of 15 minutes, and from events. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, NamedTuple

from services.metering.domain.questions import Span, cut

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
PIECES_MAX: Final = 2_000
"""The most pieces that a range is read in; one that late usage has cut smaller is read by 15 minutes as a whole."""
SESSION_PIECES_MAX: Final = 20
"""The most pieces in which sessions are looked at that are not folded, or not all."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Fold(NamedTuple):
    """What the sums of hours and days can be trusted for: hours before `through`, but not those in `late`.

    `changes` counts how often a session was added to a folded hour.
    """

    through: datetime
    late: frozenset[datetime] = frozenset()
    changes: int = 0


class Parts(NamedTuple):
    """A range in pieces that together are exactly the range, by what answers them."""

    days: tuple[Span, ...]
    hours: tuple[Span, ...]
    quarters: tuple[Span, ...]
    events: tuple[Span, ...]


def parts_of(span: Span, fold: Fold, borders: Iterable[datetime] = ()) -> Parts:
    """Cuts a range into the largest pieces whose sums are known.

    Args:
        span: The range.
        fold: What is folded.
        borders: Where the answer's own groups begin, such as a zone's days: no sum may reach over one of them.
    """
    whole, edges = cut(span)
    first, last = _ceil(whole.start, HOUR), min(floor(whole.end, HOUR), floor(fold.through, HOUR))
    if last <= first:
        return Parts((), (), _joined([whole]), edges)
    inside = [at for at in borders if whole.start < at < whole.end]
    bad_hours = {floor(at, HOUR) for at in inside if floor(at, HOUR) != at}
    bad_hours |= {hour for hour in fold.late if first <= hour < last}
    bad_days = {floor(at, DAY) for at in inside if floor(at, DAY) != at} | {floor(at, DAY) for at in bad_hours}
    first_day, last_day = _ceil(first, DAY), floor(last, DAY)
    if first_day < last_day:
        days, rest = _split([Span(first_day, last_day)], bad_days, DAY)
        rest = [Span(first, first_day), *rest, Span(last_day, last)]
    else:
        days, rest = [], [Span(first, last)]
    hours, rest = _split(rest, bad_hours, HOUR)
    quarters = [Span(whole.start, first), *rest, Span(last, whole.end)]
    parts = Parts(_joined(days), _joined(hours), _joined(quarters), edges)
    if len(parts.days) + len(parts.hours) + len(parts.quarters) > PIECES_MAX:
        return Parts((), (), (whole,), edges)
    return parts


class SessionParts(NamedTuple):
    """A range for counting sessions: folded hours in one piece, and the rest; pieces may overlap.

    An hour that usage came to afterwards is in both: what is folded of its sessions is true, but not all.
    """

    hours: Span
    quarters: tuple[Span, ...]
    events: tuple[Span, ...]


def session_parts_of(span: Span, fold: Fold) -> SessionParts:
    """Cuts a range into what is folded of its sessions and what is not."""
    whole, edges = cut(span)
    first, last = _ceil(whole.start, HOUR), min(floor(whole.end, HOUR), floor(fold.through, HOUR))
    if last <= first:
        return SessionParts(Span(first, first), _joined([whole]), edges)
    late = [Span(hour, hour + HOUR) for hour in fold.late if first <= hour < last]
    quarters = _joined([Span(whole.start, first), *late, Span(last, whole.end)])
    if len(quarters) > SESSION_PIECES_MAX:
        quarters = (whole,)
    return SessionParts(Span(first, last), quarters, edges)


def pieces_of(spans: Iterable[Span]) -> tuple[Span, ...]:
    """What ranges cut each other into, in order: each piece is wholly inside a range or wholly outside of it."""
    spans = [span for span in spans if span.start < span.end]
    borders = sorted({at for span in spans for at in span})
    pieces = (Span(start, end) for start, end in pairwise(borders))
    return tuple(
        piece for piece in pieces if any(span.start <= piece.start and piece.end <= span.end for span in spans)
    )


def _split(spans: Sequence[Span], bad: set[datetime], width: timedelta) -> tuple[list[Span], list[Span]]:
    """What is left of spans without the periods that begin at `bad`, and those periods."""
    good, taken = [], []
    for span in spans:
        at = span.start
        for start in sorted(one for one in bad if span.start <= one < span.end):
            good.append(Span(at, start))
            taken.append(Span(start, start + width))
            at = start + width
        good.append(Span(at, span.end))
    return good, taken


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in order, neighbours as one, without empty ones."""
    joined: list[Span] = []
    for span in sorted(span for span in spans if span.start < span.end):
        if joined and joined[-1].end == span.start:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return tuple(joined)


def floor(at: datetime, width: timedelta) -> datetime:
    """The last whole multiple of a width of time since 1970 that is not after an instant."""
    return at - (at - _EPOCH) % width


def _ceil(at: datetime, width: timedelta) -> datetime:
    return at + -(at - _EPOCH) % width
