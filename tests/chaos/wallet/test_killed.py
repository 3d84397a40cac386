"""kill -9 of the wallet service while budget databases post to it: every number is applied exactly once."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from embedded.ports import free_ports
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.database import create_pool
from services.kit.errors import Code, PurseError
from tests.support.databases import CHECKOUT, Database
from tests.support.wallets import NOBODY_LISTENS, Books, Caller, assert_sound, make_keys, wallet_name

KILLS = 4
HOLDERS = ["east", "west"]
WALLET = wallet_name()
TRY_AGAIN = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.UNKNOWN, Code.CANCELLED, Code.INTERNAL}


@asynccontextmanager
async def wallet_process(
    service_dsn: str, public_key: Path, port: int, **more: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service as a process of its own, killed at the end if it is still there; `more` variables go before ours."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.wallet.main"),
        cwd=CHECKOUT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={
            "PATH": os.defpath,
            "PURSE_BIND": f"127.0.0.1:{port}",
            "PURSE_METRICS_BIND": "127.0.0.1:0",
            "PURSE_WALLET_DSN": service_dsn,
            "PURSE_AUTH_PUBLIC_KEY_FILE": str(public_key),
            "PURSE_TEMPORAL_ADDRESS": "127.0.0.1:9",
            "PURSE_STRIPE_API_KEY": "sk_test_of_nobody",
            "PURSE_STRIPE_BASE_URL": NOBODY_LISTENS,
            "PURSE_STRIPE_WEBHOOK_SECRET": "whsec_of_nobody",
            **more,
        },
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def insist(call: Caller, method: str, request: object) -> object:
    """Sends the same request until it is answered."""
    while True:
        try:
            return await call(method, request, timeout_s=5)
        except PurseError as error:
            if error.code not in TRY_AGAIN:
                raise
            await asyncio.sleep(0.02)


class Holder:
    """A budget database that extends and captures, and counts."""

    def __init__(self, name: str, call: Caller) -> None:
        self.name = name
        self.call = call
        self.n = 0
        self.captured = 0

    async def spend(self, stop: asyncio.Event, chance: random.Random) -> None:
        while not stop.is_set():
            self.n += 1
            key: dict[str, Any] = {"wallet": WALLET, "holder": self.name, "n": self.n}
            if self.n % 5 == 1:
                request: object = pb.ExtendLeaseRequest(**key, ask_nanos=500, need_nanos=10)
                await insist(self.call, "ExtendLease", request)
                continue
            amount = chance.randint(1, 60)
            self.captured += amount
            line = pb.CaptureLine(provider="p", model="m", month="2026-11", amount_nanos=amount, calls=1)
            request = pb.CaptureLeaseRequest(**key, captured_total_nanos=self.captured, lines=[line])
            await insist(self.call, "CaptureLease", request)


async def test_a_killed_service_loses_and_doubles_nothing(database: Callable[[str], Database], tmp_path: Path) -> None:
    fresh, keys, port = database("wallet"), make_keys(tmp_path), free_ports(1)[0]
    async with await create_pool(fresh.service_dsn, application_name="test", size_max=2) as pool:
        books = Books(pool)
        await books.create(WALLET)
        await books.grant(WALLET, "g", 10**6)
        call = Caller(f"127.0.0.1:{port}", keys.token("orgs/-", "service"))
        chance, stop = random.Random(7), asyncio.Event()  # noqa: S311 - a test's dice
        holders = [Holder(name, call) for name in HOLDERS]
        spending = [asyncio.create_task(holder.spend(stop, chance)) for holder in holders]
        for kill in range(KILLS):
            async with wallet_process(fresh.service_dsn, keys.public_file, port) as process:
                goal = [holder.n + chance.randint(5, 25) for holder in holders]
                async with asyncio.timeout(60):
                    while any(holder.n < upto for holder, upto in zip(holders, goal, strict=True)):
                        await asyncio.sleep(0.01)
                if kill == KILLS - 1:
                    stop.set()
                    await asyncio.gather(*spending)
                else:
                    process.send_signal(signal.SIGKILL)
        await call.close()
        rows = await pool.fetch("SELECT holder, n, captured_nanos FROM leases ORDER BY holder")
        assert [(holder.name, holder.n, holder.captured) for holder in holders] == [tuple(row) for row in rows]
        assert sum(holder.n for holder in holders) == await pool.fetchval("SELECT count(*) FROM lease_ops")
        await assert_sound(pool)
