"""Spends are decided on every ancestor's budgets, all or nothing, once per request id."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import (
    BOT,
    NANOS,
    ORG,
    TEAM,
    ask,
    refusal_of,
    refusals,
    rows,
    running_budget,
    store_rates,
    usage,
)

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY


async def test_every_ancestor_is_enforced_and_a_denial_holds_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=3 * NANOS)
        await budget.create(TEAM, "team", limit_amount=2 * NANOS)
        await budget.create(BOT, "bot", limit_amount=10 * NANOS)
        first = await budget.reserve(cost=NANOS)
        assert first.outcome == ALLOW
        assert (first.tightest.budget, first.tightest.remaining_amount) == (f"{TEAM}/budgets/team", NANOS)
        second = await budget.reserve(cost=2 * NANOS)
        assert (second.outcome, second.denied_reason) == (DENY, budget_pb2.DENIED_REASON_BUDGET_EXCEEDED)
        assert [(use.budget, use.overage_amount) for use in second.violations] == [(f"{TEAM}/budgets/team", NANOS)]
        third = await budget.reserve(cost=4 * NANOS)
        assert [use.overage_amount for use in third.violations] == [2 * NANOS, 3 * NANOS]
        assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == NANOS
        await budget.audit()


async def test_no_budget_is_no_limit_and_a_limit_of_zero_is_none_to_spend(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        assert (await budget.reserve(cost=10**18)).outcome == ALLOW
        await budget.create(ORG, "none", limit_amount=0)
        assert (await budget.reserve(cost=1)).outcome == DENY
        assert (await budget.reserve(cost=0)).outcome == ALLOW


async def test_warn_and_alert_budgets_let_spends_pass(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "warn", limit_amount=1, on_exceed=budget_pb2.ON_EXCEED_WARN)
        await budget.create(ORG, "alert", limit_amount=1, on_exceed=budget_pb2.ON_EXCEED_ALERT)
        decision = await budget.reserve(cost=NANOS)
        assert decision.outcome == ALLOW
        assert [use.budget for use in decision.warnings] == [f"{ORG}/budgets/warn"]


async def test_each_dimension_counts_its_own(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        limits = {
            "tokens": (budget_pb2.DIMENSION_TOKENS, 150),
            "input": (budget_pb2.DIMENSION_INPUT_TOKENS, 100),
            "output": (budget_pb2.DIMENSION_OUTPUT_TOKENS, 60),
            "requests": (budget_pb2.DIMENSION_REQUESTS, 3),
        }
        for name, (dimension, limit) in limits.items():
            await budget.create(ORG, name, dimension=dimension, limit_amount=limit)
        held = await budget.reserve(input_tokens=90, max_output_tokens=60)
        assert held.outcome == ALLOW
        uses = {name: (await budget.use(f"{ORG}/budgets/{name}")).reserved_amount for name in limits}
        assert uses == {"tokens": 150, "input": 90, "output": 60, "requests": 1}
        denied = await budget.reserve(input_tokens=1, max_output_tokens=0, requests=3)
        assert [use.budget.rsplit("/", 1)[1] for use in denied.violations] == ["tokens", "requests"]


async def test_the_same_request_is_held_once_and_another_is_refused(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org")
        request = ask(cost=NANOS)
        first = await budget.admin.Reserve(request)
        again = await budget.admin.Reserve(request)
        assert (again.decision.outcome, again.decision.reservation) == (ALLOW, first.decision.reservation)
        assert again.decision.expire_time == first.decision.expire_time
        other = await refusal_of(budget.reserve(cost=2 * NANOS, request_id=request.request_id))
        assert (other.reason, other.field) == ("REQUEST_ID_REUSED", "request_id")
        assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == NANOS
        await budget.release(first.decision.reservation)
        closed = await refusal_of(budget.admin.Reserve(request))
        assert (closed.reason, closed.metadata["state"]) == ("RESERVATION_CLOSED", "RELEASED")
        await budget.audit()


async def test_repeats_within_a_batch_hold_once(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org")
        same, other = ask(cost=NANOS, request_id="a"), ask(cost=2 * NANOS, request_id="a")
        response = await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=[same, same, other]))
        assert refusals(response.results) == ["", "", "REQUEST_ID_REUSED"]
        assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == NANOS


async def test_items_of_a_batch_are_decided_in_order_and_apart(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=3 * NANOS)
        requests = [
            ask(cost=2 * NANOS),
            ask(subject="nobody"),
            ask(cost=2 * NANOS),
            ask(cost=NANOS),
            ask(request_id=""),
        ]
        response = await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests))
        assert refusals(response.results) == ["", "MALFORMED_SUBJECT", "", "", "REQUEST_ID_REQUIRED"]
        assert [r.decision.outcome for r in response.results] == [ALLOW, 0, DENY, ALLOW, 0]


async def test_a_denied_request_may_be_asked_again(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=NANOS)
        request = ask(cost=2 * NANOS)
        assert (await budget.admin.Reserve(request)).decision.outcome == DENY
        await budget.update(f"{ORG}/budgets/org", limit_amount=2 * NANOS)
        assert (await budget.admin.Reserve(request)).decision.outcome == ALLOW


async def test_partial_estimates_hold_nothing_of_what_they_do_not_know(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "cost", limit_amount=NANOS)
        await budget.create(ORG, "tokens", dimension=budget_pb2.DIMENSION_TOKENS, limit_amount=100)
        decision = await budget.reserve(cost=None, input_tokens=10)
        assert decision.outcome == ALLOW
        assert list(decision.unchecked_budgets) == [f"{ORG}/budgets/cost", f"{ORG}/budgets/tokens"]
        assert not decision.HasField("cost")
        strict = await refusal_of(budget.reserve(cost=None, input_tokens=10, strict=True))
        assert strict.reason == "ESTIMATE_INCOMPLETE"
        await budget.apply(usage(cost=NANOS))
        exhausted = await budget.reserve(cost=None, input_tokens=10)
        assert [use.budget for use in exhausted.violations] == [f"{ORG}/budgets/cost"]


async def test_estimates_are_priced_by_the_stored_rate_table(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    await store_rates(base)
    async with running_budget(base, tmp_path) as budget:
        await budget.create(ORG, "org")
        call: dict[str, Any] = {"cost": None, "input_tokens": 100_000, "max_output_tokens": 10_000}
        decision = await budget.reserve(model="claude-sonnet-4-5", **call)
        # 3 USD a million in, 15 USD a million out.
        assert (decision.cost.currency_code, decision.cost.amount_nanos) == ("USD", 450_000_000)
        assert decision.rate_card_version.startswith("genai-prices")
        unknown = await refusal_of(budget.reserve(model="no-such-model", **call))
        assert (unknown.reason, unknown.field) == ("UNKNOWN_MODEL", "call.model")
        nowhere = await refusal_of(budget.reserve(provider="nobody", model="claude-sonnet-4-5", **call))
        assert (nowhere.reason, nowhere.field) == ("UNKNOWN_MODEL", "call.provider")
        # A cost that is given needs no price.
        assert (await budget.reserve(model="no-such-model", cost=NANOS)).outcome == ALLOW


@pytest.mark.parametrize(
    ("selector", "call", "counts"),
    [
        ({"models": ["gpt-4*"]}, {"model": "gpt-4o"}, True),
        ({"models": ["gpt-4*"]}, {"model": "claude-x"}, False),
        ({"providers": ["OpenAI"]}, {"provider": "openai", "model": "m"}, True),
        ({"operations": ["chat"]}, {"operation": "image"}, False),
        ({"labels": {"project": "x"}}, {"labels": {"project": "x", "more": "y"}}, True),
        ({"labels": {"project": "x"}}, {"labels": {"project": "y"}}, False),
        ({"operations": ["chat"]}, {}, True),
        ({"labels": {"project": "x"}}, {}, True),
    ],
)
async def test_selectors_match_what_is_given(
    database: Any, tmp_path: Path, selector: Any, call: Any, counts: bool
) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "only", limit_amount=0, selector=budget_pb2.Selector(**selector))
        decision = await budget.reserve(**call)
        assert decision.outcome == (DENY if counts else ALLOW)


async def test_costs_of_another_currency_are_not_counted(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "euros", currency_code="EUR", limit_amount=0)
        assert (await budget.reserve(cost=NANOS)).outcome == ALLOW
        assert (await budget.reserve(cost=NANOS, currency="EUR")).outcome == DENY


async def test_a_released_reservation_gives_back_exactly_what_it_held(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org")
        held = await budget.reserve(cost=NANOS)
        before = await budget.get(held.reservation)
        assert [(h.budget, h.window, h.placed_amount, h.held_amount) for h in before.holds] == [
            (f"{ORG}/budgets/org", "lifetime", NANOS, NANOS)
        ]
        await budget.admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=f"{ORG}/budgets/org"))
        await budget.create(ORG, "org", limit_amount=1)
        assert (await budget.release(held.reservation)).state == budget_pb2.RESERVATION_STATE_RELEASED
        again = await budget.release(held.reservation)
        assert [h.held_amount for h in again.holds] == [0]
        assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == 0
        await budget.audit()


async def test_many_callers_at_once_end_exactly_at_the_limit(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=100)
        await budget.create(TEAM, "team", limit_amount=1000)
        answers = await asyncio.gather(*(budget.reserve(cost=7) for _ in range(40)))
        assert sum(d.outcome == ALLOW for d in answers) == 14
        assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == 98
        await budget.audit()


async def test_a_caller_that_goes_away_leaves_whole_books(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org")
        calls = [budget.admin.Reserve(ask(cost=1)) for _ in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        open_holds = await rows(budget.database, "SELECT count(*) AS count FROM reservations WHERE state = 1")
        await budget.audit()
        assert open_holds[0]["count"] >= 10
