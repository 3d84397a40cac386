"""Disputes: the cardholder asks the bank for the money back; evidence decides, or nobody answers."""

from __future__ import annotations

from collections.abc import Mapping

from embedded.stripe_twin import params as p
from embedded.stripe_twin import reversals
from embedded.stripe_twin.operations import payment_methods
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.store import Filter
from embedded.stripe_twin.work import Answer, Json, Work, new_id, ok

UPDATE = Spec({"evidence": p.mapping, "metadata": p.metadata, "submit": p.boolean, **p.EXPAND})
LIST = Spec({"charge": p.text, "payment_intent": p.text, **p.PAGE})


def open_for_card(work: Work, charge_id: str) -> None:
    """Opens the dispute that a dispute test card brings."""
    charge = work.get("charge", charge_id, param="charge").body
    card = payment_methods.card_of(work.get("payment_method", charge["payment_method"], param="payment_method"))
    left = charge["amount_captured"] - charge["amount_refunded"]
    if charge["disputed"] or left <= 0:
        return
    opened(work, charge, left, reason=card.dispute_reason, inquiry=card.inquiry)


def opened(work: Work, charge: Json, amount: int, *, reason: str, inquiry: bool) -> Json:
    """A new dispute; unless it is an inquiry, the money leaves the account at once. Raises ApiError."""
    refusal = reversals.check_chargeable_back(charge, amount)
    if refusal is not None:
        raise refusal
    dispute = reversals.dispute(new_id("du"), work.now, charge, amount, reason=reason, inquiry=inquiry)
    work.put(dispute, parent=charge["payment_intent"])
    work.put({**charge, "disputed": True})
    work.emit("charge.dispute.created", dispute)
    return dispute if inquiry else _withdraw(work, dispute)


def _withdraw(work: Work, dispute: Json) -> Json:
    dispute = work.put(reversals.withdrawn(dispute, new_id("txn"), work.now))
    work.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


def retrieve(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One dispute."""
    return ok(work.get("dispute", path["id"], param="dispute", status=404).body)


def listing(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """Disputes, newest first."""
    intent = params.get("payment_intent")
    if params.get("charge"):
        intent = work.get("charge", params["charge"], param="charge").body["payment_intent"]
    return work.list("dispute", "/v1/disputes", params, Filter(parent=intent))


def update(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Add evidence, and submit it unless told not to; Stripe's test words then decide the dispute."""
    dispute = work.get("dispute", path["id"], param="dispute", status=404).body
    submit = params.get("submit", True) and "evidence" in params
    if "evidence" in params:
        dispute = reversals.with_evidence(dispute, params["evidence"], submit=submit)
    if "metadata" in params:
        dispute = {**dispute, "metadata": p.merge_metadata(dispute["metadata"], params["metadata"])}
    work.put(dispute)
    work.emit("charge.dispute.updated", dispute)
    verdict = reversals.verdict_of(dispute) if submit else None
    if verdict is not None:
        work.later(f"dispute:{verdict}", dispute["id"], after_s=0)
    return ok(dispute)


def close(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """Accept the dispute: it is lost."""
    dispute = work.get("dispute", path["id"], param="dispute", status=404).body
    return ok(resolve(work, dispute, "lost"))


def resolve(work: Work, dispute: Json, outcome: str) -> Json:
    """End a dispute: `won` gives the money back, `lost` does not. An inquiry is `escalated`, or closed by either.

    Raises ApiError where it has ended before.
    """
    reversals.check_open(dispute)
    if dispute["status"] in reversals.INQUIRY:
        if outcome == "escalated":
            dispute = {**dispute, "status": "needs_response"}
            work.emit("charge.dispute.updated", dispute)
            return _withdraw(work, dispute)
        outcome = "warning_closed"
    dispute = work.put({**dispute, "status": outcome})
    if outcome == "won":
        dispute = work.put(reversals.reinstated(dispute, new_id("txn"), work.now))
        work.emit("charge.dispute.funds_reinstated", dispute)
    work.emit("charge.dispute.closed", dispute)
    return dispute


def settle(work: Work, dispute_id: str, outcome: str) -> None:
    """What the bank decides on evidence, unless the dispute has ended meanwhile."""
    dispute = work.get("dispute", dispute_id, param="dispute").body
    if dispute["status"] in (*reversals.OPEN, *reversals.INQUIRY):
        resolve(work, dispute, outcome)


def latest_of(work: Work, charge: Json) -> Json | None:
    """The dispute of a charge, or None."""
    if not charge["disputed"]:
        return None
    found = work.store.page("dispute", Filter(parent=charge["payment_intent"]), limit=1)
    return found[0][0] if found and found[0] else None
