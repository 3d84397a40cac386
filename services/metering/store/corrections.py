"""The SQL of corrections: an event and what was last said of it, adjusting rows, usage without a price."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from services.kit.errors import conflict, not_found, unavailable
from services.metering.domain.corrections import CORRECTIONS_MAX, Said, adjusting, said_by
from services.metering.domain.kinds import extra_json, extra_of
from services.metering.domain.publishing import request_id_reused
from services.metering.domain.usage import Usage, key_of
from services.metering.store.recording import add_sums, begin, tell

TRIES_MAX: Final = 5
"""How often a correction that another one overtook is decided again."""
_COLUMNS: Final = Usage._fields
_EVENTS: Final = f"""
SELECT {", ".join(f"e.{column}" for column in _COLUMNS)},
    c.n, c.tokens, c.extra AS c_extra, c.requests AS c_requests, c.cost_nanos AS c_cost, c.currency AS c_currency,
    c.rate_card_version AS c_version
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS asked (org, source, id, occurred_at)
JOIN usage_events e
  ON e.org = asked.org AND e.occurred_at = asked.occurred_at AND e.source = asked.source AND e.id = asked.id
LEFT JOIN LATERAL (
    SELECT * FROM usage_corrections c WHERE c.org = e.org AND c.source = e.source AND c.id = e.id
    ORDER BY n DESC LIMIT 1
) AS c ON true
WHERE e.corrects_source IS NULL
"""  # noqa: S608 - of constants
_LOCK_EVENT: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_OCCURRED: Final = "SELECT occurred_at FROM usage_keys WHERE org = $1 AND key = $2"
_ADD_KEYS: Final = """
INSERT INTO usage_keys (org, key, payload_hash, occurred_at, seq, recorded_at)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::timestamptz[], $5::bigint[], $6::timestamptz[])
"""
# With the difference that the adjusting event says, so that the same answer can be given again.
_KEY: Final = """
SELECT k.payload_hash, e.cost_nanos
FROM usage_keys k LEFT JOIN usage_events e ON e.org = k.org AND e.occurred_at = k.occurred_at AND e.seq = k.seq
WHERE k.org = $1 AND k.key = $2
"""
_CORRECTION_COLUMNS: Final = (
    "org", "source", "id", "n", "correction_source", "correction_id", "occurred_at", "tokens", "requests", "extra",
    "cost_nanos", "currency", "rate_card_version", "reason", "corrected_by", "recorded_at",
)  # fmt: skip
_FIND: Final = f"""
SELECT {", ".join(_CORRECTION_COLUMNS)} FROM usage_corrections
WHERE org = $1 AND correction_source = $2 AND correction_id = $3
"""  # noqa: S608
_PAGE: Final = f"""
SELECT {", ".join(_CORRECTION_COLUMNS)} FROM usage_corrections
WHERE org = $1 AND ($2 = '' OR source = $2) AND ($3 = '' OR id = $3) AND (source, id, n) > ($4, $5, $6)
ORDER BY source, id, n LIMIT $7
"""  # noqa: S608
_PRICED: Final = """
DELETE FROM unrated_usage u USING unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[])
    AS done (org, given_provider, given_model, occurred_at, source, id)
WHERE u.org = done.org AND u.given_provider = done.given_provider AND u.given_model = done.given_model
  AND u.occurred_at = done.occurred_at AND u.source = done.source AND u.id = done.id
"""
_UNRATED_COLUMNS: Final = "given_provider, given_model, occurred_at, source, id, subject"
_UNRATED: Final = f"""
SELECT {_UNRATED_COLUMNS} FROM unrated_usage
WHERE org = $1 AND (given_provider, given_model, occurred_at, source, id) > ($2, $3, $4, $5, $6)
ORDER BY given_provider, given_model, occurred_at, source, id LIMIT $7
"""  # noqa: S608
_UNRATED_OF: Final = f"""
SELECT {_UNRATED_COLUMNS} FROM unrated_usage
WHERE org = $1 AND given_provider = $2 AND given_model = $3 AND (occurred_at, source, id) > ($4, $5, $6)
ORDER BY occurred_at, source, id LIMIT $7
"""  # noqa: S608
_MODELS: Final = """
SELECT org, given_provider, given_model, first_seen_at, checked FROM unrated_models
WHERE (org, given_provider, given_model) > ($1, $2, $3) ORDER BY org, given_provider, given_model LIMIT $4
"""
_MODELS_OF: Final = """
SELECT org, given_provider, given_model, first_seen_at, checked FROM unrated_models m
WHERE org = $1 AND EXISTS (
    SELECT FROM unrated_usage u
    WHERE u.org = m.org AND u.given_provider = m.given_provider AND u.given_model = m.given_model
) ORDER BY given_provider, given_model LIMIT $2
"""
_CHECKED: Final = """
UPDATE unrated_models SET checked = $4 WHERE org = $1 AND given_provider = $2 AND given_model = $3
"""


@dataclass(frozen=True, slots=True)
class Correction:
    """A later word on an event, as it is asked for or kept.

    Attributes:
        org: The organisation's bare id.
        source: Of the event, and `id`.
        correction_source: Of the adjusting event, and `correction_id`.
        n: Its number.
        said: What is said of the event now.
        before: What was said before; None where it is not told.
    """

    org: str
    source: str
    id: str
    n: int
    correction_source: str
    correction_id: str
    occurred_at: datetime
    said: Said
    reason: str
    corrected_by: str
    recorded_at: datetime
    before: Said | None = None


class Known(NamedTuple):
    """An event, how often it was corrected, and what was last said of it."""

    event: Usage
    n: int
    last: Said


class Unrated(NamedTuple):
    """An event without a price."""

    given_provider: str
    given_model: str
    occurred_at: datetime
    source: str
    id: str
    subject: str


class UnratedModel(NamedTuple):
    """A model without a price, and what was looked at when none was found."""

    org: str
    given_provider: str
    given_model: str
    first_seen_at: datetime
    checked: str


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A correction to be made, and the hash of what was asked."""

    known: Known
    correction: Correction
    payload_hash: bytes


