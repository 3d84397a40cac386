"""Policies over gRPC: what is refused changes nothing, what is stored is in force at once."""

import asyncio
from datetime import timedelta
from typing import Any

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import predictive_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import Code
from tests.support.recharging import USD, Rig, refusal, usd

BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("policy.amount", "BAD_RECHARGE_POLICY", {"amount": usd(0)}),
    ("policy.amount", "BAD_RECHARGE_POLICY", {"amount": usd(0.49)}),
    ("policy.threshold", "BAD_RECHARGE_POLICY", {"threshold": usd(0)}),
    ("policy.max_count_per_month", "BAD_RECHARGE_POLICY", {"max_count_per_month": 0}),
    ("policy.max_amount_per_month", "BAD_RECHARGE_POLICY", {"max_amount_per_month": usd(19.99)}),
    (
        "policy.amount.currency_code",
        "CURRENCY_MISMATCH",
        {"amount": type_pb2.Money(currency_code="EUR", amount_nanos=20 * USD)},
    ),
    ("policy.threshold", "BAD_RECHARGE_POLICY", {"mode": pb.RECHARGE_MODE_PREDICTIVE}),
    ("policy.predictive", "BAD_RECHARGE_POLICY", {"predictive": predictive_pb2.PredictiveSettings()}),
    ("policy.target", "BAD_RECHARGE_POLICY", {"amount": None, "target": usd(5)}),
    ("policy.amount", "BAD_RECHARGE_POLICY", {"max_amount": usd(19)}),
    ("policy.wallet", "MALFORMED_NAME", {"wallet": "orgs/acme"}),
    ("policy.paused_reason", "INVALID_ARGUMENT", {"paused_reason": "x" * 257}),
]


async def signals(rig: Rig) -> int:
    """How many signals have been written since the last question."""
    rows = await rig.sql.fetch("DELETE FROM outbox WHERE topic = 'recharge-signal' RETURNING key")
    return len(rows)


async def test_what_ends_a_block_wakes_the_recharge_that_waits(rig: Rig) -> None:
    await rig.card()
    await rig.policy()
    (one,) = await rig.recharges()
    assert await signals(rig) == 0
    await rig.stub.SetWalletState(
        pb.SetWalletStateRequest(name=rig.wallet, state=pb.WALLET_STATE_FROZEN, reason="a dispute")
    )
    assert await signals(rig) == 1
    assert (await rig.authorize(one.name)).reason == "the wallet is frozen"
    await rig.stub.SetWalletState(pb.SetWalletStateRequest(name=rig.wallet, state=pb.WALLET_STATE_OPEN))
    assert await signals(rig) == 1
    await rig.spend(1, 1, total=1)
    assert await signals(rig) == 0
    await rig.grant(2)
    assert await signals(rig) == 1
    await rig.stub.ReclaimLease(pb.ReclaimLeaseRequest(wallet=rig.wallet, holder="test", reason="its database is lost"))
    assert await signals(rig) == 1


async def test_a_policy_that_cannot_work_changes_nothing(rig: Rig) -> None:
    for field, reason, fields in BAD:
        error = await refusal(rig.policy(**fields))
        assert (error.code, error.reason, error.field) == (Code.INVALID_ARGUMENT, reason, field)
    assert await rig.sql.fetchval("SELECT count(*) FROM recharge_policies") == 0


async def test_a_policy_comes_back_as_it_is_in_force(rig: Rig) -> None:
    asked = await refusal(rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet)))
    assert asked.reason == "POLICY_UNKNOWN"
    await rig.policy(amount=usd(19.991), max_amount_per_month=usd(100), cooldown=timedelta(hours=2))
    answer = await rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet))
    assert answer.policy.amount == usd(20)
    assert answer.policy.max_amount_per_month == usd(100)
    assert answer.policy.cooldown.ToTimedelta() == timedelta(hours=2)
    assert (answer.month_count, answer.month_amount_nanos) == (0, 0)


async def test_a_block_that_ends_starts_the_recharge(rig: Rig) -> None:
    """No card, then a pause, then a freeze: each end of a block is enough by itself."""
    await rig.policy(paused_reason="a human")
    await rig.card()
    await rig.stub.SetWalletState(
        pb.SetWalletStateRequest(name=rig.wallet, state=pb.WALLET_STATE_FROZEN, reason="a test")
    )
    paused = await rig.policy()
    assert paused.paused_reason == "a human"
    assert paused.paused_by.startswith("orgs/-#")
    assert paused.HasField("pause_time")
    assert (await rig.policy(resume=True)).paused_by == ""
    assert await rig.recharges() == []
    await rig.stub.SetWalletState(pb.SetWalletStateRequest(name=rig.wallet, state=pb.WALLET_STATE_OPEN))
    (one,) = await rig.recharges()
    assert one.state == pb.RECHARGE_STATE_PENDING
    assert one.name == f"orgs/{rig.org}/recharges/main-{one.month}-1"


async def test_a_capture_starts_one_and_only_one(rig: Rig) -> None:
    await rig.card()
    await rig.grant(10)
    await rig.policy()
    await rig.spend(4, 1, total=4)
    assert await rig.recharges() == []
    await rig.spend(2, 2, total=6)
    (one,) = await rig.recharges()
    assert one.reason == "the balance of 4.00 USD is below the threshold of 5.00 USD"
    for n in range(3, 6):
        await rig.spend(2, n, total=2 * n + 2)
    assert len(await rig.recharges()) == 1
    assert await rig.audit_failures() == []


async def test_captures_of_many_wallets_at_once_start_one_each(rig: Rig) -> None:
    wallets = [await rig.create_wallet(f"w{n}") for n in range(8)]
    for wallet in wallets:
        await rig.card(wallet=wallet)
        await rig.grant(6, wallet)
        await rig.policy(wallet)
    await asyncio.gather(*(rig.spend(3, 1, total=3, wallet=wallet) for wallet in wallets))
    counts = [len(await rig.recharges(wallet)) for wallet in wallets]
    assert counts == [1] * 8
    assert await rig.audit_failures() == []
