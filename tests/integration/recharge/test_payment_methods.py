"""Payment methods: refused by the bank, repeated, replaced."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import asyncpg
import grpc

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import Code
from services.kit.status import from_rpc_error
from tests.support.recharging import Rig, refusal


def ask(rig: Rig, method: str, request_id: str) -> pb.SetupPaymentMethodRequest:
    return pb.SetupPaymentMethodRequest(wallet=rig.wallet, payment_method=method, request_id=request_id)


async def test_a_card_that_the_bank_refuses_is_not_put_on_file(rig: Rig) -> None:
    error = await refusal(rig.stub.SetupPaymentMethod(ask(rig, "pm_card_chargeDeclined", "a")))
    assert (error.code, error.reason, error.field) == (
        Code.FAILED_PRECONDITION,
        "PAYMENT_METHOD_DECLINED",
        "payment_method",
    )
    assert error.metadata["decline_code"] == "generic_decline"
    wallet = (await rig.stub.GetWallet(pb.GetWalletRequest(name=rig.wallet))).wallet
    assert wallet.payment_method == ""


async def test_a_method_that_does_not_exist_is_named(rig: Rig) -> None:
    error = await refusal(rig.stub.SetupPaymentMethod(ask(rig, "pm_nonsense", "a")))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "payment_method")


async def test_the_same_request_gives_the_same_answer(rig: Rig) -> None:
    first = await rig.stub.SetupPaymentMethod(ask(rig, "pm_card_visa", "a"))
    again = await rig.stub.SetupPaymentMethod(ask(rig, "pm_card_visa", "a"))
    assert first == again
    assert first.wallet.payment_method.startswith("pm_")
    other = await refusal(rig.stub.SetupPaymentMethod(ask(rig, "pm_card_mastercard", "a")))
    assert other.reason == "REQUEST_ID_REUSED"
    missing = await refusal(rig.stub.SetupPaymentMethod(ask(rig, "pm_card_visa", "")))
    assert missing.reason == "REQUEST_ID_REQUIRED"


async def test_an_answer_that_is_lost_is_found_again(rig: Rig) -> None:
    await rig.twin.fault("lost_answer", "POST /v1/customers")
    await rig.twin.fault("lost_answer", "POST /v1/payment_methods/*")
    answer = await rig.stub.SetupPaymentMethod(ask(rig, "pm_card_visa", "a"))
    methods = await rig.twin.api.v1.payment_methods.list_async({"customer": answer.customer})
    assert [method.id for method in methods.data] == [answer.wallet.payment_method]


async def test_another_card_keeps_the_customer_and_tells_the_budget_service(rig: Rig) -> None:
    sync = pb.SyncLeasesRequest(holder="b", orgs=[pb.DirectoryCursor(org=f"orgs/{rig.org}", version=0)])
    before = (await rig.stub.SyncLeases(sync)).directories[0].version
    one = await rig.card()
    two = await rig.card("pm_card_mastercard")
    assert one == two
    directory = (await rig.stub.SyncLeases(sync)).directories[0]
    assert directory.version > before
    assert directory.wallets[0].payment_method


async def test_two_wallets_cannot_both_take_one_request_id(rig: Rig) -> None:
    """Both have looked for a stored answer before either stores one."""
    wallets = [rig.wallet, await rig.create_wallet("second")]
    watcher = await asyncpg.connect(rig.owner_dsn)
    try:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group, rig.sql.transaction():
            await rig.sql.execute("SELECT 1 FROM directories FOR UPDATE")
            requests = [
                pb.SetupPaymentMethodRequest(wallet=wallet, payment_method="pm_card_visa", request_id="same")
                for wallet in wallets
            ]
            calls = [group.create_task(settled(rig.stub.SetupPaymentMethod(request))) for request in requests]
            while await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < len(wallets):
                await asyncio.sleep(0.02)
    finally:
        await watcher.close()
    answers = [call.result() for call in calls]
    assert sorted(answers) == ["", "REQUEST_ID_REUSED"]
    on_file = {row["name"]: row["payment_method"] for row in await rig.sql.fetch("SELECT * FROM wallets")}
    assert [bool(on_file[wallet]) for wallet in wallets] == [not reason for reason in answers]


async def settled(call: Awaitable[Any]) -> str:
    """The reason of a refusal; empty where it was none."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return ""
