"""Caps over months, as the database holds them."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import stripe

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.database import transact
from services.wallet.recharge.loops import recharge_loops
from services.wallet.recharge.store.policies import evaluate
from services.wallet.recharge.stripe import Stripe
from services.wallet.store.wallets import clock, lock_wallet
from tests.integration.recharge.test_observe import FAILED, PENDING, SUCCEEDED, WAIT, confirm, create, pay
from tests.support.recharging import USD, Rig, usd


async def months(rig: Rig) -> list[tuple[str, int, int]]:
    rows = await rig.sql.fetch("SELECT month, count, amount_nanos FROM recharge_months ORDER BY month")
    return [(row["month"], row["count"], row["amount_nanos"]) for row in rows]


async def test_the_count_cap_stops_and_alerts_once(rig: Rig) -> None:
    await rig.card()
    await rig.policy(threshold=usd(1000), max_count_per_month=2)
    for expected in (1, 2):
        newest = (await rig.recharges())[0]
        assert (newest.number, newest.state) == (expected, PENDING)
        assert (await pay(rig, newest.name)).state == SUCCEEDED
    assert len(await rig.recharges()) == 2
    for n in range(1, 4):
        await rig.spend(1, n, total=n)
    (alert,) = await rig.alerts("RECHARGE_CAP_REACHED")
    told = json.loads(alert)
    assert (told["cap"], told["count"], told["max_count"], told["wallet"]) == ("COUNT_CAP", 2, 2, rig.wallet)
    assert (await rig.policy(threshold=usd(1000), max_count_per_month=2)).paused_reason == ""
    assert await rig.audit_failures() == []
    # A higher cap lets one more in, and only one.
    await rig.policy(threshold=usd(1000), max_count_per_month=3)
    assert (await pay(rig, (await rig.recharges())[0].name)).state == SUCCEEDED
    assert len(await rig.recharges()) == 3
    assert await rig.audit_failures() == []


async def test_the_amount_cap_refuses_and_never_charges_a_part(rig: Rig) -> None:
    await rig.card()
    await rig.policy(threshold=usd(1000), max_amount_per_month=usd(39.99))
    assert (await pay(rig, (await rig.recharges())[0].name)).state == SUCCEEDED
    assert len(await rig.recharges()) == 1
    (alert,) = await rig.alerts("RECHARGE_CAP_REACHED")
    assert json.loads(alert)["cap"] == "AMOUNT_CAP"
    assert [row[1:] for row in await months(rig)] == [(1, 20 * USD)]


async def test_what_failed_is_given_back_and_its_number_is_not(rig: Rig) -> None:
    await rig.card()
    await rig.policy(max_count_per_month=1)
    (one,) = await rig.recharges()
    assert (await rig.fail(one.name)).state == FAILED
    assert [row[1:] for row in await months(rig)] == [(0, 0)]
    await rig.policy(max_count_per_month=1, resume=True)
    assert (await rig.recharges())[0].number == 2
    assert await rig.audit_failures() == []


async def test_an_attempt_in_a_new_month_takes_its_hold_along(rig: Rig) -> None:
    await rig.card()
    await rig.policy(max_count_per_month=1)
    (one,) = await rig.recharges()
    await rig.last_month()
    assert (await pay(rig, one.name)).state == SUCCEEDED
    (old, new) = await months(rig)
    assert old == ("2020-01", 0, 0)
    assert new[1:] == (1, 20 * USD)
    assert (await rig.recharge(one.name)).month == new[0]
    assert await rig.audit_failures() == []


async def test_or_waits_where_the_new_month_is_full(rig: Rig) -> None:
    await rig.card()
    await rig.policy(threshold=usd(1000), max_count_per_month=2)
    (one,) = await rig.recharges()
    await rig.last_month()
    # This month is full with what others have charged.
    await rig.sql.execute(
        "INSERT INTO recharge_months (org, wallet, month, zone, count, amount_nanos, cap_count) "
        "SELECT org, wallet, to_char(clock_timestamp(), 'YYYY-MM'), zone, 2, 2, 2 FROM recharge_months"
    )
    waiting = await rig.authorize(one.name)
    assert waiting.verdict == WAIT
    assert (await rig.recharge(one.name)).month == "2020-01"
    await rig.authorize(one.name)
    assert len(await rig.alerts("RECHARGE_CAP_REACHED")) == 1


async def test_the_database_itself_refuses_what_passes_a_cap(rig: Rig) -> None:
    await rig.card()
    await rig.policy(max_count_per_month=1, max_amount_per_month=usd(30))
    with pytest.raises(asyncpg.CheckViolationError):
        await rig.sql.execute("UPDATE recharge_months SET count = 2")
    with pytest.raises(asyncpg.CheckViolationError):
        await rig.sql.execute("UPDATE recharge_months SET amount_nanos = 30000000001")
    with pytest.raises(asyncpg.UniqueViolationError):
        await rig.sql.execute(
            "INSERT INTO recharges SELECT org, name || 'x', wallet, state, currency, amount_nanos, amount_minor, "
            "named_month, number + 1, month, reason, failure_reason, problem, received_nanos, grant_name, version, "
            "created_at, ended_at, check_at FROM recharges"
        )


async def test_the_sweep_starts_what_a_cooldown_held_back(rig: Rig) -> None:
    await rig.card()
    cooldown = timedelta(hours=1)
    await rig.policy(threshold=usd(1000), cooldown=cooldown)
    assert (await pay(rig, (await rig.recharges())[0].name)).state == SUCCEEDED
    assert len(await rig.recharges()) == 1
    assert await rig.sql.fetchval("SELECT check_at < clock_timestamp() + interval '11 minutes' FROM recharge_policies")
    await rig.sql.execute("UPDATE recharges SET created_at = created_at - interval '2 hours'")
    await rig.sql.execute("UPDATE recharge_policies SET check_at = clock_timestamp()")
    await rig.sweep()
    assert len(await rig.recharges()) == 2
    assert await rig.sql.fetchval("SELECT check_at > clock_timestamp() FROM recharge_policies")


async def test_the_sweep_looks_after_what_nothing_happens_to(rig: Rig) -> None:
    """No worker, no webhook: Stripe has charged, and the row learns it all the same."""
    await rig.card()
    await rig.policy()
    (one,) = await rig.recharges()
    asked = await rig.authorize(one.name)
    await rig.twin.fault("lost_answer", "POST /v1/payment_intents/*/confirm")
    intent = await create(rig, asked)
    await rig.report(one.name, 1, intent)
    with contextlib.suppress(stripe.APIConnectionError):
        await confirm(rig, asked, intent)
    await rig.sql.execute("UPDATE recharges SET check_at = clock_timestamp()")
    await rig.sweep()
    assert (await rig.recharge(one.name)).state == SUCCEEDED
    assert await rig.audit_failures() == []


async def test_a_lost_workflow_is_started_again(rig: Rig) -> None:
    await rig.card()
    await rig.policy()
    await rig.sql.execute("DELETE FROM outbox WHERE topic = 'recharge'")
    await rig.sql.execute("UPDATE recharges SET check_at = clock_timestamp()")
    await rig.sweep()
    keys = [row["key"] for row in await rig.sql.fetch("SELECT key FROM outbox WHERE topic = 'recharge'")]
    assert keys == [(await rig.recharges())[0].name]
    # One row is enough, however long Temporal is away.
    await rig.sql.execute("UPDATE recharges SET check_at = clock_timestamp()")
    await rig.sweep()
    assert await rig.sql.fetchval("SELECT count(*) FROM outbox WHERE topic = 'recharge'") == 1


async def test_one_wallet_that_cannot_be_looked_at_holds_up_no_other(rig: Rig) -> None:
    """One wallet is locked for long; the policies and recharges of the others get their turn in the same sweep."""
    wallets = [rig.wallet, await rig.create_wallet("second")]
    for wallet in wallets:
        await rig.card(wallet=wallet)
        await rig.policy(wallet=wallet)
    names = [(await rig.recharges(wallet))[0].name for wallet in wallets]
    await rig.sql.execute("DELETE FROM outbox WHERE topic = 'recharge'")
    for number, (wallet, name) in enumerate(zip(wallets, names, strict=True)):
        due = datetime.now(UTC) - timedelta(hours=2 - number)
        await rig.sql.execute("UPDATE recharge_policies SET check_at = $2 WHERE wallet = $1", wallet, due)
        await rig.sql.execute("UPDATE recharges SET check_at = $2 WHERE name = $1", name, due)
    limited = {"lock_timeout": "300"}
    async with asyncpg.create_pool(rig.sql_dsn, min_size=1, max_size=3, server_settings=limited) as pool:
        provider = Stripe(rig.settings)
        loops = recharge_loops(rig.settings, pool, provider)
        try:
            async with rig.sql.transaction():
                await rig.sql.execute("SELECT 1 FROM wallets WHERE name = $1 FOR UPDATE", rig.wallet)
                await loops.sweep_policies()
                await loops.sweep_recharges()
        finally:
            await provider.close()
    looked = {
        row["wallet"]: row["next"]
        for row in await rig.sql.fetch("SELECT wallet, check_at - clock_timestamp() AS next FROM recharge_policies")
    }
    # What could not be looked at was put off, the other was looked at and comes back after the usual while.
    assert timedelta(0) < looked[wallets[0]]
    assert timedelta(minutes=2) < looked[wallets[1]]
    # A lost workflow is started although nobody could be asked about its charge.
    started = {row["key"] for row in await rig.sql.fetch("SELECT key FROM outbox WHERE topic = 'recharge'")}
    assert started == set(names)


async def test_the_audit_finds_what_is_wrong(rig: Rig) -> None:
    await rig.card()
    await rig.policy()
    (one,) = await rig.recharges()
    assert (await pay(rig, one.name)).state == SUCCEEDED
    assert await rig.audit_failures() == []
    await rig.sql.execute("UPDATE recharge_months SET count = 0")
    await rig.sql.execute("UPDATE recharges SET received_nanos = received_nanos - 1, problem = 'odd'")
    await rig.sql.execute("UPDATE recharge_intents SET status = 'canceled'")
    names = {failure.partition(":")[0] for failure in await rig.audit_failures()}
    assert names == {"I7.months_recomputed", "I8.one_grant", "I8.one_charge", "I8.no_problems"}


async def test_evaluating_again_changes_nothing(rig: Rig) -> None:
    await rig.card()
    await rig.policy()
    async with asyncpg.create_pool(rig.sql_dsn, min_size=1, max_size=2) as pool:

        async def again(connection: asyncpg.Connection) -> None:
            await lock_wallet(connection, rig.org, rig.wallet)
            now = await clock(connection)
            for _ in range(3):
                await evaluate(connection, rig.org, [rig.wallet, f"orgs/{rig.org}/wallets/none"], now)

        await transact(pool, again)
    (one,) = await rig.recharges()
    assert one.state == pb.RECHARGE_STATE_PENDING
