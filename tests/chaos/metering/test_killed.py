"""Metering is killed while it records and relays: what was acknowledged is there once, here and at the receiver."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import grpc

from embedded.ports import free_ports
from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from services.kit.channel import channel
from tests.support.databases import Database
from tests.support.metering import FakeBudget, running_budget, usage_event
from tests.support.metering_process import MeteringProcesses
from tests.support.waiting import until

BATCHES = 60
BATCH = 20
KILLS = 3


async def send_all(address: str, token: str, acknowledged: set[str]) -> None:
    """Sends every batch until it is answered, always with the same ids."""
    batches = iter(range(BATCHES))
    async with channel(address, token) as open_channel:
        stub = metering_pb2_grpc.MeteringServiceStub(open_channel)

        async def send() -> None:
            for number in batches:
                events = [usage_event(f"{number}-{n}", subject=f"orgs/o{n % 3}/agents/a") for n in range(BATCH)]
                request = metering_pb2.BatchRecordUsageRequest(events=events)
                while True:
                    try:
                        response = await stub.BatchRecordUsage(request, timeout=10, wait_for_ready=True)
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)
                assert all(result.WhichOneof("result") == "usage" for result in response.results)
                acknowledged.update(event.id for event in events)

        await asyncio.gather(send(), send(), send())


async def test_what_was_acknowledged_is_there_once(database: Callable[[str], Database], tmp_path: Path) -> None:
    made = database("metering")
    port, metrics_port = free_ports(2)
    budget = FakeBudget()
    acknowledged: set[str] = set()
    async with running_budget(budget) as budget_address:
        processes = MeteringProcesses.make(made, tmp_path, budget_address, PURSE_RELAY_BATCH_MAX="7")
        sending = asyncio.create_task(send_all(f"127.0.0.1:{port}", processes.token, acknowledged))
        for kill in range(1, KILLS + 1):
            async with processes.start(port, metrics_port) as pid:
                mark = kill * BATCHES * BATCH // (KILLS + 1)
                await until(lambda: len(acknowledged) >= mark or sending.done(), what="progress")  # noqa: B023 - awaited here
                budget.lose_answers = 1
                os.kill(pid, signal.SIGKILL)
        async with processes.start(port, metrics_port):
            await sending
            await until(lambda: len(budget.applied) == BATCHES * BATCH, what="delivery")
    connection = await asyncpg.connect(made.owner_dsn)
    rows = await connection.fetch("SELECT id FROM usage_events")
    rolled_up = await connection.fetchval("SELECT sum(operations) FROM usage_rollups")
    await connection.close()
    assert sorted(row["id"] for row in rows) == sorted(acknowledged)
    assert len(acknowledged) == BATCHES * BATCH == rolled_up
    assert {id_ for _, id_ in budget.applied} == acknowledged
