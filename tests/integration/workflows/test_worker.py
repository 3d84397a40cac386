"""What the worker says when it is told wrong things, and what waits while Temporal is away."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import TwinServer
from tests.support.databases import CHECKOUT, Database
from tests.support.recharging import running_rig


async def test_a_live_key_ends_the_worker_with_its_reason() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "workflows.worker",
        cwd=CHECKOUT,
        env={
            "PATH": os.defpath,
            "PURSE_STRIPE_API_KEY": "sk_live_nonsense",
            "PURSE_SERVICE_TOKEN_FILE": "/nowhere/service.token",
            "PURSE_METRICS_BIND": "127.0.0.1:0",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert "a live Stripe key is refused" in output.decode()
    assert "sk_live_nonsense" not in output.decode()


async def test_while_temporal_is_away_rows_wait_and_none_is_parked(
    database: Callable[[str], Database], twin: TwinServer, tmp_path: Path, org: str
) -> None:
    async with running_rig(database("wallet"), twin.url, tmp_path, org=org) as rig:
        await rig.card()
        await rig.policy()
        async with asyncio.timeout(20):
            while not await rig.sql.fetchval("SELECT last_error FROM outbox WHERE topic = 'recharge'"):
                await asyncio.sleep(0.02)
        row = await rig.sql.fetchrow("SELECT tries, parked_at, last_error FROM outbox WHERE topic = 'recharge'")
        assert (row["tries"], row["parked_at"]) == (0, None)
        assert "Temporal is out of reach" in row["last_error"]
