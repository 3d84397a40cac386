"""The SQL of today's and this month's totals, asked again and again while usage arrives: one statement, few rows.

A process remembers, for each subject that is asked about, the sums of the hours that are folded and which sessions are
in those that are not. What it remembers holds as long as nothing is folded, anew or for the first time, and no usage
waits to be; the statement that reads the rest says so, in one snapshot with it. Otherwise all is read anew.

Sessions of hours that are not folded are only ever added, each with its transaction's id. So whoever knows those of one
snapshot need only look at rows of transactions that had not ended before it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

import asyncpg

from services.kit import subject as subjects
from services.metering.domain.periods import HOUR, Fold, floor
from services.metering.domain.questions import Span, Totals, cut
from services.metering.store import folding, windows
from services.metering.store.columns import SUM_ALL, SUMS
from services.metering.store.reports import snapshot
from services.metering.store.sessions import SessionCounts

REMEMBERED_MAX: Final = 2_000
"""The most subjects with their ranges that a process remembers; the one unused for longest goes first."""
NAMES_MAX: Final = 20_000
"""The most sessions of hours not folded that are remembered for one subject; with more, all is read each time."""
ALL_NAMES_MAX: Final = 200_000
"""The same for all subjects together."""

_FOLD: Final = """
SELECT folded, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS seen,
    coalesce((SELECT refolds FROM usage_refolds WHERE org = $1), 0) AS refolds,
    EXISTS (
        SELECT FROM usage_late l
        WHERE l.org = $1 AND l.hour > $3::timestamptz - interval '1 hour' AND l.hour < folded
    ) AS late
