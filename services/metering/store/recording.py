"""The SQL of recording: keys, events, rollups, sessions, the outbox."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

import asyncpg

from services.kit.errors import PurseError, conflict
from services.kit.groupcommit import Redo
from services.metering.domain.rollups import KindKey, RollupKey, SessionKey, roll_up, roll_up_kinds
from services.metering.domain.usage import Usage, key_of
from services.metering.store import rows
from services.metering.store.columns import SUMS
from services.metering.store.rows import Key

TOPIC: Final = "usage"
"""The outbox topic of usage that the budget service must apply."""

ALERT_TOPIC: Final = "alerts"
"""The outbox topic of what a person should look at."""

SESSIONS_KNOWN_MAX: Final = 200_000
"""After how many sessions a process forgets which it has written, and begins anew."""
BLOCK: Final = 8_192
"""The most events a transaction."""
POINTERS_MAX: Final = 100
"""The most events that a row of the outbox points at: it stays in its page then, and never takes long to deliver."""
COPY_MIN: Final = 32
"""From how many keys on a savepoint and COPY cost less than INSERT … ON CONFLICT."""

_COLUMNS: Final = Usage._fields
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
# Arrays go as text: a driver's encoder looks at every value of them.
_KEY_ARRAYS: Final = (
    "$1::text::text[], $2::text::timestamptz[], $3::text::text[], $4::text::text[], $5::text::text[], "
    "$6::text::text[], $7::text::text[]"
)
# Usage of an hour that is closing or closed leaves a mark, so that the hour is summed again (see `store.folding`). That
# holds because this is never a transaction's first write: whoever has not seen an hour closing is waited for by its id.
_ADD_ROLLUPS: Final = f"""
WITH given ({_ROLLUP_COLUMNS}) AS (
    SELECT * FROM unnest(
        {_KEY_ARRAYS},
        {", ".join(f"${n + 8}::text::bigint[]" for n in range(len(SUMS) - 1))}, ${len(SUMS) + 7}::text::numeric[])
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
_ADD_SESSIONS: Final = f"""
INSERT INTO usage_sessions (org, bucket, subject, provider, model, operation, session)
SELECT * FROM unnest({_KEY_ARRAYS})
ON CONFLICT DO NOTHING
"""  # noqa: S608 - of constants


_ADD_KINDS: Final = f"""
INSERT INTO usage_kind_rollups AS r (org, bucket, subject, provider, model, operation, kind, quantity)
SELECT * FROM unnest({_KEY_ARRAYS}, $8::text::numeric[])
ON CONFLICT (org, bucket, subject, provider, model, operation, kind) DO UPDATE SET
    quantity = r.quantity + excluded.quantity
"""  # noqa: S608 - of constants
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


class Answers(list["Recorded | Exception"]):
    """The answers of a batch, and the sessions that it wrote."""

    sessions: Collection[SessionKey] = ()


class SessionsKnown:
    """Sessions that are in the books for certain, so that most events need not name theirs again.

    A row once written stays as long as its quarter of an hour can get events, so what was committed may be remembered.
    """

    def __init__(self) -> None:
        self._keys: set[SessionKey] = set()

    def missing(self, keys: set[SessionKey]) -> set[SessionKey]:
        """Those that are not known."""
        return keys - self._keys

    def committed(self, answers: Sequence[Recorded | Exception]) -> None:
        """Remembers what a batch wrote, once it is committed."""
        if isinstance(answers, Answers):
            if len(self._keys) > SESSIONS_KNOWN_MAX:
                self._keys.clear()
            self._keys.update(answers.sessions)


async def begin(connection: asyncpg.Connection) -> int:
    """Begins to write events in the caller's transaction; returns the first of `BLOCK` numbers for them."""
    first: int = await connection.fetchval(_BEGIN)
    return first


async def record(
    connection: asyncpg.Connection, items: Sequence[Recording], known: SessionsKnown | None = None
) -> Answers:
    """Records calls in the caller's transaction; one answer an item, in order. At most `BLOCK` items.

    Locks are taken in the order of keys, then of rollups, then of sessions, each sorted, so that replicas cannot
    deadlock; the rollups, which everyone shares, last.
    """
    first_seq = await begin(connection)
    made = await _key_rows(items, first_seq)
    places = _places(made, items)
    asked = [place for place in places.values() if items[place].refusal is None]
    inserted = await _insert_keys(connection, sorted([made[place] for place in asked]))
    stored: dict[Key, tuple[bytes, Usage | None]] = {}
    if inserted < len(places):
        stored = await _stored(connection, list(places), first_seq)
        asked = [place for place in asked if made[place][0] not in stored]
        if len(asked) != inserted:
            # Somebody's key was forgotten between the two statements.
            raise Redo
    if inserted == len(items):
        # Past `_make`, which takes three times as long.
        answers = Answers([tuple.__new__(Recorded, (item.usage, False)) for item in items])
    else:
        answers = Answers(
            _answer(item, items[places[key]], stored.get(key)) for item, (key, *_) in zip(items, made, strict=True)
        )
    if asked:
        events = [items[place].usage for place in asked]
        times_us = [made[place][3] for place in asked]
        answers.sessions = await _insert(connection, events, times_us, [made[place][4] for place in asked], known)
    return answers


async def _key_rows(items: Sequence[Recording], first_seq: int) -> list[rows.KeyRow]:
    made = []
    for place, (usage, payload_hash, _) in enumerate(items, 1):
        if place % rows.TURN == 0:
            await asyncio.sleep(0)
        key = (usage.org, key_of(usage.source, usage.id))
        at = usage.occurred_at
        made.append((key, payload_hash, at, rows.pg_us(at), first_seq + place - 1, usage.recorded_at))
    return made


def _places(made: Sequence[rows.KeyRow], items: Sequence[Recording]) -> dict[Key, int]:
    """Which item speaks for each key: the first of those that are not refused, or the first."""
    places = {row[0]: place for place, row in enumerate(made)}
    if len(places) < len(items):
        places = {}
        for place, (row, item) in enumerate(zip(made, items, strict=True)):
            first = places.setdefault(row[0], place)
            if items[first].refusal is not None and item.refusal is None:
                places[row[0]] = place
    return places


async def _insert_keys(connection: asyncpg.Connection, made: Sequence[rows.KeyRow]) -> int:
    """Makes the keys that are not there, given in their order, and returns how many."""
    if not made:
        return 0
    if len(made) >= COPY_MIN and await _copy_keys(connection, made):
        return len(made)
    keys, hashes, times, _, seqs, recorded = (list(column) for column in zip(*made, strict=True))
    orgs, digests = (list(column) for column in zip(*keys, strict=True))
    status: str = await connection.execute(_INSERT_KEYS, orgs, digests, hashes, times, seqs, recorded)
    return int(status.rpartition(" ")[2])


async def _copy_keys(connection: asyncpg.Connection, made: Sequence[rows.KeyRow]) -> bool:
    """Makes all keys, if none is there, at half of what it costs to be ready for one that is."""
    try:
        async with connection.transaction():
            await _copy(connection, "usage_keys", rows.key_rows(made), rows.KEY_COLUMNS)
    except asyncpg.UniqueViolationError:
        return False
    return True


async def _copy(
    connection: asyncpg.Connection, table: str, parts: AsyncIterator[bytes], columns: Sequence[str]
) -> None:
    # In one piece: the driver sets a timer for every part that it waits for.
    data = bytearray()
    async for part in parts:
        data += part
    await _copy_data(connection, table, data, columns)


async def _copy_data(connection: asyncpg.Connection, table: str, data: bytearray, columns: Sequence[str]) -> None:
    await connection.copy_to_table(table, source=data, columns=columns, format="binary")


async def _insert(
    connection: asyncpg.Connection,
    events: Sequence[Usage],
    times_us: Sequence[int],
    seqs: Sequence[int],
    known: SessionsKnown | None,
) -> Collection[SessionKey]:
    try:
        await _copy(connection, "usage_events", rows.event_rows(events, times_us, seqs), rows.EVENT_COLUMNS)
    except asyncpg.CheckViolationError as error:
        if error.constraint_name is None:
            # A partition was attached after the row had been sent to the default one.
            raise Redo from error
        raise
    await _tell(connection, events, times_us, seqs)
    unrated = [event for event in events if event.cost_nanos is None]
    if unrated:
        await _note_unrated(connection, unrated)
    return await add_sums(connection, events, known)


async def add_sums(
    connection: asyncpg.Connection, events: Sequence[Usage], known: SessionsKnown | None = None
) -> Collection[SessionKey]:
    """Adds events to the rollups; last of all in a transaction, for everyone shares them.

    Returns the sessions that were written.
    """
    sums, named = roll_up(events)
    sessions = named if known is None else known.missing(named)
    keys = sorted(sums)
    values = [sums[key] for key in keys]
    await connection.execute(_ADD_ROLLUPS, *_key_columns(keys), *map(rows.int_array, zip(*values, strict=True)))
    if sessions:
        await connection.execute(_ADD_SESSIONS, *_key_columns(sorted(sessions)))
    with_kinds = [event for event in events if event.extra is not None]
    if with_kinds:
        kinds = roll_up_kinds(with_kinds)
        ordered = sorted(kinds)
        await connection.execute(_ADD_KINDS, *_key_columns(ordered), rows.int_array(kinds[key] for key in ordered))
    return sessions


async def _note_unrated(connection: asyncpg.Connection, events: Sequence[Usage]) -> None:
    """Remembers events to be rated once their models have a price."""
    named = sorted((e.org, e.given_provider, e.given_model, e.occurred_at, e.source, e.id, e.subject) for e in events)
    await connection.execute(_ADD_UNRATED, *(list(column) for column in zip(*named, strict=True)))
    models = sorted({row[:3] for row in named})
    await connection.execute(_ADD_UNRATED_MODELS, *(list(column) for column in zip(*models, strict=True)))


async def tell(connection: asyncpg.Connection, events: Sequence[Usage], seqs: Sequence[int]) -> None:
    """Puts events that were written into the outbox, as `kit.outbox` would, but many events a row."""
    await _tell(connection, events, [rows.pg_us(event.occurred_at) for event in events], seqs)


async def _tell(
    connection: asyncpg.Connection, events: Sequence[Usage], times_us: Sequence[int], seqs: Sequence[int]
) -> None:
    data = rows.pointer_rows(_pointers(events, times_us, seqs))
    await _copy_data(connection, "outbox", data, rows.POINTER_COLUMNS)


def _pointers(
    events: Sequence[Usage], times_us: Sequence[int], seqs: Sequence[int]
) -> Iterator[tuple[str, str, Sequence[int], Sequence[int]]]:
    """The rows of the outbox that point at events: up to `POINTERS_MAX` events of one organisation each."""
    by_org = defaultdict[str, list[tuple[int, int]]](list)
    for event, at_us, seq in zip(events, times_us, seqs, strict=True):
        by_org[event.org].append((at_us, seq))
    for org, pointers in by_org.items():
        for n in range(0, len(pointers), POINTERS_MAX):
            times, numbers = zip(*pointers[n : n + POINTERS_MAX], strict=True)
            yield org, TOPIC, times, numbers


def _key_columns(keys: Sequence[RollupKey] | Sequence[SessionKey] | Sequence[KindKey]) -> list[str]:
    org, bucket_s, *texts = zip(*keys, strict=True)
    return [rows.text_array(org), rows.text_array([*map(_bucket, bucket_s)]), *map(rows.text_array, texts)]


@lru_cache(maxsize=1_024)
def _bucket(bucket_s: int) -> str:
    return datetime.fromtimestamp(bucket_s, UTC).isoformat()


async def _stored(
    connection: asyncpg.Connection, keys: Sequence[Key], first_seq: int
) -> dict[Key, tuple[bytes, Usage | None]]:
    """What was in the books under these keys before this transaction; without the usage where its month is dropped."""
    columns = (list(column) for column in zip(*keys, strict=True))
    found = await connection.fetch(_STORED, *columns, first_seq, first_seq + BLOCK)
    return {(org, key): (known, Usage(*values) if here else None) for org, key, known, here, *values in found}


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
