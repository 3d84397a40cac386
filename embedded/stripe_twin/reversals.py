"""What takes a charge's money back: refunds and disputes, their shapes and their rules. No I/O.

Objects are plain dicts in Stripe's JSON shape, times seconds, amounts minor units, as in `objects` and `domain`.
"""

from __future__ import annotations

import re
from typing import Any

from embedded.stripe_twin import currencies
from embedded.stripe_twin.errors import ApiError, invalid

Json = dict[str, Any]

REFUND_REASONS = ("duplicate", "fraudulent", "requested_by_customer")
REFUND_SETTLES_S = 60.0
"""How long the bank takes over a refund of the cards whose refunds stay pending, or fail after all."""

DISPUTE_REASONS = (
    "credit_not_processed",
    "duplicate",
    "fraudulent",
    "general",
    "product_not_received",
    "product_unacceptable",
    "subscription_canceled",
    "unrecognized",
)
DISPUTE_FEE_MINOR = 1500
EVIDENCE_DUE_S = 9 * 24 * 3600
WINNING_EVIDENCE = "winning_evidence"
LOSING_EVIDENCE = "losing_evidence"
INQUIRY = ("warning_needs_response", "warning_under_review")
OPEN = ("needs_response", "under_review")

EVIDENCE = (
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
)


# --- refunds ------------------------------------------------------------------------------------------


def refund(object_id: str, now: int, charge: Json, amount: int, *, status: str, params: Json) -> Json:
    """A refund of `amount` of a charge; `status` pending or succeeded."""
    return {
        "id": object_id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "customer": charge["customer"],
        "customer_account": None,
        "destination_details": {
            "card": {"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund"},
            "type": "card",
        },
        "metadata": params.get("metadata") or {},
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": params.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": status,
        "transfer_reversal": None,
        **({"pending_reason": "processing"} if status == "pending" else {}),
    }


