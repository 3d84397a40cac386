"""Corrections of applied usage: the books end at what was last said, in the windows and on the lease of the event."""

import time
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.budget.v1 import budget_pb2
from tests.integration.budget.test_with_wallet import agree, balance, both, eventually
from tests.support.budget import NANOS, ORG, TEAM, alerts, refusals, rows, running_budget, usage


def correction(of: budget_pb2.UsageItem, id_: str, cost: int | None = None, **fields: Any) -> budget_pb2.UsageItem:
    """Adjusts an event by signed differences; all else is the event's."""
    item = usage(
        id_,
        cost=cost,
        subject=of.subject,
        reservation=of.reservation,
        occurred_at=of.occurred_at,
        final=False,
        **fields,
    )
    item.corrects.source, item.corrects.id = of.source, of.id
    return item


async def totals(budget: Any, currency: str = "USD") -> tuple[int, int, int]:
    """Events, cost and events without a price, as the audit tells them."""
    for one in (await budget.audit()).totals:
        if one.currency_code == currency:
            return one.events, one.cost_nanos, one.unrated_events
    return 0, 0, 0


async def test_every_dimension_ends_at_what_was_last_said(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "cost")
        for name in ("TOKENS", "INPUT_TOKENS", "OUTPUT_TOKENS", "REQUESTS"):
            await budget.create(ORG, name.lower(), dimension=getattr(budget_pb2, f"DIMENSION_{name}"))
        event = usage("e", cost=5 * NANOS, input_tokens=100, output_tokens=10)
        first = correction(event, "c1", 2 * NANOS, input_tokens=-40)
        second = correction(event, "c2", -4 * NANOS, output_tokens=5, requests=2)
        assert refusals(await budget.apply(event, first, second)) == [""] * 3
        again = await budget.apply(first, second, event)
        assert [one.applied.duplicate for one in again] == [True] * 3
        uses = [
            await budget.use(f"{ORG}/budgets/{name}") for name in ("cost", "tokens", "input_tokens", "output_tokens")
        ]
        assert [use.spent_amount for use in uses] == [3 * NANOS, 75, 60, 15]
        assert (await budget.use(f"{ORG}/budgets/requests")).spent_amount == 3
        assert await totals(budget) == (1, 3 * NANOS, 0)


async def test_a_correction_counts_where_its_event_did(database: Any, tmp_path: Path) -> None:
    """Budgets that were made, deleted or changed since do not matter, nor what the correction calls the call."""
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "old")
        await budget.create(ORG, "gone")
        await budget.create(TEAM, "model", selector=budget_pb2.Selector(models=["claude-*"]))
        event = usage("e", cost=5 * NANOS)
        await budget.apply(event)
        await budget.create(ORG, "new")
        await budget.update(f"{TEAM}/budgets/model", selector=budget_pb2.Selector(models=["other"]))
        await budget.admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=f"{ORG}/budgets/gone"))
        assert refusals(await budget.apply(correction(event, "c", -5 * NANOS))) == [""]
        spent = [
            (await budget.use(f"{name}")).spent_amount
            for name in (f"{ORG}/budgets/old", f"{ORG}/budgets/new", f"{TEAM}/budgets/model")
        ]
        assert spent == [0, 0, 0]
        await budget.audit()


async def test_a_price_takes_the_estimate_back_once(database: Any, tmp_path: Path) -> None:
    async with both(database, tmp_path, 100 * NANOS) as (budget, wallet):
        await budget.create(ORG, "org", limit_amount=50 * NANOS)
        held = await budget.reserve(cost=9 * NANOS)
        event = usage("e", cost=None, reservation=held.reservation)
        await budget.apply(event)
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == 9 * NANOS
        assert await totals(budget, "") == (1, 0, 1)
        (priced,) = await budget.apply(correction(event, "c1", 2 * NANOS))
        assert priced.applied.drawn_nanos == -7 * NANOS
        (more,) = await budget.apply(correction(event, "c2", NANOS))
        assert more.applied.drawn_nanos == NANOS
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == 3 * NANOS
        assert await totals(budget) == (1, 3 * NANOS, 0)
        assert list((await budget.audit()).unrated_drawn) == []

        async def paid() -> bool:
            return bool((await balance(wallet)).spent_nanos == 3 * NANOS)

        await eventually(paid)
        await agree(budget, wallet)


