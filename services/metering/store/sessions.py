"""The SQL of counting distinct sessions: what is folded is counted once and remembered, the rest is looked at.

A count of folded hours holds until a session is added to one of them, which `Fold.changes` tells. When further hours
are folded, only their sessions are looked up. So a count looks at about an hour's sessions, however long the range.
"""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from services.kit import subject as subjects
from services.metering.domain.periods import Fold, SessionParts, pieces_of, session_parts_of
from services.metering.domain.questions import Span

REMEMBERED_MAX: Final = 10_000
"""The most counts that a process remembers; the one unused for longest goes first."""

_FOLDED: Final = """
SELECT count(*) FROM (
    SELECT session FROM usage_scope_sessions
    WHERE org = $1 AND scope = $2 AND bucket >= $3 AND bucket < $4 GROUP BY session
) AS s
"""
# Whether a session had a part in the hours from $3 to $4: by the index, a session at a time, however many there are.
_IN_FOLDED: Final = """
SELECT true FROM usage_scope_sessions b
WHERE b.org = $1 AND b.scope = $2 AND b.session = s.session AND b.bucket >= $3 AND b.bucket < $4 LIMIT 1
"""
_FURTHER: Final = f"""
SELECT count(*) FROM (
    SELECT session FROM usage_scope_sessions
    WHERE org = $1 AND scope = $2 AND bucket >= $4 AND bucket < $5 GROUP BY session
) AS s WHERE ({_IN_FOLDED}) IS NULL
"""  # noqa: S608 - of constants
# The last folded hour before `end` that a session had a part in.
_LAST: Final = """
SELECT b.bucket FROM usage_scope_sessions b
WHERE b.org = $1 AND b.scope = {scope} AND b.session = s.session AND b.bucket < {end} ORDER BY b.bucket DESC LIMIT 1
"""
_LISTED: Final = "SELECT session, {mask} AS mask FROM {table} WHERE org = $1 AND {at} >= {low} AND {at} < {high}{below}"
_BELOW: Final = " AND (subject = {scope} OR (subject >= {scope} || '/' AND subject < {scope} || '0'))"


class _Known(NamedTuple):
    end: datetime
    changes: int
    sessions: int


class SessionCounts:
    """Counts distinct sessions, and remembers what it counted."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, datetime], _Known] = OrderedDict()

    async def count(self, connection: asyncpg.Connection, subject: str, spans: Sequence[Span], fold: Fold) -> list[int]:
        """The distinct sessions of a subject and its descendants in each range.

        Args:
            connection: In the snapshot that `fold` was read in.
            subject: The full name.
            spans: The ranges, at most 30.
            fold: What is folded of the ranges.
        """
        who = subjects.parse(subject)
        parts = [session_parts_of(span, fold) for span in spans]
        folded = [await self._folded(connection, who, part.hours, fold) for part in parts]
        rest = await _rest(connection, who, parts)
        return [known + more for known, more in zip(folded, rest, strict=True)]

    async def _folded(self, connection: asyncpg.Connection, who: subjects.Subject, hours: Span, fold: Fold) -> int:
        start, end = hours
        if start == end:
            return 0
        key = (who.name, start)
        known = self._known.get(key)
        count: int
        if known is None or known.changes != fold.changes or known.end > end:
            count = await connection.fetchval(_FOLDED, who.org, who.name, start, end)
        elif known.end < end:
            more = await connection.fetchval(_FURTHER, who.org, who.name, start, known.end, end)
            count = known.sessions + more
        else:
            self._known.move_to_end(key)
            return known.sessions
        # Another question about fewer hours, or one of an older instant, does not displace what is known.
        if known is None or (fold.changes, end) > (known.changes, known.end):
            self._known[key] = _Known(end, fold.changes, count)
            self._known.move_to_end(key)
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)
        return count


async def _rest(connection: asyncpg.Connection, who: subjects.Subject, parts: Sequence[SessionParts]) -> list[int]:
    """The sessions of each range's pieces that are not folded, without those of its folded hours.

    What several ranges share is listed once, and a session looked up once for all that end where folding has come to.
    """
    params: list[object] = [who.org]

    def put(value: object, type_: str = "timestamptz") -> str:
        params.append(value)
        return f"${len(params)}::{type_}"

    ends = sorted({part.hours.end for part in parts if part.hours.start < part.hours.end})
    # A value that a statement does not use has no type for it.
    scope = put(who.name, "text") if ends or who.depth > 1 else ""
    below = _BELOW.format(scope=scope) if who.depth > 1 else ""
    arms = []
    # Each span for itself: the plan of a range that is known is better than that of a join with ranges.
    for table, at, more, spans in (
        ("usage_sessions", "bucket", "", [part.quarters for part in parts]),
        ("usage_events", "occurred_at", " AND session <> ''", [part.events for part in parts]),
    ):
        for piece in pieces_of(span for some in spans for span in some):
            mask = sum(1 << n for n, some in enumerate(spans) if any(_holds(span, piece) for span in some))
            low, high = map(put, piece)
            arms.append(_LISTED.format(table=table, at=at, low=low, high=high, mask=mask, below=more + below))
    if not arms:
        return [0] * len(parts)
    lasts = [f"({_LAST.format(scope=scope, end=put(end))}) AS last{n}" for n, end in enumerate(ends)]
    counts = []
    for n, part in enumerate(parts):
        start, end = part.hours
        is_new = f" AND coalesce(last{ends.index(end)} < {put(start)}, true)" if start < end else ""
        counts.append(f"count(*) FILTER (WHERE mask & {1 << n} > 0{is_new})")
    listed = " UNION ALL ".join(arms)
    row = await connection.fetchrow(
        f"""
        SELECT {", ".join(counts)} FROM (
            SELECT {", ".join(("mask", *lasts))}
            FROM (SELECT session, bit_or(mask) AS mask FROM ({listed}) AS l GROUP BY session) AS s
            OFFSET 0
        ) AS seen
        """,  # noqa: S608 - of constants
        *params,
    )
    return list(row)


def _holds(span: Span, piece: Span) -> bool:
    return span.start <= piece.start and piece.end <= span.end
