"""The worker as its own process, killed with SIGKILL between any two steps: one charge, one grant."""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from embedded.ports import LOOPBACK, free_ports
from pursestrings.wallet.v1 import wallet_pb2 as pb
from tests.conftest import TwinServer
from tests.support.databases import CHECKOUT, Database
from tests.support.recharging import API_KEY, USD, Rig, running_rig

CREATE, CONFIRM = "POST /v1/payment_intents", "POST /v1/payment_intents/*/confirm"


@pytest.fixture
async def rig(
    database: Callable[[str], Database], twin: TwinServer, tmp_path: Path, temporal_address: str
) -> AsyncIterator[Rig]:
    org = f"c-{uuid.uuid4().hex[:8]}"
    async with running_rig(
        database("wallet"), twin.url, tmp_path, org=org, temporal_address=temporal_address
    ) as running:
        yield running


@contextlib.asynccontextmanager
async def worker_process(rig: Rig) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`python -m workflows.worker`, once it is healthy, with the URL of its metrics."""
    port = free_ports(1)[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "workflows.worker",
        cwd=CHECKOUT,
        env={
            "PATH": os.defpath,
            "PURSE_METRICS_BIND": f"{LOOPBACK}:{port}",
            "PURSE_TEMPORAL_ADDRESS": rig.settings.temporal_address,
            "PURSE_WALLET_ADDRESS": rig.address,
            "PURSE_SERVICE_TOKEN_FILE": str(rig.token_file),
            "PURSE_STRIPE_API_KEY": API_KEY,
            "PURSE_STRIPE_BASE_URL": rig.twin.url,
            "PURSE_SHUTDOWN_GRACE_S": "2",
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://{LOOPBACK}:{port}"
    try:
        async with asyncio.timeout(60), httpx.AsyncClient() as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(f"{url}/health")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def begin(rig: Rig, wallet_id: str) -> tuple[str, str, str]:
    wallet = await rig.create_wallet(wallet_id)
    customer = await rig.card(wallet=wallet)
    await rig.policy(wallet)
    (one,) = await rig.recharges(wallet)
    return wallet, customer, one.name


async def fired(rig: Rig) -> None:
    """Returns once the armed fault has fired: the request is at Stripe, its answer is not back."""
    async with asyncio.timeout(30):
        while True:
            state = (await rig.twin.http.get(f"{rig.twin.url}/_twin/state")).json()
            if all(rule["fired"] for rule in state["faults"]):
                return
            await asyncio.sleep(0.02)


async def test_killed_while_stripe_makes_or_confirms_the_payment(rig: Rig) -> None:
    begun = []
    for number, match in enumerate((CREATE, CONFIRM)):
        async with worker_process(rig) as (process, _):
            # Executed and kept, answered only after the worker is gone.
            await rig.twin.fault("timeout:20", match)
            begun.append(await begin(rig, f"w{number}"))
            await fired(rig)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await rig.twin.clear_faults()
    async with worker_process(rig):
        for _, _, name in begun:
            await rig.until_state(name, pb.RECHARGE_STATE_SUCCEEDED, timeout_s=60)
    for wallet, customer, _ in begun:
        assert await rig.balance(wallet) == 20 * USD
        assert [intent.status for intent in await rig.twin.intents(customer)] == ["succeeded"]
    assert await rig.audit_failures() == []


async def test_a_worker_ends_in_good_order_and_shows_its_health(rig: Rig) -> None:
    async with worker_process(rig) as (process, url):
        async with httpx.AsyncClient() as http:
            assert "purse_" in (await http.get(f"{url}/metrics")).text
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
