"""Subscriptions: created, read, changed, deleted, and matched with events."""

import base64
import secrets
from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget import paging
from services.budget.domain import subscriptions as rules
from services.budget.domain.subscriptions import EventKind, Subscription, SubscriptionDraft
from services.budget.notify import deliveries
from services.budget.store import budgets
from services.budget.store import subscriptions as store
from services.kit.database import transact
from services.kit.errors import already_exists, not_found
from services.kit.subject import Subject

_SECRET_BYTES: Final = 32
_GATE: Final = "SELECT pg_advisory_xact_lock(7410, hashtext($1))"


class Subscriptions:
    """What the subscription methods do, on plain values.

    Args:
        pool: Budget's database.
        loopback: Whether http to this machine is allowed.
    """

    def __init__(self, pool: asyncpg.Pool, *, loopback: bool) -> None:
        self._pool = pool
        self._loopback = loopback

    async def create(
        self, subject: Subject, id_: str, draft: SubscriptionDraft, *, validate_only: bool
    ) -> Subscription:
        """Adds one.

        Raises:
            PurseError: The field at fault, ALREADY_EXISTS, or too many.
        """

        async def run(connection: asyncpg.Connection) -> Subscription:
            # Whoever adds to a subject takes turns, so that its limit holds.
            await connection.execute(_GATE, subject.name)
            now_us = await budgets.now_us(connection)
            place = (subject.org, subject.name, id_)
            made = rules.define(draft, place, now_us, make_secret=make_secret, loopback=self._loopback)
            if await store.find(connection, subject.org, subject.name, id_):
                raise already_exists(f"subscription {made.name}")
            if refusal := rules.refuse_more(await store.count(connection, subject.org, subject.name)):
                raise refusal
            if not validate_only:
                await store.insert(connection, made)
            return made

        return await transact(self._pool, run)

    async def get(self, subject: Subject, id_: str) -> Subscription:
        """One by its name; NOT_FOUND."""
        async with self._pool.acquire() as connection:
            return await _found(connection, subject, id_)

    async def list_page(
        self, subject: Subject, page_size: int, page_token: str, *, descendants: bool
    ) -> tuple[list[Subscription], str]:
        """Subscriptions sorted by name, and the next page's token."""
        size = paging.size_of(page_size)
        scope = f"{subject.name} {descendants:d}"
        after = paging.after_of(page_token, scope, ("", ""))
        async with self._pool.acquire() as connection:
            found = await store.list_page(
                connection, subject.org, subject.name, (after[0], after[1]), size + 1, descendants=descendants
            )
        if len(found) <= size:
            return found, ""
        last = found[size - 1]
        return found[:size], paging.token_of(scope, (last.subject, last.id))

    async def update(
        self,
        subject: Subject,
        id_: str,
        draft: SubscriptionDraft,
        mask: Sequence[str],
        etag: str,
        *,
        validate_only: bool,
    ) -> tuple[Subscription, bool]:
        """Changes the fields in the mask; and says whether the secret is a new one.

        Raises:
            PurseError: The field at fault, NOT_FOUND, or ETAG_MISMATCH.
        """

        async def run(connection: asyncpg.Connection) -> tuple[Subscription, bool]:
            seen = await _found(connection, subject, id_, lock=not validate_only)
            rules.check_etag(seen, etag, "subscription.etag")
            now_us = await budgets.now_us(connection)
            made = rules.change(seen, draft, mask, now_us, make_secret=make_secret, loopback=self._loopback)
            if not validate_only:
                await store.update(connection, made)
                await deliveries.switched_on(connection, made, mask, now_us)
            return made, made.secret != seen.secret

        return await transact(self._pool, run)

    async def delete(self, subject: Subject, id_: str, etag: str) -> None:
        """Removes one; NOT_FOUND or ETAG_MISMATCH."""

        async def run(connection: asyncpg.Connection) -> None:
            seen = await _found(connection, subject, id_, lock=True)
            rules.check_etag(seen, etag, "etag")
            await store.delete(connection, seen)

        await transact(self._pool, run)

    async def match(self, subject: Subject, event: EventKind) -> list[Subscription]:
        """Who is told of an event of this subject: its own subscriptions and those of its ancestors."""
        async with self._pool.acquire() as connection:
            found = await store.of_subjects(connection, subject.org, list(subject.ancestors))
        return [one for one in found if one.wants(event)]


async def _found(connection: asyncpg.Connection, subject: Subject, id_: str, *, lock: bool = False) -> Subscription:
    found = await store.find(connection, subject.org, subject.name, id_, lock=lock)
    if found is None:
        raise not_found(f"subscription {subject.name}/subscriptions/{id_}", "SUBSCRIPTION_UNKNOWN")
    return found


def make_secret() -> str:
    """A new secret as Standard Webhooks writes it."""
    return rules.SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