Decide = Callable[[Known], Adjustment]


async def correct(
    pool: asyncpg.Pool,
    key: tuple[str, str, str],
    occurred_at: datetime | None,
    asked: tuple[tuple[str, str], bytes],
    decide: Decide,
) -> tuple[Correction, bool]:
    """Corrects an event once; returns the correction and whether it had been made before.

    Args:
        pool: The books.
        key: The event's organisation, source and id.
        occurred_at: When it happened, for events whose key is forgotten.
        asked: The correction's source and id, and the hash of what was asked, so that the same id with something else
            is refused.
        decide: Says what to do, given what was last said; called again where another correction came first.

    Raises:
        PurseError: USAGE_UNKNOWN, REQUEST_ID_REUSED, TOO_MANY_CORRECTIONS, and what `decide` raises.
    """
    for _ in range(TRIES_MAX):
        try:
            async with pool.acquire() as connection, connection.transaction():
                # One at a time for an event: who waited must see what the one before said, and whether it was itself.
                await connection.execute(_LOCK_EVENT, "/".join(key))
                done = await _made_before(connection, key[0], *asked)
                if done is not None:
                    return done, True
                known = await _find_event(connection, key, occurred_at)
                if known.n >= CORRECTIONS_MAX:
                    raise conflict(
                        "TOO_MANY_CORRECTIONS", f"the event was corrected {CORRECTIONS_MAX} times, the limit"
                    )
                adjustment = decide(known)
                await apply(connection, [adjustment])
            return adjustment.correction, False
        except asyncpg.UniqueViolationError:
            # Another correction of this event, or this very one, was faster.
            continue
    raise unavailable("the event is corrected by others all the time; send again with the same request_id")


async def apply(connection: asyncpg.Connection, adjustments: Sequence[Adjustment]) -> None:
    """Makes corrections in the caller's transaction.

    Raises:
        asyncpg.UniqueViolationError: One of them, or another of the same event, has been made.
    """
    made = sorted(adjustments, key=lambda one: (one.correction.org, one.correction.source, one.correction.id))
    told: list[tuple[Usage, int]] = []
    rows: list[tuple[object, ...]] = []
    keys: list[tuple[object, ...]] = []
    events: list[Usage] = []
    seq = await begin(connection)
    for one in made:
        for place, row in enumerate(_rows(one)):
            if place == 0:
                told.append((row, seq))
            rows.append((*row, seq))
            keys.append((row.org, key_of(row.source, row.id), one.payload_hash, row.occurred_at, seq, row.recorded_at))
            events.append(row)
            seq += 1
    await connection.execute(_ADD_KEYS, *(list(column) for column in zip(*sorted(keys), strict=True)))
    await connection.copy_records_to_table(
        "usage_corrections", records=[_record(one.correction) for one in made], columns=_CORRECTION_COLUMNS
    )
    await connection.copy_records_to_table("usage_events", records=rows, columns=(*_COLUMNS, "seq"))
    await tell(connection, [row for row, _ in told], [number for _, number in told])
    priced = [one.known.event for one in made if one.known.last.cost_nanos is None and one.correction.said.currency]
    if priced:
        done = [(e.org, e.given_provider, e.given_model, e.occurred_at, e.source, e.id) for e in priced]
        await connection.execute(_PRICED, *(list(column) for column in zip(*done, strict=True)))
    await add_sums(connection, events)


async def known_events(connection: asyncpg.Connection, org: str, events: Sequence[Unrated]) -> list[Known]:
    """Events and what was last said of each; those that are gone are left out."""
    asked = [(org, one.source, one.id, one.occurred_at) for one in events]
    return await _known(connection, asked) if asked else []


