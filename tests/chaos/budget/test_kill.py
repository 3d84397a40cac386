"""Several server processes on one hot budget, and kill -9 of one while it decides: never oversold, nothing lost."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import grpc

from embedded.ports import free_ports
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit.channel import channel
from tests.support.budget import (
    NANOS,
    ORG,
    TEAM,
    WALLET,
    FakeWallets,
    ask,
    budget_of,
    budget_process,
    rows,
    running_wallets,
    usage,
)
from tests.support.metering import EVERYONE, Keys
from tests.support.waiting import until

LIMIT = 3_000


async def create(stub: Any, subject: str, limit: int) -> None:
    await stub.CreateBudget(
        budget_pb2.CreateBudgetRequest(parent=subject, budget_id="b", budget=budget_of(limit_amount=limit))
    )


async def spend(stub: Any, batches: int) -> int:
    """Asks for more than there is; returns how many units were allowed."""
    allowed = 0
    for _ in range(batches):
        requests = [ask(cost=1 + i % 3) for i in range(50)]
        response = await stub.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests))
        for request, result in zip(requests, response.results, strict=True):
            if result.decision.outcome == budget_pb2.OUTCOME_ALLOW:
                allowed += request.estimate.cost.amount_nanos
    return allowed


async def test_two_processes_end_exactly_at_the_limit(database: Any, tmp_path: Path) -> None:
    base, keys, ports = database("budget"), Keys.make(tmp_path), free_ports(2)
    wallets = FakeWallets({WALLET: 10**12}, grant_max=700)
    async with running_wallets(wallets) as address:
        more = {"use_wallets": True, "wallet_address": address}
        async with budget_process(base, keys, ports[0], **more), budget_process(base, keys, ports[1], **more):
            channels = [channel(f"127.0.0.1:{port}", keys.token(EVERYONE, "admin")) for port in ports]
            stubs: list[Any] = [budget_pb2_grpc.BudgetServiceStub(one) for one in channels]
            await create(stubs[0], ORG, LIMIT)
            await create(stubs[0], TEAM, 10 * LIMIT)
            allowed = sum(await asyncio.gather(*(spend(stubs[i % 2], 8) for i in range(6))))
            # What is left is smaller than the smallest spend that was refused last: units of 1 fill it to the brim.
            while (await stubs[0].Reserve(ask(cost=1))).decision.outcome == budget_pb2.OUTCOME_ALLOW:
                allowed += 1
            status = await stubs[1].GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=f"{ORG}/budgets/b"))
            assert allowed == status.status.use.reserved_amount == LIMIT
            audit = await stubs[1].Audit(budget_pb2.AuditRequest())
            assert [check.detail for check in audit.checks if not check.ok] == []
            wallets.check()
            for one in channels:
                await one.close()


async def insist(stub: Any, method: str, request: Any) -> Any:
    """Sends the same request until it is answered."""
    while True:
        try:
            return await getattr(stub, method)(request, timeout=5, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}  # noqa: PT017


async def test_kill_9_loses_nothing_and_doubles_nothing(database: Any, tmp_path: Path) -> None:
    base, keys, port = database("budget"), Keys.make(tmp_path), free_ports(1)[0]
    wallets = FakeWallets({WALLET: 100_000 * NANOS}, grant_max=40 * NANOS)
    async with running_wallets(wallets) as address, channel(f"127.0.0.1:{port}", keys.token(EVERYONE, "admin")) as one:
        stub: Any = budget_pb2_grpc.BudgetServiceStub(one)
        more = {"use_wallets": True, "wallet_address": address}
        settled = 0

        async def work() -> None:
            nonlocal settled
            for _ in range(6):
                requests = [ask(cost=NANOS) for _ in range(10)]
                response = await insist(stub, "BatchReserve", budget_pb2.BatchReserveRequest(requests=requests))
                items = [
                    usage(cost=NANOS, reservation=result.decision.reservation)
                    for result in response.results
                    if result.decision.outcome == budget_pb2.OUTCOME_ALLOW
                ]
                await insist(stub, "ApplyUsage", budget_pb2.ApplyUsageRequest(items=items, relay="test"))
                settled += len(items)

        done = asyncio.gather(*(work() for _ in range(4)))
        kills = 0
        while not done.done():
            async with budget_process(base, keys, port, **more) as pid:
                if kills == 0:
                    await create(stub, ORG, 10**18)
                before = settled
                await until(lambda mark=before: done.done() or settled > mark + 30, what="progress")  # type: ignore[misc]
                if not done.done():
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        await done
        assert kills >= 2
        async with budget_process(base, keys, port, **more):
            await until(lambda: wallets.lease().captured == settled * NANOS, what="all captured")
            audit = await stub.Audit(budget_pb2.AuditRequest())
            assert [check.detail for check in audit.checks if not check.ok] == []
        found = await rows(base, "SELECT spent, reserved FROM counters")
        assert [tuple(row) for row in found] == [(settled * NANOS, 0)]
        wallets.check()
