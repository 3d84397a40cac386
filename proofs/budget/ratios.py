"""What many budgets cost: two loads in turns, slice by slice, so that a busy machine slows both alike."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import grpc

from proofs.budget.servers import Ground
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit.channel import channel

BATCH = 100
IN_FLIGHT = 10
_WARM_BATCHES = 40
_LIMIT = 9 * 10**15


@dataclass(slots=True)
class Load:
    """Batches of one kind of spend.

    Attributes:
        stub: The server.
        subjects: Who spends, in turn.
        rates: Decisions a second of each slice.
    """

    stub: Any
    subjects: list[str]
    rates: list[float]

    async def slice(self, seconds: float, *, batches: int = 0) -> None:
        """Sends for so long, or so many batches."""
        began_s = time.perf_counter()
        decided = 0
        left = batches

        async def worker() -> None:
            nonlocal decided, left
            while time.perf_counter() - began_s < seconds or left > 0:
                left -= 1
                decided += await self._batch()

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        if not batches:
            self.rates.append(decided / (time.perf_counter() - began_s))

    async def _batch(self) -> int:
        prefix = uuid.uuid4().hex
        request = budget_pb2.BatchReserveRequest()
        for number in range(BATCH):
            item = request.requests.add(
                subject=self.subjects[number % len(self.subjects)], request_id=f"{prefix}-{number}"
            )
            item.estimate.cost.currency_code = "USD"
            item.estimate.cost.amount_nanos = 25_000
            item.estimate.input_tokens = 900
            item.estimate.max_output_tokens = 100
        try:
            answer = await self.stub.BatchReserve(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            raise RuntimeError(f"a batch failed: {error.code()}: {error.details()}") from None
        for result in answer.results:
            if result.decision.outcome != budget_pb2.OUTCOME_ALLOW:
                raise RuntimeError(f"a decision was not ALLOW: {result}")
        return len(answer.results)


async def compare(measured: Load, beside: Load, *, seconds: float, slices: int) -> float:
    """The median rate of one load relative to that of the other, in turns."""
    for load in (measured, beside):
        await load.slice(0, batches=_WARM_BATCHES)
    for turn in range(slices):
        pair = (measured, beside) if turn % 2 else (beside, measured)
        for load in pair:
            await load.slice(seconds / slices)
        print(f"  {measured.rates[-1]:,.0f} beside {beside.rates[-1]:,.0f} decisions/s", flush=True)
    return median(measured.rates) / median(beside.rates)


async def twenty_budgets(ground: Ground, database: str, *, seconds: float, slices: int) -> float:
    """8 levels and 20 budgets that apply, in an organisation of 10,000, beside 3 levels with one each."""
    await _add_budgets(ground, database, "flat", ["orgs/flat"], 1)
    teams = [f"orgs/flat/teams/t{t}" for t in range(5)]
    flat = [f"{team}/agents/a{a}" for team in teams for a in range(4)]
    await _add_budgets(ground, database, "flat", [*teams, *flat], 1)
    path = ["orgs/deep", "orgs/deep/workspaces/w"]
    for name in ("teams/a", "teams/b", "teams/c", "agents/d", "agents/e"):
        path.append(f"{path[-1]}/{name}")
    leaves = [f"{path[-1]}/agents/f{leaf}" for leaf in range(20)]
    await _add_budgets(ground, database, "deep", path[:6], 3)
    await _add_budgets(ground, database, "deep", [path[6], *leaves], 1)
    others = [f"orgs/deep/teams/other{n}" for n in range(10_000 - 18 - 21)]
    await _add_budgets(ground, database, "deep", others, 1)
    await ground.settle()
    async with ground.server(database) as address, channel(address, ground.token) as to_budget:
        stub = budget_pb2_grpc.BudgetServiceStub(to_budget)
        applying = await stub.Reserve(_look(leaves[0]))
        if applying.decision.outcome != budget_pb2.OUTCOME_ALLOW:
            raise RuntimeError(f"the deep subject may not spend: {applying}")
        ratio = await compare(Load(stub, leaves, []), Load(stub, flat, []), seconds=seconds, slices=slices)
    held = await ground.fetch(
        database, "SELECT cardinality(holds) / 4 AS holds, count(*) FROM reservations GROUP BY 1 ORDER BY 1"
    )
    if [row["holds"] for row in held] != [3, 20]:
        raise RuntimeError(f"reservations hold on {[row['holds'] for row in held]} budgets, not on 3 and 20")
    return ratio


async def million_counters(
    ground: Ground, empty: str, crowded: str, *, seconds: float, slices: int, counters: int
) -> float:
    """A database with a million counters of other subjects beside an empty one."""
    teams = [f"orgs/busy/teams/t{t}" for t in range(5)]
    agents = [f"{team}/agents/a{a}" for team in teams for a in range(4)]
    for database in (empty, crowded):
        await _add_budgets(ground, database, "busy", ["orgs/busy", *teams, *agents], 1)
    await _add_budgets(ground, crowded, "busy", [f"orgs/busy/teams/other{n}" for n in range(5_000)], 1)
    await ground.execute(
        crowded,
        f"""
        INSERT INTO counters (org, budget_no, window_key, spent)
        SELECT 'other' || n % 1000, 1000000 + n / 10, 20260101 + n % 10, n
        FROM generate_series(1, {counters - 5_000}) AS n
        """,  # noqa: S608 - a number
        """
        INSERT INTO counters (org, budget_no, window_key, spent)
        SELECT org, budget_no, 20260101, 1 FROM budgets WHERE subject LIKE 'orgs/busy/teams/other%'
        """,
        "VACUUM ANALYZE counters",
    )
    await ground.settle()
    async with (
        ground.server(crowded) as there,
        ground.server(empty) as here,
        channel(there, ground.token) as to_crowded,
        channel(here, ground.token) as to_empty,
    ):
        loads = [Load(budget_pb2_grpc.BudgetServiceStub(one), agents, []) for one in (to_crowded, to_empty)]
        return await compare(loads[0], loads[1], seconds=seconds, slices=slices)


def _look(subject: str) -> budget_pb2.ReserveRequest:
    request = budget_pb2.ReserveRequest(subject=subject, validate_only=True)
    request.estimate.cost.currency_code = "USD"
    request.estimate.cost.amount_nanos = 1
    return request


async def _add_budgets(ground: Ground, database: str, org: str, subjects: Sequence[str], each: int) -> None:
    """Budgets by SQL, as CreateBudget makes them: of cost, tokens and requests, by month."""
    connection_values = [(subject, f"b{number}", 1 + number % 3) for subject in subjects for number in range(each)]
    rows = ", ".join(
        f"('{org}', '{subject}', '{id_}', {(1, 2, 5)[kind - 1]}, '{'USD' if kind == 1 else ''}', {_LIMIT}, 'MONTH', "
        "'UTC', 1, 1, 1, '{50,80,95,100}', 1, 1, 1)"
        for subject, id_, kind in connection_values
    )
    await ground.execute(
        database,
        f"INSERT INTO org_policy (org) VALUES ('{org}') ON CONFLICT DO NOTHING",  # noqa: S608 - names made here
        f"""
        INSERT INTO budgets (org, subject, budget_id, dimension, currency, limit_amount, window_kind, time_zone,
            week_start, anchor_day, on_exceed, thresholds, created_us, updated_us, effective_from_us)
        VALUES {rows}
        """,  # noqa: S608 - names made here
        f"UPDATE org_policy SET epoch = epoch + 1 WHERE org = '{org}'",  # noqa: S608 - names made here
    )
