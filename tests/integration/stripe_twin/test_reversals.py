"""Refunds and disputes as only the twin lets one steer them: what the bank answers, and which events tell."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import stripe

from embedded.stripe_twin.store import SCHEMA_VERSION, Store
from tests.integration.stripe_twin.contract_reversals import dispute_of, paid
from tests.integration.stripe_twin.harness import Receiver, TwinProcess, eventually


async def test_a_refund_that_fails_gives_the_money_back_to_the_account(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    intent = await paid(notifying_client, "pm_card_refundFail")
    refund = await notifying_client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 1500})
    assert refund.status == "succeeded"
    receiver.wait_for_types("refund.created", "charge.refunded")
    notifying_twin.control("clock", {"advance_s": 61})
    receiver.wait_for_types("refund.failed", "refund.updated", "charge.refund.updated")
    failed = await notifying_client.v1.refunds.retrieve_async(refund.id)
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    charge = await notifying_client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert (charge.refunded, charge.amount_refunded) == (False, 0)
    again = notifying_twin.send("POST", f"/_twin/refunds/{refund.id}/complete", json={"outcome": "succeeded"})
    assert again.status_code == 400


async def test_a_pending_refund_is_settled_by_time_or_by_hand(twin: TwinProcess, client: stripe.StripeClient) -> None:
    intent = await paid(client, "pm_card_pendingRefund")
    refund = await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 500})
    twin.control(f"refunds/{refund.id}/complete", {"outcome": "succeeded"})
    assert (await client.v1.refunds.retrieve_async(refund.id)).status == "succeeded"
    other = await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 500})
    twin.control("clock", {"advance_s": 61})

    async def settled() -> bool:
        return (await client.v1.refunds.retrieve_async(other.id)).status == "succeeded"

    await eventually(settled)


async def test_a_dispute_tells_of_the_money_that_leaves_and_comes_back(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    intent = await paid(notifying_client)
    opened = notifying_twin.control("disputes", {"payment_intent": intent.id, "amount": 700, "reason": "duplicate"})
    receiver.wait_for_types("charge.dispute.created", "charge.dispute.funds_withdrawn")
    notifying_twin.control(f"disputes/{opened['id']}/resolve", {"outcome": "won"})
    receiver.wait_for_types("charge.dispute.closed", "charge.dispute.funds_reinstated")
    won = await notifying_client.v1.disputes.retrieve_async(opened["id"])
    assert won.status == "won"
    assert [one.amount for one in won.balance_transactions] == [-700, 700]
    told = receiver.of_type("charge.dispute.closed")[0].event["data"]["object"]
    assert (told["status"], told["payment_intent"]) == ("won", intent.id)
    again = notifying_twin.send("POST", f"/_twin/disputes/{opened['id']}/resolve", json={"outcome": "lost"})
    assert again.status_code == 400
    assert len((await notifying_client.v1.disputes.list_async({"payment_intent": intent.id})).data) == 1


async def test_an_inquiry_becomes_a_dispute(twin: TwinProcess, client: stripe.StripeClient) -> None:
    intent = await paid(client, "pm_card_createDisputeInquiry")
    inquiry = await dispute_of(client, intent.id)
    escalated = twin.control(f"disputes/{inquiry.id}/resolve", {"outcome": "escalated"})
    assert escalated["status"] == "needs_response"
    assert [one["amount"] for one in escalated["balance_transactions"]] == [-2000]
    evidence = await client.v1.disputes.update_async(
        inquiry.id, {"evidence": {"uncategorized_text": "losing_evidence"}, "submit": False}
    )
    assert (evidence.status, evidence.evidence_details.has_evidence) == ("needs_response", True)
    assert (await client.v1.disputes.close_async(inquiry.id)).status == "lost"


async def test_what_a_charge_does_not_hold_is_not_disputed(twin: TwinProcess, client: stripe.StripeClient) -> None:
    intent = await paid(client)
    for wrong in ({"amount": 2001}, {"reason": "boredom"}, {"charge": "ch_none"}):
        body = {"payment_intent": intent.id, **wrong}
        assert twin.send("POST", "/_twin/disputes", json=body).status_code == 400
    assert (await client.v1.disputes.list_async({"payment_intent": intent.id})).data == []


async def test_a_dispute_survives_kill_minus_nine(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    intent = await paid(notifying_client)
    refund = await notifying_client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 300})
    opened = notifying_twin.control("disputes", {"payment_intent": intent.id})
    notifying_twin.kill()
    notifying_twin.start()
    receiver.wait_for_types("charge.dispute.funds_withdrawn", "charge.refunded")
    dispute = await notifying_client.v1.disputes.retrieve_async(opened["id"])
    assert (dispute.amount, dispute.status) == (1700, "needs_response")
    assert (await notifying_client.v1.refunds.retrieve_async(refund.id)).amount == 300


def test_an_older_state_file_is_brought_up_to_date(tmp_path: Path) -> None:
    Store(tmp_path).close()
    path = tmp_path / "stripe-twin.sqlite3"
    with sqlite3.connect(path) as db:
        db.executescript(
            "DROP TABLE timers; ALTER TABLE objects DROP COLUMN written; DROP INDEX deliveries_waiting;"
            "DROP INDEX deliveries_held; CREATE INDEX deliveries_by_due ON deliveries (state, due);"
            "PRAGMA user_version=1;"
        )
    store = Store(tmp_path)
    with store.transaction():
        store.add_timer("refund:failed", "re_1", due=5.0)
    assert store.next_timer() == 5.0
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