def refund_amount(charge: Json, asked: int | None, dispute: Json | None) -> int:
    """How much is refunded: what was asked for, else what is left. Raises ApiError when that cannot be."""
    if not charge["captured"]:
        raise invalid(f"Charge {charge['id']} has not been captured or did not succeed; it cannot be refunded.")
    if dispute is not None and not dispute["is_charge_refundable"]:
        raise invalid(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    left: int = charge["amount_captured"] - charge["amount_refunded"]
    if left <= 0:
        raise invalid(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if asked is None:
        return left
    if asked < 1:
        raise invalid(
            "This value must be greater than or equal to 1.", param="amount", code="parameter_invalid_integer"
        )
    if asked > left:
        whole = "unrefunded amount on charge" if charge["amount_refunded"] else "charge amount"
        currency = charge["currency"]
        raise invalid(
            f"Refund amount ({currencies.written(asked, currency)}) is greater than {whole} "
            f"({currencies.written(left, currency)})",
            param="amount",
        )
    return asked


def refunded_by(charge: Json, amount: int) -> Json:
    """The charge after `amount` more was refunded; less where a refund failed and `amount` is negative."""
    total = charge["amount_refunded"] + amount
    return {**charge, "amount_refunded": total, "refunded": total >= charge["amount_captured"]}


def refund_ended(stored: Json, outcome: str) -> Json:
    """A refund that the bank has carried out, or could not. Raises ApiError where it has ended before."""
    open_for = {"succeeded": ("pending",), "failed": ("pending", "succeeded")}[outcome]
    if stored["status"] not in open_for:
        raise invalid(f"Refund {stored['id']} is {stored['status']}; it cannot become {outcome}.")
    ended = {name: value for name, value in stored.items() if name != "pending_reason"} | {"status": outcome}
    return ended | {"failure_reason": "expired_or_canceled_card"} if outcome == "failed" else ended


# --- disputes -----------------------------------------------------------------------------------------


def dispute(object_id: str, now: int, charge: Json, amount: int, *, reason: str, inquiry: bool) -> Json:
    """A dispute that was just opened; an inquiry takes no money yet."""
    return {
        "id": object_id,
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": now + EVIDENCE_DUE_S,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": charge["payment_method_details"]["card"]["brand"],
                "case_type": "inquiry" if inquiry else "chargeback",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": "warning_needs_response" if inquiry else "needs_response",
    }


def withdrawn(stored: Json, transaction_id: str, now: int) -> Json:
    """The dispute when its amount, and the fee, have left the account."""
    taken = _adjustment(stored, transaction_id, now, sign=-1)
    return {**stored, "balance_transactions": [*stored["balance_transactions"], taken], "is_charge_refundable": False}


def reinstated(stored: Json, transaction_id: str, now: int) -> Json:
    """The dispute when its amount, and the fee, have come back."""
    given = _adjustment(stored, transaction_id, now, sign=1)
    return {**stored, "balance_transactions": [*stored["balance_transactions"], given]}


def _adjustment(stored: Json, transaction_id: str, now: int, *, sign: int) -> Json:
    amount, fee = sign * stored["amount"], -sign * DISPUTE_FEE_MINOR
    withdrawal = sign < 0
    return {
        "id": transaction_id,
        "object": "balance_transaction",
        "amount": amount,
        "available_on": now,
        "balance_type": "payments",
        "created": now,
        "currency": stored["currency"],
        "description": f"Chargeback {'withdrawal' if withdrawal else 'reversal'} for {stored['charge']}",
        "exchange_rate": None,
        "fee": fee,
        "fee_details": [
            {
                "amount": fee,
                "application": None,
                "currency": stored["currency"],
                "description": "Dispute fee",
                "type": "stripe_fee",
            }
        ],
        "net": amount - fee,
        "reporting_category": "dispute" if withdrawal else "dispute_reversal",
        "source": stored["id"],
        "status": "available",
        "type": "adjustment",
    }


def with_evidence(stored: Json, given: Json, *, submit: bool) -> Json:
    """The dispute with evidence added, and under review where it was submitted. Raises ApiError once it has ended."""
    check_open(stored)
    for name, value in given.items():
        if name not in EVIDENCE:
            raise invalid(
                f"Received unknown parameter: evidence[{name}]", param=f"evidence[{name}]", code="parameter_unknown"
            )
        if not isinstance(value, str):
            raise invalid(f"Invalid string: evidence[{name}]", param=f"evidence[{name}]")
    evidence = {**stored["evidence"], **{name: value or None for name, value in given.items()}}
    details = {
        **stored["evidence_details"],
        "has_evidence": any(evidence[name] for name in EVIDENCE),
        "submission_count": stored["evidence_details"]["submission_count"] + submit,
    }
    status = stored["status"]
    if submit:
        status = "warning_under_review" if status in INQUIRY else "under_review"
    return {**stored, "evidence": evidence, "evidence_details": details, "status": status}


def check_open(stored: Json) -> None:
    """Raises ApiError unless the dispute has not ended."""
    if stored["status"] not in (*OPEN, *INQUIRY):
        raise invalid(f"This dispute is already closed: it is {stored['status']}.")


def verdict_of(stored: Json) -> str | None:
    """What the bank will say of the submitted evidence: Stripe's two test words decide; None leaves it open."""
    said = stored["evidence"]["uncategorized_text"]
    words = re.sub(r"[^a-z]+", "_", (said or "").lower()).strip("_")
    return {WINNING_EVIDENCE: "won", LOSING_EVIDENCE: "lost"}.get(words)


def check_chargeable_back(charge: Json, amount: int) -> ApiError | None:
    """Why a charge cannot be disputed for `amount`, else None."""
    if not charge["captured"]:
        return invalid(f"Charge {charge['id']} has not succeeded; it cannot be disputed.")
    if charge["disputed"]:
        return invalid(f"Charge {charge['id']} has been disputed already.")
    if not 1 <= amount <= charge["amount_captured"]:
        return invalid(f"amount must be from 1 to {charge['amount_captured']}, not {amount}", param="amount")
    return None
