"""Refunds: money of a charge back to its card, in whole or in parts."""

from __future__ import annotations

from collections.abc import Mapping

from embedded.stripe_twin import params as p
from embedded.stripe_twin import reversals
from embedded.stripe_twin.errors import invalid, missing_param
from embedded.stripe_twin.operations import payment_methods
from embedded.stripe_twin.operations.disputes import latest_of
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.store import Filter
from embedded.stripe_twin.work import Answer, Json, Work, new_id, ok

CREATE = Spec(
    {
        "amount": p.integer,
        "charge": p.text,
        "metadata": p.metadata,
        "payment_intent": p.text,
        "reason": p.choice(*reversals.REFUND_REASONS),
        **p.EXPAND,
    }
)
UPDATE = Spec({"metadata": p.metadata, **p.EXPAND})
LIST = Spec({"charge": p.text, "payment_intent": p.text, **p.PAGE})


def check_create(params: Params) -> None:
    """What can be refused without looking at any state."""
    if not params.get("charge") and not params.get("payment_intent"):
        raise missing_param("payment_intent")
    if "amount" in params and params["amount"] < 1:
        raise invalid(
            "This value must be greater than or equal to 1.", param="amount", code="parameter_invalid_integer"
        )


def create(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """Money back, at most what is left of the charge."""
    charge = charge_named(work, params)
    amount = reversals.refund_amount(charge, params.get("amount"), latest_of(work, charge))
    card = payment_methods.card_of(work.get("payment_method", charge["payment_method"], param="payment_method"))
    status = "pending" if card.refund_pends else "succeeded"
    refund = reversals.refund(new_id("re"), work.now, charge, amount, status=status, params=params)
    work.put(refund, parent=charge["payment_intent"])
    charge = work.put(reversals.refunded_by(charge, amount))
    work.emit("refund.created", refund)
    work.emit("charge.refunded", charge)
    if card.refund_ends:
        work.later(f"refund:{card.refund_ends}", refund["id"], after_s=reversals.REFUND_SETTLES_S)
    return ok(refund)


def charge_named(work: Work, params: Mapping[str, str]) -> Json:
    """The charge that `charge` or `payment_intent` names; raises ApiError where the intent has none that was paid."""
    if params.get("charge"):
        charge = work.get("charge", params["charge"], param="charge").body
        if params.get("payment_intent") not in (None, "", charge["payment_intent"]):
            raise invalid(f"Charge {charge['id']} is not of PaymentIntent {params['payment_intent']}.", param="charge")
        return charge
    intent = work.get("payment_intent", params["payment_intent"], param="payment_intent").body
    if intent["status"] != "succeeded":
        raise invalid(f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.")
    return work.get("charge", intent["latest_charge"], param="charge").body


def retrieve(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One refund."""
    return ok(work.get("refund", path["id"], param="id", status=404).body)


def update(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Change the metadata; nothing else of a refund can be."""
    refund = dict(work.get("refund", path["id"], param="id", status=404).body)
    if "metadata" in params:
        refund["metadata"] = p.merge_metadata(refund["metadata"], params["metadata"])
    work.put(refund)
    _updated(work, refund)
    return ok(refund)


def listing(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """Refunds, newest first."""
    intent = params.get("payment_intent")
    if params.get("charge"):
        intent = work.get("charge", params["charge"], param="charge").body["payment_intent"]
    return work.list("refund", "/v1/refunds", params, Filter(parent=intent))


def settle(work: Work, refund_id: str, outcome: str) -> Answer:
    """What the bank answers in the end: `succeeded`, or `failed`, which gives the money back to the account."""
    refund = reversals.refund_ended(work.get("refund", refund_id, param="id", status=404).body, outcome)
    work.put(refund)
    if outcome == "failed":
        charge = work.get("charge", refund["charge"], param="charge").body
        work.put(reversals.refunded_by(charge, -refund["amount"]))
        work.emit("refund.failed", refund)
    _updated(work, refund)
    return ok(refund)


def _updated(work: Work, refund: Json) -> None:
    work.emit("refund.updated", refund)
    work.emit("charge.refund.updated", refund)
