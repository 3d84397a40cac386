"""SetupIntents: saving a card for later, with the cardholder's authentication where the bank wants it."""

from __future__ import annotations

from collections.abc import Mapping

from embedded.stripe_twin import domain, objects
from embedded.stripe_twin import params as p
from embedded.stripe_twin.cards import Decline, decline_for
from embedded.stripe_twin.domain import Verdict
from embedded.stripe_twin.operations import payment_methods, sessions
from embedded.stripe_twin.operations.redirects import check_return_url, page_url
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.store import Filter
from embedded.stripe_twin.work import Answer, Json, Work, new_id, ok

CREATE = Spec(
    {
        "automatic_payment_methods": p.mapping,
        "confirm": p.boolean,
        "customer": p.text,
        "description": p.text,
        "metadata": p.metadata,
        "payment_method": p.text,
        **p.METHOD_TYPES,
        "return_url": p.text,
        "usage": p.choice("off_session", "on_session"),
        **p.EXPAND,
    }
)
CONFIRM = Spec({"payment_method": p.text, "return_url": p.text, **p.EXPAND})
CANCEL = Spec({"cancellation_reason": p.choice("abandoned", "duplicate", "requested_by_customer"), **p.EXPAND})
LIST = Spec({"customer": p.text, **p.PAGE})


def create(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """A new intent, confirmed at once when asked to."""
    if "customer" in params:
        work.get("customer", params["customer"], param="customer")
    intent = objects.setup_intent(new_id("seti"), work.now, new_id("")[1:], params)
    if "payment_method" in params:
        method = payment_methods.find(
            work, params["payment_method"], customer=intent["customer"], param="payment_method"
        )
        intent |= {"payment_method": method.body["id"], "status": "requires_confirmation"}
    work.put(intent)
    work.emit("setup_intent.created", intent)
    if not params.get("confirm"):
        return ok(intent)
    return confirm(work, {name: params[name] for name in ("return_url",) if name in params}, {"id": intent["id"]})


def retrieve(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One SetupIntent."""
    return ok(work.get("setup_intent", path["id"], param="intent", status=404).body)


def listing(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """SetupIntents, newest first."""
    return work.list("setup_intent", "/v1/setup_intents", params, Filter(customer=params.get("customer")))


def confirm(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Save the card: succeeded, declined (402), or waiting for the cardholder."""
    intent = work.get("setup_intent", path["id"], param="intent", status=404).body
    sessions.refuse_if_managed(work, intent, "confirm")
    check_return_url(intent, params.get("return_url"))
    return confirmed(work, intent, params.get("payment_method"), params.get("return_url"))


def confirmed(work: Work, intent: Json, method_id: str | None, return_url: str | None) -> Answer:
    """What confirming comes to, whoever does it: the API's caller or a Checkout page."""
    domain.check_confirmable(intent)
    if method_id is not None:
        method = payment_methods.find(work, method_id, customer=intent["customer"], param="payment_method")
        intent = {**intent, "payment_method": method.body["id"]}
    if intent["payment_method"] is None:
        raise domain.missing_payment_method(intent)
    fault = work.charging_fault()
    forced = decline_for(fault.argument) if fault and fault.kind == "decline" else None
    return _attempt(work, intent, return_url, authenticated=False, forced=forced)


def _attempt(
    work: Work, intent: Json, return_url: str | None, *, authenticated: bool, forced: Decline | None = None
) -> Answer:
    method = work.get("payment_method", intent["payment_method"], param="payment_method")
    judgement = domain.judge_setup(payment_methods.card_of(method), authenticated=authenticated, forced=forced)
    intent = {**intent, "latest_attempt": new_id("setatt"), "next_action": None, "last_setup_error": None}
    if judgement.verdict is Verdict.AUTHENTICATE:
        action = objects.next_action(page_url(work.base_url, intent), return_url)
        intent |= {"status": "requires_action", "next_action": action}
        work.put(intent, {"return_url": return_url})
        work.emit("setup_intent.requires_action", intent)
        return ok(intent)
    if judgement.decline is not None:
        error = domain.card_error(judgement.decline, payment_method=method.body)
        intent = _refused(work, intent, error)
        return Answer(402, {"error": {**error, "setup_intent": intent}})
    if intent["customer"] is not None:
        ready = intent["usage"] == "off_session"
        payment_methods.give_to_customer(work, method, intent["customer"], set_up=ready)
    intent |= {"status": "succeeded"}
    work.put(intent)
    work.emit("setup_intent.succeeded", intent)
    sessions.moved(work, intent)
    return ok(intent)


def _refused(work: Work, intent: Json, error: Json) -> Json:
    refused = {
        **intent,
        "status": "requires_payment_method",
        "payment_method": None,
        "next_action": None,
        "last_setup_error": error,
    }
    work.put(refused)
    work.emit("setup_intent.setup_failed", refused)
    return refused


def cancel(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Give the intent up."""
    intent = work.get("setup_intent", path["id"], param="intent", status=404).body
    sessions.refuse_if_managed(work, intent, "cancel")
    domain.check_cancelable(intent)
    intent = {
        **intent,
        "status": "canceled",
        "cancellation_reason": params.get("cancellation_reason"),
        "next_action": None,
    }
    work.put(intent)
    work.emit("setup_intent.canceled", intent)
    return ok(intent)


def complete_action(work: Work, intent_id: str, outcome: str) -> Answer:
    """What the cardholder did: `succeeded`, `failed`, or `decline:CODE` from the bank."""
    intent = work.get("setup_intent", intent_id, param="intent", status=404).body
    if intent["status"] != "requires_action":
        raise domain.unexpected_state(intent, f"This SetupIntent is {intent['status']}: no action to complete.")
    if outcome == "failed":
        method = work.get("payment_method", intent["payment_method"], param="payment_method").body
        error = domain.authentication_failure("setup_intent_authentication_failure", method)
        return ok(_refused(work, intent, error))
    forced = decline_for(outcome.removeprefix("decline:")) if outcome.startswith("decline:") else None
    return _attempt(work, intent, None, authenticated=True, forced=forced)
