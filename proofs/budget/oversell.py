"""Whether anything is ever sold twice: many client processes against two servers, budgets that end at their limits."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from proofs.budget.servers import CHECKOUT, Ground
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit.channel import channel

CLIENTS = 8
SERVERS = 2
IN_FLIGHT = 8
TEAMS = 4
AGENTS = 2
AGENT_LIMIT = 12_000_000
"""What an agent may spend, in nanos; what teams and the organisation may is the sum of theirs."""
_WATCH_S = 0.05


@dataclass(frozen=True, slots=True)
class Oversell:
    """What came of it.

    Attributes:
        oversold_nanos: By how much any budget was ever seen above its limit, at the most.
        missing_nanos: How much of the limits was not sold at the end though it was asked for.
        unexplained_nanos: The difference between what clients were told and what the counters say.
        decisions: How many spends were decided.
        seconds: How long it took.
    """

    oversold_nanos: int
    missing_nanos: int
    unexplained_nanos: int
    decisions: int
    seconds: float


async def prove(ground: Ground, database: str, *, spends: int, timeout_s: float) -> Oversell:
    """Asks for `spends` reservations and more, for more than the limits allow, from all clients at once."""
    agents = [f"orgs/oversell/teams/t{t}/agents/a{a}" for t in range(TEAMS) for a in range(AGENTS)]
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(ground.server(database)) for _ in range(SERVERS)]
        to_budget = await stack.enter_async_context(channel(addresses[0], ground.token))
        stub = budget_pb2_grpc.BudgetServiceStub(to_budget)
        for name in agents:
            await _limit(stub, name, AGENT_LIMIT)
        for team in range(TEAMS):
            await _limit(stub, f"orgs/oversell/teams/t{team}", AGENTS * AGENT_LIMIT)
        await _limit(stub, "orgs/oversell", TEAMS * AGENTS * AGENT_LIMIT)
        began_s = asyncio.get_running_loop().time()
        seen = [0]
        watch = asyncio.create_task(_watch(ground, database, seen))
        orders = {"addresses": addresses, "token": ground.token, "agents": agents, "in_flight": IN_FLIGHT}
        orders |= {"spends": -(-spends // CLIENTS), "timeout_s": timeout_s}
        try:
            tallies = await asyncio.gather(*(_client(orders | {"seed": seed}, timeout_s) for seed in range(CLIENTS)))
        finally:
            watch.cancel()
            (ended,) = await asyncio.gather(watch, return_exceptions=True)
        seconds = asyncio.get_running_loop().time() - began_s
        audit = await stub.Audit(budget_pb2.AuditRequest(), timeout=30)
    broken = [f"{check.name}: {check.detail}" for check in audit.checks if not check.ok]
    if broken or not isinstance(ended, asyncio.CancelledError):
        raise RuntimeError(f"the books do not hold: {broken or ended!r}")
    return await _judge(ground, database, tallies, max(seen), seconds)


async def _judge(
    ground: Ground, database: str, tallies: list[dict[str, Any]], worst_seen: int, seconds: float
) -> Oversell:
    rows = await ground.fetch(database, f"{_USE} ORDER BY b.subject")
    sold = {row["subject"]: row["sold"] for row in rows}
    told: dict[str, int] = {}
    for tally in tallies:
        for agent, nanos in tally["nanos"].items():
            team = agent.rpartition("/agents/")[0]
            for subject in (agent, team, "orgs/oversell"):
                told[subject] = told.get(subject, 0) + nanos
    return Oversell(
        max(0, *(row["sold"] - row["limit_amount"] for row in rows), worst_seen),
        sum(max(0, row["limit_amount"] - row["sold"]) for row in rows),
        sum(abs(sold[subject] - told.get(subject, 0)) for subject in sold),
        sum(tally["decisions"] for tally in tallies),
        seconds,
    )


_USE = """
SELECT b.subject, b.limit_amount, c.spent + c.reserved AS sold
FROM budgets b JOIN counters c USING (org, budget_no) WHERE b.org = 'oversell'
"""


async def _watch(ground: Ground, database: str, seen: list[int]) -> None:
    """Looks at the counters while they move: what is used is what was estimated, so no limit may ever be passed."""
    while True:
        seen[0] = max(seen[0], *(row["sold"] - row["limit_amount"] for row in await ground.fetch(database, _USE)), 0)
        await asyncio.sleep(_WATCH_S)


async def _limit(stub: Any, subject: str, nanos: int) -> None:
    budget = budget_pb2.Budget(
        dimension=budget_pb2.DIMENSION_COST,
        currency_code="USD",
        limit_amount=nanos,
        window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_LIFETIME),
        on_exceed=budget_pb2.ON_EXCEED_BLOCK,
    )
    await stub.CreateBudget(budget_pb2.CreateBudgetRequest(parent=subject, budget_id="b", budget=budget))


async def _client(orders: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proofs.budget.oversell_client",
        cwd=CHECKOUT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(json.dumps(orders).encode()), timeout_s + 10)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"a client ended with {process.returncode}")
    tally: dict[str, Any] = json.loads(output)
    return tally
