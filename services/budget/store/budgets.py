"""Budgets' definitions and the organisations' epochs."""

import json
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from services.budget.approvals.store import policies
from services.budget.domain.budgets import FOREVER_US, Budget, Dimension, OnExceed, OverAllocation, Selector
from services.budget.domain.pauses import ResumeMode
from services.budget.domain.plan import Policy
from services.budget.store import org_settings, overrides, pauses
from services.budget.store.overrides import Raises
from services.kit.windows import WindowKind, WindowSpec

_COLUMNS: Final = """budget_no, org, subject, budget_id, display_name, dimension, currency, limit_amount, window_kind,
time_zone, week_start, anchor_day, on_exceed, thresholds, selector, generation, revision, created_us, updated_us,
effective_from_us, effective_until_us, rollover_cap, allocated_from, over_allocation, resume"""
_LOAD: Final = f"SELECT {_COLUMNS} FROM budgets WHERE org = $1 AND deleted_us IS NULL"  # noqa: S608 - a constant
# Deleted rows too, and those of the known epoch itself: reading a row twice does no harm.
_CHANGED: Final = f"""
SELECT deleted_us, {_COLUMNS} FROM budgets WHERE org = $1 AND changed_epoch >= $2
"""  # noqa: S608 - a constant
_FIND: Final = f"""
SELECT {_COLUMNS} FROM budgets WHERE org = $1 AND subject = $2 AND budget_id = $3 AND deleted_us IS NULL
ORDER BY effective_from_us
"""  # noqa: S608 - a constant
# ':' is the byte after '9' and none of an id, '/' is before '0': a subtree is the range from "subject/" to "subject0".
_LIST: Final = f"""
SELECT {_COLUMNS} FROM budgets
WHERE org = $1 AND (subject = $2 OR ($3 AND subject > $2 || '/' AND subject < $2 || '0'))
    AND (subject, budget_id) > ($4, $5) AND deleted_us IS NULL AND effective_until_us IS NULL
    AND ($7 = '' OR allocated_from = $7)
ORDER BY subject, budget_id LIMIT $6
"""  # noqa: S608 - a constant
_COUNT_BELOW: Final = """
SELECT count(*) FROM (
    SELECT 1 FROM budgets
    WHERE org = $1 AND (subject = $2 OR (subject > $2 || '/' AND subject < $2 || '0'))
        AND deleted_us IS NULL AND effective_until_us IS NULL AND ($3 = '' OR allocated_from = $3)
    LIMIT $4) AS found
"""
_FIND_ALL: Final = f"""
SELECT {_COLUMNS} FROM unnest($2::text[], $3::text[]) AS k (of, id)
JOIN budgets ON org = $1 AND subject = k.of AND budget_id = k.id AND deleted_us IS NULL
ORDER BY effective_from_us
"""  # noqa: S608 - a constant
_OF_ZONE: Final = f"""
SELECT {_COLUMNS} FROM budgets
WHERE org = $1 AND time_zone = $2 AND window_kind = ANY($3::text[]) AND budget_no > $6 AND deleted_us IS NULL
    AND effective_from_us < $5 AND (effective_until_us IS NULL OR effective_until_us > $4)
ORDER BY budget_no LIMIT $7
"""  # noqa: S608 - a constant
_NAMES: Final = "SELECT budget_no, subject, budget_id FROM budgets WHERE org = $1 AND budget_no = ANY($2::bigint[])"
_INSERT: Final = f"""
INSERT INTO budgets (org, subject, budget_id, display_name, dimension, currency, limit_amount, window_kind, time_zone,
    week_start, anchor_day, on_exceed, thresholds, selector, generation, revision, created_us, updated_us,
    effective_from_us, rollover_cap, allocated_from, over_allocation,
    resume)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::bigint[], $14, $15, $16, $17, $18, $19, $20, $21, $22,
    $23)
ON CONFLICT DO NOTHING
RETURNING {_COLUMNS}
"""  # noqa: S608 - a constant
_UPDATE: Final = """
UPDATE budgets SET display_name = $3, limit_amount = $4, on_exceed = $5, thresholds = $6::bigint[], selector = $7,
    generation = $8, revision = $9, updated_us = $10, window_kind = $11, time_zone = $12, week_start = $13,
    anchor_day = $14, effective_until_us = $15, rollover_cap = $16, allocated_from = $17, over_allocation = $18,
    resume = $19
WHERE org = $1 AND budget_no = $2
"""
_DELETE: Final = """
UPDATE budgets SET deleted_us = $4 WHERE org = $1 AND subject = $2 AND budget_id = $3 AND deleted_us IS NULL
"""
_ADD_ORG: Final = "INSERT INTO org_policy (org) VALUES ($1) ON CONFLICT DO NOTHING"
_GATE: Final = "SELECT pg_advisory_xact_lock(7402, hashtext($1))"
_LOCK: Final = "UPDATE org_policy SET epoch = epoch + 1 WHERE org = $1"
_COUNTER: Final = """
SELECT spent, reserved FROM counters WHERE org = $1 AND budget_no = $2 AND window_key = $3
"""
_COUNT: Final = "SELECT count(*) FROM budgets WHERE org = $1 AND deleted_us IS NULL"
_COUNT_OF: Final = """
SELECT count(*) FROM budgets
WHERE org = $1 AND subject = $2 AND deleted_us IS NULL AND effective_until_us IS NULL
"""
_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


