"""Metering as processes of their own, to be killed."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import grpc

from embedded.ports import free_ports
from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from services.kit.channel import channel
from tests.support.databases import CHECKOUT, Database
from tests.support.metering import EVERYONE, Keys, usage_event
from tests.support.processes import running, serves

BATCH = 20
"""How many events a batch of `Sending` has."""
SERVICE = "pursestrings.metering.v1.MeteringService"


@dataclass(frozen=True, slots=True)
class MeteringProcesses:
    """How to start metering, again and again.

    Attributes:
        token: A service's token for everything.
        environ: The settings, without ports.
        directory: Where its log goes.
        keys: What signs its tokens.
    """

    token: str
    environ: dict[str, str]
    directory: Path
    keys: Keys

    @classmethod
    def make(cls, database: Database, directory: Path, budget_address: str, **more: str) -> "MeteringProcesses":
        """Processes on one database that relay to one budget service; further settings by their variables' names."""
        keys = Keys.make(directory)
        token = keys.token(EVERYONE, "service")
        (directory / "token").write_text(token)
        environ = {
            "PATH": os.defpath,
            "PURSE_METERING_DSN": database.service_dsn,
            "PURSE_AUTH_PUBLIC_KEY_FILE": str(keys.public_file),
            "PURSE_SERVICE_TOKEN_FILE": str(directory / "token"),
            "PURSE_BUDGET_ADDRESS": budget_address,
        }
        return cls(token, environ | more, directory, keys)

    @contextlib.asynccontextmanager
    async def start(self, port: int, metrics_port: int) -> AsyncIterator[int]:
        """Metering on a port; gives its pid."""
        binds = {"PURSE_BIND": f"127.0.0.1:{port}", "PURSE_METRICS_BIND": f"127.0.0.1:{metrics_port}"}
        context = running(
            (sys.executable, "-m", "services.metering.main"),
            environ=self.environ | binds,
            cwd=CHECKOUT,
            log=self.directory / f"metering-{port}.log",
            is_ready=lambda _pid: serves(port, SERVICE),
        )
        # In a thread: the budget service of this very loop must go on answering while metering starts and stops.
        pid = await asyncio.to_thread(context.__enter__)
        try:
            yield pid
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)

    @contextlib.asynccontextmanager
    async def start_anywhere(self) -> AsyncIterator[tuple[str, int]]:
        """Metering on free ports; gives its address and pid."""
        port, metrics_port = free_ports(2)
        async with self.start(port, metrics_port) as pid:
            yield f"127.0.0.1:{port}", pid


@dataclass(slots=True)
class Sending:
    """Batches that are sent until they are answered, always with the same ids.

    Attributes:
        batches: How many.
        acknowledged: The ids that were answered as recorded.
    """

    batches: int
    acknowledged: set[str] = field(default_factory=set)

    @property
    def events(self) -> int:
        """How many events there are in all of them."""
        return self.batches * BATCH

    async def run(self, address: str, token: str) -> None:
        """Sends them all, three at once, and again after any error."""
        batches = iter(range(self.batches))
        async with channel(address, token) as opened:
            stub = metering_pb2_grpc.MeteringServiceStub(opened)

            async def send() -> None:
                for number in batches:
                    events = [usage_event(f"{number}-{n}", subject=f"orgs/o{n % 3}/agents/a") for n in range(BATCH)]
                    request = metering_pb2.BatchRecordUsageRequest(events=events, errors_only=True)
                    while True:
                        try:
                            response = await stub.BatchRecordUsage(request, timeout=10, wait_for_ready=True)
                            break
                        except grpc.aio.AioRpcError:
                            await asyncio.sleep(0.01)
                    assert (response.recorded, len(response.errors), len(response.results)) == (BATCH, 0, 0)
                    self.acknowledged.update(event.id for event in events)

            await asyncio.gather(send(), send(), send())

    async def check(self, database: Database) -> None:
        """Asserts that all was acknowledged, and what was acknowledged is in the books once."""
        connection = await asyncpg.connect(database.owner_dsn)
        rows = await connection.fetch("SELECT id FROM usage_events")
        rolled_up = await connection.fetchval("SELECT sum(operations) FROM usage_rollups")
        await connection.close()
        assert sorted(row["id"] for row in rows) == sorted(self.acknowledged)
        assert len(self.acknowledged) == self.events == rolled_up
