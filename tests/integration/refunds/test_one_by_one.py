"""What cannot be done keeps nothing else waiting, and a request id makes one refund whatever runs at the same time."""

import asyncio
from dataclasses import replace
from datetime import datetime

import asyncpg
import pytest

from pursestrings.wallet.v1 import refunds_pb2
from services.kit.errors import unavailable
from services.wallet import main
from services.wallet.convert import encode
from services.wallet.ledger import Ledger
from services.wallet.recharge.store import evaluate_low
from services.wallet.refunds.domain.rules import DisputeFacts
from tests.integration.refunds.test_money_back import FROZEN, charged, control, movers, state
from tests.support.recharging import USD, Rig, refusal, usd


async def test_a_dispute_that_cannot_be_looked_at_is_passed_by_and_looked_for_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.sql.execute("UPDATE dispute_sweep SET due_at = 'infinity'")
    recharge = await charged(rig)
    await control(rig, "disputes", {"payment_intent": recharge.payment_intent})
    async with movers(rig) as (_, disputes):
        observe, since = disputes.observe_charge, disputes._stripe.disputes_since

        async def with_another(at: datetime) -> list[DisputeFacts]:
            seen = await since(at)
            return [replace(seen[0], payment_intent="pi_0"), *seen]

        async def observe_charge(payment_intent: str) -> str:
            if payment_intent == "pi_0":
                raise unavailable("Stripe does not answer", 1.0)
            return await observe(payment_intent)

        monkeypatch.setattr(disputes._stripe, "disputes_since", with_another)
        monkeypatch.setattr(disputes, "observe_charge", observe_charge)
        through = await swept_through(rig)
        await disputes.sweep(10)
        assert (0, FROZEN) == (await rig.balance(), await state(rig))
        assert through == await rig.sql.fetchval("SELECT through FROM dispute_sweep")
        monkeypatch.setattr(disputes, "observe_charge", observe)
        await swept_through(rig)
        await disputes.sweep(10)
        assert through < await rig.sql.fetchval("SELECT through FROM dispute_sweep")


async def swept_through(rig: Rig) -> datetime:
    """Makes the sweep due; returns how far it has come."""
    through: datetime = await rig.sql.fetchval(
        "UPDATE dispute_sweep SET due_at = clock_timestamp() - interval '1 s' RETURNING through"
    )
    return through


async def test_a_refund_that_cannot_be_read_is_passed_by(rig: Rig) -> None:
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    recharge = await charged(rig)
    await rig.twin.api.v1.refunds.create_async({"payment_intent": recharge.payment_intent, "amount": 800})
    async with movers(rig) as (refunds, _):
        (seen,) = await refunds._stripe.refunds_of(recharge.payment_intent)
        assert 1 == await refunds._take_in([replace(seen, id="re_0", currency="XXX"), seen])
    assert 12 * USD == await rig.balance()


async def test_a_wallet_that_cannot_be_closed_is_passed_by(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    async def settled(
        _connection: asyncpg.Connection, _limit: int, _after: tuple[str, str]
    ) -> list[tuple[str, str, None]]:
        return [(rig.org, "first", None), (rig.org, "second", None)]

    async def finish(_connection: asyncpg.Connection, _org: str, wallet: str, _above: None) -> bool:
        if wallet == "first":
            raise KeyError(wallet)
        closed.append(wallet)
        return True

    monkeypatch.setattr(main, "settled_closing", settled)
    monkeypatch.setattr(main, "finish_closing", finish)
    async with movers(rig) as (refunds, _):
        loops = main.housekeeping(rig.settings, refunds._pool, Ledger(evaluate_low, encode))
        (close,) = [loop for loop in loops if loop.name == "close wallets"]
        assert not await close._step()
    assert ["second"] == closed


async def test_a_request_id_that_another_wallet_is_using_makes_no_second_refund(rig: Rig) -> None:
    recharge = await charged(rig)
    request = refunds_pb2.RefundRequest(source=recharge.name, amount=usd(4), reason="x", request_id="once")
    async with rig.sql.transaction():
        await rig.sql.execute(
            "INSERT INTO request_keys (org, method, id, payload_hash, answer, created_at)"
            " VALUES ($1, 'Refund', 'once', sha256(''), '', clock_timestamp())",
            rig.org,
        )
        asked = asyncio.create_task(refusal(rig.stub.Refund(request)))
        async with asyncio.timeout(30):
            while not await rig.sql.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted"
                " AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
            ):
                await asyncio.sleep(0.02)
    assert "REQUEST_ID_REUSED" == (await asked).reason
    assert 20 * USD == await rig.balance()
    assert 0 == await rig.sql.fetchval("SELECT count(*) FROM refunds")
