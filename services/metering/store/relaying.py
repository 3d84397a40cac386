"""The SQL of the relay: rows of the outbox, the events that they point at, and what becomes of those that fail.

A row points at up to a hundred events. Where some of them fail, the row keeps those that say nothing of an event (the
receiver is away), and each that is refused for its own sake gets a row of its own, with its own tries.
"""

from collections.abc import Sequence
from datetime import datetime
from math import ceil
from typing import Final, NamedTuple

import asyncpg

from services.metering.domain.usage import Usage
from services.metering.store.recording import POINTERS_MAX, TOPIC

ROWS_MAX: Final = 200
"""The most rows locked at once."""
_UNEXPLAINED_WAIT_MAX_S: Final = 60

_TAKE: Final = """
SELECT org, id, tries, due_at, event_times, event_seqs FROM outbox
WHERE topic = $1 AND parked_at IS NULL AND due_at <= clock_timestamp()
  AND (due_at, id) > (coalesce($3::timestamptz, '-infinity'), $4::bigint)
ORDER BY due_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_EVENTS: Final = f"""
SELECT p.n, {", ".join(f"e.{column}" for column in Usage._fields)}
FROM unnest($1::text[], $2::timestamptz[], $3::bigint[]) WITH ORDINALITY AS p (org, occurred_at, seq, n)
JOIN usage_events e ON e.org = p.org AND e.occurred_at = p.occurred_at AND e.seq = p.seq
"""  # noqa: S608 - of constants
_DELETE: Final = """
DELETE FROM outbox o USING unnest($1::text[], $2::bigint[]) AS sent (org, id) WHERE o.org = sent.org AND o.id = sent.id
"""
# What fails without an explanation waits a quarter of its age, for there are no tries to go by.
_DUE: Final = f"""clock_timestamp() + make_interval(secs => coalesce({{wait_s}}, least({_UNEXPLAINED_WAIT_MAX_S},
    greatest(1, extract(epoch FROM clock_timestamp() - o.created_at) / 4))))"""
_KEEP: Final = f"""
UPDATE outbox o SET event_times = $3, event_seqs = $4, tries = o.tries + $5, last_error = $7,
    due_at = {_DUE.format(wait_s="$6::float8")},
    parked_at = CASE WHEN o.tries + $5 >= $8 THEN clock_timestamp() END
WHERE org = $1 AND id = $2
"""  # noqa: S608 - of constants
# The row's age and transaction stay: up to them its organisation is held back.
_SPLIT: Final = f"""
INSERT INTO outbox (org, topic, key, payload, event_times, event_seqs, xid, created_at, tries, last_error, due_at,
                    parked_at)
SELECT o.org, o.topic, '', '', ARRAY[f.occurred_at], ARRAY[f.seq], o.xid, o.created_at, o.tries + 1, f.error,
    {_DUE.format(wait_s="f.wait_s")}, CASE WHEN o.tries + 1 >= $7 THEN clock_timestamp() END
FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::bigint[], $5::float8[], $6::text[])
    AS f (org, id, occurred_at, seq, wait_s, error)
JOIN outbox o ON o.org = f.org AND o.id = f.id
"""  # noqa: S608 - of constants


class Pointer(NamedTuple):
    """An event to tell of: where it is, and itself; None where it is not there."""

    occurred_at: datetime
    seq: int
    usage: Usage | None


class Row(NamedTuple):
    """A row of the outbox that is due."""

    org: str
    id: int
    tries: int
    pointers: list[Pointer]


class Failure(NamedTuple):
    """Why an event of a row was not taken, and what that means.

    Attributes:
        is_its_fault: Whether it is the event itself that was refused, which counts as a try.
        wait_s: How long to wait, in seconds; None: by its age.
    """

    pointer: Pointer
    error: str
    is_its_fault: bool
    wait_s: float | None


async def take(connection: asyncpg.Connection, events_max: int) -> tuple[list[Row], bool]:
    """Locks rows that are due, of `events_max` events or a row more, and whether there may be more."""
    chosen: list[asyncpg.Record] = []
    events, more = 0, True
    while more and events < events_max and len(chosen) < ROWS_MAX:
        # As many as will hold what is wanted by the size of those before: what is read beyond it is read in vain.
        size = max(events / len(chosen), 1) if chosen else POINTERS_MAX
        limit = min(ceil((events_max - events) / size), ROWS_MAX - len(chosen))
        after = (chosen[-1]["due_at"], chosen[-1]["id"]) if chosen else (None, 0)
        found = await connection.fetch(_TAKE, TOPIC, limit, *after)
        more = len(found) == limit
        for row in found:
            if events >= events_max:
                more = True
                break
            chosen.append(row)
            events += len(row["event_seqs"])
    # In the order of writing, as far as there is one.
    chosen.sort(key=lambda row: row["id"])
    usages = await _events(connection, chosen)
    rows, place = [], 0
    for org, id_, tries, _, times, seqs in chosen:
        here = [Pointer(at, seq, usages.get(place + n)) for n, (at, seq) in enumerate(zip(times, seqs, strict=True), 1)]
        place += len(here)
        rows.append(Row(org, id_, tries, here))
    return rows, more


async def _events(connection: asyncpg.Connection, rows: Sequence[asyncpg.Record]) -> dict[int, Usage]:
    """The events that rows point at, by their place among all pointers, from 1."""
    orgs = [row["org"] for row in rows for _ in row["event_seqs"]]
    times = [at for row in rows for at in row["event_times"]]
    seqs = [seq for row in rows for seq in row["event_seqs"]]
    found = await connection.fetch(_EVENTS, orgs, times, seqs)
    return {place: Usage(*values) for place, *values in found}


async def delete(connection: asyncpg.Connection, rows: Sequence[Row]) -> None:
    """Forgets rows whose events were all told."""
    await connection.execute(_DELETE, [row.org for row in rows], [row.id for row in rows])


async def postpone(
    connection: asyncpg.Connection, failures: Sequence[tuple[Row, Sequence[Failure]]], tries_max: int
) -> None:
    """Keeps what failed of rows, for another try or, after `tries_max` refusals, until an operator looks."""
    apart = [(row, one) for row, failed in failures if len(failed) > 1 for one in failed if one.is_its_fault]
    if apart:
        await connection.execute(
            _SPLIT,
            [row.org for row, _ in apart],
            [row.id for row, _ in apart],
            [one.pointer.occurred_at for _, one in apart],
            [one.pointer.seq for _, one in apart],
            [one.wait_s for _, one in apart],
            [one.error for _, one in apart],
            tries_max,
        )
    kept, gone = [], []
    for row, failed in failures:
        stay = [one for one in failed if len(failed) == 1 or not one.is_its_fault]
        if stay:
            kept.append((
                row.org,
                row.id,
                [one.pointer.occurred_at for one in stay],
                [one.pointer.seq for one in stay],
                int(stay[0].is_its_fault),
                stay[0].wait_s,
                stay[0].error,
                tries_max,
            ))  # fmt: skip
        else:
            gone.append(row)
    if kept:
        await connection.executemany(_KEEP, kept)
    if gone:
        await delete(connection, gone)
