"""What a window leaves is carried into the next one, exactly, whenever the window before changes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from pursestrings.budget.v1 import budget_pb2, limits_pb2
from tests.support.budget import NANOS, ORG, TEAM, ask, refusal_of, rows, running_budget, usage
from tests.support.limits import at, backdate, daily, hold_was_placed_before, status_of

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY


def rollover(cap: int) -> limits_pb2.Rollover:
    return limits_pb2.Rollover(cap_amount=cap)


async def carried_rows(database: Any) -> list[tuple[int, int | None]]:
    return [
        (row["carried"], row["carry_base"])
        for row in await rows(database, "SELECT * FROM counters ORDER BY budget_no, window_key")
    ]


async def test_what_is_left_is_carried_up_to_the_cap_and_spent_to_the_nano(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b", window=daily(), rollover=rollover(4 * NANOS))
        await backdate(base, created.name, 1)
        status = await status_of(budget, created.name)
        assert (status.use.limit_amount, status.base_limit_amount, status.carried_amount) == (
            14 * NANOS,
            10 * NANOS,
            4 * NANOS,
        )
        assert (await budget.reserve(cost=14 * NANOS + 1)).outcome == DENY
        decision = await budget.reserve(cost=14 * NANOS)
        assert decision.outcome == ALLOW
        assert decision.tightest.limit_amount == 14 * NANOS
        assert await carried_rows(base) == [(0, None), (4 * NANOS, 10 * NANOS)]
        await budget.audit()


async def test_late_usage_and_releases_of_the_window_before_change_what_is_carried(
    database: Any, tmp_path: Path
) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b", window=daily(), rollover=rollover(100 * NANOS))
        await backdate(base, created.name, 1)
        held = await budget.reserve(cost=3 * NANOS)
        await hold_was_placed_before(base, held.reservation, 1)
        late = usage("late", cost=2 * NANOS)
        late.occurred_at.FromDatetime(at(1))
        await budget.apply(late)
        # 10 less 2 spent and 3 held.
        assert (await status_of(budget, created.name)).carried_amount == 5 * NANOS
        # In one transaction: the release raises what the reservation beside it may take.
        assert (await budget.reserve(cost=15 * NANOS + 1)).outcome == DENY
        await budget.release(held.reservation)
        assert (await status_of(budget, created.name)).carried_amount == 8 * NANOS
        assert (await budget.reserve(cost=18 * NANOS)).outcome == ALLOW
        more = usage("more", cost=1 * NANOS)
        more.occurred_at.FromDatetime(at(1))
        await budget.apply(more)
        after = await status_of(budget, created.name)
        assert (after.carried_amount, after.use.overage_amount) == (7 * NANOS, NANOS)
        await budget.audit()


@pytest.mark.parametrize(("cap", "outcome"), [(10, ALLOW), (9, DENY)])
async def test_an_extension_across_an_edge_counts_on_what_its_own_hold_leaves(
    database: Any, tmp_path: Path, cap: int, outcome: int
) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b", window=daily(), rollover=rollover(cap * NANOS))
        await backdate(base, created.name, 1)
        held = await budget.reserve(cost=10 * NANOS)
        await hold_was_placed_before(base, held.reservation, 1)
        late = usage("late", cost=0)
        late.occurred_at.FromDatetime(at(1))
        await budget.apply(late)
        assert (await budget.reserve(cost=10 * NANOS)).outcome == ALLOW
        assert (await status_of(budget, created.name)).carried_amount == 0
        request = budget_pb2.ExtendReservationRequest(name=held.reservation, request_id="x")
        decision = (await budget.admin.ExtendReservation(request)).decision
        assert decision.outcome == outcome
        limits = [(use.limit_amount, use.overage_amount) for use in decision.violations]
        assert limits == ([] if outcome == ALLOW else [(19 * NANOS, NANOS)])
        assert (await status_of(budget, created.name)).carried_amount == (10 * NANOS if outcome == ALLOW else 0)
        await budget.audit()


async def test_carrying_is_not_recursive(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b", window=daily(), rollover=rollover(100 * NANOS))
        await backdate(base, created.name, 3)
        two_days_ago = usage("old", cost=4 * NANOS)
        two_days_ago.occurred_at.FromDatetime(at(2))
        await budget.apply(two_days_ago)
        # Yesterday was carried 6 and spent nothing; only its own 10 go on.
        assert (await status_of(budget, created.name)).carried_amount == 10 * NANOS
        assert (await budget.reserve(cost=20 * NANOS)).outcome == ALLOW
        assert [carried for carried, _ in await carried_rows(base)] == [0, 10 * NANOS, 6 * NANOS, 10 * NANOS]
        await budget.audit()


async def test_a_change_of_the_limit_does_not_change_what_was_carried(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b", window=daily(), rollover=rollover(100 * NANOS))
        await backdate(base, created.name, 1)
        await budget.update(created.name, limit_amount=2 * NANOS)
        status = await status_of(budget, created.name)
        assert (status.carried_amount, status.use.limit_amount) == (10 * NANOS, 12 * NANOS)
        await budget.update(created.name, rollover=rollover(NANOS))
        assert (await status_of(budget, created.name)).carried_amount == 10 * NANOS
        late = usage("late", cost=9 * NANOS)
        late.occurred_at.FromDatetime(at(1))
        await budget.apply(late)
        assert (await status_of(budget, created.name)).carried_amount == NANOS
        await budget.audit()


async def test_rollover_begins_with_the_next_window_and_ends_with_it(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b", window=daily())
        await backdate(base, created.name, 1)
        await budget.update(created.name, rollover=rollover(5 * NANOS))
        assert (await status_of(budget, created.name)).carried_amount == 0
        off = await budget.admin.UpdateBudget(
            budget_pb2.UpdateBudgetRequest(
                budget=budget_pb2.Budget(name=created.name), update_mask=FieldMask(paths=["rollover"])
            )
        )
        assert not off.budget.HasField("rollover")


@pytest.mark.parametrize("round_", range(2))
async def test_two_replicas_that_make_the_row_and_charge_the_window_before_agree(
    database: Any, tmp_path: Path, round_: int
) -> None:
    base = database("budget")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_budget(base, tmp_path / "a") as one, running_budget(base, tmp_path / "b") as two:
        names = []
        for number in range(6):
            created = await one.create(f"{ORG}-{round_}-{number}", "b", window=daily(), rollover=rollover(8 * NANOS))
            await backdate(base, created.name, 1)
            names.append(created)
        # Both know the organisations before the race.
        await asyncio.gather(*(two.reserve(subject=c.name.split("/budgets/")[0], cost=0) for c in names[:3]))

        async def spend(subject: str) -> int:
            requests = [ask(subject=subject, cost=NANOS) for _ in range(30)]
            response = await one.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests))
            return sum(result.decision.outcome == ALLOW for result in response.results)

        async def charge(subject: str) -> None:
            for number in range(3):
                late = usage(f"late-{number}", subject=subject, cost=NANOS)
                late.occurred_at.FromDatetime(at(1))
                await two.apply(late)

        subjects = [created.name.split("/budgets/")[0] for created in names]
        allowed = await asyncio.gather(*(spend(s) for s in subjects), *(charge(s) for s in subjects))
        for subject, count in zip(subjects, allowed, strict=False):
            status = await status_of(one, f"{subject}/budgets/b")
            assert status.carried_amount == 7 * NANOS
            # Between what was carried at last and what was carried before any late use.
            assert count in {17, 18}
        await one.audit()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rollover": rollover(0)}, "budget.rollover.cap_amount"),
        ({"rollover": rollover(-1)}, "budget.rollover.cap_amount"),
        (
            {"rollover": rollover(1), "window": budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_LIFETIME)},
            "budget.rollover",
        ),
        ({"over_allocation": 9}, "budget.over_allocation"),
    ],
)
async def test_a_wrong_rollover_names_its_field(fields: dict[str, Any], field: str) -> None:
    from services.budget.domain.policy import define
    from services.budget.wire_budgets import draft_of
    from services.kit.errors import PurseError
    from tests.support.budget import budget_of

    with pytest.raises(PurseError) as caught:
        define(draft_of(budget_of(**({"window": daily()} | fields))), "acme", ORG, "b", 0)
    assert caught.value.field == field


async def test_a_window_without_a_next_one_cannot_begin_where_something_is_carried(
    database: Any, tmp_path: Path
) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        created = await budget.create(ORG, "b", window=daily(), rollover=rollover(1))
        refusal = await refusal_of(
            budget.update(created.name, window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_LIFETIME))
        )
        assert refusal.field == "budget.rollover"


async def test_a_share_that_is_given_more_is_carried_what_it_left_before(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        await budget.create(ORG, "day", limit_amount=100 * NANOS, window=daily())
        share = f"{TEAM}/budgets/day"

        async def allocate(amount: int) -> None:
            shares = [budget_pb2.Allocation(subject=TEAM, budget_id="day", amount=amount * NANOS)]
            request = budget_pb2.AllocateRequest(
                budget=f"{ORG}/budgets/day", request_id=f"a{amount}", allocations=shares
            )
            await budget.admin.Allocate(request)

        await allocate(10)
        await budget.update(share, rollover=rollover(50 * NANOS))
        await backdate(base, share, 3)
        late = usage("late", cost=10 * NANOS, subject=TEAM)
        late.occurred_at.FromDatetime(at(1))
        await budget.apply(late)
        # Today's row, that the change above made, as if nothing had touched today yet.
        await rows(base, "DELETE FROM counters c USING budgets b WHERE b.budget_no = c.budget_no AND c.spent = 0")
        await allocate(60)
        assert (await status_of(budget, share)).use.limit_amount == 60 * NANOS
        assert (await carried_rows(base))[-1] == (0, 10 * NANOS)
        await budget.audit()
