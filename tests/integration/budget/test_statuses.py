"""A parent sees all budgets below it in one call, with totals that count nothing twice."""

from pathlib import Path
from typing import Any

import pytest

from pursestrings.budget.v1 import budget_pb2
from services.budget import statuses
from tests.support.budget import BOT, ORG, TEAM, refusal_of, running_budget, usage

TOKENS = budget_pb2.DIMENSION_TOKENS


def ask_for(parent: str = ORG, **fields: Any) -> budget_pb2.ListBudgetStatusesRequest:
    values: dict[str, Any] = {"parent": parent, "with_totals": True} | fields
    return budget_pb2.ListBudgetStatusesRequest(**values)


async def test_a_subtree_has_totals_of_its_topmost_budgets(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(TEAM, "a", limit_amount=100)
        await budget.create(BOT, "b", limit_amount=40)
        await budget.create(f"{ORG}/teams/support-2", "c", limit_amount=10)
        await budget.create(TEAM, "tokens", dimension=TOKENS, limit_amount=5)
        await budget.create("orgs/elsewhere", "x", limit_amount=7)
        assert (await budget.reserve(subject=TEAM, cost=20)).outcome == budget_pb2.OUTCOME_ALLOW
        await budget.apply(usage(cost=40, input_tokens=9))
        found = await budget.admin.ListBudgetStatuses(ask_for())
        shown = {one.budget.name.removeprefix(f"{ORG}/"): one.use for one in found.statuses}
        assert list(shown) == [
            "teams/support/budgets/a",
            "teams/support/budgets/tokens",
            "teams/support-2/budgets/c",
            "teams/support/agents/bot/budgets/b",
        ]
        assert (shown["teams/support/budgets/a"].spent_amount, shown["teams/support/budgets/a"].reserved_amount) == (
            40,
            20,
        )
        cost, tokens = found.totals
        assert (cost.dimension, cost.currency_code, cost.budgets, cost.counted_budgets, cost.exhausted_budgets) == (
            budget_pb2.DIMENSION_COST,
            "USD",
            3,
            2,
            1,
        )
        assert (cost.limit_amount, cost.spent_amount, cost.reserved_amount, cost.remaining_amount) == (110, 40, 20, 50)
        assert (tokens.dimension, tokens.limit_amount, tokens.remaining_amount) == (TOKENS, 5, -4)
        only = await budget.admin.ListBudgetStatuses(ask_for(BOT))
        assert [one.budget.name for one in only.statuses] == [f"{BOT}/budgets/b"]
        assert list(only.statuses[0].crossed_percent) == [50, 80, 95, 100]


async def test_pages_are_whole_and_only_the_first_has_totals(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        parent = await budget.create(ORG, "p", limit_amount=10)
        shares = [budget_pb2.Allocation(subject=f"{ORG}/teams/t{n}", budget_id="b", amount=2) for n in range(5)]
        await budget.admin.Allocate(budget_pb2.AllocateRequest(budget=parent.name, allocations=shares, request_id="r"))
        for page_size, pages in ((2, 3), (1000, 1)):
            names: list[str] = []
            token, seen = "", 0
            while True:
                request = ask_for(page_size=page_size, page_token=token, allocated_from=parent.name)
                page = await budget.admin.ListBudgetStatuses(request)
                assert len(page.totals) == (1 if not seen else 0)
                if not seen:
                    assert (page.totals[0].budgets, page.totals[0].counted_budgets, page.totals[0].limit_amount) == (
                        5,
                        5,
                        10,
                    )
                names += [one.budget.name for one in page.statuses]
                token, seen = page.next_page_token, seen + 1
                if not token:
                    break
            assert (names, seen) == ([f"{ORG}/teams/t{n}/budgets/b" for n in range(5)], pages)
        bare = await budget.admin.ListBudgetStatuses(ask_for(with_totals=False, page_size=1))
        assert (len(bare.statuses), len(bare.totals), bool(bare.next_page_token)) == (1, 0, True)
        whole = await budget.admin.ListBudgetStatuses(ask_for())
        assert (whole.totals[0].counted_budgets, whole.totals[0].allocated_amount) == (1, 10)
        for request, field in (
            (ask_for(page_size=1001), "page_size"),
            (ask_for(page_token="?"), "page_token"),
            (ask_for(allocated_from="x"), "allocated_from"),
        ):
            assert (await refusal_of(budget.admin.ListBudgetStatuses(request))).field == field


async def test_statuses_of_windows_to_come_and_of_too_many(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        day = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)
        made = [await budget.create(subject, "b", limit_amount=9, window=day) for subject in (ORG, TEAM, BOT)]
        for one in made[1:]:
            await budget.update(one.name, window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH))
        found = await budget.admin.ListBudgetStatuses(ask_for())
        shown = {one.budget.name: one.budget.window.kind for one in found.statuses}
        assert shown == {one.name: one.window.kind for one in made}
        monkeypatch.setattr(statuses, "TOTALS_MAX", 2)
        error = await refusal_of(budget.admin.ListBudgetStatuses(ask_for()))
        assert (error.reason, error.field) == ("TOO_MANY_TO_TOTAL", "with_totals")
        assert len((await budget.admin.ListBudgetStatuses(ask_for(with_totals=False))).statuses) == 3
        assert (await budget.admin.ListBudgetStatuses(ask_for(TEAM))).totals[0].budgets == 2


async def test_an_empty_subtree_has_no_statuses(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        found = await budget.admin.ListBudgetStatuses(ask_for())
        assert found == budget_pb2.ListBudgetStatusesResponse()
