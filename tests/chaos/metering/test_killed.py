"""Metering is killed while it records and relays: what was acknowledged is there once, here and at the receiver."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import grpc

from embedded.ports import free_ports
from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from services.kit.channel import channel
from tests.support.databases import CHECKOUT, Database
from tests.support.metering import EVERYONE, FakeBudget, Keys, running_budget, usage_event
from tests.support.processes import running, serves
from tests.support.waiting import until

SERVICE = "pursestrings.metering.v1.MeteringService"
BATCHES = 60
BATCH = 20
KILLS = 3


@contextlib.asynccontextmanager
async def process(environ: dict[str, str], port: int, directory: Path) -> AsyncIterator[int]:
    """Metering as a process of its own; gives its pid."""
    context = running(
        (sys.executable, "-m", "services.metering.main"),
        environ=environ,
        cwd=CHECKOUT,
        log=directory / "metering.log",
        is_ready=lambda _pid: serves(port, SERVICE),
    )
    # In a thread: the budget service of this very loop must go on answering while metering starts and stops.
    pid = await asyncio.to_thread(context.__enter__)
    try:
        yield pid
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


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
    keys = Keys.make(tmp_path)
    token = keys.token(EVERYONE, "service")
    (tmp_path / "token").write_text(token)
    port, metrics_port = free_ports(2)
    budget = FakeBudget()
    acknowledged: set[str] = set()
    async with running_budget(budget) as budget_address:
        environ = {
            "PATH": os.defpath,
            "PURSE_BIND": f"127.0.0.1:{port}",
            "PURSE_METRICS_BIND": f"127.0.0.1:{metrics_port}",
            "PURSE_METERING_DSN": made.service_dsn,
            "PURSE_AUTH_PUBLIC_KEY_FILE": str(keys.public_file),
            "PURSE_SERVICE_TOKEN_FILE": str(tmp_path / "token"),
            "PURSE_BUDGET_ADDRESS": budget_address,
            "PURSE_RELAY_BATCH_MAX": "7",
        }
        sending = asyncio.create_task(send_all(f"127.0.0.1:{port}", token, acknowledged))
        for kill in range(1, KILLS + 1):
            async with process(environ, port, tmp_path) as pid:
                mark = kill * BATCHES * BATCH // (KILLS + 1)
                await until(lambda: len(acknowledged) >= mark or sending.done(), what="progress")  # noqa: B023 - awaited here
                budget.lose_answers = 1
                os.kill(pid, signal.SIGKILL)
        async with process(environ, port, tmp_path):
            await sending
            await until(lambda: len(budget.applied) == BATCHES * BATCH, what="delivery")
    connection = await asyncpg.connect(made.owner_dsn)
    rows = await connection.fetch("SELECT id FROM usage_events")
    rolled_up = await connection.fetchval("SELECT sum(operations) FROM usage_rollups")
    await connection.close()
    assert sorted(row["id"] for row in rows) == sorted(acknowledged)
    assert len(acknowledged) == BATCHES * BATCH == rolled_up
    assert {id_ for _, id_ in budget.applied} == acknowledged
