"""The SQL of counting distinct sessions: what is folded is counted once and remembered, the rest is looked at.

A count of folded hours holds until a session is added to one of them, which `Fold.changes` tells. When further hours
are folded, only their sessions are looked up. So a count looks at about an hour's sessions, however long the range.
"""

from collections import OrderedDict
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from services.kit import subject as subjects
from services.metering.domain.periods import Fold, SessionParts, session_parts_of
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
_REST: Final = f"""
SELECT count(*) FROM (SELECT session FROM ({{listed}}) AS l GROUP BY session) AS s WHERE ({_IN_FOLDED}) IS NULL
"""  # noqa: S608 - of constants
_LISTED: Final = "SELECT session FROM {table} WHERE org = $1 AND {at} >= ${low} AND {at} < ${high}{below}"
_BELOW: Final = " AND (subject = $2 OR (subject >= $2 || '/' AND subject < $2 || '0'))"


class _Known(NamedTuple):
    end: datetime
    changes: int
    sessions: int


class SessionCounts:
    """Counts distinct sessions, and remembers what it counted."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, datetime], _Known] = OrderedDict()

    async def count(self, connection: asyncpg.Connection, subject: str, span: Span, fold: Fold) -> int:
        """The distinct sessions of a subject and its descendants in a range.

        Args:
            connection: In the snapshot that `fold` was read in.
            subject: The full name.
            span: The range.
            fold: What is folded of the range.
        """
        who = subjects.parse(subject)
        parts = session_parts_of(span, fold)
        count = await self._folded(connection, who, parts.hours, fold)
        if parts.quarters or parts.events:
            count += await _rest(connection, who, parts)
        return count

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


async def _rest(connection: asyncpg.Connection, who: subjects.Subject, parts: SessionParts) -> int:
    params: list[object] = [who.org, who.name, *parts.hours]
    arms = []
    # Each span for itself: the plan of a range that is known is better than that of a join with ranges.
    for table, at, more, spans in (
        ("usage_sessions", "bucket", "", parts.quarters),
        ("usage_events", "occurred_at", " AND session <> ''", parts.events),
    ):
        for span in spans:
            params += span
            low, high = len(params) - 1, len(params)
            below = more + (_BELOW if who.depth > 1 else "")
            arms.append(_LISTED.format(table=table, at=at, low=low, high=high, below=below))
    count: int = await connection.fetchval(_REST.format(listed=" UNION ALL ".join(arms)), *params)
    return count
