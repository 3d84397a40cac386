"""Spends that a lease does not cover: what one of them asks for decides nothing for another."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import ORG, WALLET, FakeWallets, ask, refusal_of, refusals, rows, running_budget
from tests.support.waiting import until

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY
_SMALL_EXTENSION = """
WITH next AS (UPDATE leases SET last_n = last_n + 1 RETURNING *)
INSERT INTO lease_ops (org, wallet, epoch, n, kind, ask_nanos, need_nanos, captured_total, returned_total,
    reversed_total, written_us)
SELECT org, wallet, epoch, last_n, 'EXTEND', 4, 1, captured_total, returned_total, reversed_total, 0 FROM next
"""


async def test_an_extension_that_was_open_for_less_does_not_make_a_wallet_empty(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 10**15})
    base = database("budget")
    async with running_budget(base, tmp_path, wallets, empty_memory_s=1.0, sync_interval_s=5) as budget:
        assert (await budget.reserve(cost=1)).outcome == ALLOW
        owner = await asyncpg.connect(base.owner_dsn)
        try:
            # As another replica would have left it: written, and its answer not there yet.
            wallets.down = True
            await owner.execute(_SMALL_EXTENSION)
            asked = len(wallets.seen)
            waiting = asyncio.create_task(budget.reserve(cost=10**9))
            await until(lambda: len(wallets.seen) > asked, what="the open extension sent")
            wallets.down = False
        finally:
            await owner.close()
        assert (await waiting).outcome == ALLOW
        assert [row["need_nanos"] for row in await rows(base, "SELECT need_nanos FROM lease_ops ORDER BY n")][1] == 1
        wallets.check()


async def test_an_absurd_amount_is_denied_without_its_neighbours(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 10**12})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        costs = (2**63 - 1, 2**63 - 1, 5)
        response = await budget.admin.BatchReserve(
            budget_pb2.BatchReserveRequest(requests=[ask(cost=cost) for cost in costs])
        )
        assert refusals(response.results) == ["", "", ""]
        assert [r.decision.outcome for r in response.results] == [DENY, DENY, ALLOW]
        assert response.results[0].decision.denied_reason == budget_pb2.DENIED_REASON_INSUFFICIENT_FUNDS
        await budget.audit()


async def test_a_spend_that_holds_nothing_moves_no_money(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 1000})
    base = database("budget")
    async with running_budget(base, tmp_path, wallets, sync_interval_s=5) as budget:
        await budget.create(ORG, "warn", limit_amount=10, on_exceed=budget_pb2.ON_EXCEED_WARN)

        async def dry(cost: int) -> budget_pb2.Decision:
            return await budget.reserve(cost=cost, validate_only=True, request_id="")

        allowed = await dry(1000)
        assert (allowed.outcome, allowed.reservation, allowed.wallet) == (ALLOW, "", WALLET)
        assert [use.budget for use in allowed.warnings] == [f"{ORG}/budgets/warn"]
        denied = await dry(1001)
        assert denied.denied_reason == budget_pb2.DENIED_REASON_INSUFFICIENT_FUNDS
        wallets.down = True
        assert (await refusal_of(dry(1000))).reason == "UNAVAILABLE"
        wallets.down = False
        assert (wallets.seen, wallets.available[WALLET]) == ([], 1000)
        assert await rows(base, "SELECT FROM lease_ops") == []
        # What the lease has free counts too, and what it holds does not.
        assert (await budget.reserve(cost=100)).outcome == ALLOW
        assert (await dry(900)).outcome == ALLOW
        assert (await dry(901)).outcome == DENY


class HeldWallets(FakeWallets):
    """Answers extensions only once it may."""

    may_answer: asyncio.Event | None = None

    async def ExtendLease(self, request: Any, context: Any) -> Any:
        answer = await super().ExtendLease(request, context)
        if self.may_answer is not None:
            await self.may_answer.wait()
        return answer


async def test_a_queue_that_fills_up_refuses_only_what_waited(database: Any, tmp_path: Path) -> None:
    wallets = HeldWallets({WALLET: 10**12, "orgs/beta/wallets/m": 10**12})
    base = database("budget")
    async with running_budget(base, tmp_path, wallets, queue_items_max=3) as budget:
        await budget.reserve(cost=100, subject="orgs/beta")
        wallets.may_answer = asyncio.Event()
        seen = len(wallets.seen)
        requests = [ask(cost=1, subject="orgs/beta", request_id="ok"), ask(cost=5)]
        call = asyncio.create_task(_batch(budget, requests))
        await until(lambda: len(wallets.seen) > seen, what="the extension under way")
        others: list[asyncio.Task[Any]] = []
        owner = await asyncpg.connect(base.owner_dsn)
        try:
            # One batch waits for the lock, and the queue behind it is full when the wallet answers.
            async with owner.transaction():
                await owner.execute("LOCK TABLE org_policy IN EXCLUSIVE MODE")
                others += [asyncio.create_task(budget.reserve(cost=1, subject="orgs/beta")) for _ in range(8)]
                await until(lambda: any(other.done() for other in others), what="the queue full")
                wallets.may_answer.set()
                results = await call
        finally:
            await owner.close()
            await asyncio.gather(*others, return_exceptions=True)
        assert refusals(results) == ["", "QUEUE_FULL"]
        assert results[0].decision.outcome == ALLOW
        assert len(await rows(base, "SELECT FROM reservations WHERE id = 'ok' AND state = 1")) == 1


async def _batch(budget: Any, requests: list[budget_pb2.ReserveRequest]) -> list[budget_pb2.ReserveResult]:
    response = await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests))
    return list(response.results)
