"""PaymentIntents: one payment from the first try to the last, every state of it."""

from __future__ import annotations

from collections.abc import Mapping

from embedded.stripe_twin import currencies, domain, objects, searching
from embedded.stripe_twin import params as p
from embedded.stripe_twin.cards import Decline, decline_for
from embedded.stripe_twin.domain import Attempt, Verdict
from embedded.stripe_twin.errors import invalid
from embedded.stripe_twin.operations import payment_methods, sessions
from embedded.stripe_twin.operations.redirects import check_return_url, page_url
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.store import Filter, Record
from embedded.stripe_twin.work import Answer, Json, Work, new_id, ok

_COMMON: dict[str, p.Check] = {
    "description": p.text,
    "metadata": p.metadata,
    "payment_method": p.text,
    "receipt_email": p.text,
    "setup_future_usage": p.choice("off_session", "on_session"),
    "statement_descriptor_suffix": p.text,
    "transfer_group": p.text,
    **p.EXPAND,
}
CREATE = Spec(
    {
        **_COMMON,
        "amount": p.integer,
        "currency": p.text,
        "automatic_payment_methods": p.mapping,
        "capture_method": p.choice("automatic", "automatic_async", "manual"),
        "confirm": p.boolean,
        "confirmation_method": p.choice("automatic", "manual"),
        "customer": p.text,
        "off_session": p.off_session,
        **p.METHOD_TYPES,
        "return_url": p.text,
    },
    required=("amount", "currency"),
)
UPDATE = Spec({**_COMMON, "amount": p.integer, "currency": p.text, "customer": p.text})
CONFIRM = Spec(
    {
        "off_session": p.off_session,
        "payment_method": p.text,
        "receipt_email": p.text,
        "return_url": p.text,
        "setup_future_usage": p.choice("off_session", "on_session"),
        **p.EXPAND,
    }
)
CANCEL = Spec({"cancellation_reason": p.choice(*domain.CANCELLATION_REASONS), **p.EXPAND})
CAPTURE = Spec({"amount_to_capture": p.integer, **p.EXPAND})
LIST = Spec({"customer": p.text, **p.PAGE})
SEARCH = Spec({"query": p.text, "limit": p.limit, "page": p.text, **p.EXPAND}, required=("query",))

_PLAIN = ("description", "receipt_email", "setup_future_usage", "statement_descriptor_suffix", "transfer_group")


def check_create(params: Params) -> None:
    """What can be refused without looking at any state."""
    params["currency"] = currencies.check_currency(params["currency"])
    currencies.check_amount(params["amount"], params["currency"])
    for name in ("off_session", "return_url"):
        if name in params and not params.get("confirm"):
            raise invalid(
                f"The parameter `{name}` cannot be passed when creating a PaymentIntent unless `confirm` is set to "
                "true.",
                param=name,
            )
    p.one_way_to_choose(params)


