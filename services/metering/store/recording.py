"""The SQL of recording: keys, events, rollups, sessions, the outbox."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

import asyncpg

from services.kit import outbox
from services.kit.errors import PurseError, conflict
from services.kit.groupcommit import Redo
from services.metering.domain.usage import RollupKey, SessionKey, Usage, roll_up, sessions_of

TOPIC: Final = "usage"
"""The outbox topic of usage that the budget service must apply."""

_COLUMNS: Final = Usage._fields
_INSERT_KEYS: Final = """
INSERT INTO usage_key (org, source, id, payload_hash, occurred_at, recorded_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::timestamptz[], $6::timestamptz[])
ON CONFLICT DO NOTHING RETURNING org, source, id
"""
_STORED: Final = f"""
SELECT k.payload_hash, {", ".join(f"e.{column}" for column in _COLUMNS)}
FROM unnest($1::text[], $2::text[], $3::text[]) AS asked (org, source, id)
JOIN usage_key k USING (org, source, id)
JOIN usage_events e
  ON e.org = k.org AND e.occurred_at = k.occurred_at AND e.source = k.source AND e.id = k.id
"""  # noqa: S608 - of constants
_ADD_ROLLUPS: Final = """
INSERT INTO usage_rollups AS r (
    org, bucket, subject, provider, model, operation, currency,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    requests, operations, errors, cost_nanos)
SELECT * FROM unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
    $13::bigint[], $14::bigint[], $15::bigint[], $16::numeric[])
ON CONFLICT (org, bucket, subject, provider, model, operation, currency) DO UPDATE SET
    input_tokens = r.input_tokens + excluded.input_tokens,
    cache_read_tokens = r.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
    output_tokens = r.output_tokens + excluded.output_tokens,
    reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
    requests = r.requests + excluded.requests,
    operations = r.operations + excluded.operations,
    errors = r.errors + excluded.errors,
    cost_nanos = r.cost_nanos + excluded.cost_nanos
"""
_ADD_SESSIONS: Final = """
INSERT INTO usage_sessions (org, bucket, subject, provider, model, operation, session)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
ON CONFLICT DO NOTHING
"""


@dataclass(slots=True, frozen=True, eq=False)
class Recording:
    """A call on its way into the books.

    Attributes:
        usage: As it is to be kept.
        payload_hash: Of what the caller sent: the same id with another hash is another call.
        message: What the budget service is told.
        refusal: Why it may not be recorded, unless it was recorded already.
    """

    usage: Usage
    payload_hash: bytes
    message: bytes
    refusal: PurseError | None = None


class Recorded(NamedTuple):
    """A call in the books, and whether it was there before."""

    usage: Usage
    duplicate: bool


async def record(connection: asyncpg.Connection, items: Sequence[Recording]) -> list[Recorded | Exception]:
    """Records calls in the caller's transaction; one answer an item, in order.

    Locks are taken in the order of keys, then of rollups, then of sessions, each sorted, so that replicas cannot
    deadlock; the rollups, which everyone shares, last.
    """
    firsts: dict[tuple[str, str, str], Recording] = {}
    for item in items:
        key = item.usage.key
        if firsts.setdefault(key, item).refusal is not None and item.refusal is None:
            firsts[key] = item
    asked = sorted(key for key, item in firsts.items() if item.refusal is None)
    made = await _insert_keys(connection, [firsts[key] for key in asked])
    fresh = [firsts[key] for key in asked] if len(made) == len(asked) else [firsts[key] for key in asked if key in made]
    if fresh:
        await _insert(connection, fresh)
    if len(fresh) == len(items):
        return [Recorded(item.usage, duplicate=False) for item in items]
    return await _answers(connection, items, firsts, made)


async def _insert_keys(connection: asyncpg.Connection, items: Sequence[Recording]) -> Collection[tuple[str, str, str]]:
    if not items:
        return ()
    rows = await connection.fetch(
        _INSERT_KEYS,
        [item.usage.org for item in items],
        [item.usage.source for item in items],
        [item.usage.id for item in items],
        [item.payload_hash for item in items],
        [item.usage.occurred_at for item in items],
        [item.usage.recorded_at for item in items],
    )
    return {tuple(row) for row in rows}


async def _insert(connection: asyncpg.Connection, items: Sequence[Recording]) -> None:
    events = [item.usage for item in items]
    try:
        await connection.copy_records_to_table("usage_events", records=events, columns=_COLUMNS)
    except asyncpg.CheckViolationError as error:
        if error.constraint_name is None:
            # A partition was attached after the row had been sent to the default one.
            raise Redo from error
        raise
    await outbox.put(
        connection,
        [
            outbox.OutboxRow(item.usage.org, TOPIC, f"{item.usage.source}/{item.usage.id}", item.message)
            for item in items
        ],
    )
    sums = roll_up(events)
    keys = sorted(sums)
    values = [sums[key] for key in keys]
    await connection.execute(_ADD_ROLLUPS, *_key_columns(keys), *([v[n] for v in values] for n in range(9)))
    if sessions := sessions_of(events):
        await connection.execute(_ADD_SESSIONS, *_key_columns(sorted(sessions)))


def _key_columns(keys: Sequence[RollupKey] | Sequence[SessionKey]) -> list[list[str | datetime]]:
    columns: list[list[str | datetime]] = [list(column) for column in zip(*keys, strict=True)]
    columns[1] = [datetime.fromtimestamp(key.bucket_s, UTC) for key in keys]
    return columns


async def _answers(
    connection: asyncpg.Connection,
    items: Sequence[Recording],
    firsts: dict[tuple[str, str, str], Recording],
    made: Collection[tuple[str, str, str]],
) -> list[Recorded | Exception]:
    stored = await _stored(connection, [key for key in firsts if key not in made])
    answers: list[Recorded | Exception] = []
    for item in items:
        key = item.usage.key
        first = firsts[key]
        if key in made:
            known, usage = first.payload_hash, first.usage
        elif key in stored:
            known, usage = stored[key]
        elif item.refusal is not None:
            answers.append(item.refusal)
            continue
        else:
            # Another transaction had the key, and its row was forgotten or rolled back between two statements.
            raise Redo
        if known != item.payload_hash:
            answers.append(_reused(item.usage))
        else:
            answers.append(Recorded(usage, duplicate=key not in made or item is not first))
    return answers


async def _stored(
    connection: asyncpg.Connection, keys: Sequence[tuple[str, str, str]]
) -> dict[tuple[str, str, str], tuple[bytes, Usage]]:
    if not keys:
        return {}
    rows = await connection.fetch(_STORED, *(list(column) for column in zip(*keys, strict=True)))
    found = {}
    for payload_hash, *columns in rows:
        usage = Usage(*columns)
        found[usage.key] = (payload_hash, usage)
    return found


def _reused(usage: Usage) -> PurseError:
    return conflict(
        "USAGE_ID_REUSED",
        f"event.id: {usage.id!r} of source {usage.source!r} is recorded already with other content; "
        "a new call needs a new id, and the same call must be sent as it was",
        field="event.id",
        source=usage.source,
        id=usage.id,
    )
