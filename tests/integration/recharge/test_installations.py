"""Two installations at one Stripe account: neither is granted what the other charged, whatever its names are."""

from collections.abc import Callable
from pathlib import Path

from services.wallet.recharge.store import recharges as rows
from tests.conftest import TwinServer
from tests.integration.recharge.test_inbox import event, ingest, outcome
from tests.integration.recharge.test_observe import PENDING, SUCCEEDED, pay, start
from tests.support.databases import Database
from tests.support.recharging import USD, Rig, running_rig


async def charge_by_hand(rig: Rig, customer: str, recharge: str, **metadata: str) -> str:
    """A charge of 20 USD that names the recharge; returns the PaymentIntent."""
    intent = await rig.twin.api.v1.payment_intents.create_async(
        {
            "amount": 2000,
            "currency": "usd",
            "customer": customer,
            "payment_method": "pm_card_visa",
            "confirm": True,
            "off_session": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            "metadata": {"org": rig.org, "wallet": rig.wallet, "recharge": recharge, **metadata},
        }
    )
    assert intent.status == "succeeded"
    return intent.id


async def test_recharges_of_the_same_name_are_charged_each_for_itself(
    database: Callable[[str], Database], twin: TwinServer, tmp_path: Path, org: str
) -> None:
    charged, named, customers = [], [], []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with running_rig(database("wallet"), twin.url, directory, org=org) as rig:
            name = await start(rig)
            paid = await pay(rig, name)
            assert paid.state == SUCCEEDED
            assert await rig.balance() == 20 * USD
            charged.append(paid.payment_intent)
            named.append(name)
            customers.append(await rig.sql.fetchval("SELECT stripe_customer FROM wallets"))
    assert named[0] == named[1]
    assert charged[0] != charged[1]
    assert customers[0] != customers[1]


async def test_a_charge_of_ours_that_no_attempt_is_known_of_is_adopted(rig: Rig) -> None:
    """As after a restore of the database: the metadata says whose it is, and nothing is stored of it."""
    name = await start(rig)
    customer = await rig.sql.fetchval("SELECT stripe_customer FROM wallets")
    intent = await charge_by_hand(rig, customer, name, installation=await rows.installation(rig.sql))
    await ingest(rig, event("evt_1", id=intent, metadata={"org": rig.org, "recharge": name}))
    assert await outcome(rig, "evt_1") == f"{name} is SUCCEEDED"
    stored = await rig.sql.fetchrow("SELECT number, customer, payment_intent FROM recharge_intents")
    assert tuple(stored) == (1, customer, intent)
    assert await rig.balance() == 20 * USD
    assert await rig.audit_failures() == []


async def test_a_second_charge_is_told_and_what_is_left_open_is_canceled(rig: Rig) -> None:
    name = await start(rig)
    await rig.authorize(name)
    customer = await rig.sql.fetchval("SELECT stripe_customer FROM wallets")
    installation = await rows.installation(rig.sql)
    first, second = [await charge_by_hand(rig, customer, name, installation=installation) for _ in range(2)]
    third = await rig.twin.api.v1.payment_intents.create_async(
        {"amount": 2000, "currency": "usd", "customer": customer, "metadata": {"recharge": name}}
    )
    await rig.sql.execute("UPDATE recharge_intents SET payment_intent = $1, status = 'processing'", first)
    for number, intent in ((2, second), (3, third.id)):
        await rig.sql.execute(
            "INSERT INTO recharge_intents SELECT org, recharge, $1, 'by hand', customer, $2, 'processing', '', '', "
            "created_at FROM recharge_intents WHERE number = 1",
            number,
            intent,
        )
    paid = await rig.report(name, 1)
    assert paid.state == SUCCEEDED
    assert second in paid.failure_reason
    assert len(await rig.alerts("RECHARGE_PROBLEM")) == 1
    assert await rig.balance() == 20 * USD
    assert (await rig.twin.api.v1.payment_intents.retrieve_async(third.id)).status == "canceled"
    assert {line.partition(":")[0] for line in await rig.audit_failures()} == {"I8.one_charge", "I8.no_problems"}


async def test_a_charge_that_succeeds_after_the_end_is_told(rig: Rig) -> None:
    """It is known to the recharge and was at the bank when that ended, so it could not be canceled."""
    name = await start(rig)
    assert (await pay(rig, name)).state == SUCCEEDED
    customer = await rig.sql.fetchval("SELECT stripe_customer FROM wallets")
    late = await charge_by_hand(rig, customer, name, installation=await rows.installation(rig.sql))
    await rig.sql.execute(
        "INSERT INTO recharge_intents SELECT org, recharge, 2, 'by hand', customer, $1, 'processing', '', '', "
        "created_at FROM recharge_intents WHERE number = 1",
        late,
    )
    await ingest(rig, event("evt_1", id=late, metadata={"org": rig.org, "recharge": name}))
    assert await outcome(rig, "evt_1") == f"{name} is SUCCEEDED"
    assert len(await rig.alerts("RECHARGE_PROBLEM")) == 1
    assert await rig.balance() == 20 * USD


async def test_what_another_installation_charged_is_not_adopted(rig: Rig) -> None:
    name = await start(rig)
    await rig.authorize(name)
    customer = await rig.sql.fetchval("SELECT stripe_customer FROM wallets")
    for number, metadata in enumerate(({}, {"installation": "another"})):
        intent = await charge_by_hand(rig, customer, name, **metadata)
        await ingest(rig, event(f"evt_{number}", id=intent, metadata={"org": rig.org, "recharge": name}))
        assert await outcome(rig, f"evt_{number}") == f"{name} is PENDING"
    # Past the life of the key the list is asked; it tells the two apart as well.
    await rig.sql.execute("UPDATE recharge_intents SET created_at = created_at - interval '25 hours'")
    assert (await rig.report(name, 1)).state == PENDING
    assert await rig.balance() == 0
    own = await charge_by_hand(rig, customer, name, installation=await rows.installation(rig.sql), intent="1")
    assert (await rig.report(name, 1)).payment_intent == own
    assert await rig.balance() == 20 * USD
    assert await rig.audit_failures() == []
