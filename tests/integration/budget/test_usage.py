"""Usage is applied once and in full, whatever the state of its reservation."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import (
    BOT,
    NANOS,
    ORG,
    TEAM,
    WALLET,
    FakeWallets,
    alerts,
    refusals,
    rows,
    running_budget,
    usage,
)


async def test_usage_settles_and_counts_in_full(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=3 * NANOS)
        held = await budget.reserve(cost=NANOS)
        event = usage("u", cost=5 * NANOS, reservation=held.reservation)
        (first,) = await budget.apply(event)
        assert (first.applied.duplicate, first.applied.unreserved, first.applied.unfunded) == (False, False, True)
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount, use.remaining_amount) == (5 * NANOS, 0, -2 * NANOS)
        assert (await budget.reserve(cost=1)).outcome == budget_pb2.OUTCOME_DENY
        (again,) = await budget.apply(event)
        assert again.applied.duplicate
        event.cost.amount_nanos = 1
        assert refusals(await budget.apply(event)) == ["USAGE_ID_REUSED"]
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == 5 * NANOS
        assert (await budget.get(held.reservation)).state == budget_pb2.RESERVATION_STATE_SETTLED
        await budget.audit()


async def test_many_events_settle_one_reservation(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, FakeWallets({WALLET: 100 * NANOS})) as budget:
        await budget.create(ORG, "org")
        await budget.create(ORG, "calls", dimension=budget_pb2.DIMENSION_REQUESTS, limit_amount=10)
        held = await budget.reserve(cost=3 * NANOS)
        await budget.apply(usage(cost=NANOS, reservation=held.reservation, final=False))
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount) == (NANOS, 2 * NANOS)
        assert (await budget.get(held.reservation)).funding_held_nanos == 2 * NANOS
        # More than is left: the hold ends at 0, the use is counted in full.
        await budget.apply(usage(cost=4 * NANOS, reservation=held.reservation, final=False))
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount) == (5 * NANOS, 0)
        await budget.apply(usage(cost=0, reservation=held.reservation, final=True))
        calls = await budget.use(f"{ORG}/budgets/calls")
        assert (calls.spent_amount, calls.reserved_amount) == (1, 0)
        assert (await budget.get(held.reservation)).settled_nanos == 5 * NANOS
        await budget.audit()


async def test_a_final_event_that_overtakes_is_harmless(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org")
        held = await budget.reserve(cost=3 * NANOS)
        await budget.apply(usage(cost=NANOS, reservation=held.reservation))
        (late,) = await budget.apply(usage(cost=NANOS, reservation=held.reservation, final=False))
        assert late.applied.unreserved
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount) == (2 * NANOS, 0)
        await budget.audit()


@pytest.mark.parametrize("close", ["release", "unknown", "foreign", "other subject"])
async def test_usage_without_an_open_reservation_is_applied_and_flagged(
    database: Any, tmp_path: Path, close: str
) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org")
        held = await budget.reserve(cost=NANOS)
        name, subject = held.reservation, BOT
        if close == "release":
            await budget.release(name)
        elif close == "unknown":
            name = f"{BOT}/reservations/none"
        elif close == "foreign":
            name = "orgs/other/reservations/x"
        else:
            subject = f"{TEAM}/agents/else"
        (result,) = await budget.apply(usage(cost=NANOS, reservation=name, subject=subject))
        assert (result.applied.duplicate, result.applied.unreserved) == (False, True)
        use = await budget.use(f"{ORG}/budgets/org")
        assert use.spent_amount == NANOS
        assert use.reserved_amount == (0 if close == "release" else NANOS)
        await budget.audit()


async def test_a_descendant_settles_its_ancestors_reservation(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        helper = f"{BOT}/agents/helper"
        await budget.create(BOT, "bot")
        await budget.create(helper, "helper", limit_amount=NANOS)
        held = await budget.reserve(cost=NANOS)
        (result,) = await budget.apply(usage(cost=NANOS, reservation=held.reservation, subject=helper))
        assert not result.applied.unreserved
        assert (await budget.use(f"{BOT}/budgets/bot")).reserved_amount == 0
        assert (await budget.use(f"{helper}/budgets/helper")).spent_amount == NANOS
        await budget.audit()


async def test_usage_counts_in_the_window_of_when_it_happened(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        created = await budget.create(
            ORG, "daily", window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY, time_zone="America/New_York")
        )
        connection_sql = "UPDATE budgets SET effective_from_us = 0"
        await rows(budget.database, connection_sql)
        await budget.update(created.name, display_name="so that it is read again")
        # New York sets its clocks back on 2025-11-02: the day has 25 hours, 04:00Z to 05:00Z of the next.
        for hour, day in (
            (datetime(2025, 11, 2, 3, 59, 59, tzinfo=UTC), 1),
            (datetime(2025, 11, 3, 4, 59, 59, tzinfo=UTC), 2),
        ):
            when = Timestamp()
            when.FromDatetime(hour)
            await budget.apply(usage(cost=day, occurred_at=when))
        found = await rows(budget.database, "SELECT window_key, spent FROM counters ORDER BY 1")
        assert [tuple(row) for row in found] == [(20251101, 1), (20251102, 2)]
        await budget.audit()


async def test_use_before_a_budget_was_made_is_not_counted(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org")
        when = Timestamp()
        when.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
        await budget.apply(usage(cost=NANOS, occurred_at=when))
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == 0


async def test_usage_is_counted_by_what_really_ran(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "gpt", selector=budget_pb2.Selector(models=["gpt-*"]))
        await budget.create(ORG, "claude", selector=budget_pb2.Selector(models=["claude-*"]))
        held = await budget.reserve(cost=NANOS, model="gpt-5")
        await budget.apply(usage(cost=2 * NANOS, model="claude-sonnet-4-5", reservation=held.reservation))
        gpt, claude = await budget.use(f"{ORG}/budgets/gpt"), await budget.use(f"{ORG}/budgets/claude")
        assert (gpt.spent_amount, gpt.reserved_amount) == (0, 0)
        assert (claude.spent_amount, claude.reserved_amount) == (2 * NANOS, 0)
        assert [row["kind"] for row in await rows(budget.database, "SELECT kind FROM alerts")] == ["MODEL_DIFFERS"]


async def test_unrated_usage_draws_the_estimate_of_its_reservation(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, FakeWallets({WALLET: 100 * NANOS})) as budget:
        await budget.create(ORG, "org")
        held = await budget.reserve(cost=3 * NANOS)
        await budget.apply(usage(cost=NANOS, reservation=held.reservation, final=False))
        (result,) = await budget.apply(usage(cost=None, reservation=held.reservation))
        assert result.applied.drawn_nanos == 2 * NANOS
        (bare,) = await budget.apply(usage(cost=None, model="unheard"))
        assert bare.applied.drawn_nanos == 0
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == 3 * NANOS
        books = await budget.audit()
        totals = {total.currency_code: total for total in books.totals}
        assert (totals["USD"].events, totals["USD"].cost_nanos) == (1, NANOS)
        assert [(d.currency_code, d.cost_nanos) for d in books.unrated_drawn] == [("USD", 2 * NANOS)]
        assert totals[""].unrated_events == 2
        assert [row["kind"] for row in await rows(budget.database, "SELECT kind FROM alerts")] == ["UNRATED"]


async def test_an_agent_cannot_flood_notices_by_what_it_names(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        items = [usage(f"u{n}", cost=None, model=f"made-up-{n}", subject=f"{BOT}/agents/child-{n}") for n in range(20)]
        await budget.apply(*items)
        (notice,) = await rows(budget.database, "SELECT payload FROM outbox WHERE topic = 'alerts'")
        told = json.loads(notice["payload"])
        assert (told["type"], told["subject"]) == ("budget.unrated", BOT)


async def test_a_threshold_alerts_once_and_a_jump_raises_each(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=100, thresholds_percent=[50, 80, 100])
        for cost in (49, 1, 1, 60, -80, 80):
            await budget.apply(usage(cost=cost))
        found = await alerts(budget.database)
        assert [(a["threshold_percent"], a["severity"], a["spent"]) for a in found] == [
            (50, "WARNING", "50"),
            (80, "WARNING", "111"),
            (100, "EXCEEDED", "111"),
        ]
        assert found[0]["budget"] == f"{ORG}/budgets/org"
        status = await budget.admin.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=f"{ORG}/budgets/org"))
        assert list(status.status.crossed_percent) == [50, 80, 100]
        assert status.status.used_bps == 11_100
        # A higher limit is a new generation, and what its use has reached already is told at once.
        await budget.update(f"{ORG}/budgets/org", limit_amount=200)
        await budget.apply(usage(cost=60))
        later = [(a["threshold_percent"], a["generation"]) for a in (await alerts(budget.database))[3:]]
        assert later == [(50, 2), (80, 2)]
        # A lower one is the same generation: only what was not told yet.
        await budget.update(f"{ORG}/budgets/org", limit_amount=171)
        assert [(a["threshold_percent"]) for a in (await alerts(budget.database))[5:]] == [100]
        await budget.audit()


async def test_amounts_past_64_bits_are_refused_by_item_and_change_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", on_exceed=budget_pb2.ON_EXCEED_WARN)
        huge = 2**63 - 1
        results = await budget.apply(usage(cost=huge), usage(cost=5), usage(cost=1, subject="orgs/other"))
        assert refusals(results) == ["", "AMOUNT_OUT_OF_RANGE", ""]
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == huge
        await budget.audit()


async def test_an_event_of_everything_is_reported_item_by_item(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        bad = [
            usage(subject="nobody"),
            usage(source=""),
            usage(cost=1),
            usage(input_tokens=-1),
            usage("zero\x00byte"),
            usage('"\\quoted, and {braced}', model='"\\, {}'),
        ]
        assert refusals(await budget.apply(*bad)) == [
            "MALFORMED_SUBJECT",
            "INVALID_ARGUMENT",
            "",
            "AMOUNT_OUT_OF_RANGE",
            "INVALID_ARGUMENT",
            "",
        ]
        found = await rows(budget.database, "SELECT id FROM applied_usage WHERE id LIKE '%quoted%'")
        assert [row["id"] for row in found] == ['"\\quoted, and {braced}']


async def test_a_selector_counts_usage_however_its_model_is_written(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "own", limit_amount=100, selector=budget_pb2.Selector(models=["MyModel*"]))
        held = await budget.reserve(cost=60, provider="Acme", model="MyModel-1")
        item = usage(cost=60, provider=" Acme", model="MyModel-1 ", reservation=held.reservation)
        await budget.apply(item)
        use = await budget.use(f"{ORG}/budgets/own")
        assert (use.spent_amount, use.reserved_amount) == (60, 0)
        assert (await budget.reserve(cost=60, provider="ACME", model="MYMODEL-1")).outcome == budget_pb2.OUTCOME_DENY
