"""Subscriptions: who is told what, and where."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain.subscriptions import PayloadShape, Subscription

_COLUMNS: Final = """org, subject, subscription_id, display_name, webhook_url, secret, email, events, disabled,
    revision, created_us, updated_us, payload, old_secret, old_secret_until_us"""
_OFF: Final = """(SELECT off_reason FROM delivery_lanes l
    WHERE l.org = subscriptions.org AND l.subscription_no = subscriptions.no AND l.channel = {channel})"""
_READ: Final = f"{_COLUMNS}, no, {_OFF.format(channel=1)} AS webhook_off, {_OFF.format(channel=2)} AS email_off"
_FIND: Final = f"""
SELECT {_READ} FROM subscriptions WHERE org = $1 AND subject = $2 AND subscription_id = $3
"""  # noqa: S608 - a constant
# ':' and '0' as in the list of budgets: a subtree is the range from "subject/" to "subject0".
_LIST: Final = f"""
SELECT {_READ} FROM subscriptions
WHERE org = $1 AND (subject = $2 OR ($3 AND subject > $2 || '/' AND subject < $2 || '0'))
    AND (subject, subscription_id) > ($4, $5)
ORDER BY subject, subscription_id LIMIT $6
"""  # noqa: S608 - a constant
_OF_SUBJECTS: Final = f"""
SELECT {_READ} FROM subscriptions WHERE org = $1 AND subject = ANY($2::text[]) AND NOT disabled
ORDER BY subject, subscription_id
"""  # noqa: S608 - a constant
_COUNT: Final = "SELECT count(*) FROM subscriptions WHERE org = $1 AND subject = $2"
_INSERT: Final = f"""
INSERT INTO subscriptions ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8::bigint[], $9, $10, $11, $12, $13,
    $14, $15)
ON CONFLICT DO NOTHING RETURNING revision
"""  # noqa: S608 - a constant
_UPDATE: Final = """
UPDATE subscriptions SET display_name = $4, webhook_url = $5, secret = $6, email = $7, events = $8::bigint[],
    disabled = $9, revision = $10, updated_us = $11, payload = $12, old_secret = $13, old_secret_until_us = $14
WHERE org = $1 AND subject = $2 AND subscription_id = $3
"""
_OF_PAIRS: Final = f"""
SELECT {", ".join(f"s.{name.strip()}" for name in _COLUMNS.split(","))}, s.no, '' AS webhook_off, '' AS email_off
FROM subscriptions s JOIN unnest($1::text[], $2::text[]) AS n (org, subject) ON s.org = n.org AND s.subject = n.subject
WHERE NOT s.disabled ORDER BY s.subject, s.subscription_id
"""  # noqa: S608 - a constant
_FORGET_OLD_SECRETS: Final = """
UPDATE subscriptions SET old_secret = '', old_secret_until_us = 0 WHERE old_secret <> '' AND old_secret_until_us < $1
"""
_DELETE: Final = "DELETE FROM subscriptions WHERE org = $1 AND subject = $2 AND subscription_id = $3"


def _subscription_of(row: asyncpg.Record) -> Subscription:
    values = list(row)
    values[7], values[12] = tuple(values[7]), PayloadShape(values[12])
    values[16], values[17] = values[16] or "", values[17] or ""
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


async def of_pairs(connection: asyncpg.Connection, pairs: Sequence[tuple[str, str]]) -> list[Subscription]:
    """Those of these subjects, each with its organisation, that are not disabled. What is off is not read."""
    columns = list(zip(*pairs, strict=True))
    return [_subscription_of(row) for row in await connection.fetch(_OF_PAIRS, *columns)] if columns else []


async def forget_old_secrets(connection: asyncpg.Connection, now_us: int) -> None:
    """Forgets secrets that sign no more."""
    await connection.execute(_FORGET_OLD_SECRETS, now_us)


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
        int(made.payload),
        made.old_secret,
        made.old_secret_until_us,
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
        int(made.payload),
        made.old_secret,
        made.old_secret_until_us,
    )


async def delete(connection: asyncpg.Connection, made: Subscription) -> None:
    """Removes one."""
    await connection.execute(_DELETE, made.org, made.subject, made.id)
