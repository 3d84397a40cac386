"""The SQL of several ranges at once, such as today and this month: what they have in common is read once."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from services.kit import subject as subjects
from services.metering.domain.periods import Fold, parts_of, pieces_of
from services.metering.domain.questions import NO_FILTER, Span, Totals
from services.metering.store import folding
from services.metering.store.columns import SUM_ALL, SUMS
from services.metering.store.reports import Params, facts_sql, kinds_sql, snapshot
from services.metering.store.sessions import SessionCounts

_NO_SUMS: Final = ", 0" * (len(SUMS) - 1)


async def totals_of(pool: asyncpg.Pool, subject: str, spans: Sequence[Span], counts: SessionCounts) -> list[Totals]:
    """The totals of ranges, with their sessions, in one snapshot; `counts` remembers from one question to the next."""
    org = subjects.parse(subject).org
    async with snapshot(pool) as connection:
        fold = await folding.read(connection, org, min(span.start for span in spans), max(span.end for span in spans))
        return await totals_in(connection, subject, spans, fold, counts)


async def totals_in(
    connection: asyncpg.Connection, subject: str, spans: Sequence[Span], fold: Fold, counts: SessionCounts
) -> list[Totals]:
    """The same in the snapshot that `fold` was read in; ranges may be empty."""
    found = await _totals(connection, subject, spans, fold)
    sessions = await counts.count(connection, subject, spans, fold)
    for totals, count in zip(found, sessions, strict=True):
        totals.sessions = count
        totals.check()
    return found


async def _totals(connection: asyncpg.Connection, subject: str, spans: Sequence[Span], fold: Fold) -> list[Totals]:
    """The sums of each piece that the ranges cut each other into, by one statement, added up for each range."""
    pieces = pieces_of(spans)
    if not pieces:
        return [Totals() for _ in spans]
    params = Params()
    facts, kinds = [], []
    for place, piece in enumerate(pieces):
        parts = parts_of(piece, fold)
        sums = facts_sql(params, subject, parts, by_subject=False)
        facts.append(f"SELECT {place} AS piece, f.* FROM ({sums}) AS f")  # noqa: S608
        further = kinds_sql(params, subject, parts, NO_FILTER)
        kinds.append(f"SELECT {place} AS piece, kind, quantity FROM ({further}) AS k")  # noqa: S608
    rows = await connection.fetch(
        f"""
        SELECT piece, NULL AS kind, currency, {SUM_ALL} FROM ({" UNION ALL ".join(facts)}) AS f GROUP BY piece, currency
        UNION ALL
        SELECT piece, kind, '', sum(quantity){_NO_SUMS} FROM ({" UNION ALL ".join(kinds)}) AS k GROUP BY piece, kind
        """,  # noqa: S608
        *params,
    )
    found = []
    for span in spans:
        totals, extra = Totals(), dict[str, int]()
        for place, kind, currency, *sums in rows:
            if not (span.start <= pieces[place].start and pieces[place].end <= span.end):
                continue
            if kind is None:
                totals.add(currency, sums)
            else:
                extra[kind] = extra.get(kind, 0) + int(sums[0])
        totals.extra = {kind: extra[kind] for kind in sorted(extra) if extra[kind]}
        found.append(totals)
    return found
