"""Recharges that a person should look at are listed as concerns."""

from typing import Any

from pursestrings.wallet.v1 import reports_pb2
from tests.support.recharging import USD, Rig


async def concerns(rig: Rig, kind: str) -> list[Any]:
    request = reports_pb2.ListConcernsRequest(
        org=f"orgs/{rig.org}", kind=reports_pb2.ConcernKind.Value(f"CONCERN_KIND_{kind}")
    )
    return list((await rig.stub.ListConcerns(request)).concerns)


async def test_a_recharge_without_an_end_and_one_that_does_not_fit(rig: Rig) -> None:
    await rig.card()
    await rig.policy()
    (pending,) = await rig.recharges()
    assert await concerns(rig, "RECHARGE_STUCK") == []

    await rig.sql_now("UPDATE recharges SET created_at = created_at - interval '25 hours'")
    (stuck,) = await concerns(rig, "RECHARGE_STUCK")
    assert (stuck.wallet, stuck.reference, stuck.amount.amount_nanos) == (rig.wallet, pending.name, 20 * USD)

    # One that does not fit is another concern, and no longer this one.
    await rig.sql_now("UPDATE recharges SET problem = 'charged in EUR'")
    assert await concerns(rig, "RECHARGE_STUCK") == []
    (wrong,) = await concerns(rig, "RECHARGE_PROBLEM")
    assert (wrong.reference, wrong.detail) == (pending.name, "charged in EUR")
