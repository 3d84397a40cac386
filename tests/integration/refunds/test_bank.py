"""A bank that never closes, with Stripe beside it: recharges, refunds that go and come back, extras, spend, moves."""

import asyncio
import random
from dataclasses import dataclass, field

import asyncpg
import grpc

from pursestrings.wallet.v1 import refunds_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.status import from_rpc_error
from services.wallet.recharge import audit as recharge_audit
from tests.integration.recharge.test_extras import allow
from tests.integration.recharge.test_observe import PENDING, SUCCEEDED, pay
from tests.integration.refunds.test_money_back import control, differences, movers, refund
from tests.support.recharging import Rig, usd
from tests.support.wallets import assert_sound

RECHARGES = 4
_SUMS = """
SELECT sum(CASE WHEN kind IN ('funding', 'promotion') THEN debits_nanos - credits_nanos ELSE 0 END)::bigint AS put_in,
       sum(CASE WHEN kind IN ('available', 'escrow', 'spent', 'expired', 'refunded', 'disputed', 'debt')
           THEN credits_nanos - debits_nanos ELSE 0 END)::bigint AS held,
       sum(CASE WHEN kind = 'refunded' THEN credits_nanos - debits_nanos ELSE 0 END)::bigint AS refunded
FROM accounts
"""
_ROWS = """
SELECT (SELECT coalesce(sum(amount_nanos), 0)::bigint FROM refunds WHERE state <> 'FAILED') AS refunded,
       (SELECT coalesce(sum(received_nanos), 0)::bigint FROM recharges WHERE state = 'SUCCEEDED') AS received,
       (SELECT coalesce(sum(amount_nanos), 0)::bigint FROM grants WHERE recharge IS NOT NULL) AS granted,
       (SELECT coalesce(sum(refunded_nanos), 0)::bigint FROM charges) AS refunded_of_charges
"""


@dataclass
class Bank:
    """Whoever moves money at once, until the recharges are through."""

    rig: Rig
    child: str
    dice: random.Random
    charged: asyncio.Queue[pb.Recharge | None] = field(default_factory=asyncio.Queue)
    running: bool = True
    looked: int = 0

    async def look(self, pool: asyncpg.Pool) -> None:
        """Every snapshot is whole by itself: accounts, refunds, recharges, grants, months."""
        while self.running:
            async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
                sums, rows = await conn.fetchrow(_SUMS), await conn.fetchrow(_ROWS)
                checks = await recharge_audit.checks(conn, None)
            assert sums["put_in"] == sums["held"]
            assert sums["refunded"] == rows["refunded"] == rows["refunded_of_charges"]
            assert rows["received"] == rows["granted"]
            assert [] == [check.detail for check in checks if not check.ok]
            await assert_sound(pool)
            self.looked += 1

    async def recharge(self) -> None:
        """Low whatever happens, so that only the caps and what is allowed beyond them end it."""
        await self.rig.policy(threshold=usd(10_000), max_count_per_month=RECHARGES - 2)
        for number in range(RECHARGES):
            if number == RECHARGES - 2:
                await allow(self.rig, 2)
            newest = (await self.rig.recharges())[0]
            assert newest.state == PENDING
            done = await pay(self.rig, newest.name)
            assert done.state == SUCCEEDED
            self.charged.put_nowait(done)
        self.charged.put_nowait(None)

    async def give_back(self) -> None:
        """Two parts of each charge; the bank sends the second back."""
        async with movers(self.rig) as (refunds, _):
            while (one := await self.charged.get()) is not None:
                await refund(self.rig, one.name, self.dice.randint(1, 900) / 100)
                made = await refund(self.rig, one.name, self.dice.randint(1, 900) / 100)
                await control(self.rig, f"refunds/{made.stripe_refund}/complete", {"outcome": "failed"})
                await refunds.observe_charge(one.payment_intent)
                found = await self.rig.stub.GetRefund(refunds_pb2.GetRefundRequest(name=made.name))
                assert found.refund.state == refunds_pb2.REFUND_STATE_FAILED

    async def spend(self) -> None:
        total = n = 0
        while self.running:
            n, amount = n + 1, self.dice.randint(1, 50)
            total += amount
            await self.rig.spend(amount / 100, n, total=total / 100)

    async def move(self) -> None:
        while self.running:
            giver, taker = self.dice.sample([self.rig.wallet, self.child], 2)
            request = pb.TransferRequest(
                from_wallet=giver,
                to_wallet=taker,
                amount=usd(self.dice.randint(1, 20)),
                request_id=self.rig.request_id(),
            )
            try:
                await self.rig.stub.Transfer(request)
            except grpc.aio.AioRpcError as error:
                if from_rpc_error(error).reason != "NOT_ENOUGH_FREE":
                    raise


async def test_every_snapshot_is_whole_while_stripe_moves_money_too(rig: Rig) -> None:
    await rig.card()
    parent = f"orgs/{rig.org}/teams/a"
    new = pb.Wallet(currency_code="USD")
    await rig.stub.CreateWallet(
        pb.CreateWalletRequest(parent=parent, wallet_id="team", wallet=new, request_id=rig.request_id())
    )
    await rig.grant(500)
    bank = Bank(rig, f"{parent}/wallets/team", random.Random(2026))  # noqa: S311 - repeatable, not secret
    async with asyncpg.create_pool(rig.sql_dsn, min_size=1, max_size=2) as pool:
        beside = [asyncio.create_task(one) for one in (bank.look(pool), bank.spend(), bank.move())]
        try:
            await asyncio.gather(bank.recharge(), bank.give_back())
        finally:
            bank.running = False
            await asyncio.gather(*beside)
    assert bank.looked > 1
    assert len(await rig.recharges()) == RECHARGES
    assert await rig.audit_failures() == []
    assert await differences(rig) == []
