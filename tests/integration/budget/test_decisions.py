"""Spends are decided on every ancestor's budgets, all or nothing."""

from pathlib import Path
from typing import Any

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import BOT, NANOS, ORG, TEAM, ask, refusals, running_budget, usage


async def test_every_ancestor_is_enforced_and_a_denial_holds_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=3 * NANOS)
        await budget.create(TEAM, "team", limit_amount=2 * NANOS)
        await budget.create(BOT, "bot", limit_amount=10 * NANOS)
        first = await budget.reserve(cost=NANOS)
        assert first.outcome == budget_pb2.OUTCOME_ALLOW
        second = await budget.reserve(cost=2 * NANOS)
        assert second.outcome == budget_pb2.OUTCOME_DENY
        assert second.denied_reason == budget_pb2.DENIED_REASON_BUDGET_EXCEEDED
        assert [use.budget for use in second.violations] == [f"{TEAM}/budgets/team"]
        assert second.violations[0].overage_amount == NANOS
        assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == NANOS
        await budget.audit()


async def test_usage_settles_and_counts_in_full(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=3 * NANOS)
        held = await budget.reserve(cost=NANOS)
        results = await budget.apply(usage("u", cost=5 * NANOS, reservation=held.reservation))
        assert refusals(results) == [""]
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount, use.remaining_amount) == (5 * NANOS, 0, -2 * NANOS)
        assert (await budget.reserve(cost=1)).outcome == budget_pb2.OUTCOME_DENY
        again = await budget.apply(usage("u", cost=5 * NANOS, reservation=held.reservation))
        assert refusals(again) == ["USAGE_ID_REUSED"]  # another time of the call: another content
        await budget.audit()
        assert ask().subject == BOT
