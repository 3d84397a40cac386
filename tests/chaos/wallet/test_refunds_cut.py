"""A connection that drops between any two steps of a refund: it is debited once, and made at Stripe once."""

import pytest

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.database import create_pool
from services.wallet.domain.commands import RequestKey
from services.wallet.recharge.stripe import Stripe
from services.wallet.refunds.domain.rules import RefundState
from services.wallet.refunds.refunds import Refunds
from services.wallet.refunds.stripe import MoneyBack
from tests.integration.refunds.conftest import org, rig
from tests.integration.refunds.test_money_back import charged, differences
from tests.support.cutting_proxy import CuttingProxy, cutting_proxy
from tests.support.recharging import USD, Rig

__all__ = ["org", "rig"]
STEPS_MAX = 60
TRIES_MAX = 5
CENTS = 10


async def refund(refunds: Refunds, source: str, rig: Rig, number: int) -> None:
    """One refund of ten cents, asked for again as a caller would who heard nothing."""
    key = RequestKey(rig.org, "Refund", f"cut-{number}", bytes(32))
    for _ in range(TRIES_MAX):
        try:
            row = await refunds.create(key, source, ("USD", CENTS * USD // 100), "a test")
            row = await refunds.advance(rig.org, row.name)
        except Exception as error:
            last = error
        else:
            assert row.state is RefundState.SUCCEEDED
            return
    raise AssertionError(f"refund {number} never came through") from last


@pytest.mark.parametrize("settling", [False, True], ids=["debit", "settle"])
async def test_a_cut_at_any_step_leaves_one_refund(rig: Rig, *, settling: bool) -> None:
    recharge: pb.Recharge = await charged(rig)
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    provider = Stripe(rig.settings)
    number = 0
    async with (
        cutting_proxy(rig.sql_dsn) as proxy,
        await create_pool(proxy.dsn, application_name="cut", size_max=1) as cut,
    ):
        back = _ArmsAfterStripe(provider, proxy) if settling else MoneyBack(provider)
        refunds = Refunds(cut, back)
        arms = [*range(STEPS_MAX), "before", "after"]
        while arms:
            arm = arms.pop(0)
            if isinstance(back, _ArmsAfterStripe):
                back.arm = arm
            else:
                _arm(proxy, arm)
            await refund(refunds, recharge.name, rig, number)
            number += 1
            if isinstance(arm, int) and proxy.cut_before_statement is not None:
                # The transaction has fewer steps than this.
                proxy.cut_before_statement = None
                arms = arms[-2:]
    await provider.close()
    assert 5 < proxy.cuts == number - 1
    listed = await rig.twin.api.v1.refunds.list_async({"payment_intent": recharge.payment_intent, "limit": 100})
    assert [CENTS] * number == [one.amount for one in listed.data]
    assert 20 * USD - number * CENTS * USD // 100 == await rig.balance()
    assert [] == await rig.audit_failures()
    assert [] == await differences(rig)


def _arm(proxy: CuttingProxy, arm: int | str) -> None:
    if isinstance(arm, int):
        proxy.cut_before_statement = arm
    else:
        proxy.cut_before_commit, proxy.cut_after_commit = arm == "before", arm == "after"


class _ArmsAfterStripe(MoneyBack):
    """Cuts what is stored of Stripe's answer, once an arm is set."""

    def __init__(self, stripe: Stripe, proxy: CuttingProxy) -> None:
        super().__init__(stripe)
        self._proxy = proxy
        self.arm: int | str | None = None

    async def create_refund(self, *args: object, **options: object):  # type: ignore[no-untyped-def]
        made = await super().create_refund(*args, **options)  # type: ignore[arg-type]
        if self.arm is not None:
            _arm(self._proxy, self.arm)
            self.arm = None
        return made