def create(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """A new intent, confirmed at once when asked to."""
    if "customer" in params:
        work.get("customer", params["customer"], param="customer")
    intent = objects.payment_intent(new_id("pi"), work.now, new_id("")[1:], params)
    if "payment_method" in params:
        intent["payment_method"] = _method(work, params["payment_method"], intent).body["id"]
    intent["status"] = domain.initial_status(intent["payment_method"])
    work.put(intent)
    work.emit("payment_intent.created", intent)
    if not params.get("confirm"):
        return ok(intent)
    given: Params = {name: params[name] for name in ("off_session", "return_url") if name in params}
    return confirm(work, given, {"id": intent["id"]})


def retrieve(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One PaymentIntent."""
    return ok(work.get("payment_intent", path["id"], param="intent", status=404).body)


def listing(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """PaymentIntents, newest first."""
    return work.list("payment_intent", "/v1/payment_intents", params, Filter(customer=params.get("customer")))


def search(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """PaymentIntents that a query finds, newest first; what was written in the last minute is not among them."""
    query = searching.parse(params["query"])
    written_before = work.now_s - searching.LAG_S
    known = work.store.written_before("payment_intent", written_before)
    found = [body for body in known if searching.matches(query, body)]
    page = params.get("page", "0")
    if not page.isdigit() or int(page) > len(found):
        raise invalid("The `page` is none that a search answered with.", param="page")
    size = params.get("limit", p.LIST_LIMIT_DEFAULT)
    end = int(page) + size
    more = end < len(found)
    return ok(
        {
            "object": "search_result",
            "data": found[int(page) : end],
            "has_more": more,
            "next_page": str(end) if more else None,
            "url": "/v1/payment_intents/search",
        }
    )


def update(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Change an intent; money and card only while it is open, words and metadata always."""
    record = work.get("payment_intent", path["id"], param="intent", status=404)
    intent = dict(record.body)
    money = [name for name in ("amount", "currency", "customer", "payment_method") if name in params]
    if money and intent["status"] not in domain.CONFIRMABLE:
        raise domain.unexpected_state(
            intent,
            f"This PaymentIntent's {money[0]} could not be updated because it has a status of {intent['status']}. "
            f"You may only update the {money[0]} of a PaymentIntent with one of the following statuses: "
            f"{', '.join(domain.CONFIRMABLE)}.",
        )
    intent |= {name: params[name] or None for name in _PLAIN if name in params}
    if "metadata" in params:
        intent["metadata"] = p.merge_metadata(intent["metadata"], params["metadata"])
    if "customer" in params:
        work.get("customer", params["customer"], param="customer")
        intent["customer"] = params["customer"]
    if "amount" in params or "currency" in params:
        currency = currencies.check_currency(params.get("currency", intent["currency"]))
        amount = params.get("amount", intent["amount"])
        currencies.check_amount(amount, currency)
        intent |= {"amount": amount, "currency": currency}
    if "payment_method" in params:
        intent["payment_method"] = _method(work, params["payment_method"], intent).body["id"]
        intent |= {"status": "requires_confirmation", "next_action": None}
    return ok(work.put(intent, record.private))


def confirm(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Try to charge: succeeded, processing, declined (402), or waiting for the cardholder."""
    intent = work.get("payment_intent", path["id"], param="intent", status=404).body
    sessions.refuse_if_managed(work, intent, "confirm")
    domain.check_confirmable(intent)
    intent = {**intent, **{name: params[name] for name in _PLAIN if name in params}}
    check_return_url(intent, params.get("return_url"))
    off_session = params.get("off_session", False)
    return confirmed(work, intent, params.get("payment_method"), params.get("return_url"), off_session=off_session)


def confirmed(
    work: Work, intent: Json, method_id: str | None, return_url: str | None, *, off_session: bool = False
) -> Answer:
    """What confirming comes to, whoever does it: the API's caller or a Checkout page."""
    if method_id is not None:
        intent = {**intent, "payment_method": _method(work, method_id, intent).body["id"]}
    if intent["payment_method"] is None:
        raise domain.missing_payment_method(intent)
    fault = work.charging_fault()
    return _attempt(
        work,
        intent,
        off_session=off_session,
        return_url=return_url,
        forced=decline_for(fault.argument) if fault and fault.kind == "decline" else None,
        hold=fault is not None and fault.kind == "stay_processing",
    )


def _method(work: Work, method_id: str, intent: Json) -> Record:
    return payment_methods.find(work, method_id, customer=intent["customer"], param="payment_method")


def _attempt(
    work: Work,
    intent: Json,
    *,
    off_session: bool,
    return_url: str | None,
    authenticated: bool = False,
    forced: Decline | None = None,
    hold: bool = False,
) -> Answer:
    method = work.get("payment_method", intent["payment_method"], param="payment_method")
    judgement = domain.judge_charge(
        Attempt(
            card=payment_methods.card_of(method),
            off_session=off_session,
            set_up=method.private.get("set_up", False),
            authenticated=authenticated,
            forced=forced,
            hold=hold,
        )
    )
    if judgement.verdict is Verdict.AUTHENTICATE:
        action = objects.next_action(page_url(work.base_url, intent), return_url)
        intent = domain.after_challenge(intent, action)
        work.put(intent, {"return_url": return_url})
        work.emit("payment_intent.requires_action", intent)
        return ok(intent)
    charge_id = new_id("ch")
    if judgement.decline is not None:
        return _declined(work, intent, method, judgement.decline, charge_id)
    if judgement.verdict is Verdict.HOLD:
        charge = _charge(work, charge_id, intent, method, status="pending")
        intent = domain.after_hold(intent, charge_id)
        _announce(work, intent, charge, "charge.pending", "payment_intent.processing")
        return ok(intent)
    return ok(_succeeded(work, intent, method, charge_id, authenticated=authenticated))


def _succeeded(work: Work, intent: Json, method: Record, charge_id: str, *, authenticated: bool) -> Json:
    charge = _charge(work, charge_id, intent, method, status="succeeded")
    if intent["capture_method"] == "manual":
        charge |= {"captured": False, "amount_captured": 0}
        intent = domain.after_authorization(intent, charge_id)
        _announce(work, intent, charge, "charge.succeeded", "payment_intent.amount_capturable_updated")
        return intent
    intent = domain.after_success(intent, charge_id)
    if intent["customer"] is not None and intent["setup_future_usage"] is not None:
        ready = authenticated and intent["setup_future_usage"] == "off_session"
        payment_methods.give_to_customer(work, method, intent["customer"], set_up=ready)
    elif method.body["customer"] is None:
        work.put(method.body, {**method.private, "used": True})
    _announce(work, intent, charge, "charge.succeeded", "payment_intent.succeeded")
    if payment_methods.card_of(method).dispute_reason:
        work.later("open_dispute", charge_id, after_s=0)
    return intent


def _declined(work: Work, intent: Json, method: Record, decline: Decline, charge_id: str) -> Answer:
    error = domain.card_error(decline, charge=charge_id, payment_method=method.body)
    charge = _charge(work, charge_id, intent, method, status="failed", error=error)
    intent = domain.after_decline(intent, error, charge_id)
    _announce(work, intent, charge, "charge.failed", "payment_intent.payment_failed")
    return Answer(402, {"error": {**error, "payment_intent": intent}})


def _charge(
    work: Work, charge_id: str, intent: Json, method: Record, *, status: str, error: Json | None = None
) -> Json:
    pending = work.store.get("charge", charge_id)
    created = work.now if pending is None else pending.body["created"]
    return objects.charge(charge_id, created, intent, method.body, status=status, error=error)


def _announce(work: Work, intent: Json, charge: Json, charge_event: str, intent_event: str) -> None:
    work.put(charge, parent=intent["id"])
    work.put(intent)
    work.emit(charge_event, charge)
    work.emit(intent_event, intent)
    sessions.moved(work, intent)


def capture(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Take what was authorised, or less of it; the rest is let go."""
    intent = work.get("payment_intent", path["id"], param="intent", status=404).body
    if intent["status"] != "requires_capture":
        raise domain.unexpected_state(
            intent, f"This PaymentIntent could not be captured because it has a status of {intent['status']}."
        )
    capturable: int = intent["amount_capturable"]
    amount: int = params.get("amount_to_capture", capturable)
    if not 1 <= amount <= capturable:
        raise invalid(
            "The requested capture amount is greater than the amount you can capture for this PaymentIntent.",
            param="amount_to_capture",
            code="amount_too_large",
        )
    charge = work.get("charge", intent["latest_charge"], param="charge").body
    charge = {**charge, "captured": True, "amount_captured": amount}
    intent = {**domain.after_success(intent, charge["id"]), "amount_received": amount, "amount_capturable": 0}
    _announce(work, intent, charge, "charge.captured", "payment_intent.succeeded")
    return ok(intent)


def cancel(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Give the payment up; refused while it is processing and once it succeeded."""
    intent = work.get("payment_intent", path["id"], param="intent", status=404).body
    sessions.refuse_if_managed(work, intent, "cancel")
    domain.check_cancelable(intent)
    if intent["status"] == "requires_capture":
        charge = work.get("charge", intent["latest_charge"], param="charge").body
        work.emit("charge.refunded", work.put({**charge, "refunded": True, "amount_refunded": charge["amount"]}))
    intent = work.put(domain.after_cancel(intent, work.now, params.get("cancellation_reason")))
    work.emit("payment_intent.canceled", intent)
    return ok(intent)


def complete_action(work: Work, intent_id: str, outcome: str) -> Answer:
    """What the cardholder did, or what the bank answered to a payment in processing.

    `outcome` is `succeeded`, `failed` or `decline:CODE`. A card that declines after authentication still
    does. Raises ApiError when the intent waits for nothing.
    """
    record = work.get("payment_intent", intent_id, param="intent", status=404)
    intent = record.body
    forced = decline_for(outcome.removeprefix("decline:")) if outcome.startswith("decline:") else None
    if intent["status"] == "processing":
        return ok(_bank_answered(work, intent, forced if outcome != "failed" else decline_for("generic_decline")))
    if intent["status"] != "requires_action":
        raise domain.unexpected_state(intent, f"This PaymentIntent is {intent['status']}: no action to complete.")
    if outcome == "failed":
        method = work.get("payment_method", intent["payment_method"], param="payment_method").body
        error = domain.authentication_failure("payment_intent_authentication_failure", method)
        intent = work.put(domain.after_decline(intent, error, None))
        work.emit("payment_intent.payment_failed", intent)
        return ok(intent)
    answer = _attempt(work, intent, off_session=False, return_url=None, authenticated=True, forced=forced)
    return ok(work.get("payment_intent", intent["id"], param="intent").body) if answer.status != 200 else answer


def _bank_answered(work: Work, intent: Json, decline: Decline | None) -> Json:
    method = work.get("payment_method", intent["payment_method"], param="payment_method")
    charge_id = intent["latest_charge"]
    if decline is None:
        return _succeeded(work, intent, method, charge_id, authenticated=False)
    _declined(work, intent, method, decline, charge_id)
    return work.get("payment_intent", intent["id"], param="intent").body
