"""What is old is forgotten, and the books still add up."""

from pathlib import Path
from typing import Any

from pursestrings.budget.v1 import budget_pb2
from services.budget.retention import Retention
from services.kit.database import create_pool
from tests.integration.budget.test_corrections import correction
from tests.support.budget import BOT, NANOS, ORG, WALLET, FakeWallets, refusal_of, refusals, rows, running_budget, usage
from tests.support.waiting import until

DAY_US = 86_400_000_000


async def age(budget: Any, days: int) -> None:
    """Makes all that was applied and closed older."""
    await rows(budget.database, "UPDATE applied_usage SET applied_us = applied_us - $1", days * DAY_US)
    await rows(budget.database, "UPDATE reservations SET closed_us = closed_us - $1", days * DAY_US)
    await rows(budget.database, "UPDATE reservation_extensions SET extended_us = extended_us - $1", days * DAY_US)


async def forget(budget: Any) -> None:
    """One round of the loop, as a replica of its own; the service's own may be at it, so it waits for its turn."""
    async with await create_pool(budget.database.service_dsn, application_name="forget", size_max=1) as pool:
        await pool.execute("SET lock_timeout = 0")
        await pool.execute("SELECT pg_advisory_lock(7404, 0)")
        assert not await Retention(pool, usage_kept_days=91, reservations_kept_days=30).step()


async def kept(budget: Any) -> list[str]:
    found = await rows(budget.database, "SELECT id FROM applied_usage ORDER BY id")
    return [row["id"] for row in found]


async def test_forgotten_usage_leaves_its_sums(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets(available={WALLET: 50 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        await budget.create(ORG, "cost", limit_amount=100 * NANOS)
        await budget.create(BOT, "tokens", dimension=budget_pb2.DIMENSION_TOKENS)
        first = usage("a", cost=5 * NANOS, input_tokens=7)
        await budget.apply(first, usage("b", cost=3 * NANOS), usage("eur", cost=NANOS, currency="EUR"))
        await budget.apply(correction(first, "c", -2 * NANOS, input_tokens=-3))
        await until(lambda: len(wallets.lines) >= 1, what="the capture")
        before = await budget.audit()
        await age(budget, 92)
        await budget.apply(usage("new", cost=NANOS))
        await forget(budget)
        assert await kept(budget) == ["new"]
        after = await budget.audit()
        usd = {one.currency_code: (one.events, one.cost_nanos) for one in after.totals}
        assert usd == {"USD": (3, 7 * NANOS), "EUR": (1, NANOS)}
        assert len(before.totals) == len(after.totals)
        # What is kept in sums is compared: a counter that says something else is found.
        await rows(budget.database, "UPDATE usage_trimmed SET amount = amount + 1")
        answer = await budget.admin.Audit(budget_pb2.AuditRequest())
        assert [one.name for one in answer.checks if not one.ok] == ["I3.spent_equals_applied_usage"]


async def test_nothing_young_and_nothing_without_a_price_is_forgotten(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        held = await budget.reserve(cost=NANOS)
        unpriced = usage("unpriced", cost=None, reservation=held.reservation)
        await budget.apply(unpriced)
        await age(budget, 2)
        await budget.apply(usage("young", cost=NANOS))
        await age(budget, 90)
        await forget(budget)
        assert await kept(budget) == ["unpriced", "young"]
        # Its price still finds the estimate that stands in its place.
        (priced,) = await budget.apply(correction(unpriced, "price", 3 * NANOS))
        assert refusals([priced]) == [""]
        totals = {one.currency_code: (one.events, one.cost_nanos) for one in (await budget.audit()).totals}
        assert totals == {"USD": (2, 4 * NANOS)}


async def test_an_id_that_is_used_again_after_its_time_is_another_event(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "cost")
        event, other = usage("same", cost=NANOS), usage("same", cost=2 * NANOS)
        await budget.apply(event)
        await age(budget, 89)
        assert refusals(await budget.apply(other)) == ["USAGE_ID_REUSED"]
        await age(budget, 2)
        again, new = await budget.apply(event), await budget.apply(other)
        assert (again[0].applied.duplicate, new[0].applied.duplicate) == (True, False)
        assert (await budget.use(f"{ORG}/budgets/cost")).spent_amount == 3 * NANOS
        await budget.audit()


async def test_closed_reservations_are_forgotten_and_open_ones_are_not(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "cost")
        closed, held = await budget.reserve(cost=NANOS), await budget.reserve(cost=NANOS)
        await budget.admin.ExtendReservation(budget_pb2.ExtendReservationRequest(name=held.reservation, request_id="x"))
        await budget.release(closed.reservation)
        await age(budget, 29)
        await forget(budget)
        assert (await budget.get(closed.reservation)).state == budget_pb2.RESERVATION_STATE_RELEASED
        await age(budget, 2)
        await forget(budget)
        assert (await refusal_of(budget.get(closed.reservation))).reason == "RESERVATION_UNKNOWN"
        assert (await budget.get(held.reservation)).state == budget_pb2.RESERVATION_STATE_OPEN
        assert await rows(budget.database, "SELECT FROM reservation_extensions") == []
        (late,) = await budget.apply(usage(cost=NANOS, reservation=closed.reservation))
        assert late.applied.unreserved
        await budget.audit()
