"""Recharges through Temporal while a fifth of what Stripe is asked, or tells, goes wrong; see `recharges`.

The whole suite runs. A person is played beside it: who authenticates what the bank wants to see them for, and instead
of resting for hours after a decline moves the attempts' times back and wakes the workflow.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import asyncpg
import grpc
import httpx
from pydantic import SecretStr

from embedded.suite import Suite
from proofs.wallet.recharges import ORG, Place, Recharges, arm, compare, open_wallet, resume, settle, standing
from pursestrings.wallet.v1 import payments_pb2, wallet_pb2_grpc
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.channel import channel
from services.wallet.recharge.domain.attempts import AUTHENTICATION
from services.wallet.recharge.settings import StripeSettings
from services.wallet.recharge.stripe import Stripe

WALLETS: Final = 20
_LOOK_EVERY_S: Final = 0.5


async def prove(directory: Path, *, recharges: int = 300, seed: int = 1, timeout_s: float = 1_800.0) -> Recharges:
    """Runs so many recharges as workflows and compares the books.

    Raises:
        RuntimeError: The wallet's own audit finds something.
        TimeoutError: It did not end.
    """
    per_wallet = -(-recharges // WALLETS)
    wallets = [f"orgs/{ORG}/wallets/w{number}" for number in range(-(-recharges // per_wallet))]
    async with asyncio.timeout(timeout_s), Suite(directory, free_ports=True) as suite, reaching(suite) as place:
        for wallet in wallets:
            await open_wallet(place, wallet, per_wallet)
        await arm(place, seed)
        began_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(attend(place, wallet, per_wallet) for wallet in wallets))
        faults = await settle(place)
        seconds = asyncio.get_running_loop().time() - began_s
        return replace(await compare(place, wallets, per_wallet, seconds), faults=faults)


async def attend(place: Place, wallet: str, per_wallet: int) -> None:
    """Does what a person does until the month is full."""
    while (now := await standing(place, wallet)).succeeded < per_wallet:
        with contextlib.suppress(grpc.aio.AioRpcError):
            one = None
            if now.pending:
                one = (await place.stub.GetRecharge(pb.GetRechargeRequest(name=now.pending))).recharge
            if one is not None and one.decline_code in AUTHENTICATION:
                await place.stub.AuthenticatePayment(payments_pb2.AuthenticatePaymentRequest(name=one.name))
            elif now.paused or (one is not None and one.decline_code):
                await place.sql.execute(
                    "UPDATE recharge_attempts SET ended_at = ended_at - interval '4 days' WHERE recharge = $1",
                    now.pending,
                )
                await resume(place, wallet)
        await asyncio.sleep(_LOOK_EVERY_S)


@contextlib.asynccontextmanager
async def reaching(suite: Suite) -> AsyncIterator[Place]:
    """A running suite's wallet service, Stripe and books."""
    twin = f"http://{suite.address('twin')}"
    stripe = Stripe(StripeSettings(stripe_api_key=SecretStr("sk_test_twin"), stripe_base_url=twin))
    token = suite.mint("orgs/-", ["admin", "service"])
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(stripe.close)
        wire = await stack.enter_async_context(channel(suite.address("wallet"), token))
        sql = await stack.enter_async_context(asyncpg.create_pool(suite.dsn("wallet", "owner"), min_size=1, max_size=4))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60, trust_env=False))
        yield Place(twin, wallet_pb2_grpc.WalletServiceStub(wire), stripe, sql, client)