FROM usage_fold WHERE org = '-'
"""
_BELOW: Final = " AND (subject = $2::text OR (subject >= $2::text || '/' AND subject < $2::text || '0'))"
_ZERO: Final = ", 0::numeric"
# In the order of the index, which a plan that is made once for all values would not take otherwise.
_SINCE: Final = f"""
SELECT bucket, subject, session FROM usage_sessions WHERE org = $1 AND xid >= $5::text::xid8
ORDER BY xid DESC LIMIT {NAMES_MAX + 1}
"""  # noqa: S608 - of constants
_ALL: Final = """
SELECT bucket, subject, session FROM usage_sessions
WHERE org = $1 AND bucket >= $4 AND bucket < $6 AND $5::text IS NOT NULL
"""
# The last folded hour that a session had a part in, of sessions by name.
_LAST_HOURS: Final = f"""
SELECT f.*, s.session, (
    SELECT b.bucket FROM usage_scope_sessions b
    WHERE b.org = $1 AND b.scope = $2 AND b.session = s.session AND b.bucket < $4 ORDER BY b.bucket DESC LIMIT 1
) AS last
FROM ({_FOLD}) AS f LEFT JOIN unnest($5::text[]) AS s (session) ON true
"""  # noqa: S608 - of constants
# The last 15 minutes of an hour that they had a part in.
_LAST_QUARTERS: Final = """
SELECT f.*, q.session, q.last FROM ({fold}) AS f LEFT JOIN (
    SELECT session, max(bucket) AS last FROM usage_sessions
    WHERE org = $1 AND bucket >= $4 AND bucket < $4::timestamptz + interval '1 hour' AND session = ANY ($5::text[])
    {below}
    GROUP BY session
) AS q ON $2::text <> ''
"""


class _What(IntEnum):
    """What a row of the statement tells."""

    TOTALS = 0
    KINDS = 1
    SESSIONS = 2
    NAMED = 3


class _State(NamedTuple):
    """What sums of folded hours hang on, and the oldest transaction that may still have been open."""

    folded: datetime
    seen: int
    refolds: int
    late: bool


class _Seen(NamedTuple):
    """In which ranges a session is in hours that are not folded, as bits, and when it last was in one that is."""

    mask: int
    last: datetime | None


_UNSEEN: Final = _Seen(0, None)


class _Known(NamedTuple):
    state: _State
    folded: list[Totals]
    """Of each range, up to where folding has come; distinct sessions included."""
    sessions: dict[str, _Seen]
    """Of the hours after that."""
    more: tuple[int, ...]
    """How many of those each range has that are in none of its folded hours."""


class _Tail(NamedTuple):
    """What is not folded: its state, sums of each range, and sessions with the ranges that they are in.

    Not `complete`: there are too many sessions to know them all.
    """

    state: _State
    totals: list[Totals]
    masks: dict[str, int]
    complete: bool


class CurrentTotals:
    """Totals of the ranges that hold the present, remembered from one question to the next.

    Args:
        counts: Counts sessions of folded hours.
    """

    def __init__(self, counts: SessionCounts) -> None:
        self._counts = counts
        self._known: OrderedDict[tuple[str, tuple[Span, ...]], _Known] = OrderedDict()
        self._names = 0

    async def totals_of(self, pool: asyncpg.Pool, subject: str, spans: Sequence[Span]) -> list[Totals]:
        """The totals of ranges, with their sessions, as of one instant; exactly as `windows.totals_of`."""
        asked = _Asked(subject, spans)
        if any(cut(span).edges for span in spans):
            return await windows.totals_of(pool, subject, spans, self._counts)
        key = (subject, asked.spans)
        known = self._known.get(key)
        if known is not None:
            async with pool.acquire() as connection:
                tail = await _read_tail(connection, asked, known.state, since=True)
                learnt = await _learn(connection, asked, known, tail)
            if learnt is not None:
                self._remember(key, learnt)
                return _answer(learnt, tail)
        return await self._anew(pool, asked, key)

    async def _anew(self, pool: asyncpg.Pool, asked: "_Asked", key: tuple[str, tuple[Span, ...]]) -> list[Totals]:
        learnt = None
        async with snapshot(pool) as connection:
            fold = await folding.read(connection, asked.org, asked.low, asked.high)
            folded = floor(fold.through, HOUR)
            if not any(hour < folded for hour in fold.late):
                known = await self._folded(connection, asked, fold)
                tail = await _read_tail(connection, asked, known.state, since=False)
                learnt = await _learn(connection, asked, known._replace(state=tail.state), tail)
        if learnt is None:
            self._forget(key)
            return await windows.totals_of(pool, asked.subject, asked.spans, self._counts)
        self._remember(key, learnt)
        return _answer(learnt, tail)

    async def _folded(self, connection: asyncpg.Connection, asked: "_Asked", fold: Fold) -> _Known:
        through = floor(fold.through, HOUR)
        spans = [Span(span.start, min(max(span.start, through), span.end)) for span in asked.spans]
        totals = await windows.totals_in(connection, asked.subject, spans, fold, self._counts)
        return _Known(_State(through, 0, 0, late=False), totals, {}, (0,) * len(spans))

    def _remember(self, key: tuple[str, tuple[Span, ...]], known: _Known) -> None:
        before = self._known.get(key)
        # A question that began earlier may end later; what is known of a later instant stays.
        if before is not None and before.state[:3] > known.state[:3]:
            return
        self._names += len(known.sessions) - (len(before.sessions) if before else 0)
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED_MAX or (self._names > ALL_NAMES_MAX and len(self._known) > 1):
            _, oldest = self._known.popitem(last=False)
            self._names -= len(oldest.sessions)

    def _forget(self, key: tuple[str, tuple[Span, ...]]) -> None:
        known = self._known.pop(key, None)
        self._names -= len(known.sessions) if known else 0


class _Asked:
    """A subject and ranges."""

    def __init__(self, subject: str, spans: Sequence[Span]) -> None:
        who = subjects.parse(subject)
        self.org = who.org
        self.subject = subject
        self.is_org = who.depth == 1
        self.spans = tuple(spans)
        self.low = min(span.start for span in spans)
        self.high = max(span.end for span in spans)
        self.split_hours = {hour for start, _ in spans if (hour := floor(start, HOUR)) < start}
        """In which a range begins, so that only a part of the hour is in it."""


@lru_cache(maxsize=64)
def _tail_sql(spans: int, *, since: bool, is_org: bool) -> str:
    """The statement of what is not folded; as few texts as possible, for each is planned once a connection.

    $1 organisation, $2 subject, $3 the first start, $4 where folding has come to, $5 the transaction from which on
    sessions are new, $6 the last end; then each range's start and end.
    """
    masks = " | ".join(
        f"CASE WHEN bucket >= ${2 * n + 7} AND bucket < ${2 * n + 8} THEN {1 << n} ELSE 0 END" for n in range(spans)
    )
    where = f"bucket >= $4 AND bucket < $6{'' if is_org else _BELOW}"
    return f"""
        WITH named AS ({_SINCE if since else _ALL})
        SELECT f.*, t.* FROM ({_FOLD}) AS f LEFT JOIN (
            SELECT {_What.TOTALS:d} AS what, {masks} AS mask, currency AS name, {SUM_ALL} FROM usage_rollups
            WHERE org = $1 AND {where} GROUP BY mask, currency
            UNION ALL
            SELECT {_What.KINDS:d}, {masks} AS mask, kind, sum(quantity){_ZERO * (len(SUMS) - 1)}
            FROM usage_kind_rollups WHERE org = $1 AND {where} GROUP BY mask, kind
            UNION ALL
            SELECT {_What.SESSIONS:d}, bit_or({masks}), session{_ZERO * len(SUMS)}
            FROM named WHERE {where} GROUP BY session
            UNION ALL
            SELECT {_What.NAMED:d}, 0, '', count(*){_ZERO * (len(SUMS) - 1)} FROM named
        ) AS t ON $2::text <> ''
    """  # noqa: S608 - of constants


async def _read_tail(connection: asyncpg.Connection, asked: _Asked, known: _State, *, since: bool) -> _Tail:
    """What is not folded, with all sessions, or those `since` what is known."""
    low, borders = max(known.folded, asked.low), [at for span in asked.spans for at in span]
    sql = _tail_sql(len(asked.spans), since=since, is_org=asked.is_org)
    rows = await connection.fetch(sql, asked.org, asked.subject, asked.low, low, str(known.seen), asked.high, *borders)
    totals = [Totals() for _ in asked.spans]
    masks: dict[str, int] = {}
    complete = True
    for _, _, _, _, what, mask, name, *sums in rows:
        ranges = [one for place, one in enumerate(totals) if mask >> place & 1]
        match what:
            case _What.TOTALS:
                for one in ranges:
                    one.add(name, sums)
            case _What.KINDS:
                for one in ranges:
                    one.extra[name] = one.extra.get(name, 0) + int(sums[0])
            case _What.SESSIONS:
                masks[name] = mask
            case _What.NAMED:
                complete = not since or int(sums[0]) <= NAMES_MAX
    return _Tail(_State(*rows[0][:4]), totals, masks, complete and len(masks) <= NAMES_MAX)


async def _learn(connection: asyncpg.Connection, asked: _Asked, known: _Known, tail: _Tail) -> _Known | None:
    """What is known with what a tail says; None where it does not go with what is remembered."""
    if not tail.complete or not _goes_with(known.state, tail.state):
        return None
    new = {name: mask for name, mask in tail.masks.items() if mask & ~known.sessions.get(name, _UNSEEN).mask}
    if not new:
        return known._replace(state=tail.state)
    sessions, more = dict(known.sessions), list(known.more)
    unseen = [name for name in new if name not in sessions]
    if unseen:
        lasts = await _last_folded(connection, asked, known.state, unseen)
        if lasts is None:
            return None
        sessions.update({name: _Seen(0, last) for name, last in lasts.items()})
    for name, mask in new.items():
        before, last = sessions[name]
        sessions[name] = _Seen(before | mask, last)
        for place, span in enumerate(asked.spans):
            if mask & ~before & 1 << place and (last is None or last < span.start):
                more[place] += 1
    return _Known(tail.state, known.folded, sessions, tuple(more)) if len(sessions) <= NAMES_MAX else None


async def _last_folded(
    connection: asyncpg.Connection, asked: _Asked, known: _State, names: list[str]
) -> dict[str, datetime | None] | None:
    """When sessions last had a part in what is folded: the hour, or the 15 minutes where a range begins in that hour.

    None where what is folded is not what is known.
    """
    rows = await connection.fetch(_LAST_HOURS, asked.org, asked.subject, asked.low, known.folded, names)
    lasts = {name: last for *_, name, last in rows}
    states = [_State(*rows[0][:4])]
    for hour in asked.split_hours:
        if some := [name for name, last in lasts.items() if last == hour]:
            sql = _LAST_QUARTERS.format(fold=_FOLD, below="" if asked.is_org else _BELOW)
            rows = await connection.fetch(sql, asked.org, asked.subject, asked.low, hour, some)
            lasts.update({name: last for *_, name, last in rows if name is not None})
            states.append(_State(*rows[0][:4]))
    return lasts if all(_goes_with(known, state) for state in states) else None


def _goes_with(known: _State, now: _State) -> bool:
    return not now.late and (known.folded, known.refolds) == (now.folded, now.refolds)


def _answer(known: _Known, tail: _Tail) -> list[Totals]:
    found = []
    for folded, rest, more in zip(known.folded, tail.totals, known.more, strict=True):
        totals = folded.plus(rest)
        totals.sessions = folded.sessions + more
        totals.check()
        found.append(totals)
    return found
