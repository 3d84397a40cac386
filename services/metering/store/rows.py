"""Rows as PostgreSQL's binary COPY has them, and columns as text: a third of what a general encoder costs.

Most of what an event says it shares with many others (who, which model, which card), so the bytes of those columns are
remembered together, and only its own are packed for each row.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from services.metering.domain.usage import Usage

_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_JSONB_VERSION: Final = b"\x01"

TURN: Final = 200
"""The most events that are packed without giving way to other work of the process: less than a millisecond."""

EVENT_COLUMNS: Final = (
    "occurred_at", "seq", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "requests", "recorded_at", "cost_nanos",
    "id", "session", "run", "reservation", "prompt_hash",
    "org", "source", "subject", "provider", "model", "given_provider", "given_model", "operation", "labels",
    "currency", "rate_card_version", "effort", "failed", "status", "final", "service_tier", "extra",
    "operations", "corrects_source", "corrects_id",
)  # fmt: skip
"""In the order of `event_rows`: the row's own first, then what it shares."""
KEY_COLUMNS: Final = ("occurred_at", "seq", "key", "payload_hash", "org", "recorded_at")
"""In the order of `key_rows`."""

POINTER_COLUMNS: Final = ("key", "payload", "org", "topic", "event_times", "event_seqs")
"""In the order of `pointer_rows`."""

Key = tuple[str, bytes]
"""Organisation, and the hash of source and id."""
KeyRow = tuple[Key, bytes, datetime, int, int, datetime]
"""Key, payload hash, when the event happened, the same as `pg_us`, seq, when it was recorded."""

_TIMESTAMPTZ: Final = 1184
_INT8: Final = 20
# With the length of what follows: an id, a payload hash.
_PACK_OWN: Final = struct.Struct(">h" + "iq" * 10 + "i").pack
_PACK_OWN_UNRATED: Final = struct.Struct(">h" + "iq" * 9 + "ii").pack
_PACK_KEY: Final = struct.Struct(">hiqiqi16si").pack
_PACK_ARRAY: Final = struct.Struct(">iiiIii").pack
_ITEM: Final = struct.pack(">i8x", 8)
_PACK_LENGTH: Final = struct.Struct(">i").pack
_PACK_INT8: Final = struct.Struct(">iq").pack
_NO_TEXT: Final = bytes(4)


async def event_rows(events: Sequence[Usage], times_us: Sequence[int], seqs: Sequence[int]) -> AsyncIterator[bytes]:
    """Events for a COPY of `EVENT_COLUMNS`; `times_us` are `pg_us` of when they happened."""
    yield _HEADER
    for n in range(0, len(events), TURN):
        turn = slice(n, n + TURN)
        yield _event_rows(events[turn], times_us[turn], seqs[turn])
        await asyncio.sleep(0)
    yield _TRAILER


def _event_rows(events: Sequence[Usage], times_us: Sequence[int], seqs: Sequence[int]) -> bytes:
    parts: list[bytes] = []
    count = len(EVENT_COLUMNS)
    before, recorded_us = _EPOCH, 0
    for event, at_us, seq in zip(events, times_us, seqs, strict=True):
        (
            org, _, source, id_, subject, provider, model, given_provider, given_model, operation, labels,
            read, cached, written, made, reasoned, requests, cost_nanos, currency, version,
            session, run, effort, failed, status, reservation, final, recorded_at,
            tier, extra, operations, corrects_source, corrects_id, prompt_hash,
        ) = event  # fmt: skip
        if recorded_at is not before:
            before, recorded_us = recorded_at, pg_us(recorded_at)
        own = id_.encode()
        if cost_nanos is None:
            packed = _PACK_OWN_UNRATED(
                count, 8, at_us, 8, seq, 8, read, 8, cached, 8, written, 8, made, 8, reasoned, 8, requests,
                8, recorded_us, -1, len(own),
            )  # fmt: skip
        else:
            packed = _PACK_OWN(
                count, 8, at_us, 8, seq, 8, read, 8, cached, 8, written, 8, made, 8, reasoned, 8, requests,
                8, recorded_us, 8, cost_nanos, len(own),
            )  # fmt: skip
        parts += (
            packed,
            own,
            _texts(session, run),
            # Each its own call's mostly, so there is nothing to remember.
            _packed(reservation) if reservation else _NO_TEXT,
            _NULL if prompt_hash is None else _PACK_LENGTH(len(prompt_hash)) + prompt_hash,
            _shared(
                org, source, subject, provider, model, given_provider, given_model, operation, labels, currency,
                version, effort, failed, status, final, tier, extra, operations, corrects_source, corrects_id,
            ),
        )  # fmt: skip
    return b"".join(parts)


