"""The SQL of recording: keys, events, rollups, sessions, the outbox."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import asyncpg

from services.kit.errors import PurseError, conflict
from services.kit.groupcommit import Redo
from services.metering.domain.usage import KindKey, RollupKey, SessionKey, Usage, key_of, roll_up, roll_up_kinds
from services.metering.store.columns import SUMS

TOPIC: Final = "usage"
"""The outbox topic of usage that the budget service must apply."""

ALERT_TOPIC: Final = "alerts"
"""The outbox topic of what a person should look at."""

BLOCK: Final = 8_192
"""The most events a transaction."""
POINTERS_MAX: Final = 100
"""The most events that a row of the outbox points at: it stays in its page then, and never takes long to deliver."""
COPY_MIN: Final = 32
"""From how many keys on a savepoint and COPY cost less than INSERT … ON CONFLICT."""

_COLUMNS: Final = Usage._fields
_EVENT_COLUMNS: Final = (*_COLUMNS, "seq")
_KEY_COLUMNS: Final = ("org", "key", "payload_hash", "occurred_at", "seq", "recorded_at")
OUTBOX_COLUMNS: Final = ("org", "topic", "key", "payload", "event_times", "event_seqs")
_BEGIN: Final = "SELECT begin_usage()"
_ROLLUP_COLUMNS: Final = ", ".join((*RollupKey._fields, *SUMS)).replace("bucket_s", "bucket")
_INSERT_KEYS: Final = """
INSERT INTO usage_keys (org, key, payload_hash, occurred_at, seq, recorded_at)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::timestamptz[], $5::bigint[], $6::timestamptz[])
ON CONFLICT DO NOTHING
"""
# An event may be gone whose key is not: retention drops months, and ids are kept by when they were recorded.
_STORED: Final = f"""
SELECT k.org, k.key, k.payload_hash, e.seq IS NOT NULL AS here, {", ".join(f"e.{column}" for column in _COLUMNS)}
FROM unnest($1::text[], $2::bytea[]) AS asked (org, key)
JOIN usage_keys k USING (org, key)
LEFT JOIN usage_events e ON e.org = k.org AND e.occurred_at = k.occurred_at AND e.seq = k.seq
WHERE k.seq < $3 OR k.seq >= $4
"""  # noqa: S608 - of constants
# Usage of an hour that is closing or closed leaves a mark, so that the hour is summed again (see `store.folding`). That
# holds because this is never a transaction's first write: whoever has not seen an hour closing is waited for by its id.
_ADD_ROLLUPS: Final = f"""
WITH given ({_ROLLUP_COLUMNS}) AS (
    SELECT * FROM unnest(
        $1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        {", ".join(f"${n + 8}::bigint[]" for n in range(len(SUMS) - 1))}, ${len(SUMS) + 7}::numeric[])
), late AS (
    INSERT INTO usage_late (org, hour)
    SELECT DISTINCT org, date_bin('1 hour', bucket, 'epoch'::timestamptz) FROM given
    WHERE bucket < (SELECT closing FROM usage_fold WHERE org = '-')
    ON CONFLICT DO NOTHING
)
INSERT INTO usage_rollups AS r ({_ROLLUP_COLUMNS}) SELECT * FROM given
ON CONFLICT (org, bucket, subject, provider, model, operation, currency) DO UPDATE SET
    {", ".join(f"{column} = r.{column} + excluded.{column}" for column in SUMS)}
"""  # noqa: S608 - of constants
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


Key = tuple[str, bytes]
"""Organisation, and the hash of source and id."""


class Recording(NamedTuple):
    """A call on its way into the books.

    Attributes:
        usage: As it is to be kept.
        payload_hash: Of what the caller sent: the same id with another hash is another call.
        refusal: Why it may not be recorded, unless it was recorded already.
    """

    usage: Usage
    payload_hash: bytes
    refusal: PurseError | None = None


class Recorded(NamedTuple):
    """A call in the books, and whether it was there before."""

    usage: Usage
    duplicate: bool


async def begin(connection: asyncpg.Connection) -> int:
    """Begins to write events in the caller's transaction; returns the first of `BLOCK` numbers for them."""
    first: int = await connection.fetchval(_BEGIN)
    return first


async def record(connection: asyncpg.Connection, items: Sequence[Recording]) -> list[Recorded | Exception]:
    """Records calls in the caller's transaction; one answer an item, in order. At most `BLOCK` items.

    Locks are taken in the order of keys, then of rollups, then of sessions, each sorted, so that replicas cannot
    deadlock; the rollups, which everyone shares, last.
    """
    firsts: dict[Key, Recording] = {}
    keys = [(item.usage.org, key_of(item.usage.source, item.usage.id)) for item in items]
    for key, item in zip(keys, items, strict=True):
        known = firsts.setdefault(key, item)
        if known.refusal is not None and item.refusal is None:
            firsts[key] = item
    first_seq = await begin(connection)
    asked = {key: first_seq + n for n, (key, item) in enumerate(firsts.items()) if item.refusal is None}
    made = await _insert_keys(connection, asked, firsts)
    stored: dict[Key, tuple[bytes, Usage | None]] = {}
    if made < len(firsts):
        stored = await _stored(connection, list(firsts), first_seq)
        asked = {key: seq for key, seq in asked.items() if key not in stored}
        if len(asked) != made:
            # Somebody's key was forgotten between the two statements.
            raise Redo
    if asked:
        await _insert(connection, [firsts[key].usage for key in asked], list(asked.values()))
    if made == len(items):
        return [Recorded(item.usage, duplicate=False) for item in items]
    return [_answer(item, firsts[key], stored.get(key)) for key, item in zip(keys, items, strict=True)]


