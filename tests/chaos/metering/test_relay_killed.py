"""The relay dies at each of its steps, its process or its connection: every event is told, always as the same one."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest

from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit.channel import channel
from services.kit.database import create_pool
from services.metering.relay import UsageRelay
from services.metering.store.recording import record
from tests.support.cutting_proxy import CuttingProxy, cutting_proxy
from tests.support.databases import Database
from tests.support.metering import FakeBudget, recording, running_budget
from tests.support.metering_process import MeteringProcesses
from tests.support.waiting import until

NOW = datetime.now(UTC)
IDS = [f"e{n}" for n in range(250)]


async def nothing() -> None:
    """What happens at a step unless a test says otherwise."""


@dataclass
class WatchingBudget(FakeBudget):
    """Remembers all that it was ever told, and does as told before and after it applies.

    Attributes:
        told: Every content that each id came with, as bytes.
        before: Awaited before items are applied; `after` before they are answered.
    """

    told: dict[str, set[bytes]] = field(default_factory=dict)
    before: Callable[[], Awaitable[None]] = nothing
    after: Callable[[], Awaitable[None]] = nothing

    async def ApplyUsage(
        self, request: budget_pb2.ApplyUsageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> budget_pb2.ApplyUsageResponse:
        if request.items:
            await self.before()
        for item in request.items:
            self.told.setdefault(item.id, set()).add(item.SerializeToString(deterministic=True))
        response = await super().ApplyUsage(request, context)
        if request.items:
            await self.after()
        return response

    def assert_each_once(self) -> None:
        """Every event arrived; told again it was the same, so who knows ids applies it once."""
        assert sorted(self.told) == sorted(IDS)
        assert all(len(contents) == 1 for contents in self.told.values())


async def fill(dsn: str) -> None:
    """Puts events and what points at them into the books."""
    async with (
        await create_pool(dsn, application_name="test") as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        await record(connection, [recording(id_, NOW) for id_ in IDS])


async def left(books: asyncpg.Connection) -> int:
    count: int = await books.fetchval("SELECT count(*) FROM outbox")
    return count


@pytest.fixture
async def made(database: Callable[[str], Database]) -> Database:
    """A database with usage to be told."""
    one = database("metering")
    await fill(one.service_dsn)
    return one


@pytest.fixture
async def books(made: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(made.owner_dsn)
    yield connection
    await connection.close()


def cut_at(proxy: CuttingProxy, step: str) -> None:
    """Cuts the relay's connection before its n-th message, or around COMMIT."""
    match step:
        case "before commit":
            proxy.cut_before_commit = True
        case "after commit":
            proxy.cut_after_commit = True
        case _:
            proxy.cut_before_statement = int(step)


@pytest.mark.parametrize("step", ["1", "2", "3", "4", "5", "before commit", "after commit"])
async def test_a_connection_that_is_cut_loses_nothing(made: Database, books: asyncpg.Connection, step: str) -> None:
    budget = WatchingBudget()
    async with (
        running_budget(budget) as address,
        channel(address, None) as open_channel,
        cutting_proxy(made.service_dsn) as proxy,
        await create_pool(proxy.dsn, application_name="cut") as pool,
    ):
        relay = UsageRelay(pool, budget_pb2_grpc.BudgetServiceStub(open_channel), name="test", batch_max=100)
        cut_at(proxy, step)

        failures = 0
        while await left(books):
            try:
                await relay.deliver()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                failures += 1

    assert (proxy.cuts, failures) == (1, 1)
    budget.assert_each_once()


async def test_a_process_that_is_killed_loses_nothing(
    made: Database, books: asyncpg.Connection, tmp_path: Path
) -> None:
    """Killed before it sends, while the receiver works, after the receiver has, and before it forgets what it sent."""
    budget = WatchingBudget()
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    async with running_budget(budget) as address:
        processes = MeteringProcesses.make(made, tmp_path, address, PURSE_RELAY_BATCH_MAX="100")

        async with books.transaction():
            await books.execute("LOCK TABLE outbox IN EXCLUSIVE MODE")
            async with processes.start_anywhere() as (_, pid):
                await waits(books)
                os.kill(pid, signal.SIGKILL)
        assert not budget.told

        for place in ("before", "after"):
            reached.clear()
            setattr(budget, place, hang)
            async with processes.start_anywhere() as (_, pid):
                await asyncio.wait_for(reached.wait(), 20)
                os.kill(pid, signal.SIGKILL)
            setattr(budget, place, nothing)
        assert await left(books) == 3

        async with books.transaction():
            # Rows can be locked and events read, but nothing be deleted.
            await books.execute("LOCK TABLE outbox IN SHARE MODE")
            async with processes.start_anywhere() as (_, pid):
                await waits(books)
                assert len(budget.told) == 100
                os.kill(pid, signal.SIGKILL)
        assert await left(books) == 3

        async with processes.start_anywhere():
            await until(lambda: len(budget.told) == len(IDS), what="delivery")
            async with asyncio.timeout(20):
                while await left(books):
                    await asyncio.sleep(0.02)
    budget.assert_each_once()


async def waits(books: asyncpg.Connection) -> None:
    """Until the relay waits for the table that this connection has locked."""
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'outbox'::regclass AND NOT granted"
    async with asyncio.timeout(20):
        while not await books.fetchval(waiting):
            await asyncio.sleep(0.02)
