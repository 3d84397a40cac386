"""The SQL of exports: where one is cut, and its rows, page by page."""

from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from services.kit.errors import conflict, unavailable
from services.metering.domain.questions import Span
from services.metering.domain.usage import Usage
from services.metering.store import retention
from services.metering.store.reports import Params, snapshot, within

SCAN_MAX: Final = 2_000
"""The most events of an organisation that are looked at for a page."""
CUT_TIMEOUT_S: Final = 2
"""How long an export that begins waits for what is just being recorded."""

_COLUMNS: Final = ", ".join(Usage._fields)
_PARTS: Final = """
SELECT coalesce(min(c.relname) FILTER (WHERE c.relname <> 'usage_events_default'), '')
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'public.usage_events'::regclass
"""


class Place(NamedTuple):
    """Where an export stands: after the event of this time and number."""

    at: datetime
    seq: int


class Export(NamedTuple):
    """What an export holds.

    Attributes:
        subject: Whose, descendants included.
        span: Of when.
        cut: The highest number of an event.
        oldest: The oldest month that was kept when it began, by its table's name.
    """

    subject: str
    span: Span
    cut: int
    oldest: str


class Page(NamedTuple):
    """Events, each with where the export stands after it, and where it stands after the page; None at the end."""

    rows: list[tuple[Place, Usage]]
    after: Place | None


async def begin(pool: asyncpg.Pool, subject: str, span: Span, *, of_all_kept: bool) -> Export:
    """A new export of what is recorded now; of the range, or `of_all_kept` events in it, whatever was dropped by age.

    Raises:
        PurseError: UNAVAILABLE: something has been recording for too long. EVENTS_DROPPED: the range begins earlier.
    """
    try:
        async with pool.acquire() as connection, connection.transaction():
            if not of_all_kept:
                await retention.require_events(connection, span.start)
            await connection.execute(f"SET LOCAL lock_timeout = '{CUT_TIMEOUT_S}s'")
            cut: int = await connection.fetchval("SELECT usage_cut()")
            return Export(subject, span, cut, await connection.fetchval(_PARTS))
    except asyncpg.LockNotAvailableError:
        raise unavailable("an export cannot begin while much is being recorded; try again", 1.0) from None


async def page(pool: asyncpg.Pool, export: Export, after: Place) -> Page:
    """The next events; none for a while where a subject has few of its organisation's.

    Raises:
        PurseError: EXPORT_GONE: retention has dropped what it would read next.
    """
    async with snapshot(pool) as connection:
        params = Params()
        owner = f"org = {params.put(export.subject.split('/')[1], 'text')}"
        rest = _after(params, export, after)
        border = await connection.fetchrow(
            f"SELECT occurred_at, seq FROM usage_events WHERE {owner} AND {rest} "  # noqa: S608 - of constants
            f"ORDER BY occurred_at, seq OFFSET {SCAN_MAX - 1} LIMIT 1",
            *params,
        )
        params = Params()
        until = ""
        owner, rest = within(params, export.subject), _after(params, export, after)
        if border is not None:
            at, seq = params.put(border[0], "timestamptz"), params.put(border[1], "bigint")
            until = f" AND occurred_at <= {at} AND (occurred_at, seq) <= ({at}, {seq})"
        found = await connection.fetch(
            f"SELECT seq, {_COLUMNS} FROM usage_events WHERE {owner} AND {rest}{until} "  # noqa: S608 - of constants
            "ORDER BY occurred_at, seq",
            *params,
        )
    rows = [Usage(*values) for _, *values in found]
    # Looked at afterwards: what was there then was there while it was read.
    await _check_kept(pool, export, after)
    places = (Place(row.occurred_at, values[0]) for row, values in zip(rows, found, strict=True))
    return Page(list(zip(places, rows, strict=True)), None if border is None else Place(*border))


def _after(params: Params, export: Export, after: Place) -> str:
    at, seq = params.put(after.at, "timestamptz"), params.put(after.seq, "bigint")
    end, cut = params.put(export.span.end, "timestamptz"), params.put(export.cut, "bigint")
    # The first condition is the second's, said so that months are left out.
    return f"occurred_at >= {at} AND (occurred_at, seq) > ({at}, {seq}) AND occurred_at < {end} AND seq <= {cut}"


async def _check_kept(pool: asyncpg.Pool, export: Export, after: Place) -> None:
    oldest: str = await pool.fetchval(_PARTS)
    if export.oldest and oldest > export.oldest and f"usage_events_{after.at:%Y_%m}" < oldest:
        raise conflict(
            "EXPORT_GONE",
            "resume_token: usage that this export would read next is not kept any more; begin a new export",
            field="resume_token",
        )