async def key_rows(keys: Sequence[KeyRow]) -> AsyncIterator[bytes]:
    """Keys for a COPY of `KEY_COLUMNS`."""
    yield _HEADER
    for n in range(0, len(keys), TURN):
        yield _key_rows(keys[n : n + TURN])
        await asyncio.sleep(0)
    yield _TRAILER


def _key_rows(keys: Sequence[KeyRow]) -> bytes:
    parts: list[bytes] = []
    count = len(KEY_COLUMNS)
    owner, owned = None, b""
    for (org, key), payload_hash, _, at_us, seq, recorded_at in keys:
        if owner != (org, recorded_at):
            owner = (org, recorded_at)
            owned = _text(org) + _PACK_INT8(8, pg_us(recorded_at))
        parts += (_PACK_KEY(count, 8, at_us, 8, seq, len(key), key, len(payload_hash)), payload_hash, owned)
    return b"".join(parts)


def pointer_rows(rows: Iterable[tuple[str, str, Sequence[int], Sequence[int]]]) -> bytearray:
    """Rows for a COPY of `POINTER_COLUMNS`, of (org, topic, `pg_us` of events, seqs)."""
    parts = [_HEADER]
    lead = struct.pack(">h", len(POINTER_COLUMNS)) + _text("") * 2
    for org, topic, times_us, seqs in rows:
        parts += (lead, _text(org), _text(topic), _array(_TIMESTAMPTZ, times_us), _array(_INT8, seqs))
    parts.append(_TRAILER)
    return bytearray().join(parts)


def pg_us(instant: datetime) -> int:
    """An instant as PostgreSQL keeps it: microseconds since 2000."""
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def text_array(values: Sequence[str]) -> str:
    """A text[] as text: an array's general encoder looks at every value's class."""
    joined = "\x1f".join(values)  # which no name holds
    if "\\" in joined:
        joined = joined.replace("\\", "\\\\")
    if '"' in joined:
        joined = joined.replace('"', '\\"')
    return '{"' + joined.replace("\x1f", '","') + '"}'


def int_array(values: Iterable[object]) -> str:
    """A bigint[] or numeric[] as text."""
    return "{" + ",".join(map(str, values)) + "}"


@lru_cache(maxsize=16_384)
def _text(value: str) -> bytes:
    return _packed(value)


def _packed(value: str) -> bytes:
    encoded = value.encode()
    return _PACK_LENGTH(len(encoded)) + encoded


@lru_cache(maxsize=16_384)
def _texts(session: str, run: str) -> bytes:
    return _packed(session) + _packed(run)


@lru_cache(maxsize=16_384)
def _shared(*values: str | bool | int | None) -> bytes:
    return b"".join(
        _jsonb(value) if place in _JSONB else _field(value) for place, value in enumerate(values, _SHARED_FROM)
    )


_SHARED_FROM: Final = EVENT_COLUMNS.index("org")
_JSONB: Final = frozenset({EVENT_COLUMNS.index("labels"), EVENT_COLUMNS.index("extra")})


def _field(value: str | bool | int | None) -> bytes:  # noqa: FBT001 - a column's value
    match value:
        case None:
            return _NULL
        case bool():
            return _PACK_LENGTH(1) + (b"\x01" if value else b"\x00")
        case int():
            return _PACK_INT8(8, value)
    return _text(value)


def _array(type_oid: int, values: Sequence[int]) -> bytes:
    """An array of one dimension, counted from 1, without NULLs, of 8 bytes an item."""
    count = len(values)
    packed = struct.pack(f">{count}q", *values)
    # Byte by byte of all items at once: half the time of packing a length before each.
    items = bytearray(_ITEM * count)
    for place in range(8):
        items[4 + place :: 12] = packed[place::8]
    return _PACK_ARRAY(20 + 12 * count, 1, 0, type_oid, count, 1) + items


def _jsonb(value: object) -> bytes:
    if value is None:
        return _NULL
    encoded = _JSONB_VERSION + str(value).encode()
    return _PACK_LENGTH(len(encoded)) + encoded
