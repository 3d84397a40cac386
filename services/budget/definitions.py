"""Budgets' definitions: created, read, changed and deleted under the organisation's lock."""

import base64
import binascii

import asyncpg

from services.budget import allocations, paging, reached, standing
from services.budget.domain import policy
from services.budget.domain.budgets import Budget
from services.budget.domain.policy import Draft
from services.budget.store import budgets, org_settings
from services.kit.database import transact
from services.kit.errors import already_exists, invalid, not_found
from services.kit.subject import Subject


class Definitions:
    """What the budget methods do, on plain values.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(self, subject: Subject, budget_id: str, draft: Draft, *, validate_only: bool) -> Budget:
        """Adds a budget; it counts from now.

        Raises:
            PurseError: The field at fault, ALREADY_EXISTS, or too many.
        """
        name = f"budget {subject.name}/budgets/{budget_id}"

        async def check(connection: asyncpg.Connection) -> Budget:
            now_us = await budgets.now_us(connection)
            settings = await org_settings.get(connection, subject.org)
            wanted = policy.define(draft, subject.org, subject.name, budget_id, now_us, settings=settings)
            if await budgets.find(connection, subject.org, subject.name, budget_id):
                raise already_exists(name)
            return wanted

        async def write(connection: asyncpg.Connection) -> Budget:
            now_us = await budgets.begin_write(connection, subject.org)
            settings = await org_settings.get(connection, subject.org)
            wanted = policy.define(draft, subject.org, subject.name, budget_id, now_us, settings=settings)
            if refusal := policy.refuse_more(await budgets.count(connection, subject.org)):
                raise refusal
            if refusal := policy.refuse_more_of(
                subject.name, await budgets.count_of(connection, subject.org, subject.name)
            ):
                raise refusal
            created = await budgets.insert(connection, wanted)
            if created is None:
                raise already_exists(name)
            return created

        # A definition that is wrong must not lock the organisation out.
        policy.define(draft, subject.org, subject.name, budget_id, 0)
        return await transact(self._pool, check if validate_only else write)

    async def get(self, subject: Subject, budget_id: str) -> Budget:
        """The definition, the newest where a change of the window is to come; NOT_FOUND."""
        async with self._pool.acquire() as connection:
            return (await _rows(connection, subject, budget_id))[-1]

    async def list_page(
        self, subject: Subject, page_size: int, page_token: str, *, descendants: bool
    ) -> tuple[list[Budget], str]:
        """Budgets sorted by subject and id, and the next page's token.

        Raises:
            PurseError: The page's size or token is wrong.
        """
        size = paging.size_of(page_size)
        after = after_token(page_token, subject)
        async with self._pool.acquire() as connection:
            found = await budgets.list_page(
                connection, subject.org, subject.name, after, size + 1, descendants=descendants
            )
        if len(found) <= size:
            return found, ""
        last = found[size - 1]
        return found[:size], token_of((last.subject, last.id))

    async def update(
        self,
        subject: Subject,
        budget_id: str,
        draft: Draft,
        mask: frozenset[str],
        etag: str,
        *,
        validate_only: bool,
        by: str = "",
    ) -> Budget:
        """Changes the fields in the mask, and alerts or pauses where the use of now reaches a threshold by it.

        Raises:
            PurseError: The field at fault, NOT_FOUND, ETAG_MISMATCH, or what is allocated does not allow it.
        """

        async def run(connection: asyncpg.Connection) -> Budget:
            if validate_only:
                now_us = await budgets.now_us(connection)
            else:
                now_us = await budgets.begin_write(connection, subject.org)
            rows = await _rows(connection, subject, budget_id)
            policy.check_etag(rows[-1], etag)
            settings = await org_settings.get(connection, subject.org)
            change = policy.change(rows, draft, mask, now_us, settings)
            after = change.begun or change.rows[-1]
            told = await allocations.check_change(connection, rows[-1], after)
            if validate_only:
                return after
            await allocations.tell(connection, after, told, now_us)
            running = policy.in_force(rows, now_us)
            before = await reached.limits(connection, [running], now_us)
            live = await standing.rewrite(connection, running, change.rows, change.begun, now_us)
            await reached.follow(connection, before, [change.in_force], now_us, by=by)
            return live

        return await transact(self._pool, run)

    async def delete(self, subject: Subject, budget_id: str, etag: str, *, by: str = "") -> None:
        """Ends a budget; what was counted stays in the books. NOT_FOUND, ETAG_MISMATCH or HAS_ALLOCATIONS."""

        async def run(connection: asyncpg.Connection) -> None:
            now_us = await budgets.begin_write(connection, subject.org)
            rows = await _rows(connection, subject, budget_id)
            policy.check_etag(rows[-1], etag)
            await allocations.check_delete(connection, rows[-1])
            await budgets.delete(connection, rows[-1], now_us)
            await reached.end_pauses(connection, rows[-1], now_us, by=by, note="the budget was deleted")

        await transact(self._pool, run)


async def _rows(connection: asyncpg.Connection, subject: Subject, budget_id: str) -> list[Budget]:
    rows = await budgets.find(connection, subject.org, subject.name, budget_id)
    if not rows:
        raise not_found(f"budget {subject.name}/budgets/{budget_id}", "BUDGET_UNKNOWN")
    return rows


def token_of(last: tuple[str, str] | None) -> str:
    """The next page's token; empty: there is none."""
    return base64.urlsafe_b64encode("\n".join(last).encode()).decode() if last is not None else ""


def after_token(token: str, subject: Subject) -> tuple[str, str]:
    """Subject and id that a page comes behind; empty ones for the first page."""
    if not token:
        return "", ""
    try:
        last_subject, last_id = base64.urlsafe_b64decode(token.encode()).decode().split("\n")
    except (binascii.Error, ValueError):
        raise invalid("page_token", "is none of this method's; give back `next_page_token` as it was") from None
    if not last_id.isprintable():
        raise invalid("page_token", "holds control characters; give back `next_page_token` as it was")
    if (
        not (last_subject == subject.name or last_subject.startswith(f"{subject.name}/"))
        or not last_subject.isprintable()
    ):
        raise invalid("page_token", "belongs to another parent; start again without one")
    return last_subject, last_id
