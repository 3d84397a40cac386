"""The SQL of recording: keys, events, rollups, sessions, the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

import asyncpg

from services.kit.errors import PurseError, conflict
from services.kit.groupcommit import Redo
from services.metering.domain.usage import KindKey, RollupKey, SessionKey, Usage, roll_up, roll_up_kinds

TOPIC: Final = "usage"
"""The outbox topic of usage that the budget service must apply."""

ALERT_TOPIC: Final = "alerts"
"""The outbox topic of what a person should look at."""

COPY_MIN: Final = 32
"""From how many keys on a savepoint and COPY cost less than INSERT … ON CONFLICT."""

_COLUMNS: Final = Usage._fields
_KEY_COLUMNS: Final = ("org", "source", "id", "payload_hash", "occurred_at")
_INSERT_KEYS: Final = """
INSERT INTO usage_key (org, source, id, payload_hash, occurred_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::timestamptz[])
ON CONFLICT DO NOTHING
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


_ADD_KINDS: Final = """
INSERT INTO usage_kind_rollups AS r (org, bucket, subject, provider, model, operation, kind, quantity)
SELECT * FROM unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::numeric[])
ON CONFLICT (org, bucket, subject, provider, model, operation, kind) DO UPDATE SET
    quantity = r.quantity + excluded.quantity
"""
_ADD_UNRATED: Final = """
INSERT INTO unrated_usage (org, given_provider, given_model, occurred_at, source, id, subject)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[])
"""
# A model is alerted when it is first seen without a price, not with every call.
_ADD_UNRATED_MODELS: Final = f"""
WITH seen AS (
    INSERT INTO unrated_models (org, given_provider, given_model)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING
    RETURNING org, given_provider, given_model, first_seen_at
)
INSERT INTO outbox (org, topic, key, payload)
SELECT org, '{ALERT_TOPIC}', 'UNRATED', convert_to(json_build_object(
    'type', 'UNRATED', 'org', org, 'provider', given_provider, 'model', given_model,
    'first_seen_at', first_seen_at)::text, 'UTF8')
FROM seen
"""  # noqa: S608 - of constants


Key = tuple[str, str, str]
"""Organisation, source and id."""


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
    firsts: dict[Key, Recording] = {}
    for item in items:
        known = firsts.setdefault(item.usage.key, item)
        if known.refusal is not None and item.refusal is None:
            firsts[item.usage.key] = item
    asked = sorted(key for key, item in firsts.items() if item.refusal is None)
    made = await _insert_keys(connection, asked, [firsts[key] for key in asked])
    stored: dict[Key, tuple[bytes, Usage]] = {}
    if made < len(firsts):
        # A key whose event is there was in the books before: a transaction that makes a key makes its event, and
        # this one has not made its events yet.
        stored = await _stored(connection, list(firsts))
        asked = [key for key in asked if key not in stored]
        if len(asked) != made:
            # Somebody's key was forgotten between the two statements.
            raise Redo
    if asked:
        await _insert(connection, [firsts[key] for key in asked])
    if made == len(items):
        return [Recorded(item.usage, duplicate=False) for item in items]
    return [_answer(item, firsts[item.usage.key], stored.get(item.usage.key)) for item in items]


async def _insert_keys(connection: asyncpg.Connection, keys: Sequence[Key], items: Sequence[Recording]) -> int:
    """Makes the keys that are not there and returns how many."""
    if len(keys) >= COPY_MIN and await _copy_keys(connection, keys, items):
        return len(keys)
    if not keys:
        return 0
    status: str = await connection.execute(
        _INSERT_KEYS,
        *(list(column) for column in zip(*keys, strict=True)),
        [item.payload_hash for item in items],
        [item.usage.occurred_at for item in items],
    )
    return int(status.rpartition(" ")[2])


