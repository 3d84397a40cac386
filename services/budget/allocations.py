"""Carves budgets out of others, and keeps every change of a definition within what is allocated."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import asyncpg

from services.budget import reached, standing
from services.budget.domain import allocation as rules
from services.budget.domain import policy
from services.budget.domain.allocation import Held, Share
from services.budget.domain.budgets import Budget
from services.budget.store import alerts, allocations, budgets
from services.kit.database import transact
from services.kit.errors import conflict, not_found
from services.kit.subject import Subject


class Wanted(NamedTuple):
    """What is asked for.

    Attributes:
        subject: Of the budget to carve from.
        budget_id: Its id.
        shares: What each budget is to have.
        etag: The parent's, if it must be that one.
    """

    subject: Subject
    budget_id: str
    shares: Sequence[Share]
    etag: str


class Allocated(NamedTuple):
    """What became of a request, or will.

    Attributes:
        parent: The budget that is carved from.
        children: The budgets that were named, in order.
        total: What all that are allocated out of the parent have together.
        told: What people are told: that more is allocated than there is.
        before: The children's definitions that are changed, by name.
    """

    parent: Budget
    children: list[Budget]
    total: int
    told: list[str]
    before: dict[str, Budget]


class Request(NamedTuple):
    """What makes a request one.

    Attributes:
        id: The caller's.
        payload_hash: Tells another request under the same id.
        answer: Writes the answer down.
    """

    id: str
    payload_hash: bytes
    answer: Callable[[Allocated], bytes]


class Allocations:
    """What Allocate does, on plain values.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def allocate(self, wanted: Wanted, request: Request | None) -> Allocated | bytes:
        """Gives budgets their amounts, all or nothing; the stored answer to a request that was done before.

        Args:
            wanted: What is asked for.
            request: None: only check.

        Raises:
            PurseError: Why it cannot be; nothing is changed then.
        """
        subject = wanted.subject
        rules.check_shares(subject, wanted.shares)
        if request is None:
            async with self._pool.acquire() as connection:
                now_us = await budgets.now_us(connection)
                return await self._plan(connection, wanted, now_us)

        async def run(connection: asyncpg.Connection) -> Allocated | bytes:
            if (stored := await _stored(connection, subject.org, request)) is not None:
                return stored
            now_us = await budgets.begin_write(connection, subject.org)
            if (stored := await _stored(connection, subject.org, request)) is not None:
                return stored
            done = await self._write(connection, await self._plan(connection, wanted, now_us), now_us)
            await allocations.keep(
                connection,
                subject.org,
                request.id,
                payload_hash=request.payload_hash,
                content=request.answer(done),
                now_us=now_us,
            )
            return done

        return await transact(self._pool, run)

    async def _plan(self, connection: asyncpg.Connection, wanted: Wanted, now_us: int) -> Allocated:
        subject, budget_id, shares, etag = wanted
        rows = await budgets.find(connection, subject.org, subject.name, budget_id)
        if not rows:
            raise not_found(f"budget {subject.name}/budgets/{budget_id}", "BUDGET_UNKNOWN")
        parent = rows[-1]
        policy.check_etag(parent, etag)
        _check_settled(rows, now_us)
        found: dict[str, list[Budget]] = {}
        for share in shares:
            if kept := await budgets.find(connection, subject.org, share.subject.name, share.budget_id):
                _check_settled(kept, now_us)
                found[share.name] = kept
        running = await standing.of(connection, [kept[-1] for kept in found.values()], now_us)
        before = {one.written.name: one.written for one in running}
        held = {one.budget.name: Held(one.written, one.spent + one.reserved) for one in running}
        children = [rules.shared(parent, share, held.get(share.name), now_us) for share in shares]
        taken, _ = (await allocations.allocated(connection, subject.org, [parent.name])).get(parent.name, (0, 0))
        replaced = sum(one.budget.limit for one in held.values() if one.budget.allocated_from == parent.name)
        total = taken - replaced + sum(child.limit for child in children)
        told = [rules.over(parent, total)] if total > taken else []
        below = await allocations.allocated(connection, subject.org, list(held))
        told += [
            rules.over(child, below[child.name][0])
            for child in children
            if child.name in below and child.limit < held[child.name].budget.limit
        ]
        return Allocated(parent, children, total, [words for words in told if words], before)

    async def _write(self, connection: asyncpg.Connection, plan: Allocated, now_us: int) -> Allocated:
        added = sum(child.no == 0 for child in plan.children)
        if added and (refusal := policy.refuse_more(await budgets.count(connection, plan.parent.org) + added - 1)):
            raise refusal
        before = await reached.limits(connection, list(plan.before.values()), now_us)
        written = []
        for child in plan.children:
            if child.no:
                written.append(await standing.rewrite(connection, plan.before[child.name], [child], None, now_us))
                continue
            has = await budgets.count_of(connection, child.org, child.subject)
            if refusal := policy.refuse_more_of(child.subject, has):
                raise refusal
            made = await budgets.insert(connection, child)
            if made is None:
                raise AssertionError(f"{child.name} is there, and was not found under the lock")
            written.append(made)
        await tell(connection, plan.parent, plan.told, now_us)
        await reached.follow(connection, before, written, now_us)
        return plan._replace(children=written)


async def _stored(connection: asyncpg.Connection, org: str, request: Request) -> bytes | None:
    stored = await allocations.answer(connection, org, request.id, await budgets.now_us(connection))
    if stored is None:
        return None
    payload_hash, content = stored
    if payload_hash != request.payload_hash:
        raise conflict(
            "REQUEST_ID_REUSED",
            f"request_id: {request.id} was used for another request; use a new id for each",
            field="request_id",
            request_id=request.id,
        )
    return content


def _check_settled(rows: Sequence[Budget], now_us: int) -> None:
    if len(rows) > 1 and rows[-1].from_us > now_us:
        raise conflict(
            "WINDOW_CHANGING",
            f"{rows[-1].name} gets another window at the end of the running one; allocate after that",
        )


async def tell(connection: asyncpg.Connection, budget: Budget, told: Sequence[str], now_us: int) -> None:
    """Alerts that more is allocated than there is."""
    await alerts.add_notices(
        connection,
        [(budget.org, "OVER_ALLOCATED", f"{budget.name}@{now_us}:{place}", words) for place, words in enumerate(told)],
        now_us,
    )


async def check_change(connection: asyncpg.Connection, before: Budget, after: Budget) -> list[str]:
    """Whether a change of a definition keeps what is allocated right; what people are to be told.

    Raises:
        PurseError: OVER_ALLOCATED, or ALLOCATION_FIXED.
    """
    names = [before.name, before.allocated_from]
    sums = await allocations.allocated(connection, before.org, names)
    siblings = {}
    if before.allocated_from:
        subject, _, budget_id = before.allocated_from.rpartition("/budgets/")
        for parent in (await budgets.find(connection, before.org, subject, budget_id))[-1:]:
            siblings[parent] = sums[parent.name][0] - before.limit
    allocated = sums[before.name][0] if before.name in sums else None
    return rules.check_change(before, after, allocated, siblings)


async def check_delete(connection: asyncpg.Connection, budget: Budget) -> None:
    """Refuses to delete a budget that others were carved out of: HAS_ALLOCATIONS."""
    _, children = (await allocations.allocated(connection, budget.org, [budget.name])).get(budget.name, (0, 0))
    if refusal := rules.refuse_delete(budget, children):
        raise refusal
