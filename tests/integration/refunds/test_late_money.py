"""Money that Stripe sends into a wallet after it was closed stays to be moved out, to the nano."""

import asyncio

from pursestrings.wallet.v1 import wallet_pb2 as pb
from tests.integration.recharge.test_payments import click, look, top_up
from tests.integration.refunds.test_money_back import charged, control, differences, movers, refund, state
from tests.support.recharging import USD, Rig, usd


async def test_what_comes_late_into_a_closed_wallet_moves_on(rig: Rig) -> None:
    other = await rig.create_wallet("other")
    recharge = await charged(rig, "pm_card_pendingRefund")
    sent_back = await refund(rig, recharge.name, 8)
    page = await top_up(rig, 25)
    async with movers(rig) as (refunds, disputes):
        dispute = await control(rig, "disputes", {"payment_intent": recharge.payment_intent, "amount": 500})
        await disputes.observe_charge(recharge.payment_intent)
        assert 7 * USD == await rig.balance()
        await rig.stub.SetWalletState(
            pb.SetWalletStateRequest(name=rig.wallet, state=pb.WALLET_STATE_CLOSED, reason="merged")
        )
        async with asyncio.timeout(30):
            while await state(rig) != pb.WALLET_STATE_CLOSED:
                await asyncio.sleep(0.05)
        assert (0, 7 * USD) == (await rig.balance(), await rig.balance(other))

        # The refund comes back, the dispute is won, somebody pays on the page that was open still.
        await control(rig, f"refunds/{sent_back.stripe_refund}/complete", {"outcome": "failed"})
        await control(rig, f"disputes/{dispute['id']}/resolve", {"outcome": "won"})
        assert (await click(rig, page.url)).status_code == 303
        await refunds.observe_charge(recharge.payment_intent)
        await disputes.observe_charge(recharge.payment_intent)
        await look(rig)
    assert (38 * USD, pb.WALLET_STATE_CLOSED) == (await rig.balance(), await state(rig))
    await rig.stub.Transfer(
        pb.TransferRequest(from_wallet=rig.wallet, to_wallet=other, amount=usd(38), request_id="late")
    )
    assert (0, 45 * USD) == (await rig.balance(), await rig.balance(other))
    assert [] == await rig.audit_failures()
    assert [] == await differences(rig)
