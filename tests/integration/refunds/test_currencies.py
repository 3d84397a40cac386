"""Currencies of none or three decimals, or of decimals that must be zeros: what is charged is what can be."""

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import payments_pb2 as payments
from pursestrings.wallet.v1 import refunds_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit import money
from tests.integration.recharge.test_observe import SUCCEEDED, pay
from tests.integration.refunds.test_money_back import differences
from tests.support.recharging import Rig, refusal

UNIT = 1_000_000_000
# What 1,000 units and a nano become in minor units, and what one step of a charge is.
CHARGED_MINOR = {"JPY": (1_001, 1), "KWD": (1_000_010, 10), "ISK": (100_100, 100), "UGX": (100_100, 100)}


def of(code: str, nanos: int) -> type_pb2.Money:
    return type_pb2.Money(currency_code=code, amount_nanos=nanos)


async def test_what_cannot_be_charged_is_rounded_up_and_what_cannot_be_refunded_is_refused(rig: Rig) -> None:
    for code, (charged_minor, step_minor) in CHARGED_MINOR.items():
        wallet = await rig.create_wallet(code.lower(), code)
        await rig.card(wallet=wallet)
        await rig.policy(wallet, threshold=of(code, UNIT), amount=None, target=of(code, 1_000 * UNIT + 1))
        (one,) = await rig.recharges(wallet)
        assert (await pay(rig, one.name)).state == SUCCEEDED
        charged = money.from_minor_units(charged_minor, code)
        assert await rig.balance(wallet) == charged
        intent = (await rig.recharge(one.name)).payment_intent
        at_stripe = await rig.twin.api.v1.payment_intents.retrieve_async(intent)
        assert (at_stripe.amount_received, at_stripe.currency) == (charged_minor, code.lower())

        asked = payments.TopUpRequest(wallet=wallet, amount=of(code, 200 * UNIT + 1), request_id=rig.request_id())
        top_up = (await rig.stub.TopUp(asked)).top_up
        step = money.from_minor_units(step_minor, code)
        assert top_up.amount == of(code, 200 * UNIT + step)
        assert await rig.balance(wallet) == charged + 200 * UNIT + step

        part = refunds_pb2.RefundRequest(source=one.name, reason="a test", request_id=f"part-{code}")
        part.amount.CopyFrom(of(code, step + step // 2))
        assert (await refusal(rig.stub.Refund(part))).reason == "AMOUNT_OUT_OF_RANGE"
        part.amount.CopyFrom(of(code, 3 * step))
        assert (await rig.stub.Refund(part)).refund.state == refunds_pb2.REFUND_STATE_SUCCEEDED
        (listed,) = (await rig.twin.api.v1.refunds.list_async({"payment_intent": intent})).data
        assert listed.amount == 3 * step_minor
        rest = refunds_pb2.RefundRequest(source=one.name, reason="a test", request_id=f"rest-{code}")
        assert (await rig.stub.Refund(rest)).refund.amount == of(code, charged - 3 * step)
        assert await rig.balance(wallet) == 200 * UNIT + step
    assert await rig.audit_failures() == []
    assert await differences(rig) == []
    too_small = pb.RechargePolicy(
        wallet=f"orgs/{rig.org}/wallets/jpy",
        enabled=True,
        threshold=of("JPY", UNIT),
        amount=of("JPY", 49 * UNIT),
        max_count_per_month=1,
    )
    error = await refusal(rig.stub.SetRechargePolicy(pb.SetRechargePolicyRequest(policy=too_small)))
    assert (error.reason, error.field) == ("BAD_RECHARGE_POLICY", "policy.amount")