async def load_policy(connection: asyncpg.Connection, org: str, epoch: int) -> Policy:
    """All definitions in force or to come; the caller holds the organisation's row at this epoch."""
    settings = await org_settings.get(connection, org)
    paused = await pauses.by_persons(connection, org)
    rows = await connection.fetch(_LOAD, org)
    raises = await overrides.raises_of(connection, org)
    asking = await policies.load(connection, org)
    return Policy(
        org,
        epoch,
        [budget_of(row, raises) for row in rows],
        settings=settings,
        pauses=paused,
        approvals=asking,
    )


async def reload_policy(connection: asyncpg.Connection, known: Policy, epoch: int) -> Policy:
    """The policy at this epoch from one of an earlier epoch: what has not changed since is not read.

    The caller holds the organisation's row at this epoch. Raises come with their budgets: a grant changes both.
    """
    org = known.org
    settings = await org_settings.get(connection, org)
    paused = await pauses.changed_by_persons(connection, org, known.epoch)
    rows = await connection.fetch(_CHANGED, org, known.epoch)
    raises: Raises = {}
    if rows:
        names = {(row["subject"], row["budget_id"]) for row in rows if row["deleted_us"] is None}
        raises = await overrides.raises_of(connection, org, sorted(names))
    gone = [row["budget_no"] for row in rows if row["deleted_us"] is not None]
    live = [budget_of(list(row)[1:], raises) for row in rows if row["deleted_us"] is None]
    asking = await policies.load(connection, org, known.epoch)
    return known.changed(epoch, live, gone, settings=settings, pauses=paused, approvals=asking)


def budget_of(row: Sequence[Any], raises: Raises | None = None) -> Budget:
    """A definition from its row, with the temporary raises of its name that were granted since it was created."""
    (no, org, subject, id_, display_name, dimension, currency, limit, kind, zone, week_start, anchor_day, on_exceed,
     thresholds, selector, generation, revision, created_us, updated_us, from_us, until_us, rollover_cap,
     allocated_from, over_allocation, resume) = row  # fmt: skip
    return Budget(
        no,
        org,
        subject,
        id_,
        display_name,
        Dimension(dimension),
        currency,
        limit,
        WindowSpec(WindowKind(kind), zone, week_start, anchor_day),
        OnExceed(on_exceed),
        tuple(thresholds),
        _selector_of(selector),
        generation,
        revision,
        created_us,
        updated_us,
        from_us,
        FOREVER_US if until_us is None else until_us,
        rollover_cap,
        allocated_from,
        OverAllocation(over_allocation),
        tuple(one for one in raises.get((subject, id_), ()) if one.from_us >= created_us) if raises else (),
        ResumeMode(resume),
    )


def _selector_of(text: str) -> Selector | None:
    if not text:
        return None
    raw: dict[str, Any] = json.loads(text)
    return Selector(
        tuple(raw["providers"]),
        tuple(raw["models"]),
        tuple(raw["operations"]),
        tuple((key, value) for key, value in raw["labels"]),
    )


def _selector_text(selector: Selector | None) -> str:
    if selector is None:
        return ""
    return json.dumps(
        {
            "providers": selector.providers,
            "models": selector.models,
            "operations": selector.operations,
            "labels": selector.labels,
        },
        separators=(",", ":"),
    )


async def now_us(connection: asyncpg.Connection) -> int:
    """PostgreSQL's clock, in microseconds since 1970."""
    value: int = await connection.fetchval(_NOW)
    return value


async def find(connection: asyncpg.Connection, org: str, subject: str, budget_id: str) -> list[Budget]:
    """The budget's rows, by when they begin: one, or two around a change of the window."""
    raises = await overrides.raises_of(connection, org, [(subject, budget_id)])
    return [budget_of(row, raises) for row in await connection.fetch(_FIND, org, subject, budget_id)]


async def find_all(
    connection: asyncpg.Connection, org: str, names: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], list[Budget]]:
    """As `find`, of many budgets by subject and id."""
    rows = await connection.fetch(_FIND_ALL, org, [name[0] for name in names], [name[1] for name in names])
    raises = await overrides.raises_of(connection, org, names)
    found: dict[tuple[str, str], list[Budget]] = {}
    for row in rows:
        found.setdefault((row["subject"], row["budget_id"]), []).append(budget_of(row, raises))
    return found


