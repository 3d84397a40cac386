"""The SQL of price cards of organisations and the installation."""

from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from services.kit import windows
from services.kit.errors import Code, PurseError, conflict
from services.kit.rating import Card, PublishedCard
from services.metering.domain.publishing import CARDS_MAX, NewCard

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('rate_cards'))"
_COLUMNS: Final = (
    "org, version, revision, effective_from, usable_from, created_at, description, published_by, "
    "octet_length(content) AS content_bytes"
)
_FIND: Final = f"SELECT {_COLUMNS}, content FROM rate_cards WHERE org = $1 AND version = $2"  # noqa: S608 - of constants
_NEWEST: Final = f"""
SELECT {_COLUMNS}, content FROM rate_cards WHERE org = $1 ORDER BY revision DESC, created_at DESC LIMIT 1
"""  # noqa: S608
_COUNT: Final = "SELECT count(*) AS cards, coalesce(max(revision), 0) AS newest FROM rate_cards WHERE org = $1"
_ADD: Final = f"""
INSERT INTO rate_cards (org, version, content, effective_from, usable_from, revision, description, published_by)
SELECT $1, $2, $3, coalesce($4, usable.at), usable.at, (SELECT max(revision) + 1 FROM rate_cards), $5, $6
FROM (SELECT clock_timestamp() + make_interval(secs => $7) AS at) AS usable
RETURNING {_COLUMNS}, content
"""  # noqa: S608
_AFTER: Final = """
SELECT org, version, revision, effective_from, usable_from, content FROM rate_cards
WHERE revision > $1 ORDER BY revision LIMIT $2
"""
_PAGE: Final = f"""
SELECT {_COLUMNS} FROM rate_cards
WHERE (org = $1 OR ($1 = '*' AND org = '-')) AND ($2::bigint IS NULL OR (revision, created_at) < ($2, $3))
ORDER BY revision DESC, created_at DESC LIMIT $4
"""  # noqa: S608
_LOAD_MAX: Final = 100


class StoredCard(NamedTuple):
    """A card as it lies in the books, without its content."""

    org: str
    version: str
    revision: int
    effective_from: datetime
    usable_from: datetime
    created_at: datetime
    description: str
    published_by: str
    content_bytes: int


async def publish(pool: asyncpg.Pool, new: NewCard, delay_s: float) -> tuple[StoredCard, bytes]:
    """Stores a card, to be used after `delay_s`; returns it and its content. The same request again: what it stored.

    Raises:
        PurseError: RATE_CARD_CHANGED where another card is the newest; TOO_MANY_CARDS.
    """
    effective_from = None if new.effective_us is None else windows.from_unix_us(new.effective_us)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(_LOCK)
        row = await connection.fetchrow(_FIND, new.org, new.version)
        if row is None:
            count = await connection.fetchrow(_COUNT, new.org)
            if new.expected_revision not in (None, count["newest"]):
                raise conflict(
                    "RATE_CARD_CHANGED",
                    f"expected_revision: the newest card has revision {count['newest']}, not {new.expected_revision}; "
                    "read it and publish again",
                    field="expected_revision",
                )
            if count["cards"] >= CARDS_MAX:
                raise PurseError(
                    Code.RESOURCE_EXHAUSTED,
                    "TOO_MANY_CARDS",
                    f"there are {CARDS_MAX} cards already, the limit of one organisation; publish changes together",
                )
            row = await connection.fetchrow(
                _ADD,
                new.org,
                new.version,
                new.content,
                effective_from,
                new.description,
                new.published_by,
                delay_s,
            )
    return StoredCard(*row[:-1]), row[-1]


async def find(pool: asyncpg.Pool, org: str, version: str) -> tuple[StoredCard, bytes] | None:
    """A card and its content; the newest where no version is named."""
    row = await (pool.fetchrow(_FIND, org, version) if version else pool.fetchrow(_NEWEST, org))
    return (StoredCard(*row[:-1]), row[-1]) if row else None


async def page(pool: asyncpg.Pool, org: str, after: tuple[int, datetime] | None, limit: int) -> list[StoredCard]:
    """Cards, the newest first, after a revision and time of making; the installation's with the price lists."""
    rows = await pool.fetch(_PAGE, org, *(after or (None, None)), limit)
    return [StoredCard(*row) for row in rows]


async def load_after(pool: asyncpg.Pool, revision: int) -> list[PublishedCard]:
    """Up to 100 cards that were published after a revision, in their order."""
    return [
        PublishedCard(
            row["org"],
            row["version"],
            row["revision"],
            windows.unix_us(row["effective_from"]),
            windows.unix_us(row["usable_from"]),
            Card.from_bytes(row["content"]),
        )
        for row in await pool.fetch(_AFTER, revision, _LOAD_MAX)
    ]
