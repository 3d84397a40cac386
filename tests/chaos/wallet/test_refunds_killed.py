"""kill -9 of the wallet service between the steps of a refund: it is debited once, and made at Stripe once."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedded.ports import free_ports
from pursestrings.wallet.v1 import refunds_pb2, statements_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import PurseError
from tests.chaos.wallet.test_killed import insist, wallet_process
from tests.conftest import TwinServer
from tests.integration.refunds.test_money_back import charged
from tests.support.cutting_proxy import CuttingProxy, cutting_proxy
from tests.support.databases import Database
from tests.support.recharging import API_KEY, USD, Rig, running_rig, twin_controls, usd
from tests.support.wallets import Caller

DEBIT, SETTLE = b"INSERT INTO refunds", b"UPDATE refunds SET state"
KILLS: list[tuple[str, bytes]] = [
    ("after commit", DEBIT),
    ("at Stripe", b""),
    ("before commit", SETTLE),
    ("after commit", SETTLE),
]


def request(source: str, number: int) -> refunds_pb2.RefundRequest:
    return refunds_pb2.RefundRequest(source=source, amount=usd(1), reason="a test", request_id=f"killed-{number}")


async def test_a_kill_between_any_steps_leaves_one_refund(
    database: Callable[[str], Database], twin: TwinServer, tmp_path: Path
) -> None:
    fresh, port = database("wallet"), free_ports(1)[0]
    async with running_rig(fresh, twin.url, tmp_path, org="killed") as rig:
        recharge = await charged(rig)
    stripe = {"PURSE_STRIPE_API_KEY": API_KEY, "PURSE_STRIPE_BASE_URL": twin.url}
    public = tmp_path / "public.pem"
    call = Caller(f"127.0.0.1:{port}", rig.token_file.read_text())
    async with twin_controls(twin.url) as controls, cutting_proxy(fresh.service_dsn) as proxy:
        for number, (where, text) in enumerate(KILLS):
            async with wallet_process(proxy.dsn, public, port, **stripe) as process:
                # It is there; what it did until now is nobody's business.
                await insist(call, "GetWallet", pb.GetWalletRequest(name=rig.wallet))
                arm(proxy, process, where, text)
                if where == "at Stripe":
                    # Made and kept there, answered only after the service is gone.
                    await controls.fault("timeout:20", "POST /v1/refunds")
                asking = asyncio.create_task(ask(call, request(recharge.name, number)))
                if where == "at Stripe":
                    async with asyncio.timeout(30):
                        while not await controls.fired():
                            await asyncio.sleep(0.02)
                    process.send_signal(signal.SIGKILL)
                async with asyncio.timeout(30):
                    await process.wait()
                assert await asking is None
                assert process.returncode == -signal.SIGKILL
            await controls.clear_faults()
            proxy.on_cut, proxy.only_with = None, b""
        async with wallet_process(proxy.dsn, public, port, **stripe):
            for number in range(len(KILLS)):
                made: Any = await insist(call, "Refund", request(recharge.name, number))
                async with asyncio.timeout(60):
                    while made.refund.state != refunds_pb2.REFUND_STATE_SUCCEEDED:
                        await asyncio.sleep(0.05)
                        made = await call("GetRefund", refunds_pb2.GetRefundRequest(name=made.refund.name))
            await check(call, rig, recharge)
        listed = await controls.api.v1.refunds.list_async({"payment_intent": recharge.payment_intent, "limit": 100})
    await call.close()
    assert [100] * len(KILLS) == [one.amount for one in listed.data]
    assert proxy.cuts == len(KILLS) - 1


def arm(proxy: CuttingProxy, process: asyncio.subprocess.Process, where: str, text: bytes) -> None:
    proxy.on_cut = lambda: process.send_signal(signal.SIGKILL)
    proxy.only_with = text
    proxy.cut_before_commit, proxy.cut_after_commit = where == "before commit", where == "after commit"


async def ask(call: Caller, asked: refunds_pb2.RefundRequest) -> object:
    """The answer, or None where the service is gone."""
    try:
        return await call("Refund", asked, timeout_s=30)
    except PurseError:
        return None


async def check(call: Caller, rig: Rig, recharge: pb.Recharge) -> None:
    balance = await call("GetBalance", pb.GetBalanceRequest(name=rig.wallet))
    assert balance.balance_nanos == (20 - len(KILLS)) * USD
    audit = await call("Audit", pb.AuditRequest(org=f"orgs/{rig.org}"))
    assert [] == [one.detail for one in audit.checks if not one.ok]
    compared = await call("Reconcile", statements_pb2.ReconcileRequest(org=f"orgs/{rig.org}"))
    assert [] == list(compared.differences)
    assert recharge.payment_intent