async def test_a_price_that_overtakes_its_event_is_drawn_once(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org")
        held = await budget.reserve(cost=9 * NANOS)
        event = usage("e", cost=None, reservation=held.reservation)
        assert refusals(await budget.apply(correction(event, "c", 2 * NANOS))) == [""]
        await budget.apply(event)
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount) == (2 * NANOS, 0)
        assert await totals(budget) == (1, 2 * NANOS, 0)


async def test_what_was_paid_too_much_goes_back_to_the_wallet(database: Any, tmp_path: Path) -> None:
    async with both(database, tmp_path, 20 * NANOS) as (budget, wallet):
        await budget.create(ORG, "org", limit_amount=50 * NANOS)
        event = usage("e", cost=15 * NANOS)
        await budget.apply(event, correction(event, "c1", -10 * NANOS), correction(event, "c2", 3 * NANOS))

        async def returned() -> bool:
            found = await balance(wallet)
            return bool((found.spent_nanos, found.debt_nanos) == (8 * NANOS, 0))

        await eventually(returned)
        await agree(budget, wallet)


async def test_what_was_never_applied_gives_nothing_back(database: Any, tmp_path: Path) -> None:
    """Only of an event that is too old to be known still is the difference taken as it is."""
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=10 * NANOS)
        event = usage("e", cost=5 * NANOS)
        back = correction(event, "c", -NANOS, requests=-1)
        assert refusals(await budget.apply(back)) == ["ORIGINAL_UNKNOWN"]
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == 0
        assert refusals(await budget.apply(event, back)) == ["", ""]
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == 4 * NANOS
        assert refusals(await budget.apply(correction(back, "of-a-correction", -NANOS))) == ["ORIGINAL_UNKNOWN"]
        old = usage("old")
        old.occurred_at.FromMicroseconds(time.time_ns() // 1000 - 91 * 86_400_000_000)
        (answer,) = await budget.apply(correction(old, "late", -NANOS, requests=-1))
        assert (answer.applied.unreserved, answer.applied.unfunded) == (True, True)
        await budget.audit()


async def test_corrections_never_alert_twice(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", thresholds_percent=[50])
        event = usage("e", cost=6 * NANOS)
        await budget.apply(event, correction(event, "c1", -6 * NANOS))
        await budget.apply(correction(event, "c2", 8 * NANOS))
        assert len([one for one in await alerts(budget.database) if one["type"] == "budget.threshold_reached"]) == 1


async def test_a_correction_counts_in_the_window_of_its_event(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        window = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)
        await budget.create(ORG, "day", window=window)
        await rows(budget.database, "UPDATE budgets SET effective_from_us = 0")
        await rows(budget.database, "UPDATE org_policy SET epoch = epoch + 1")
        yesterday = Timestamp(seconds=int(time.time()) - 86_400)
        event = usage("e", cost=5 * NANOS, occurred_at=yesterday)
        await budget.apply(event, usage("today", cost=NANOS), correction(event, "c", -2 * NANOS))
        assert (await budget.use(f"{ORG}/budgets/day")).spent_amount == NANOS
        found = await rows(budget.database, "SELECT spent FROM counters ORDER BY window_key")
        assert [row["spent"] for row in found] == [3 * NANOS, NANOS]
        await budget.audit()


async def test_what_is_no_correction_is_refused(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        itself = correction(usage("e"), "e", NANOS)
        nothing = correction(usage("e"), "c", NANOS)
        nothing.corrects.id = ""
        negative = usage("n", input_tokens=-1)
        assert refusals(await budget.apply(itself, nothing, negative)) == [
            "INVALID_ARGUMENT", "INVALID_ARGUMENT", "AMOUNT_OUT_OF_RANGE",
        ]  # fmt: skip
        assert await rows(budget.database, "SELECT FROM applied_usage") == []
