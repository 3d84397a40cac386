"""What a window is carried from the one before, worked out when its row is made."""

import asyncpg

from services.budget.domain.budgets import Budget, key_number, key_text
from services.budget.domain.decide import Batch
from services.budget.domain.model import Carry, Counter
from services.budget.domain.plan import Policy
from services.budget.store import batch as store
from services.kit.windows import window_bounds, window_key


def before(budget: Budget, key: int) -> Carry | None:
    """What a window of this budget is carried from; None: the budget carries nothing, or had no window before."""
    if budget.rollover_cap is None:
        return None
    start_us, _ = window_bounds(budget.window, key_text(key))
    if budget.from_us >= start_us:
        return None
    return Carry(key_number(window_key(budget.window, start_us - 1)), budget.limit, budget.rollover_cap)


async def begin(
    connection: asyncpg.Connection, batch: Batch, policies: dict[str, Policy], made: set[tuple[int, int]]
) -> None:
    """Works out what the windows whose rows this transaction has made are carried.

    The window before is locked by the batch, or it is two windows back: whoever changes it binds the row that was just
    made, and so waits for this transaction and carries over after it.
    """
    begun: list[Counter] = []
    for key in sorted(made):
        counter = batch.counters[key]
        budget = policies[counter.org].by_no.get(counter.no)
        counter.carry = before(budget, counter.key) if budget is not None else None
        if counter.carry is not None:
            begun.append(counter)
    elsewhere = [
        (c.org, c.no, c.carry.from_key)
        for c in begun
        if c.carry is not None and (c.no, c.carry.from_key) not in batch.counters
    ]
    used = await store.used(connection, elsewhere) if elsewhere else {}
    for counter in begun:
        assert counter.carry is not None
        key = (counter.no, counter.carry.from_key)
        last = batch.counters.get(key)
        spent = last.spent + last.reserved if last is not None else used.get(key, 0)
        counter.carried = counter.carry.amount(spent)
        counter.carry_changed = True