async def unrated(
    pool: asyncpg.Pool, org: str, after: tuple[str, str, datetime, str, str], limit: int
) -> list[Unrated]:
    """An organisation's events without a price, by model and time."""
    return [Unrated(*row) for row in await pool.fetch(_UNRATED, org, *after, limit)]


async def unrated_of(
    connection: asyncpg.Connection, model: UnratedModel, after: tuple[datetime, str, str], limit: int
) -> list[Unrated]:
    """Events of one model without a price, by time."""
    rows = await connection.fetch(_UNRATED_OF, model.org, model.given_provider, model.given_model, *after, limit)
    return [Unrated(*row) for row in rows]


async def unrated_models(pool: asyncpg.Pool, org: str, limit: int) -> list[UnratedModel]:
    """An organisation's models that have usage without a price."""
    return [UnratedModel(*row) for row in await pool.fetch(_MODELS_OF, org, limit)]


async def all_unrated_models(pool: asyncpg.Pool, after: tuple[str, str, str], limit: int) -> list[UnratedModel]:
    """Models of all organisations that had usage without a price."""
    return [UnratedModel(*row) for row in await pool.fetch(_MODELS, *after, limit)]


async def set_checked(connection: asyncpg.Connection, model: UnratedModel, checked: str) -> None:
    """Remembers which prices were looked at."""
    await connection.execute(_CHECKED, model.org, model.given_provider, model.given_model, checked)


async def page(
    pool: asyncpg.Pool, of: tuple[str, str, str], after: tuple[str, str, int], limit: int
) -> list[Correction]:
    """Corrections by source, id and number: of an organisation, and only of a source and id where they are named."""
    return [_correction(row) for row in await pool.fetch(_PAGE, *of, *after, limit)]


async def _made_before(
    connection: asyncpg.Connection, org: str, correction_key: tuple[str, str], payload_hash: bytes
) -> Correction | None:
    row = await connection.fetchrow(_FIND, org, *correction_key)
    if row is None:
        return None
    made = _correction(row)
    stored = await connection.fetchrow(_KEY, org, key_of(*correction_key))
    if stored is None:
        return made
    if stored["payload_hash"] != payload_hash:
        raise request_id_reused(correction_key[1])
    if stored["cost_nanos"] is None or made.said.cost_nanos is None:
        return made
    return replace(made, before=made.said._replace(cost_nanos=made.said.cost_nanos - stored["cost_nanos"]))


async def _find_event(connection: asyncpg.Connection, key: tuple[str, str, str], occurred_at: datetime | None) -> Known:
    at = await connection.fetchval(_OCCURRED, key[0], key_of(key[1], key[2])) or occurred_at
    found = await _known(connection, [(*key, at)]) if at is not None else []
    if not found:
        raise not_found(
            f"a recorded event {key[2]} of source {key[1]} in orgs/{key[0]}; one from more than 90 days ago is found "
            "by its occurred_at as well, else it",
            "USAGE_UNKNOWN",
        )
    return found[0]


async def _known(connection: asyncpg.Connection, asked: Sequence[tuple[str, str, str, datetime]]) -> list[Known]:
    found = []
    for row in await connection.fetch(_EVENTS, *(list(column) for column in zip(*asked, strict=True))):
        event = Usage(*row[: len(_COLUMNS)])
        last = said_by(event)
        if row["n"] is not None:
            last = Said(
                tuple(row["tokens"]),
                extra_of(row["c_extra"]),
                row["c_requests"],
                row["c_cost"],
                row["c_currency"],
                row["c_version"],
            )
        found.append(Known(event, row["n"] or 0, last))
    return found


def _rows(one: Adjustment) -> list[Usage]:
    made = one.correction
    return adjusting(
        one.known.event,
        one.known.last,
        made.said,
        source=made.correction_source,
        id_=made.correction_id,
        now=made.recorded_at,
    )


def _record(made: Correction) -> tuple[object, ...]:
    said = made.said
    return (
        made.org, made.source, made.id, made.n, made.correction_source, made.correction_id, made.occurred_at,
        list(said.tokens), said.requests, extra_json(said.extra), said.cost_nanos, said.currency,
        said.rate_card_version, made.reason, made.corrected_by, made.recorded_at,
    )  # fmt: skip


def _correction(row: asyncpg.Record) -> Correction:
    said = Said(
        tuple(row["tokens"]),
        extra_of(row["extra"]),
        row["requests"],
        row["cost_nanos"],
        row["currency"],
        row["rate_card_version"],
    )
    return Correction(
        row["org"], row["source"], row["id"], row["n"], row["correction_source"], row["correction_id"],
        row["occurred_at"], said, row["reason"], row["corrected_by"], row["recorded_at"],
    )  # fmt: skip
