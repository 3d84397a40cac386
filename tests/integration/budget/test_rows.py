"""Every dimension, window and selector, on every level, decided and counted by the running service."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import (
    BOT,
    NANOS,
    ORG,
    TEAM,
    WALLET,
    Budgets,
    FakeWallets,
    refusal_of,
    running_budget,
    store_rates,
    usage,
)
from tests.support.limits import status_of

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY
KINDS = budget_pb2.WindowKind


async def test_every_dimension_is_held_counted_and_blocks(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        for number, (dimension, used) in enumerate(
            (
                (budget_pb2.DIMENSION_COST, 5),
                (budget_pb2.DIMENSION_TOKENS, 50),
                (budget_pb2.DIMENSION_INPUT_TOKENS, 20),
                (budget_pb2.DIMENSION_OUTPUT_TOKENS, 30),
                (budget_pb2.DIMENSION_REQUESTS, 2),
            )
        ):
            subject = f"orgs/d{number}"
            currency = "JPY" if dimension == budget_pb2.DIMENSION_COST else ""
            created = await budget.create(
                subject, "b", dimension=dimension, currency_code=currency, limit_amount=2 * used
            )
            call = {"cost": 5, "currency": "JPY", "input_tokens": 20, "max_output_tokens": 30, "requests": 2}
            held = await budget.reserve(subject=subject, **call)
            assert (held.outcome, held.tightest.asked_amount) == (ALLOW, used)
            event = usage(
                subject=subject, cost=5, currency="JPY", input_tokens=20, output_tokens=30, requests=2,
                reservation=held.reservation,
            )  # fmt: skip
            await budget.apply(event)
            use = await budget.use(created.name)
            assert (use.spent_amount, use.reserved_amount, use.remaining_amount) == (used, 0, used)
            denied = await budget.reserve(subject=subject, **(call | {"cost": 6, "input_tokens": 21, "requests": 3,
                                                                      "max_output_tokens": 31}))  # fmt: skip
            assert denied.outcome == DENY
            (violation,) = denied.violations
            assert (violation.limit_amount, violation.spent_amount, violation.overage_amount > 0) == (
                2 * used,
                used,
                True,
            )


async def test_every_window_stands_where_the_calendar_says_several_at_once(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        zone = "Asia/Kolkata"
        windows = {
            "day": budget_pb2.Window(kind=KINDS.WINDOW_KIND_DAY, time_zone=zone),
            "week": budget_pb2.Window(kind=KINDS.WINDOW_KIND_WEEK, time_zone=zone, week_start_day=6),
            "month": budget_pb2.Window(kind=KINDS.WINDOW_KIND_MONTH, time_zone=zone, month_anchor_day=31),
            "quarter": budget_pb2.Window(kind=KINDS.WINDOW_KIND_QUARTER, time_zone=zone),
            "ever": budget_pb2.Window(kind=KINDS.WINDOW_KIND_LIFETIME),
        }
        for id_, window in windows.items():
            await budget.create(ORG, id_, window=window)
        assert (await budget.reserve(cost=NANOS)).outcome == ALLOW
        today = datetime.now(UTC).astimezone(ZoneInfo(zone)).date()
        found = {id_: await status_of(budget, f"{ORG}/budgets/{id_}") for id_ in windows}
        assert {status.use.reserved_amount for status in found.values()} == {NANOS}
        assert found["day"].use.window == today.isoformat()
        week = datetime.fromisoformat(found["week"].use.window).date()
        assert week.isoweekday() == 6
        assert timedelta(0) <= today - week < timedelta(days=7)
        month = datetime.fromisoformat(found["month"].use.window).date()
        # The 31st, or the last day of a shorter month.
        assert (month + timedelta(days=1)).day == 1
        assert timedelta(0) <= today - month < timedelta(days=32)
        assert found["quarter"].use.window == f"{today.year}-{(today.month - 1) // 3 * 3 + 1:02d}-01"
        assert (found["ever"].use.window, found["ever"].use.HasField("window_end_time")) == ("lifetime", False)


async def test_every_selector_counts_its_calls_on_any_level(database: Any, tmp_path: Path) -> None:
    call: dict[str, Any] = {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "operation": "chat",
        "labels": {"project": "x"},
    }
    other: dict[str, Any] = {
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "operation": "embed",
        "labels": {"project": "y"},
    }
    selectors = {
        "provider": budget_pb2.Selector(providers=["openai"]),
        "exact": budget_pb2.Selector(models=["gpt-4o-mini"]),
        "glob": budget_pb2.Selector(models=["gpt-4*"]),
        "operation": budget_pb2.Selector(operations=["chat"]),
        "label": budget_pb2.Selector(labels={"project": "x"}),
        "all": budget_pb2.Selector(
            providers=["openai"], models=["gpt-4*"], operations=["chat"], labels={"project": "x"}
        ),
    }
    base = database("budget")
    await store_rates(base)
    async with running_budget(base, tmp_path) as budget:
        names = [
            (await budget.create(subject, id_, selector=selector, limit_amount=2)).name
            for subject in (ORG, TEAM, BOT)
            for id_, selector in selectors.items()
        ]
        assert (await budget.reserve(cost=1, **call)).outcome == ALLOW
        assert (await budget.reserve(cost=3, **other)).outcome == ALLOW
        await budget.apply(usage(cost=1, **call), usage(cost=100, **other))
        uses = [await budget.use(name) for name in names]
        assert {(use.spent_amount, use.reserved_amount) for use in uses} == {(1, 1)}
        denied = await budget.reserve(cost=1, **call)
        assert len(denied.violations) == len(names)
        # What is not told may be what a selector means; what happened without it is not.
        assert (await budget.reserve(cost=1, provider="openai")).outcome == DENY
        never = budget_pb2.Selector(providers=["openai"], models=["claude-sonnet-4-5"])
        refusal = await refusal_of(budget.create(ORG, "never", selector=never))
        assert (refusal.reason, refusal.field) == ("SELECTOR_NEVER_MATCHES", "budget.selector.models")


async def test_a_limit_below_use_is_kept_and_blocks_what_follows(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        created = await budget.create(ORG, "b", limit_amount=10)
        held = await budget.reserve(cost=8)
        await budget.update(created.name, limit_amount=3)
        use = await budget.use(created.name)
        assert (use.limit_amount, use.remaining_amount, use.overage_amount) == (3, -5, 5)
        assert (await budget.reserve(cost=0)).outcome == DENY
        await budget.release(held.reservation)
        assert (await budget.reserve(cost=3)).outcome == ALLOW


async def fits(budget: Budgets, **fields: Any) -> int:
    """The cap of a denial, which is tried: allowed with it at once, denied with one more."""
    call = {"cost": None, "provider": "openai", "model": "gpt-4o", "input_tokens": 1_000, "max_output_tokens": 10**9}
    call |= fields
    denied = await budget.reserve(**call)
    assert denied.outcome == DENY
    cap: int = denied.fitting_output_tokens
    assert (await budget.reserve(**(call | {"max_output_tokens": cap + 1, "validate_only": True}))).outcome == DENY
    if cap:
        assert (await budget.reserve(**(call | {"max_output_tokens": cap}))).outcome == ALLOW
    return cap


async def test_a_denial_names_the_largest_cap_that_fits(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    await store_rates(base)
    wallets = FakeWallets(available={WALLET: 1 * NANOS}, grant_max=NANOS // 10)
    async with running_budget(base, tmp_path, wallets) as budget:
        await budget.create(ORG, "cost", limit_amount=NANOS // 2)
        await budget.create(TEAM, "tokens", dimension=budget_pb2.DIMENSION_TOKENS, limit_amount=30_000)
        # By tokens: 30,000 less 1,000 of input. The wallet pays more than its lease has yet.
        assert await fits(budget) == 29_000
        # By cost: gpt-4o takes 2.5 and 10 USD a million, and 0.2925 of the 0.5 USD are held.
        assert await fits(budget, subject=ORG) == 20_500
        assert await fits(budget, subject=ORG) == 0
        await budget.create("orgs/b", "cost", limit_amount=10 * NANOS)
        assert await fits(budget, subject="orgs/b", cost=11 * NANOS) == 0
        # Without a budget the money is the limit.
        await budget.admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=f"{ORG}/budgets/cost"))
        assert await fits(budget, subject=ORG) == 49_750
