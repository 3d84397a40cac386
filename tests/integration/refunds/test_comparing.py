"""What differs from a list of Stripe's is asked once more before it is said."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.wallet.v1 import statements_pb2
from services.wallet.refunds.domain.rules import ChargeFacts
from services.wallet.refunds.stripe import MoneyBack
from tests.integration.refunds.test_money_back import charged, refund
from tests.support.recharging import Rig, refusal


async def compared(rig: Rig, since: datetime, age_max_s: int) -> tuple[list[str], int]:
    """The kinds of differences, and how many charges are stored."""
    from_time = Timestamp()
    from_time.FromDatetime(since)
    request = statements_pb2.ReconcileRequest(org=f"orgs/{rig.org}", from_time=from_time, lists_age_max_s=age_max_s)
    answer = await rig.stub.Reconcile(request)
    return [one.kind for one in answer.differences], answer.sources


async def test_what_was_charged_after_the_lists_were_read_is_no_difference(rig: Rig) -> None:
    since = datetime.now(UTC) - timedelta(days=1)
    assert await compared(rig, since, 3_600) == ([], 0)
    recharge = await charged(rig)
    assert await compared(rig, since, 3_600) == ([], 1)
    # What differs all the same is said, though the lists are those from before.
    await rig.sql.execute("UPDATE charges SET payment_intent = 'pi_nobody' WHERE source = $1", recharge.name)
    assert await compared(rig, since, 3_600) == (["CHARGE_UNKNOWN"], 1)
    kinds, _ = await compared(rig, since, 0)
    assert sorted(kinds) == ["CHARGE_UNKNOWN", "CHARGE_WITHOUT_GRANT"]


async def test_a_payment_that_was_begun_before_the_lists_begin_is_no_difference(rig: Rig) -> None:
    recharge = await charged(rig)
    later = datetime.now(UTC) + timedelta(days=1)
    await rig.sql.execute("UPDATE charges SET created_at = $1 WHERE source = $2", later, recharge.name)
    assert await compared(rig, later - timedelta(hours=1), 0) == ([], 1)


async def test_what_goes_back_of_a_charge_from_before_the_lists_begin_is_compared(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(_self: MoneyBack, _since: datetime) -> list[ChargeFacts]:
        return []

    recharge = await charged(rig)
    # As if it had been charged long ago, and were on no list.
    monkeypatch.setattr(MoneyBack, "charges_since", none)
    await rig.sql.execute("UPDATE charges SET created_at = created_at - interval '20 days'")
    since = datetime.now(UTC) - timedelta(days=1)
    await refund(rig, recharge.name, 5)
    assert await compared(rig, since, 0) == ([], 0)
    await rig.twin.api.v1.refunds.create_async({"payment_intent": recharge.payment_intent, "amount": 300})
    assert await compared(rig, since, 0) == (["REFUND_UNKNOWN"], 0)
    await rig.sql.execute("UPDATE refunds SET amount_nanos = amount_nanos - 1")
    kinds, _ = await compared(rig, since, 0)
    assert sorted(kinds) == ["LEDGER_REFUNDS", "REFUND_STATE", "REFUND_UNKNOWN"]


async def test_lists_may_not_be_older_than_an_hour(rig: Rig) -> None:
    request = statements_pb2.ReconcileRequest(org=f"orgs/{rig.org}", lists_age_max_s=3_601)
    assert (await refusal(rig.stub.Reconcile(request))).field == "lists_age_max_s"
