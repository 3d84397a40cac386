"""Rows of approvals. The order of locks: an organisation's gate of requests, approvals, then what a batch locks."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any, Final

import asyncpg

from services.budget.domain.approvals import Approval, ApprovalState, Kind, Place
from services.budget.domain.budgets import AMOUNT_MAX
from services.budget.domain.model import Reservation
from services.kit.approvals import Times, Urgency

_GATE: Final = 7_406
_COLUMNS: Final = """org, id, subject, kind, state, payload_hash, justification, urgency, requested_by, created_us,
    expires_us, remind_us, escalate_us, operation, provider, model, currency, amount, live_us, target, extra_count,
    until_us, hold_us, renew_us, trouble, told, reminders, escalations, decided_by, decided_us, decide_id, reason,
    outcome, next_us"""
_NAMES: Final = _COLUMNS.replace("\n", " ").replace(" ", "").split(",")
_TYPES: Final = {
    "payload_hash": "bytea",
    **dict.fromkeys(
        ("org", "id", "subject", "justification", "requested_by", "operation", "provider", "model", "currency",
         "target", "trouble", "told", "decided_by", "decide_id", "reason", "outcome"),
        "text",
    ),
}  # fmt: skip
_ARRAYS: Final = ", ".join(f"${n}::{_TYPES.get(name, 'bigint')}[]" for n, name in enumerate(_NAMES, 1))
# One after the other, as each lock may have to be waited for.
_ENTER: Final = f"SELECT pg_advisory_xact_lock({_GATE}, hashtext($1))"
_FIND: Final = f"""
SELECT {", ".join(f"a.{name}" for name in _NAMES)} FROM unnest($1::text[], $2::text[]) AS k (org, id)
JOIN approvals a ON a.org = k.org AND a.id = k.id ORDER BY a.org, a.id
"""  # noqa: S608 - a constant
# Two ranges, as a subject and those below it do not stand together. What would not fit a number is above any limit.
_HELD: Final = f"""
SELECT k.org, k.subject, k.currency, coalesce(least(sum(a.amount), {AMOUNT_MAX}), 0)::bigint AS held
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (org, subject, currency),
LATERAL (
    SELECT kind, currency, amount FROM approvals a WHERE a.org = k.org AND a.subject = k.subject AND a.state = 1
    UNION ALL
    SELECT kind, currency, amount FROM approvals a
    WHERE a.org = k.org AND a.subject > k.subject || '/' AND a.subject < k.subject || '0' AND a.state = 1
) a WHERE a.kind = 1 AND a.currency = k.currency GROUP BY 1, 2, 3
"""  # noqa: S608 - a constant
_WAITING: Final = """
SELECT k.org, k.subject, (
    SELECT count(*) FROM approvals a WHERE a.org = k.org AND a.subject = k.subject AND a.state = 1
) + (
    SELECT count(*) FROM approvals a
    WHERE k.whole AND a.org = k.org AND a.subject > k.subject || '/' AND a.subject < k.subject || '0' AND a.state = 1
) AS waiting
FROM unnest($1::text[], $2::text[], $3::boolean[]) AS k (org, subject, whole)
"""
_ADD: Final = f"""
INSERT INTO approvals ({_COLUMNS}) SELECT * FROM unnest({_ARRAYS}) AS n ON CONFLICT DO NOTHING RETURNING 1
"""  # noqa: S608 - a constant
_CHANGING: Final = (
    "state", "hold_us", "renew_us", "trouble", "told", "reminders", "escalations", "decided_by", "decided_us",
    "decide_id", "reason", "outcome", "next_us",
)  # fmt: skip
_CHANGE: Final = f"""
UPDATE approvals a SET {", ".join(f"{name} = n.{name}" for name in _CHANGING)}
FROM unnest($1::text[], $2::text[], {
    ", ".join(f"${n}::{_TYPES.get(name, 'bigint')}[]" for n, name in enumerate(_CHANGING, 3))
}) AS n (org, id, {", ".join(_CHANGING)})
WHERE a.org = n.org AND a.id = n.id
"""  # noqa: S608 - a constant
_MARK: Final = """
UPDATE reservations r SET approval = n.mark FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n (org, id, mark)
WHERE r.org = n.org AND r.id = n.id
"""
# ':' and '0' as in the list of budgets: a subtree is the range from "subject/" to "subject0".
_LIST: Final = f"""
SELECT {_COLUMNS} FROM approvals
WHERE org = $1 AND (subject = $2 OR (subject > $2 || '/' AND subject < $2 || '0')) AND (expires_us, id) > ($3, $4)
ORDER BY expires_us, id LIMIT $5
"""  # noqa: S608 - a constant
# By itself, so that an index finds the few that wait behind all that have ended.
_LIST_IN_STATE: Final = _LIST.replace("WHERE org = $1", "WHERE org = $1 AND state = $6")
_DUE: Final = """
SELECT org, id, subject FROM (
    (SELECT org, id, subject, expires_us AS due_us FROM approvals WHERE state = 1 AND expires_us <= $1
     ORDER BY expires_us LIMIT $2)
    UNION
    (SELECT org, id, subject, hold_us FROM approvals WHERE state = 1 AND kind = 1 AND hold_us <= $1
     ORDER BY hold_us LIMIT $2)
) AS due ORDER BY due_us LIMIT $2
"""
_LEFT_ALONE: Final = "SELECT org, id, subject FROM approvals WHERE next_us < $1 AND state = 1 ORDER BY next_us LIMIT $2"
# One whose start waits in the outbox has not been lost.
_LOST: Final = f"""
UPDATE approvals a SET next_us = $2 FROM (
    SELECT l.org, l.id FROM approvals l WHERE l.next_us < $1 AND NOT EXISTS (
        SELECT FROM outbox o WHERE o.topic = $4 AND o.key = l.subject || '/approvals/' || l.id AND o.parked_at IS NULL)
    ORDER BY l.next_us LIMIT $3 FOR UPDATE SKIP LOCKED
) AS lost WHERE a.org = lost.org AND a.id = lost.id
RETURNING {", ".join(f"a.{name}" for name in _NAMES)}
"""  # noqa: S608 - a constant
_FORGET: Final = """
WITH old AS (SELECT org, id FROM approvals WHERE state <> 1 AND decided_us < $1 ORDER BY decided_us LIMIT $2),
gone AS (DELETE FROM approvals a USING old WHERE a.org = old.org AND a.id = old.id RETURNING 1)
SELECT count(*) FROM gone
"""


def approval_of(row: Sequence[Any]) -> Approval:
    """An approval from its row."""
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    remind_us, escalate_us = values.pop("remind_us"), values.pop("escalate_us")
    times = Times(remind_us, escalate_us, values["expires_us"])
    values["kind"], values["state"] = Kind(values["kind"]), ApprovalState(values["state"])
    values["urgency"] = Urgency(values["urgency"])
    return Approval(**values, times=times)


def _values(row: Approval) -> list[object]:
    values = dict(zip((one.name for one in fields(row)), astuple(row), strict=True))
    values["remind_us"], values["escalate_us"] = row.times.remind_us, row.times.escalate_us
    return [values[name] for name in _NAMES]


async def enter(connection: asyncpg.Connection, orgs: Iterable[str]) -> None:
    """Lets one request of an organisation in at a time, so that what waits together stays under its limits."""
    for org in orgs:
        await connection.execute(_ENTER, org)


async def find(
    connection: asyncpg.Connection, keys: Sequence[tuple[str, str]], *, lock: bool
) -> dict[tuple[str, str], Approval]:
    """Approvals by organisation and id, locked if asked."""
    statement = f"{_FIND} FOR UPDATE OF a" if lock else _FIND
    rows = await connection.fetch(statement, [k[0] for k in keys], [k[1] for k in keys])
    return {(row["org"], row["id"]): approval_of(row) for row in rows}


async def get(connection: asyncpg.Connection, org: str, id_: str, *, lock: bool = False) -> Approval | None:
    """One approval, locked if asked."""
    return (await find(connection, [(org, id_)], lock=lock)).get((org, id_))


async def held(connection: asyncpg.Connection, places: Collection[Place]) -> dict[Place, int]:
    """How many approvals wait in these places, and what they hold there in a currency: what is asked for, no more."""
    counts = sorted(place for place in places if not place.currency)
    sums = sorted(place for place in places if place.currency)
    found = dict.fromkeys((*counts, *sums), 0)
    columns = ([place.org for place in counts], [place.subject for place in counts], [one.whole for one in counts])
    for org, subject, waiting in await connection.fetch(_WAITING, *columns):
        found[Place(org, subject)] = waiting
    if sums:
        for row in await connection.fetch(_HELD, *map(list, zip(*sums, strict=True))):
            found[Place(*row[:3])] = row["held"]
    return found


async def add(connection: asyncpg.Connection, made: Sequence[Approval]) -> bool:
    """Writes new ones; False: an id was taken meanwhile."""
    rows = await connection.fetch(_ADD, *map(list, zip(*map(_values, made), strict=True)))
    return len(rows) == len(made)


async def change(connection: asyncpg.Connection, changed: Sequence[Approval]) -> None:
    """Writes what may change; their rows are locked."""
    columns = [[getattr(row, name) for row in changed] for name in ("org", "id", *_CHANGING)]
    await connection.execute(_CHANGE, *columns)


async def mark(connection: asyncpg.Connection, marked: Mapping[tuple[str, str], Reservation]) -> None:
    """Writes what reservations have to do with approvals."""
    values = [(r.org, r.id, int(r.approval)) for _, r in sorted(marked.items())]
    await connection.execute(_MARK, *map(list, zip(*values, strict=True)))


async def list_page(
    connection: asyncpg.Connection, place: tuple[str, str], state: int, after: tuple[int, str], limit: int
) -> list[Approval]:
    """Approvals of a subtree by when they expire, from behind `after`; in one state, or 0: in any."""
    if not state:
        return [approval_of(row) for row in await connection.fetch(_LIST, *place, *after, limit)]
    return [approval_of(row) for row in await connection.fetch(_LIST_IN_STATE, *place, *after, limit, state)]


async def due(connection: asyncpg.Connection, at_us: int, limit: int) -> list[tuple[str, str, str]]:
    """Approvals that wait and whose time, or whose hold's, is over: org, id and subject."""
    return [tuple(row) for row in await connection.fetch(_DUE, at_us, limit)]


async def left_alone(connection: asyncpg.Connection, before_us: int, limit: int) -> list[tuple[str, str, str]]:
    """Approvals that wait and that nobody has looked at though it was due, started or not: org, id and subject."""
    return [tuple(row) for row in await connection.fetch(_LEFT_ALONE, before_us, limit)]


async def take_lost(
    connection: asyncpg.Connection, before_us: int, next_us: int, topic: str, limit: int
) -> list[Approval]:
    """Approvals that nobody has looked at though it was due; they are looked for again after `next_us`."""
    return [approval_of(row) for row in await connection.fetch(_LOST, before_us, next_us, limit, topic)]


async def forget(connection: asyncpg.Connection, before_us: int, limit: int) -> int:
    """Forgets approvals that ended before; how many."""
    count: int = await connection.fetchval(_FORGET, before_us, limit)
    return count
