"""BatchReserve of 100 over gRPC: funded, three levels, durable."""

import asyncio
import time
import uuid
from dataclasses import dataclass, field

import grpc

from embedded.suite import Suite
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.kit.channel import channel

BATCH = 100
IN_FLIGHT = 10
TEAMS = 5
AGENTS_PER_TEAM = 4
SETUP_AT_ONCE = 32
NANOS = 1_000_000_000
COST_NANOS = 25_000
_LIMIT = 9_000_000 * NANOS
_GRANT = 100_000 * NANOS


@dataclass(slots=True)
class _Load:
    stub: "budget_pb2_grpc.BudgetServiceAsyncStub"
    subjects: list[list[str]]
    until_s: float
    decided: int = 0
    refused: list[str] = field(default_factory=list)
    turn: int = 0


async def measure(suite: Suite, *, orgs: int, seconds: float) -> float:
    """Decisions a second with 10 batches in flight; each batch is one organisation's, as a credential covers one."""
    run = uuid.uuid4().hex[:8]
    names = [f"orgs/bench-{run}-{number}" for number in range(orgs)]
    async with (
        channel(suite.address("budget"), suite.mint("orgs/-", ["admin"])) as to_budget,
        channel(suite.address("wallet"), suite.mint("orgs/-", ["admin"])) as to_wallet,
    ):
        stub = budget_pb2_grpc.BudgetServiceStub(to_budget)
        subjects = await _set_up(stub, wallet_pb2_grpc.WalletServiceStub(to_wallet), names)
        # Every organisation's wallet is leased and its policy cached before the clock starts, as in a running service.
        await _run(_Load(stub, subjects, 0.0), batches=max(2 * IN_FLIGHT, orgs))
        load = _Load(stub, subjects, time.perf_counter() + seconds)
        began_s = time.perf_counter()
        await _run(load, batches=None)
        elapsed_s = time.perf_counter() - began_s
    if load.refused:
        raise RuntimeError(f"{len(load.refused)} decisions were not ALLOW, the first: {load.refused[0]}")
    return load.decided / elapsed_s


async def _set_up(
    budgets: "budget_pb2_grpc.BudgetServiceAsyncStub",
    wallets: "wallet_pb2_grpc.WalletServiceAsyncStub",
    orgs: list[str],
) -> list[list[str]]:
    gate = asyncio.Semaphore(SETUP_AT_ONCE)
    few = len(orgs) > 1

    async def one(org: str) -> list[str]:
        async with gate:
            teams = [f"{org}/teams/t{t}" for t in range(1 if few else TEAMS)]
            agents = [f"{team}/agents/a{a}" for team in teams for a in range(1 if few else AGENTS_PER_TEAM)]
            await wallets.CreateWallet(
                wallet_pb2.CreateWalletRequest(
                    parent=org, wallet_id="main", wallet=wallet_pb2.Wallet(currency_code="USD"), request_id="w"
                )
            )
            grant = wallet_pb2.Grant(
                kind=wallet_pb2.GRANT_KIND_PAID, amount=type_pb2.Money(currency_code="USD", amount_nanos=_GRANT)
            )
            await wallets.CreateGrant(
                wallet_pb2.CreateGrantRequest(wallet=f"{org}/wallets/main", grant=grant, request_id="g")
            )
            for subject in (org, *teams, *agents):
                await budgets.CreateBudget(_budget(subject))
            return agents

    return await asyncio.gather(*map(one, orgs))


def _budget(subject: str) -> budget_pb2.CreateBudgetRequest:
    return budget_pb2.CreateBudgetRequest(
        parent=subject,
        budget_id="month",
        budget=budget_pb2.Budget(
            dimension=budget_pb2.DIMENSION_COST,
            currency_code="USD",
            limit_amount=_LIMIT,
            window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH),
            on_exceed=budget_pb2.ON_EXCEED_BLOCK,
        ),
    )


async def _run(load: _Load, *, batches: int | None) -> None:
    left = batches

    async def worker() -> None:
        nonlocal left
        while (left is None and time.perf_counter() < load.until_s) or (left is not None and left > 0):
            if left is not None:
                left -= 1
            load.turn += 1
            await _one_batch(load, load.subjects[load.turn % len(load.subjects)])

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def _one_batch(load: _Load, agents: list[str]) -> None:
    prefix = uuid.uuid4().hex
    request = budget_pb2.BatchReserveRequest()
    for number in range(BATCH):
        item = request.requests.add(subject=agents[number % len(agents)], request_id=f"{prefix}-{number}")
        item.estimate.cost.currency_code = "USD"
        item.estimate.cost.amount_nanos = COST_NANOS
    try:
        answer = await load.stub.BatchReserve(request, timeout=60)
    except grpc.aio.AioRpcError as error:
        load.refused.append(f"{error.code()}: {error.details()}")
        return
    load.decided += len(answer.results)
    load.refused.extend(str(r) for r in answer.results if r.decision.outcome != budget_pb2.OUTCOME_ALLOW)
