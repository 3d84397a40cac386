"""What was answered survives `kill -9`; so do the clock, the faults and what is still owed to webhooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import stripe

from tests.integration.stripe_twin.contract import customer_with, new_key, pay, replayed
from tests.integration.stripe_twin.harness import ROOT, SECRET, Receiver, TwinProcess


async def test_the_state_survives_a_kill(notifying_twin: TwinProcess, notifying_client: stripe.StripeClient) -> None:
    client = notifying_client
    customer, method = await customer_with(client, "pm_card_visa")
    once = new_key()
    intent = await pay(client, customer, method, key=once)
    notifying_twin.control("clock", {"advance_s": 500})
    notifying_twin.fault("decline:lost_card", "POST /v1/payment_intents")
    notifying_twin.kill()
    notifying_twin.start()
    again = await client.v1.payment_intents.retrieve_async(intent.id)
    assert again.to_dict() == intent.to_dict()
    replay = await pay(client, customer, method, key=once)
    assert (replay.id, replayed(replay)) == (intent.id, "true")
    state = notifying_twin.state()
    assert state["clock"]["offset_s"] == 500
    assert ["decline:lost_card"] == [fault["kind"] for fault in state["faults"]]
    with pytest.raises(stripe.CardError):
        await pay(client, customer, method)


async def test_a_payment_whose_answer_died_with_the_twin_is_found_by_its_key(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient
) -> None:
    customer, method = await customer_with(notifying_client, "pm_card_visa")
    notifying_twin.fault("lost_answer", "POST /v1/payment_intents")
    once = new_key()
    with pytest.raises(stripe.APIConnectionError):
        await pay(notifying_client, customer, method, key=once)
    notifying_twin.kill()
    with pytest.raises(stripe.APIConnectionError):
        await pay(notifying_client, customer, method, key=once)
    notifying_twin.start()
    assert (await pay(notifying_client, customer, method, key=once)).status == "succeeded"
    assert len((await notifying_client.v1.payment_intents.list_async({"customer": customer})).data) == 1


async def test_what_is_owed_to_webhooks_survives_a_kill(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    receiver.status = 500
    customer, method = await customer_with(notifying_client, "pm_card_visa")
    await pay(notifying_client, customer, method)
    receiver.wait_for_types("payment_intent.succeeded")
    notifying_twin.kill()
    before = len(receiver.of_type("payment_intent.succeeded"))
    receiver.status = 200
    notifying_twin.start()
    notifying_twin.control("clock", {"advance_s": 3600})
    receiver.wait_for(lambda all_: sum(item.event["type"] == "payment_intent.succeeded" for item in all_) > before)


async def test_the_endpoint_of_the_command_line_may_move(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    receiver.status = 500
    await notifying_client.v1.customers.create_async({})
    receiver.wait_for_types("customer.created")
    assert notifying_twin.stop() == 0
    other = Receiver()
    try:
        notifying_twin.webhook_url = other.url
        notifying_twin.start()
        notifying_twin.control("clock", {"advance_s": 3600})
        other.wait_for_types("customer.created")
        assert len(notifying_twin.state()["webhook_endpoints"]) == 1
    finally:
        other.close()


def run_twin(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "embedded.stripe_twin", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_second_twin_on_the_same_data_is_refused(twin: TwinProcess) -> None:
    second = run_twin("--port", "0", "--data", str(twin.data))
    assert second.returncode == 1
    assert "in use by another Stripe twin" in second.stderr
    assert twin.send("GET", "/health").status_code == 200


def test_a_taken_port_is_said_to_be_taken(twin: TwinProcess, tmp_path: Path) -> None:
    second = run_twin("--port", twin.url.rsplit(":", 1)[1], "--data", str(tmp_path / "other"))
    assert second.returncode == 1
    assert "cannot listen on 127.0.0.1" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--webhook-url", "http://127.0.0.1:1/"), "needs --webhook-secret"),
        (("--webhook-url", "ftp://127.0.0.1/", "--webhook-secret", SECRET), "must be an http or https address"),
        (("--port", "70000"), "--port must be from 0 to 65535"),
    ],
)
def test_a_wrong_command_line_is_refused(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    result = run_twin("--data", str(tmp_path / "twin"), *arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert not (tmp_path / "twin").exists()
