"""A connection that drops at any step of a shared transaction: what was answered exists exactly once."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import NANOS, ORG, WALLET, FakeWallets, ask, refusals, rows, running_budget, usage
from tests.support.cutting_proxy import cutting_proxy


async def batch(budget: Any, requests: list[budget_pb2.ReserveRequest]) -> list[budget_pb2.ReserveResult]:
    response = await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests))
    return list(response.results)


@pytest.mark.parametrize("step", [*range(6), "before COMMIT", "after COMMIT"])
async def test_reserve_is_held_exactly_once(database: Any, tmp_path: Path, step: int | str) -> None:
    base = database("budget")
    async with cutting_proxy(base.service_dsn) as proxy:
        wallets = FakeWallets({WALLET: 1000 * NANOS}, grant_max=4)
        async with running_budget(base, tmp_path, wallets, budget_dsn=SecretStr(proxy.dsn)) as budget:
            await budget.create(ORG, "org", limit_amount=100)
            await batch(budget, [ask(cost=1)])
            requests = [ask(cost=1) for _ in range(5)]
            if isinstance(step, int):
                proxy.cut_before_statement = step
            else:
                proxy.cut_before_commit = step == "before COMMIT"
                proxy.cut_after_commit = step == "after COMMIT"
            results = await batch(budget, requests)
            assert [r.decision.outcome for r in results] == [budget_pb2.OUTCOME_ALLOW] * 5
            assert proxy.cuts == 1
            again = await batch(budget, requests)
            assert [r.decision.reservation for r in again] == [r.decision.reservation for r in results]
            assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == 6
            await budget.audit()


@pytest.mark.parametrize("step", [*range(8), "before COMMIT", "after COMMIT"])
async def test_usage_is_applied_exactly_once(database: Any, tmp_path: Path, step: int | str) -> None:
    base = database("budget")
    # No wallet service: only shared transactions go through the proxy while it is armed.
    async with (
        cutting_proxy(base.service_dsn) as proxy,
        running_budget(base, tmp_path, budget_dsn=SecretStr(proxy.dsn), sweep_interval_s=60) as budget,
    ):
        await budget.create(ORG, "org", limit_amount=100)
        held = await budget.reserve(cost=3)
        events = [usage(cost=2, reservation=held.reservation, final=i == 1) for i in range(2)]
        events += [usage(cost=50)]
        if isinstance(step, int):
            proxy.cut_before_statement = step
        else:
            proxy.cut_before_commit = step == "before COMMIT"
            proxy.cut_after_commit = step == "after COMMIT"
        results = await budget.apply(*events)
        assert refusals(results) == ["", "", ""]
        assert proxy.cuts == 1
        assert [r.applied.duplicate for r in results] == [step == "after COMMIT"] * 3
        assert [r.applied.duplicate for r in await budget.apply(*events)] == [True] * 3
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount) == (54, 0)
        assert len(await rows(base, "SELECT FROM outbox WHERE topic = 'alerts'")) == 1
        await budget.audit()
