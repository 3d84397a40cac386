"""The same events from many clients at once, again and again, at two processes: each is there once."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from services.kit.channel import channel
from services.kit.database import create_pool
from services.metering.store import audit
from tests.support.databases import Database
from tests.support.metering import FakeBudget, running_budget, usage_event
from tests.support.metering_process import MeteringProcesses
from tests.support.waiting import until

EVENTS = 300
CLIENTS = 8
ROUNDS = 3
BATCH = 50


async def test_a_storm_of_duplicates_is_recorded_once(database: Callable[[str], Database], tmp_path: Path) -> None:
    made = database("metering")
    budget = FakeBudget()
    events = [usage_event(f"{n}", subject=f"orgs/o{n % 4}/agents/a", session=f"s{n % 7}") for n in range(EVENTS)]
    for event in events:
        event.occurred_at.GetCurrentTime()
    firsts: Counter[str] = Counter()
    answers: Counter[str] = Counter()

    async def client(stubs: list["metering_pb2_grpc.MeteringServiceAsyncStub"], seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - an order
        for _ in range(ROUNDS):
            mine = dice.sample(events, EVENTS)
            for n in range(0, EVENTS, BATCH):
                batch = mine[n : n + BATCH] + mine[n : n + 3]
                request = metering_pb2.BatchRecordUsageRequest(events=batch)
                response = await dice.choice(stubs).BatchRecordUsage(request, timeout=30)
                for event, result in zip(batch, response.results, strict=True):
                    assert result.WhichOneof("result") == "usage", result
                    answers[event.id] += 1
                    firsts[event.id] += not result.usage.duplicate

    async with running_budget(budget) as address:
        processes = MeteringProcesses.make(made, tmp_path, address)
        async with (
            processes.start_anywhere() as (one, _),
            processes.start_anywhere() as (other, _),
            channel(one, processes.token) as to_one,
            channel(other, processes.token) as to_other,
        ):
            stubs = [metering_pb2_grpc.MeteringServiceStub(to) for to in (to_one, to_other)]
            await asyncio.gather(*(client(stubs, seed) for seed in range(CLIENTS)))
            await until(lambda: len(budget.applied) == EVENTS, what="delivery")

    assert set(firsts.values()) == {1}
    assert min(answers.values()) >= CLIENTS * ROUNDS
    assert sum(budget.calls) == EVENTS
    async with await create_pool(made.owner_dsn, application_name="test") as pool:
        assert await pool.fetchval("SELECT count(*) FROM usage_events") == EVENTS
        assert await pool.fetchval("SELECT sum(operations) FROM usage_rollups") == EVENTS
        async with audit.snapshot(pool, None) as snapshot:
            assert (await snapshot.rollups_that_differ()).count == 0
            assert (await snapshot.sessions_that_differ()).count == 0
            assert sum(total.events for total in await snapshot.totals()) == EVENTS