async def of_zone(
    connection: asyncpg.Connection,
    org: str,
    calendar: tuple[str, Sequence[str]],
    span_us: tuple[int, int],
    *,
    after_no: int,
    limit: int,
) -> list[Budget]:
    """Definitions with a zone and one of some kinds of windows that counted within the span, from behind a number."""
    rows = await connection.fetch(_OF_ZONE, org, *calendar, *span_us, after_no, limit)
    raises = await overrides.raises_of(connection, org, [(row["subject"], row["budget_id"]) for row in rows])
    return [budget_of(row, raises) for row in rows]


async def count_below(connection: asyncpg.Connection, org: str, subject: str, allocated_from: str, most: int) -> int:
    """How many budgets a subtree has, or that were carved from one in it, counted up to `most`."""
    value: int = await connection.fetchval(_COUNT_BELOW, org, subject, allocated_from, most)
    return value


async def list_page(
    connection: asyncpg.Connection,
    org: str,
    subject: str,
    after: tuple[str, str],
    limit: int,
    *,
    descendants: bool,
    allocated_from: str = "",
) -> list[Budget]:
    """Budgets sorted by subject and id, from behind `after`; only those carved from one budget if it is named."""
    rows = await connection.fetch(_LIST, org, subject, descendants, *after, limit, allocated_from)
    raises = await overrides.raises_of(connection, org, [(row["subject"], row["budget_id"]) for row in rows])
    return [budget_of(row, raises) for row in rows]


async def names(connection: asyncpg.Connection, org: str, numbers: Sequence[int]) -> dict[int, str]:
    """Names by number, of deleted budgets too."""
    rows = await connection.fetch(_NAMES, org, numbers)
    return {row["budget_no"]: f"{row['subject']}/budgets/{row['budget_id']}" for row in rows}


async def counter(connection: asyncpg.Connection, org: str, no: int, key: int) -> tuple[int, int]:
    """What a window has spent and holds."""
    row = await connection.fetchrow(_COUNTER, org, no, key)
    return (row["spent"], row["reserved"]) if row else (0, 0)


async def begin_write(connection: asyncpg.Connection, org: str) -> int:
    """Locks the organisation's row against decisions, raises its epoch, and returns the time in microseconds."""
    await connection.execute(_ADD_ORG, org)
    await connection.execute(_GATE, org)
    await connection.execute(_LOCK, org)
    return await now_us(connection)


async def count(connection: asyncpg.Connection, org: str) -> int:
    """How many budgets the organisation has."""
    value: int = await connection.fetchval(_COUNT, org)
    return value


async def count_of(connection: asyncpg.Connection, org: str, subject: str) -> int:
    """How many budgets a subject itself has."""
    value: int = await connection.fetchval(_COUNT_OF, org, subject)
    return value


async def insert(connection: asyncpg.Connection, budget: Budget) -> Budget | None:
    """Adds a row and returns it with its number; None: the name is taken."""
    row = await connection.fetchrow(
        _INSERT,
        budget.org,
        budget.subject,
        budget.id,
        budget.display_name,
        int(budget.dimension),
        budget.currency,
        budget.limit,
        budget.window.kind.value,
        budget.window.zone,
        budget.window.week_start,
        budget.window.anchor_day,
        int(budget.on_exceed),
        budget.thresholds,
        _selector_text(budget.selector),
        budget.generation,
        budget.revision,
        budget.created_us,
        budget.updated_us,
        budget.from_us,
        budget.rollover_cap,
        budget.allocated_from,
        int(budget.over_allocation),
        int(budget.resume),
    )
    return budget_of(row) if row else None


async def update(connection: asyncpg.Connection, budget: Budget) -> None:
    """Writes what may change of a row."""
    await connection.execute(
        _UPDATE,
        budget.org,
        budget.no,
        budget.display_name,
        budget.limit,
        int(budget.on_exceed),
        budget.thresholds,
        _selector_text(budget.selector),
        budget.generation,
        budget.revision,
        budget.updated_us,
        budget.window.kind.value,
        budget.window.zone,
        budget.window.week_start,
        budget.window.anchor_day,
        None if budget.until_us >= FOREVER_US else budget.until_us,
        budget.rollover_cap,
        budget.allocated_from,
        int(budget.over_allocation),
        int(budget.resume),
    )


async def delete(connection: asyncpg.Connection, budget: Budget, at_us: int) -> None:
    """Ends all rows of the name; what was counted stays."""
    await connection.execute(_DELETE, budget.org, budget.subject, budget.id, at_us)
