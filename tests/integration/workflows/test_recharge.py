"""A recharge end to end, as a person sees it in Temporal's UI too."""

import asyncio

from temporalio.client import Client, WorkflowExecutionStatus

from pursestrings.wallet.v1 import wallet_pb2 as pb
from tests.support.recharging import USD, Rig, running_worker, webhooks


async def test_a_low_balance_is_charged_and_granted_once(rig: Rig, temporal: Client) -> None:
    async with webhooks(rig), running_worker(rig, temporal):
        customer = await rig.card()
        await rig.policy()
        (started,) = await rig.recharges()
        done = await rig.until_state(started.name, pb.RECHARGE_STATE_SUCCEEDED)
        assert await temporal.get_workflow_handle(started.name).result()

    assert done.grant
    assert await rig.balance() == 20 * USD
    assert [intent.status for intent in await rig.twin.intents(customer)] == ["succeeded"]
    assert await rig.audit_failures() == []


async def test_a_person_reads_it_in_the_ui(rig: Rig, temporal: Client) -> None:
    async with running_worker(rig, temporal):
        await rig.card("pm_card_chargeCustomerFail")
        await rig.policy()
        (started,) = await rig.recharges()
        handle = temporal.get_workflow_handle(started.name)
        async with asyncio.timeout(30):
            # From here on the relay has started the workflow.
            while not (await rig.recharge(started.name)).decline_code:
                await asyncio.sleep(0.03)
            while True:
                about = await handle.describe()
                if about.typed_search_attributes and "WAITING" in str(about.typed_search_attributes):
                    break
                await asyncio.sleep(0.05)
        summary, details = await about.static_summary(), await about.static_details()
        status = await handle.query("status")
        query = f'Wallet = "{rig.wallet}" AND State = "WAITING"'
        async with asyncio.timeout(30):
            while not [found async for found in temporal.list_workflows(query)]:
                await asyncio.sleep(0.05)
        found = [found async for found in temporal.list_workflows(query)]
        other = await rig.create_wallet("other")
        await rig.card("pm_card_authenticationRequired", other)
        await rig.policy(other)
        asked = f'Wallet = "{other}" AND State = "NEEDS_PERSON"'
        async with asyncio.timeout(30):
            while not [found async for found in temporal.list_workflows(asked)]:
                await asyncio.sleep(0.05)

    assert about.status is WorkflowExecutionStatus.RUNNING
    assert summary == f"Recharge of 20.00 USD for {rig.wallet}"
    assert details is not None
    assert "the balance of 0.00 USD is below the threshold of 5.00 USD" in details
    assert "declined (generic_decline)" in status["details"]
    assert "Last refusal: generic_decline" in status["details"]
    assert [one.id for one in found] == [started.name]
    keys = {pair.key.name for pair in about.typed_search_attributes.search_attributes}
    assert {"Org", "Subject", "Wallet", "State", "Deadline"} <= keys
