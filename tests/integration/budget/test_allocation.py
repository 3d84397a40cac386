"""A budget is carved into budgets below it, never into more than it has, whoever asks at the same time."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from pursestrings.budget.v1 import budget_pb2, limits_pb2
from services.kit.status import from_rpc_error
from tests.support.budget import BOT, ORG, TEAM, Budgets, alerts, refusal_of, rows, running_budget
from tests.support.limits import status_of

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY
OTHER = f"{ORG}/teams/sales"


def request(*shares: tuple[str, str, int], budget: str = f"{ORG}/budgets/b", **fields: Any) -> Any:
    allocations = [budget_pb2.Allocation(subject=s, budget_id=i, amount=amount) for s, i, amount in shares]
    return budget_pb2.AllocateRequest(**({"budget": budget, "allocations": allocations, "request_id": "r"} | fields))


async def limits(budget: Budgets) -> dict[str, int]:
    found = await budget.admin.ListBudgets(budget_pb2.ListBudgetsRequest(parent=ORG, include_descendants=True))
    return {one.name.removeprefix(f"{ORG}/"): one.limit_amount for one in found.budgets}


async def test_carved_budgets_are_like_their_parent_and_have_no_more_than_it(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        window = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_WEEK, time_zone="Asia/Tokyo", week_start_day=3)
        selector = budget_pb2.Selector(models=["gpt-4*"])
        parent = await budget.create(
            ORG, "b", limit_amount=10, window=window, selector=selector, thresholds_percent=[7]
        )
        done = await budget.admin.Allocate(request((TEAM, "t", 6), (OTHER, "s", 4)))
        assert (done.allocated_amount, done.unallocated_amount) == (10, 0)
        first = done.allocated[0]
        assert (first.name, first.limit_amount, first.allocated_from) == (f"{TEAM}/budgets/t", 6, parent.name)
        assert (first.window, first.selector, list(first.thresholds_percent)) == (
            parent.window,
            parent.selector,
            [7],
        )
        too_much = await refusal_of(budget.admin.Allocate(request((BOT, "x", 1), request_id="r2")))
        assert (too_much.reason, too_much.metadata["allocated"], too_much.metadata["limit"]) == (
            "OVER_ALLOCATED",
            "11",
            "10",
        )
        assert set(await limits(budget)) == {"budgets/b", "teams/support/budgets/t", "teams/sales/budgets/s"}
        status = await status_of(budget, parent.name)
        assert (status.allocated_amount, status.unallocated_amount) == (10, 0)
        # Each share is a budget of its own, and below the parent all the same.
        assert (await budget.reserve(subject=TEAM, cost=7, model="gpt-4o", provider="openai")).outcome == DENY
        assert (await budget.reserve(subject=OTHER, cost=4, model="gpt-4o", provider="openai")).outcome == ALLOW
        await budget.audit()


async def test_what_is_not_used_moves_all_or_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "b", limit_amount=10)
        await budget.admin.Allocate(request((TEAM, "t", 6), (OTHER, "s", 4)))
        assert (await budget.reserve(subject=TEAM, cost=5)).outcome == ALLOW
        in_use = await refusal_of(budget.admin.Allocate(request((TEAM, "t", 4), (OTHER, "s", 6), request_id="r2")))
        assert (in_use.reason, in_use.metadata["used"]) == ("ALLOCATION_IN_USE", "5")
        assert (await limits(budget))["teams/sales/budgets/s"] == 4
        moved = await budget.admin.Allocate(request((TEAM, "t", 5), (OTHER, "s", 5), request_id="r3"))
        assert [one.limit_amount for one in moved.allocated] == [5, 5]
        assert (await budget.reserve(subject=TEAM, cost=1)).outcome == DENY
        assert (await budget.reserve(subject=OTHER, cost=5)).outcome == ALLOW
        await budget.audit()


async def test_the_same_request_is_done_once(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        await budget.create(ORG, "b", limit_amount=10)
        wanted = request((TEAM, "t", 6))
        answers = await asyncio.gather(*(budget.admin.Allocate(wanted) for _ in range(4)))
        assert len({answer.SerializeToString() for answer in answers}) == 1
        await budget.admin.Allocate(request((TEAM, "t", 7), request_id="later"))
        # The first answer, though the world has moved on.
        assert (await budget.admin.Allocate(wanted)).allocated[0].limit_amount == 6
        assert (await limits(budget))["teams/support/budgets/t"] == 7
        reused = await refusal_of(budget.admin.Allocate(request((TEAM, "t", 8))))
        assert reused.reason == "REQUEST_ID_REUSED"
        # What is older than 7 days is forgotten with the next request.
        await rows(base, "UPDATE allocate_requests SET created_us = created_us - 8 * 86400000000::bigint")
        assert (await budget.admin.Allocate(wanted)).allocated[0].limit_amount == 6
        assert (await limits(budget))["teams/support/budgets/t"] == 6


async def test_races_never_allocate_more_than_there_is(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_budget(base, tmp_path / "a") as one, running_budget(base, tmp_path / "b") as two:
        await one.create(ORG, "b", limit_amount=10)

        async def carve(budget: Budgets, number: int) -> int:
            wanted = request((f"{ORG}/teams/t{number}", "b", 3), request_id=f"r{number}")
            try:
                await budget.admin.Allocate(wanted)
            except grpc.aio.AioRpcError as error:
                return 0 if from_rpc_error(error).reason == "OVER_ALLOCATED" else -1000
            return 3

        done = await asyncio.gather(*(carve((one, two)[number % 2], number) for number in range(12)))
        assert sum(done) == 9
        lowered = [
            refusal_of(one.update(f"{ORG}/budgets/b", limit_amount=8)),
            refusal_of(two.update(f"{ORG}/budgets/b", limit_amount=0)),
        ]
        assert {error.reason for error in await asyncio.gather(*lowered)} == {"OVER_ALLOCATED"}
        await one.update(f"{ORG}/budgets/b", limit_amount=9)
        await one.audit()


async def test_an_alert_instead_of_a_block(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        parent = await budget.create(ORG, "b", limit_amount=10, over_allocation=limits_pb2.OVER_ALLOCATION_ALERT)
        done = await budget.admin.Allocate(request((TEAM, "t", 8), (OTHER, "s", 4)))
        assert (done.allocated_amount, done.unallocated_amount) == (12, -2)
        await budget.update(parent.name, limit_amount=5)
        await budget.update(f"{OTHER}/budgets/s", limit_amount=9)
        told = [alert for alert in await alerts(base) if alert["type"].endswith("over_allocated")]
        assert len(told) == 3
        assert "12 would be allocated" in str(told[0])
        # The parent decides all the same.
        assert (await budget.reserve(subject=TEAM, cost=6)).outcome == DENY
        blocked = budget_pb2.UpdateBudgetRequest(
            budget=budget_pb2.Budget(name=parent.name), update_mask=FieldMask(paths=["over_allocation"])
        )
        assert (await refusal_of(budget.admin.UpdateBudget(blocked))).reason == "OVER_ALLOCATED"


async def test_a_change_or_an_end_keeps_allocations_right(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        parent = await budget.create(ORG, "b", limit_amount=10)
        await budget.admin.Allocate(request((TEAM, "t", 6)))
        child = f"{TEAM}/budgets/t"
        # A part of a part, within it.
        below = request((BOT, "x", 6), budget=child, request_id="r2")
        await budget.admin.Allocate(below)
        lowered = await refusal_of(budget.admin.Allocate(request((TEAM, "t", 5), request_id="r3")))
        assert (lowered.reason, lowered.metadata["budget"]) == ("OVER_ALLOCATED", child)
        raised = await refusal_of(budget.update(child, limit_amount=11))
        assert (raised.reason, raised.metadata["budget"]) == ("OVER_ALLOCATED", parent.name)
        await budget.update(child, limit_amount=10)
        for name in (parent.name, child):
            window = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)
            assert (await refusal_of(budget.update(name, window=window))).reason in ("ALLOCATION_FIXED", "WINDOW_FIXED")
            fixed = await refusal_of(budget.update(name, selector=budget_pb2.Selector(models=["x"])))
            assert (fixed.reason, fixed.field) == ("ALLOCATION_FIXED", "update_mask")
            kept = await refusal_of(budget.admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=name)))
            assert kept.reason == "HAS_ALLOCATIONS"
        for name in (f"{BOT}/budgets/x", child, parent.name):
            await budget.admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=name))
        assert await limits(budget) == {}


async def test_what_cannot_be_covered_is_refused_and_changes_nothing(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        parent = await budget.create(ORG, "b", limit_amount=10)
        await budget.create(TEAM, "tokens", dimension=budget_pb2.DIMENSION_TOKENS, limit_amount=1)
        await budget.create(TEAM, "euros", currency_code="EUR", limit_amount=1)
        await budget.create(TEAM, "mine", limit_amount=3)
        await budget.create(TEAM, "other", limit_amount=5)
        await budget.admin.Allocate(request((BOT, "theirs", 1), budget=f"{TEAM}/budgets/other", request_id="r0"))
        before = await limits(budget)
        for wanted, expected in (
            (request(), "allocations"),
            (request((TEAM, "t", 1), (TEAM, "t", 2)), "allocations"),
            (request((ORG, "t", 1)), "allocations.subject"),
            (request(("orgs/else/teams/t", "t", 1)), "allocations.subject"),
            (request((TEAM, "", 1)), "allocations.subject"),
            (request((TEAM, "t", -1)), "allocations.amount"),
            (request((TEAM, "t", 11)), "OVER_ALLOCATED"),
            (request((TEAM, "tokens", 1)), "ALLOCATION_MISMATCH"),
            (request((TEAM, "euros", 1)), "ALLOCATION_MISMATCH"),
            (request((BOT, "theirs", 1)), "ALLOCATED_ELSEWHERE"),
            (request((TEAM, "t", 1), request_id=""), "request_id"),
            (request((TEAM, "t", 1), etag="0.0"), "ETAG_MISMATCH"),
            (request((TEAM, "t", 1), budget=f"{ORG}/budgets/none"), "BUDGET_UNKNOWN"),
        ):
            error = await refusal_of(budget.admin.Allocate(wanted))
            assert expected in (error.field, error.reason), (expected, error)
        assert await limits(budget) == before
        dry = await budget.admin.Allocate(request((TEAM, "t", 1), request_id="", validate_only=True))
        assert dry.allocated_amount == 1
        assert await limits(budget) == before
        # A budget that is there and is alike becomes a part.
        taken = await budget.admin.Allocate(request((TEAM, "mine", 4), request_id="r9", etag=parent.etag))
        assert taken.allocated[0].allocated_from == parent.name
        assert (await limits(budget))["teams/support/budgets/mine"] == 4


@pytest.mark.parametrize("shares", [101])
async def test_there_is_a_limit_of_shares(database: Any, tmp_path: Path, shares: int) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "b", limit_amount=1000)
        many = request(*((f"{ORG}/teams/t{n}", "b", 1) for n in range(shares)))
        assert (await refusal_of(budget.admin.Allocate(many))).field == "allocations"
        done = await budget.admin.Allocate(request(*((f"{ORG}/teams/t{n}", "b", 1) for n in range(shares - 1))))
        assert done.allocated_amount == shares - 1