async def _copy_keys(connection: asyncpg.Connection, keys: Sequence[Key], items: Sequence[Recording]) -> bool:
    """Makes all keys, if none is there, at half of what it costs to be ready for one that is."""
    rows = [(*key, item.payload_hash, item.usage.occurred_at) for key, item in zip(keys, items, strict=True)]
    try:
        async with connection.transaction():
            await connection.copy_records_to_table("usage_key", records=rows, columns=_KEY_COLUMNS)
    except asyncpg.UniqueViolationError:
        return False
    return True


async def _insert(connection: asyncpg.Connection, items: Sequence[Recording]) -> None:
    events = [item.usage for item in items]
    try:
        await connection.copy_records_to_table("usage_events", records=events, columns=_COLUMNS)
    except asyncpg.CheckViolationError as error:
        if error.constraint_name is None:
            # A partition was attached after the row had been sent to the default one.
            raise Redo from error
        raise
    # Written as `kit.outbox` would, but by COPY as well: twice as fast for rows that cannot conflict.
    await connection.copy_records_to_table(
        "outbox",
        records=[(item.usage.org, TOPIC, f"{item.usage.source}/{item.usage.id}", item.message) for item in items],
        columns=("org", "topic", "key", "payload"),
    )
    unrated = [event for event in events if event.cost_nanos is None]
    if unrated:
        await _note_unrated(connection, unrated)
    await add_sums(connection, events)


async def add_sums(connection: asyncpg.Connection, events: Sequence[Usage]) -> None:
    """Adds events to the rollups; last of all in a transaction, for everyone shares them."""
    sums, sessions = roll_up(events)
    keys = sorted(sums)
    values = [sums[key] for key in keys]
    await connection.execute(_ADD_ROLLUPS, *_key_columns(keys), *([v[n] for v in values] for n in range(9)))
    if sessions:
        await connection.execute(_ADD_SESSIONS, *_key_columns(sorted(sessions)))
    with_kinds = [event for event in events if event.extra is not None]
    if with_kinds:
        kinds = roll_up_kinds(with_kinds)
        ordered = sorted(kinds)
        await connection.execute(_ADD_KINDS, *_key_columns(ordered), [kinds[key] for key in ordered])


async def _note_unrated(connection: asyncpg.Connection, events: Sequence[Usage]) -> None:
    """Remembers events to be rated once their models have a price."""
    rows = sorted((e.org, e.given_provider, e.given_model, e.occurred_at, e.source, e.id, e.subject) for e in events)
    await connection.execute(_ADD_UNRATED, *(list(column) for column in zip(*rows, strict=True)))
    models = sorted({row[:3] for row in rows})
    await connection.execute(_ADD_UNRATED_MODELS, *(list(column) for column in zip(*models, strict=True)))


def _key_columns(keys: Sequence[RollupKey] | Sequence[SessionKey] | Sequence[KindKey]) -> list[list[str | datetime]]:
    columns: list[list[str | datetime]] = [list(column) for column in zip(*keys, strict=True)]
    columns[1] = [datetime.fromtimestamp(key.bucket_s, UTC) for key in keys]
    return columns


async def _stored(connection: asyncpg.Connection, keys: Sequence[Key]) -> dict[Key, tuple[bytes, Usage]]:
    rows = await connection.fetch(_STORED, *(list(column) for column in zip(*keys, strict=True)))
    found = {}
    for payload_hash, *columns in rows:
        usage = Usage(*columns)
        found[usage.key] = (payload_hash, usage)
    return found


def _answer(item: Recording, first: Recording, stored: tuple[bytes, Usage] | None) -> Recorded | Exception:
    if stored is None and first.refusal is not None:
        assert item.refusal is not None, "where one item of a key is accepted, it is the first"
        return item.refusal
    known, usage = stored or (first.payload_hash, first.usage)
    if known != item.payload_hash:
        return _reused(item.usage)
    return Recorded(usage, duplicate=stored is not None or item is not first)


def _reused(usage: Usage) -> PurseError:
    return conflict(
        "USAGE_ID_REUSED",
        f"event.id: {usage.id!r} of source {usage.source!r} is recorded already with other content; "
        "a new call needs a new id, and the same call must be sent as it was",
        field="event.id",
        source=usage.source,
        id=usage.id,
    )
