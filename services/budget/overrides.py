"""Raises limits for a time: granted once, never changed, ending by themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from services.budget import reached, standing
from services.budget.domain import limits, policy
from services.budget.domain.budgets import Budget
from services.budget.store import budgets
from services.budget.store import overrides as store
from services.budget.store.overrides import Override
from services.kit.database import transact
from services.kit.errors import conflict, not_found
from services.kit.subject import Subject


@dataclass(frozen=True, slots=True)
class Grant:
    """What is asked for.

    Attributes:
        id: Of the request and of the override.
        credential: Subject and token of the call.
    """

    id: str
    amount: int
    until_us: int
    reason: str
    granted_by: str
    approval: str
    credential: str
    payload_hash: bytes


Shown = tuple[Override, int, bool]
"""A raise, what of it is left, and whether it counts now."""


class Overrides:
    """What GrantOverride and ListOverrides do, on plain values.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def grant(self, subject: Subject, budget_id: str, grant: Grant, *, validate_only: bool) -> Shown:
        """Raises a budget's limit; the same request again returns what it granted.

        Raises:
            PurseError: The field at fault, NOT_FOUND, REQUEST_ID_REUSED, or TOO_MANY_OVERRIDES.
        """

        async def run(connection: asyncpg.Connection) -> Shown:
            if not validate_only:
                return await self.grant_in(connection, subject, budget_id, grant)
            now_us = await budgets.now_us(connection)
            made = _override(subject, budget_id, grant, now_us)
            await _checked(connection, subject, budget_id, grant, now_us)
            return made, made.amount, True

        return await transact(self._pool, run)

    async def grant_in(self, connection: asyncpg.Connection, subject: Subject, budget_id: str, grant: Grant) -> Shown:
        """Raises a budget's limit within the caller's transaction, which must hold none of the organisation's rows."""
        if (known := await _known(connection, subject, budget_id, grant)) is not None:
            return known
        await budgets.begin_write(connection, subject.org)
        if (known := await _known(connection, subject, budget_id, grant)) is not None:
            return known
        now_us = await budgets.now_us(connection)
        budget = await _checked(connection, subject, budget_id, grant, now_us)
        made = _override(subject, budget_id, grant, now_us)
        before = await reached.limits(connection, [budget], now_us)
        await store.add(connection, subject.org, made, grant.credential)
        raised = policy.in_force(await _rows(connection, subject, budget_id), now_us)
        await reached.follow(connection, before, [raised], now_us, by=grant.credential)
        return (await _shown(connection, raised, [made], now_us))[0]

    async def check(self, subject: Subject, budget_id: str, grant: Grant) -> str:
        """Refuses a raise that could not be granted now; returns the budget's currency, empty where it has none."""
        async with self._pool.acquire() as connection:
            now_us = await budgets.now_us(connection)
            return (await _checked(connection, subject, budget_id, grant, now_us)).currency

    async def list_page(
        self, subject: Subject, budget_id: str, before: tuple[int, str], size: int
    ) -> tuple[list[Shown], tuple[int, str] | None]:
        """A budget's raises, the newest first, and what the next page comes behind; NOT_FOUND."""
        async with self._pool.acquire() as connection:
            now_us = await budgets.now_us(connection)
            budget = policy.in_force(await _rows(connection, subject, budget_id), now_us)
            found = await store.list_page(connection, budget, before, size + 1)
            page = await _shown(connection, budget, found[:size], now_us)
        last = found[size - 1] if len(found) > size else None
        return page, (last.from_us, last.id) if last is not None else None


async def _checked(
    connection: asyncpg.Connection, subject: Subject, budget_id: str, grant: Grant, now_us: int
) -> Budget:
    """The budget as it is in force, which may be raised so."""
    budget = policy.in_force(await _rows(connection, subject, budget_id), now_us)
    limits.check_grant(budget, grant.amount, grant.until_us, now_us)
    return budget


def _override(subject: Subject, budget_id: str, grant: Grant, now_us: int) -> Override:
    return Override(
        grant.id,
        subject.name,
        budget_id,
        grant.amount,
        now_us,
        grant.until_us,
        grant.reason,
        grant.granted_by,
        grant.approval,
        grant.payload_hash,
    )


async def _rows(connection: asyncpg.Connection, subject: Subject, budget_id: str) -> list[Budget]:
    rows = await budgets.find(connection, subject.org, subject.name, budget_id)
    if not rows:
        raise not_found(f"budget {subject.name}/budgets/{budget_id}", "BUDGET_UNKNOWN")
    return rows


async def _known(connection: asyncpg.Connection, subject: Subject, budget_id: str, grant: Grant) -> Shown | None:
    known = await store.get(connection, subject.org, grant.id)
    if known is None:
        return None
    if known.payload_hash != grant.payload_hash:
        raise conflict(
            "REQUEST_ID_REUSED",
            f"request_id: {grant.id} was used for another override; use a new id for each",
            field="request_id",
            request_id=grant.id,
        )
    now_us = await budgets.now_us(connection)
    rows = await budgets.find(connection, subject.org, subject.name, budget_id)
    if not rows:
        # The budget was deleted since.
        return known, 0, False
    return (await _shown(connection, policy.in_force(rows, now_us), [known], now_us))[0]


async def _shown(connection: asyncpg.Connection, budget: Budget, found: Sequence[Override], now_us: int) -> list[Shown]:
    (running,) = await standing.of(connection, [budget], now_us)
    lasting = running.lasting(now_us)
    left = dict(zip(lasting, limits.remaining(lasting, running.room_before), strict=True))
    # Equal raises of one instant are told apart by nothing that decides.
    return [(one, left.get(one.raises, 0), one.raises in left and one.from_us >= budget.created_us) for one in found]
