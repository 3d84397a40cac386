"""Pauses: begun by batches and by persons, ended by persons and raised limits, listed."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain import alerts
from services.budget.domain.budgets import Budget
from services.budget.domain.pauses import Pause, PauseCause
from services.budget.store.alerts import TOPIC
from services.kit import outbox
from services.kit.outbox import OutboxRow

_COLUMNS: Final = """p.org, p.subject, p.budget_no, coalesce(b.subject || '/budgets/' || b.budget_id, '') AS budget,
    p.window_key, p.generation, p.cause, p.reason, p.paused_by, p.paused_us, p.until_us, p.ended_us,
    coalesce(p.ended_by, '') AS ended_by, coalesce(p.end_note, '') AS end_note, p.limit_amount AS limit_was"""
_FROM: Final = "pauses p LEFT JOIN budgets b ON b.org = p.org AND b.budget_no = p.budget_no"
_BEGIN: Final = """
INSERT INTO pauses (org, subject, budget_no, window_key, generation, cause, reason, paused_by, paused_us, until_us,
    limit_amount)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
    $8::text[], $9::bigint[], $10::bigint[], $11::bigint[])
ON CONFLICT DO NOTHING
RETURNING subject, budget_no, window_key, generation
"""
_BY_PERSONS: Final = f"""
SELECT {_COLUMNS} FROM {_FROM} WHERE p.org = $1 AND p.budget_no = 0 AND p.ended_us IS NULL
"""  # noqa: S608 - a constant
_CHANGED_BY_PERSONS: Final = f"""
SELECT {_COLUMNS} FROM {_FROM} WHERE p.org = $1 AND p.budget_no = 0 AND p.changed_epoch >= $2
"""  # noqa: S608 - a constant
_OF_SUBJECTS: Final = f"""
SELECT {_COLUMNS} FROM {_FROM}
WHERE p.org = $1 AND p.subject = ANY($2::text[]) AND p.ended_us IS NULL AND p.until_us > $3
ORDER BY p.subject, p.budget_no, p.window_key, p.generation
"""  # noqa: S608 - a constant
_OF_BUDGETS: Final = f"""
SELECT {_COLUMNS} FROM {_FROM}
WHERE p.org = $1 AND p.subject = ANY($2::text[]) AND b.subject || '/budgets/' || b.budget_id = ANY($3::text[])
    AND p.ended_us IS NULL AND p.until_us > $4
ORDER BY p.subject, p.budget_no, p.window_key, p.generation
"""  # noqa: S608 - a constant
_LAST: Final = """
SELECT coalesce(max(generation), 0) FROM pauses WHERE org = $1 AND subject = $2 AND budget_no = 0 AND window_key = 0
"""
_END: Final = """
UPDATE pauses p SET ended_us = $6, ended_by = $7, end_note = $8
FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS k (subject, budget_no, window_key, generation)
WHERE p.org = $1 AND p.subject = k.subject AND p.budget_no = k.budget_no AND p.window_key = k.window_key
    AND p.generation = k.generation AND p.ended_us IS NULL
"""
# ':' and '0' as in the list of budgets: a subtree is the range from "subject/" to "subject0".
_LIST: Final = f"""
SELECT {_COLUMNS} FROM {_FROM}
WHERE p.org = $1
    AND (p.subject = $2 OR (p.subject > $2 || '/' AND p.subject < $2 || '0') OR p.subject = ANY($3::text[]))
    AND (p.subject, p.budget_no, p.window_key, p.generation) > ($4, $5, $6, $7)
    AND ($8 OR (p.ended_us IS NULL AND p.until_us > $9))
ORDER BY p.subject, p.budget_no, p.window_key, p.generation LIMIT $10
"""  # noqa: S608 - a constant


def pause_of(row: asyncpg.Record) -> Pause:
    """A pause from its row."""
    values = list(row)
    values[6] = PauseCause(values[6])
    return Pause(*values)


async def begin(connection: asyncpg.Connection, made: Sequence[Pause], at_us: int) -> None:
    """Writes those that are new, and an outbox row for each."""
    if not made:
        return
    rows = await connection.fetch(
        _BEGIN,
        [p.org for p in made],
        [p.subject for p in made],
        [p.budget_no for p in made],
        [p.window_key for p in made],
        [p.generation for p in made],
        [int(p.cause) for p in made],
        [p.reason for p in made],
        [p.paused_by for p in made],
        [p.paused_us for p in made],
        [p.until_us for p in made],
        [p.limit for p in made],
    )
    new = {tuple(row) for row in rows}
    await _tell(connection, [p for p in made if _key(p) in new], at_us)


async def end(connection: asyncpg.Connection, ended: Sequence[Pause], at_us: int) -> None:
    """Ends these, of one organisation, which have their `ended_us`, `ended_by` and `end_note`; tells of each."""
    if not ended:
        return
    first = ended[0]
    await connection.execute(
        _END, first.org, *zip(*map(_key, ended), strict=True), at_us, first.ended_by, first.end_note
    )
    await _tell(connection, ended, at_us)


async def _tell(connection: asyncpg.Connection, pauses: Sequence[Pause], at_us: int) -> None:
    await outbox.put(connection, [OutboxRow(p.org, TOPIC, p.name, alerts.pause_payload(p, at_us)) for p in pauses])


def _key(pause: Pause) -> tuple[str, int, int, int]:
    return (pause.subject, pause.budget_no, pause.window_key, pause.generation)


async def by_persons(connection: asyncpg.Connection, org: str) -> list[Pause]:
    """The pauses by persons that last: policy."""
    return [pause_of(row) for row in await connection.fetch(_BY_PERSONS, org)]


async def changed_by_persons(connection: asyncpg.Connection, org: str, epoch: int) -> list[Pause]:
    """The pauses by persons that were begun or ended at this epoch or later."""
    return [pause_of(row) for row in await connection.fetch(_CHANGED_BY_PERSONS, org, epoch)]


async def of_subjects(connection: asyncpg.Connection, org: str, subjects: Sequence[str], at_us: int) -> list[Pause]:
    """The active pauses of these subjects themselves."""
    return [pause_of(row) for row in await connection.fetch(_OF_SUBJECTS, org, subjects, at_us)]


async def of_budgets(
    connection: asyncpg.Connection, org: str, found: Sequence[Budget], at_us: int
) -> dict[str, list[Pause]]:
    """The active pauses that these budgets made, by their names, whatever their calendar was."""
    pauses: dict[str, list[Pause]] = {}
    subjects, names = sorted({b.subject for b in found}), [b.name for b in found]
    for row in await connection.fetch(_OF_BUDGETS, org, subjects, names, at_us):
        pause = pause_of(row)
        pauses.setdefault(pause.budget, []).append(pause)
    return pauses


async def next_of_person(connection: asyncpg.Connection, org: str, subject: str) -> int:
    """The number of a subject's next pause by a person; the caller holds the organisation's row."""
    last: int = await connection.fetchval(_LAST, org, subject)
    return last + 1


async def list_page(
    connection: asyncpg.Connection,
    org: str,
    subject: str,
    ancestors: Sequence[str],
    *,
    after: tuple[str, int, int, int],
    limit: int,
    ended: bool,
    at_us: int,
) -> list[Pause]:
    """Pauses of a subtree and of these ancestors, sorted, from behind `after`."""
    rows = await connection.fetch(_LIST, org, subject, ancestors, *after, ended, at_us, limit)
    return [pause_of(row) for row in rows]
