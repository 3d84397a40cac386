"""Subscriptions: who is told what, and where."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain.subscriptions import Subscription

_COLUMNS: Final = """org, subject, subscription_id, display_name, webhook_url, secret, email, events, disabled,
    revision, created_us, updated_us"""
_FIND: Final = f"""
SELECT {_COLUMNS} FROM subscriptions WHERE org = $1 AND subject = $2 AND subscription_id = $3
"""  # noqa: S608 - a constant
# ':' and '0' as in the list of budgets: a subtree is the range from "subject/" to "subject0".
_LIST: Final = f"""
SELECT {_COLUMNS} FROM subscriptions
WHERE org = $1 AND (subject = $2 OR ($3 AND subject > $2 || '/' AND subject < $2 || '0'))
    AND (subject, subscription_id) > ($4, $5)
ORDER BY subject, subscription_id LIMIT $6
"""  # noqa: S608 - a constant
_OF_SUBJECTS: Final = f"""
SELECT {_COLUMNS} FROM subscriptions WHERE org = $1 AND subject = ANY($2::text[]) AND NOT disabled
ORDER BY subject, subscription_id
"""  # noqa: S608 - a constant
_COUNT: Final = "SELECT count(*) FROM subscriptions WHERE org = $1 AND subject = $2"
_INSERT: Final = f"""
INSERT INTO subscriptions ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8::bigint[], $9, $10, $11, $12)
ON CONFLICT DO NOTHING RETURNING revision
"""  # noqa: S608 - a constant
_UPDATE: Final = """
UPDATE subscriptions SET display_name = $4, webhook_url = $5, secret = $6, email = $7, events = $8::bigint[],
    disabled = $9, revision = $10, updated_us = $11
WHERE org = $1 AND subject = $2 AND subscription_id = $3
"""
_DELETE: Final = "DELETE FROM subscriptions WHERE org = $1 AND subject = $2 AND subscription_id = $3"


def _subscription_of(row: asyncpg.Record) -> Subscription:
    values = list(row)
    values[7] = tuple(values[7])
    return Subscription(*values)


async def find(
    connection: asyncpg.Connection, org: str, subject: str, id_: str, *, lock: bool = False
) -> Subscription | None:
    """One by its name, locked if asked."""
    row = await connection.fetchrow(_FIND + (" FOR UPDATE" if lock else ""), org, subject, id_)
    return _subscription_of(row) if row else None


async def list_page(
    connection: asyncpg.Connection, org: str, subject: str, after: tuple[str, str], limit: int, *, descendants: bool
) -> list[Subscription]:
    """Those of a subject, and of its subtree if asked, sorted, from behind `after`."""
    return [_subscription_of(row) for row in await connection.fetch(_LIST, org, subject, descendants, *after, limit)]


async def of_subjects(connection: asyncpg.Connection, org: str, subjects: Sequence[str]) -> list[Subscription]:
    """Those of these subjects that are not disabled."""
    return [_subscription_of(row) for row in await connection.fetch(_OF_SUBJECTS, org, subjects)]


async def count(connection: asyncpg.Connection, org: str, subject: str) -> int:
    """How many a subject has."""
    value: int = await connection.fetchval(_COUNT, org, subject)
    return value


async def insert(connection: asyncpg.Connection, made: Subscription) -> bool:
    """Adds one; False: the name is taken."""
    row = await connection.fetchval(
        _INSERT,
        made.org,
        made.subject,
        made.id,
        made.display_name,
        made.webhook_url,
        made.secret,
        made.email,
        made.events,
        made.disabled,
        made.revision,
        made.created_us,
        made.updated_us,
    )
    return row is not None


async def update(connection: asyncpg.Connection, made: Subscription) -> None:
    """Writes what may change."""
    await connection.execute(
        _UPDATE,
        made.org,
        made.subject,
        made.id,
        made.display_name,
        made.webhook_url,
        made.secret,
        made.email,
        made.events,
        made.disabled,
        made.revision,
        made.updated_us,
    )


async def delete(connection: asyncpg.Connection, made: Subscription) -> None:
    """Removes one."""
    await connection.execute(_DELETE, made.org, made.subject, made.id)