async def _insert_keys(connection: asyncpg.Connection, seqs: dict[Key, int], items: dict[Key, Recording]) -> int:
    """Makes the keys that are not there and returns how many."""
    rows = []
    for key in sorted(seqs):
        usage, payload_hash, _ = items[key]
        rows.append((*key, payload_hash, usage.occurred_at, seqs[key], usage.recorded_at))
    if len(rows) >= COPY_MIN and await _copy_keys(connection, rows):
        return len(rows)
    if not rows:
        return 0
    status: str = await connection.execute(_INSERT_KEYS, *(list(column) for column in zip(*rows, strict=True)))
    return int(status.rpartition(" ")[2])


async def _copy_keys(connection: asyncpg.Connection, rows: Sequence[tuple[object, ...]]) -> bool:
    """Makes all keys, if none is there, at half of what it costs to be ready for one that is."""
    try:
        async with connection.transaction():
            await connection.copy_records_to_table("usage_keys", records=rows, columns=_KEY_COLUMNS)
    except asyncpg.UniqueViolationError:
        return False
    return True


async def _insert(connection: asyncpg.Connection, events: Sequence[Usage], seqs: Sequence[int]) -> None:
    rows = [(*event, seq) for event, seq in zip(events, seqs, strict=True)]
    try:
        await connection.copy_records_to_table("usage_events", records=rows, columns=_EVENT_COLUMNS)
    except asyncpg.CheckViolationError as error:
        if error.constraint_name is None:
            # A partition was attached after the row had been sent to the default one.
            raise Redo from error
        raise
    # Written as `kit.outbox` would, but by COPY: many events a row.
    await connection.copy_records_to_table("outbox", records=pointers(events, seqs), columns=OUTBOX_COLUMNS)
    unrated = [event for event in events if event.cost_nanos is None]
    if unrated:
        await _note_unrated(connection, unrated)
    await add_sums(connection, events)


async def add_sums(connection: asyncpg.Connection, events: Sequence[Usage]) -> None:
    """Adds events to the rollups; last of all in a transaction, for everyone shares them."""
    sums, sessions = roll_up(events)
    keys = sorted(sums)
    values = [sums[key] for key in keys]
    await connection.execute(_ADD_ROLLUPS, *_key_columns(keys), *([v[n] for v in values] for n in range(len(SUMS))))
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


def pointers(events: Sequence[Usage], seqs: Sequence[int]) -> list[tuple[object, ...]]:
    """The rows of the outbox that point at events: up to `POINTERS_MAX` events of one organisation each."""
    by_org: dict[str, tuple[list[datetime], list[int]]] = {}
    for event, seq in zip(events, seqs, strict=True):
        times, numbers = by_org.setdefault(event.org, ([], []))
        times.append(event.occurred_at)
        numbers.append(seq)
    return [
        (org, TOPIC, "", b"", times[n : n + POINTERS_MAX], numbers[n : n + POINTERS_MAX])
        for org, (times, numbers) in by_org.items()
        for n in range(0, len(times), POINTERS_MAX)
    ]


def _key_columns(keys: Sequence[RollupKey] | Sequence[SessionKey] | Sequence[KindKey]) -> list[list[str | datetime]]:
    columns: list[list[str | datetime]] = [list(column) for column in zip(*keys, strict=True)]
    columns[1] = [datetime.fromtimestamp(key.bucket_s, UTC) for key in keys]
    return columns


async def _stored(
    connection: asyncpg.Connection, keys: Sequence[Key], first_seq: int
) -> dict[Key, tuple[bytes, Usage | None]]:
    """What was in the books under these keys before this transaction; without the usage where its month is dropped."""
    columns = (list(column) for column in zip(*keys, strict=True))
    rows = await connection.fetch(_STORED, *columns, first_seq, first_seq + BLOCK)
    return {(org, key): (known, Usage(*values) if here else None) for org, key, known, here, *values in rows}


def _answer(item: Recording, first: Recording, stored: tuple[bytes, Usage | None] | None) -> Recorded | Exception:
    if stored is None and first.refusal is not None:
        assert item.refusal is not None, "where one item of a key is accepted, it is the first"
        return item.refusal
    known, usage = stored or (first.payload_hash, first.usage)
    if known != item.payload_hash:
        return _reused(item.usage)
    return Recorded(usage or item.usage, duplicate=stored is not None or item is not first)


def _reused(usage: Usage) -> PurseError:
    return conflict(
        "USAGE_ID_REUSED",
        f"event.id: {usage.id!r} of source {usage.source!r} is recorded already with other content; "
        "a new call needs a new id, and the same call must be sent as it was",
        field="event.id",
        source=usage.source,
        id=usage.id,
    )
