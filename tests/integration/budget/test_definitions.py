"""Budgets are created, read, changed and deleted, with clear errors and nothing changed by them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import (
    BOT,
    NANOS,
    ORG,
    TEAM,
    ask,
    budget_of,
    refusal_of,
    rows,
    running_budget,
)

DAY, MONTH = budget_pb2.WINDOW_KIND_DAY, budget_pb2.WINDOW_KIND_MONTH


async def test_a_budget_is_as_it_was_created(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        window = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_WEEK, time_zone="Asia/Tokyo", week_start_day=7)
        selector = budget_pb2.Selector(models=["GPT-4*"], labels={"a": "b"})
        created = await budget.create(TEAM, "w", window=window, selector=selector, display_name="Weekly")
        assert created.name == f"{TEAM}/budgets/w"
        assert (created.window, list(created.thresholds_percent)) == (
            budget_pb2.Window(
                kind=budget_pb2.WINDOW_KIND_WEEK, time_zone="Asia/Tokyo", week_start_day=7, month_anchor_day=1
            ),
            [50, 80, 95, 100],
        )
        assert list(created.selector.models) == ["gpt-4*"]
        assert created.effective_from == created.create_time
        found = await budget.admin.GetBudget(budget_pb2.GetBudgetRequest(name=created.name))
        assert found.budget == created
        status = (await budget.admin.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=created.name))).status
        length_s = status.use.window_end_time.seconds - status.window_start_time.seconds
        assert length_s == 7 * 86_400


async def test_pages_are_sorted_and_whole(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        for subject, id_ in ((BOT, "a"), (ORG, "b"), (TEAM, "a"), (TEAM, "b"), (f"{ORG}/teams/support-2", "z")):
            await budget.create(subject, id_)
        found: list[str] = []
        token = ""
        while True:
            page = await budget.admin.ListBudgets(
                budget_pb2.ListBudgetsRequest(parent=TEAM, include_descendants=True, page_size=2, page_token=token)
            )
            found += [one.name for one in page.budgets]
            token = page.next_page_token
            if not token:
                break
        assert found == [f"{TEAM}/budgets/a", f"{TEAM}/budgets/b", f"{BOT}/budgets/a"]
        own = await budget.admin.ListBudgets(budget_pb2.ListBudgetsRequest(parent=ORG))
        assert [one.name for one in own.budgets] == [f"{ORG}/budgets/b"]
        wrong = await refusal_of(budget.admin.ListBudgets(budget_pb2.ListBudgetsRequest(parent=ORG, page_token="?")))
        assert wrong.field == "page_token"


async def test_a_stale_etag_changes_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        created = await budget.create(ORG, "b", limit_amount=5)
        await budget.update(created.name, limit_amount=6)
        stale = budget_pb2.UpdateBudgetRequest(
            budget=budget_pb2.Budget(name=created.name, limit_amount=7, etag=created.etag),
            update_mask=FieldMask(paths=["limit_amount"]),
        )
        refusal = await refusal_of(budget.admin.UpdateBudget(stale))
        assert (refusal.reason, refusal.field) == ("ETAG_MISMATCH", "budget.etag")
        delete = budget_pb2.DeleteBudgetRequest(name=created.name, etag=created.etag)
        assert (await refusal_of(budget.admin.DeleteBudget(delete))).reason == "ETAG_MISMATCH"
        assert (await budget.use(created.name)).limit_amount == 6


async def test_a_change_decides_the_very_next_spend_on_every_replica(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_budget(base, tmp_path / "a") as one, running_budget(base, tmp_path / "b") as two:
        created = await one.create(ORG, "b", limit_amount=NANOS)
        assert (await two.reserve(cost=NANOS)).outcome == budget_pb2.OUTCOME_ALLOW
        await one.update(created.name, limit_amount=0)
        assert (await two.reserve(cost=1)).outcome == budget_pb2.OUTCOME_DENY
        await one.admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=created.name))
        assert (await two.reserve(cost=1)).outcome == budget_pb2.OUTCOME_ALLOW


async def test_policy_writes_get_through_while_replicas_decide(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_budget(base, tmp_path / "a") as one, running_budget(base, tmp_path / "b") as two:
        created = await one.create(ORG, "b", limit_amount=10**17)
        done = asyncio.Event()

        async def load(budget: Any) -> int:
            count = 0
            while not done.is_set():
                requests = [ask(cost=1) for _ in range(20)]
                await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests))
                count += 20
            return count

        loads = [asyncio.create_task(load(budget)) for budget in (one, two, one, two)]
        for limit in range(10):
            await one.update(created.name, limit_amount=10**17 + limit)
        done.set()
        assert sum(await asyncio.gather(*loads)) > 0
        assert (await one.use(created.name)).limit_amount == 10**17 + 9


async def test_another_window_begins_where_the_running_one_ends(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        created = await budget.create(ORG, "b", window=budget_pb2.Window(kind=DAY))
        await budget.reserve(cost=NANOS)
        monthly = budget_pb2.Window(kind=MONTH, time_zone="Europe/Berlin")
        changed = await budget.update(created.name, window=monthly)
        now = (await budget.admin.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=created.name))).status
        assert changed.effective_from == now.use.window_end_time
        assert (now.budget.window.kind, now.use.reserved_amount) == (DAY, NANOS)
        # A limit changes both at once; another window replaces the one to come.
        await budget.update(created.name, limit_amount=7)
        again = await budget.update(created.name, window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_QUARTER))
        assert again.effective_from == changed.effective_from
        found = await rows(budget.database, "SELECT window_kind, limit_amount FROM budgets ORDER BY budget_no")
        assert [tuple(row) for row in found] == [("DAY", 7), ("QUARTER", 7)]
        assert (await budget.reserve(cost=1)).outcome == budget_pb2.OUTCOME_DENY
        await budget.audit()


async def test_checks_alone_change_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        request = budget_pb2.CreateBudgetRequest(parent=ORG, budget_id="b", budget=budget_of(), validate_only=True)
        await budget.admin.CreateBudget(request)
        assert await rows(budget.database, "SELECT FROM budgets") == []
        created = await budget.create(ORG, "b")
        update = budget_pb2.UpdateBudgetRequest(
            budget=budget_pb2.Budget(name=created.name, limit_amount=1),
            update_mask=FieldMask(paths=["limit_amount"]),
            validate_only=True,
        )
        assert (await budget.admin.UpdateBudget(update)).budget.limit_amount == 1
        assert (await budget.use(created.name)).limit_amount == 10 * NANOS


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"limit_amount": -1}, "budget.limit_amount", "AMOUNT_OUT_OF_RANGE"),
        ({"currency_code": "XXX"}, "budget.currency_code", "UNKNOWN_CURRENCY"),
        ({"currency_code": ""}, "budget.currency_code", "UNKNOWN_CURRENCY"),
        ({"dimension": 0}, "budget.dimension", "INVALID_ARGUMENT"),
        ({"dimension": 2, "currency_code": "USD"}, "budget.currency_code", "INVALID_ARGUMENT"),
        (
            {"window": budget_pb2.Window(kind=DAY, time_zone="Mars/Base")},
            "budget.window.time_zone",
            "UNKNOWN_TIME_ZONE",
        ),
        ({"window": budget_pb2.Window()}, "budget.window.kind", "INVALID_ARGUMENT"),
        (
            {"window": budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_WEEK, week_start_day=8)},
            "budget.window.week_start_day",
            "INVALID_ARGUMENT",
        ),
        (
            {"window": budget_pb2.Window(kind=MONTH, month_anchor_day=32)},
            "budget.window.month_anchor_day",
            "INVALID_ARGUMENT",
        ),
        ({"thresholds_percent": [0]}, "budget.thresholds_percent", "INVALID_ARGUMENT"),
        ({"thresholds_percent": [1001]}, "budget.thresholds_percent", "INVALID_ARGUMENT"),
        ({"thresholds_percent": [80, 50]}, "budget.thresholds_percent", "INVALID_ARGUMENT"),
        ({"thresholds_percent": range(1, 20)}, "budget.thresholds_percent", "INVALID_ARGUMENT"),
        ({"display_name": "x" * 129}, "budget.display_name", "INVALID_ARGUMENT"),
        ({"selector": budget_pb2.Selector(models=[""])}, "budget.selector.models", "INVALID_ARGUMENT"),
        ({"resume": 7}, "budget.resume", "INVALID_ARGUMENT"),
    ],
)
async def test_a_wrong_definition_names_its_field(fields: Any, field: str, reason: str) -> None:
    from services.budget.domain.policy import define
    from services.budget.wire_budgets import draft_of
    from services.kit.errors import PurseError

    with pytest.raises(PurseError) as caught:
        define(draft_of(budget_of(**fields)), "acme", ORG, "b", 0)
    assert (caught.value.field, caught.value.reason) == (field, reason)


async def test_wrong_requests_name_their_field_and_change_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        created = await budget.create(ORG, "b")
        create, update = budget.admin.CreateBudget, budget.admin.UpdateBudget
        wrong: dict[str, Any] = {
            "BUDGET_EXISTS": create(budget_pb2.CreateBudgetRequest(parent=ORG, budget_id="b", budget=budget_of())),
            "budget_id": create(budget_pb2.CreateBudgetRequest(parent=ORG, budget_id="-", budget=budget_of())),
            "parent": create(budget_pb2.CreateBudgetRequest(parent="acme", budget_id="c", budget=budget_of())),
            "update_mask": update(budget_pb2.UpdateBudgetRequest(budget=created)),
            "update_mask ": update(
                budget_pb2.UpdateBudgetRequest(budget=created, update_mask=FieldMask(paths=["dimension"]))
            ),
            "budget.window": update(
                budget_pb2.UpdateBudgetRequest(
                    budget=budget_pb2.Budget(name=created.name, window=budget_pb2.Window(kind=DAY)),
                    update_mask=FieldMask(paths=["window"]),
                )
            ),
            "BUDGET_UNKNOWN": budget.admin.GetBudget(budget_pb2.GetBudgetRequest(name=f"{ORG}/budgets/none")),
        }
        for expected, call in wrong.items():
            refusal = await refusal_of(call)
            assert expected.strip() in {refusal.field, refusal.reason.replace("ALREADY_EXISTS", "BUDGET_EXISTS")}
        assert len(await rows(budget.database, "SELECT FROM budgets")) == 1
        assert (await budget.admin.GetBudget(budget_pb2.GetBudgetRequest(name=created.name))).budget == created


async def test_credentials_reach_their_own_subtree_only(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        held = await budget.reserve(cost=1)
        agent, neighbour = budget.stub_for(BOT, "agent"), budget.stub_for(f"{TEAM}/agents/other", "agent")
        assert (await agent.Reserve(ask())).decision.outcome == budget_pb2.OUTCOME_ALLOW
        calls = [
            neighbour.Reserve(ask()),
            neighbour.BatchReserve(budget_pb2.BatchReserveRequest(requests=[ask()])),
            neighbour.Release(budget_pb2.ReleaseRequest(name=held.reservation)),
            neighbour.GetReservation(budget_pb2.GetReservationRequest(name=held.reservation)),
            agent.CreateBudget(budget_pb2.CreateBudgetRequest(parent=BOT, budget_id="b", budget=budget_of())),
            agent.ApplyUsage(budget_pb2.ApplyUsageRequest(relay="x")),
            agent.Audit(budget_pb2.AuditRequest(org=ORG)),
            budget.stub_for(ORG, "auditor").Audit(budget_pb2.AuditRequest()),
        ]
        for call in calls:
            assert (await refusal_of(call)).code.name == "PERMISSION_DENIED"
        own = await budget.stub_for(ORG, "auditor").Audit(budget_pb2.AuditRequest(org=ORG))
        assert all(check.ok for check in own.checks)


async def test_a_subject_has_so_many_budgets_of_its_own(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        top = await budget.create(ORG, "top", limit_amount=100)
        await budget.create(BOT, "b0", limit_amount=1)
        await rows(
            budget.database,
            """
            INSERT INTO budgets (org, subject, budget_id, dimension, currency, limit_amount, window_kind, time_zone,
                week_start, anchor_day, on_exceed, thresholds, created_us, updated_us, effective_from_us)
            SELECT org, subject, 'b' || i, dimension, currency, limit_amount, window_kind, time_zone, week_start,
                anchor_day, on_exceed, thresholds, created_us, updated_us, effective_from_us
            FROM budgets, generate_series(1, 98) i WHERE budget_id = 'b0'
            """,
        )
        await budget.create(BOT, "b99", limit_amount=1)
        share = budget_pb2.Allocation(subject=BOT, budget_id="b100", amount=1)
        for refused in (
            budget.create(BOT, "b100"),
            budget.admin.Allocate(budget_pb2.AllocateRequest(budget=top.name, allocations=[share], request_id="r")),
        ):
            error = await refusal_of(refused)
            assert (error.reason, BOT in error.message) == ("TOO_MANY_BUDGETS", True)
        await budget.create(TEAM, "another")


async def test_a_spend_of_nothing_fits_where_nothing_may_be_spent(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "b", limit_amount=0)
        assert (await budget.reserve(cost=0)).outcome == budget_pb2.OUTCOME_ALLOW
        assert (await budget.reserve(cost=1)).outcome == budget_pb2.OUTCOME_DENY
