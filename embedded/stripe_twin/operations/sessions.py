"""Checkout sessions as their intents move them. The intents import this, so it imports none of them."""

from __future__ import annotations

from embedded.stripe_twin import domain
from embedded.stripe_twin.errors import invalid
from embedded.stripe_twin.store import Record
from embedded.stripe_twin.work import Json, Work

KIND = "checkout.session"


def session_of(work: Work, intent: Json) -> Json | None:
    """The session that made an intent, or None."""
    kind = intent["object"]
    record = work.store.get(kind, intent["id"])
    if record is None or not record.parent:
        return None
    found = work.store.get(KIND, record.parent)
    return found.body if found else None


def refuse_if_managed(work: Work, intent: Json, verb: str) -> None:
    """Raises ApiError where an intent belongs to a session: its page alone confirms it, expiry alone cancels it."""
    if session_of(work, intent) is not None:
        raise invalid(
            f"You cannot {verb} this {intent['object']} because it was created by a Checkout Session. "
            "To cancel it, expire the Checkout Session instead.",
            code=f"{intent['object']}_unexpected_state",
        )


def moved(work: Work, intent: Json) -> None:
    """Tell the session of an intent, if it has one, what became of the intent."""
    session = session_of(work, intent)
    if session is None:
        return
    paid = intent["object"] == "payment_intent"
    status = intent["status"]
    if session["status"] == "open" and status in ("succeeded", "processing"):
        payment = "no_payment_required" if not paid else "paid" if status == "succeeded" else "unpaid"
        _finish(work, session, payment)
    elif session["status"] == "complete" and session["payment_status"] == "unpaid":
        if status == "succeeded":
            session = work.put({**session, "payment_status": "paid"})
            work.emit("checkout.session.async_payment_succeeded", session)
        elif status == "requires_payment_method":
            work.emit("checkout.session.async_payment_failed", session)


def _finish(work: Work, session: Json, payment_status: str) -> None:
    customer = work.store.get("customer", session["customer"]) if session["customer"] else None
    details = {name: customer.body[name] for name in ("email", "name", "phone")} if customer else None
    session = work.put(
        {
            **session,
            "status": "complete",
            "payment_status": payment_status,
            "customer_details": details,
            "url": None,
        }
    )
    work.emit("checkout.session.completed", session)


def expired(work: Work, record: Record) -> Json:
    """End an open session: its page is closed and its intent canceled. Raises ApiError unless it is open."""
    session = record.body
    if session["status"] != "open":
        raise invalid(
            f'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"{session['status']}."
        )
    for kind in ("payment_intent", "setup_intent"):
        found = work.store.get(kind, session[kind]) if session[kind] else None
        if found is not None and found.body["status"] in domain.CANCELABLE:
            canceled = domain.after_cancel(found.body, work.now, None)
            if kind == "setup_intent":
                canceled.pop("canceled_at")
            work.emit(f"{kind}.canceled", work.put(canceled))
    session = work.put({**session, "status": "expired", "url": None}, record.private)
    work.emit("checkout.session.expired", session)
    return session
