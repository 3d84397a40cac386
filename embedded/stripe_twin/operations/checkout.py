"""Checkout sessions: a hosted page that takes a payment, or saves a card."""

from __future__ import annotations

import re
from collections.abc import Mapping

from embedded.stripe_twin import currencies, domain, objects
from embedded.stripe_twin import params as p
from embedded.stripe_twin.errors import ApiError, invalid, missing_param
from embedded.stripe_twin.operations import payment_intents, payment_methods, sessions, setup_intents
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.store import Filter, Record
from embedded.stripe_twin.work import Answer, Json, Work, new_id, ok

EXPIRES_AFTER_S = 24 * 3600
EXPIRES_EARLIEST_S = 30 * 60
MAX_ITEMS = 100
MAX_QUANTITY = 999_999

CREATE = Spec(
    {
        "cancel_url": p.text,
        "client_reference_id": p.text,
        "currency": p.text,
        "customer": p.text,
        "expires_at": p.integer,
        "line_items": p.mappings,
        "metadata": p.metadata,
        "mode": p.choice("payment", "setup"),
        "payment_intent_data": p.mapping,
        **p.METHOD_TYPES,
        "setup_intent_data": p.mapping,
        "success_url": p.text,
        **p.EXPAND,
    },
    required=("mode", "success_url"),
)
LIST = Spec(
    {
        "customer": p.text,
        "payment_intent": p.text,
        "status": p.choice("open", "complete", "expired"),
        **p.PAGE,
    }
)

_INTENT_DATA = {
    "payment": Spec(
        {"description": p.text, "metadata": p.metadata, "setup_future_usage": p.choice("off_session", "on_session")}
    ),
    "setup": Spec({"description": p.text, "metadata": p.metadata}),
}
_ITEM = Spec({"price_data": p.mapping, "quantity": p.integer}, required=("price_data", "quantity"))
_PRICE = Spec(
    {"currency": p.text, "product_data": p.mapping, "unit_amount": p.integer},
    required=("currency", "product_data", "unit_amount"),
)
_PRODUCT = Spec({"name": p.text, "description": p.text}, required=("name",))


def check_create(params: Params) -> None:
    """What can be refused without looking at any state."""
    mode = params["mode"]
    for name in ("success_url", "cancel_url"):
        if not re.match(r"https?://[^\s/]+", params.get(name, "http://unset")):
            raise invalid(f"Not a valid URL: {name}", param=name, code="url_invalid")
    other = "setup_intent_data" if mode == "payment" else "payment_intent_data"
    if other in params:
        raise invalid(f"You can not pass `{other}` in `{mode}` mode.", param=other)
    if mode == "payment":
        params["items"] = _items(params)
        return
    if "line_items" in params:
        raise invalid("You can not pass `line_items` in `setup` mode.", param="line_items")
    if "currency" not in params:
        raise missing_param("currency")
    params["currency"] = currencies.check_currency(params["currency"])


def _items(params: Params) -> list[Json]:
    given = params.get("line_items")
    if not given:
        raise missing_param("line_items")
    if len(given) > MAX_ITEMS:
        raise invalid(f"line_items has at most {MAX_ITEMS} items", param="line_items")
    items = []
    for item in given:
        checked = _ITEM.validate(item)
        price = _PRICE.validate(checked["price_data"])
        product = _PRODUCT.validate(price["product_data"])
        currency = currencies.check_currency(price["currency"])
        if not 1 <= checked["quantity"] <= MAX_QUANTITY or price["unit_amount"] < 0:
            raise invalid("quantity must be positive and unit_amount not negative", param="line_items")
        items.append(
            {"name": product["name"], "amount": price["unit_amount"] * checked["quantity"], "currency": currency}
        )
    if len({item["currency"] for item in items}) > 1:
        raise invalid("All prices of a Checkout Session must have the same currency.", param="line_items")
    currencies.check_amount(sum(item["amount"] for item in items), items[0]["currency"])
    return items


def create(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """A new session with a page to click; in setup mode its SetupIntent exists at once."""
    if "customer" in params:
        work.get("customer", params["customer"], param="customer")
    mode = params["mode"]
    data = _INTENT_DATA[mode].validate(params.get(f"{mode}_intent_data", {}))
    expires_at = params.get("expires_at", work.now + EXPIRES_AFTER_S)
    # A minute's grace, since the caller's clock is not the twin's.
    if not work.now + EXPIRES_EARLIEST_S - 60 <= expires_at <= work.now + EXPIRES_AFTER_S + 60:
        raise invalid(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.",
            param="expires_at",
        )
    session_id = new_id("cs_test")
    session = objects.checkout_session(session_id, work.now, params, expires_at, page_url(work, session_id))
    if mode == "setup":
        given = {**data, "customer": params.get("customer"), "allowed_payment_method_types": ["card"]}
        intent = objects.setup_intent(new_id("seti"), work.now, new_id("")[1:], given)
        work.put(intent, parent=session_id)
        work.emit("setup_intent.created", intent)
        session["setup_intent"] = intent["id"]
    work.put(session, {"items": params.get("items", []), "data": data})
    work.later("expire_session", session_id, after_s=expires_at - work.now)
    return ok(session)


def page_url(work: Work, session_id: str) -> str:
    """Where a session's page is."""
    return f"{work.base_url}/c/pay/{session_id}"


def retrieve(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One session."""
    return ok(work.get(sessions.KIND, path["id"], param="session", status=404).body)


def listing(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """Sessions, newest first."""
    where: dict[str, str] = {name: params[name] for name in ("payment_intent", "status") if name in params}
    return work.list(
        sessions.KIND, "/v1/checkout/sessions", params, Filter(customer=params.get("customer"), members=where)
    )


def expire(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """Close the page of an open session."""
    return ok(sessions.expired(work, work.get(sessions.KIND, path["id"], param="session", status=404)))


def submit(work: Work, record: Record, number: str, month: str, year: str) -> Answer:
    """The customer typed a card and pressed the button; answers as confirming its intent does.

    Raises ApiError where the card is no test card or the session is not open.
    """
    session = record.body
    if session["status"] != "open":
        raise invalid(f"This Checkout Session is {session['status']}.")
    typed = {"type": "card", "card": {"number": number, "exp_month": month, "exp_year": year}}
    method = payment_methods.create(work, typed, {}).body["id"]
    return_url = f"{page_url(work, session['id'])}/return"
    if session["mode"] == "setup":
        intent = work.get("setup_intent", session["setup_intent"], param="intent").body
        return setup_intents.confirmed(work, intent, method, return_url)
    if session["payment_intent"] is None:
        given = {
            **record.private["data"],
            "amount": session["amount_total"],
            "currency": session["currency"],
            "customer": session["customer"],
            "allowed_payment_method_types": ["card"],
        }
        intent = objects.payment_intent(new_id("pi"), work.now, new_id("")[1:], given)
        work.put(intent, parent=session["id"])
        work.emit("payment_intent.created", intent)
        work.put({**session, "payment_intent": intent["id"]}, record.private)
    else:
        intent = work.get("payment_intent", session["payment_intent"], param="intent").body
    domain.check_confirmable(intent)
    return payment_intents.confirmed(work, intent, method, return_url)


def lines(record: Record) -> list[str]:
    """What is bought, for people."""
    return [
        f"{item['name']}: {currencies.written(item['amount'], item['currency'])}" for item in record.private["items"]
    ]


def message_of(error: ApiError | Json) -> str:
    """What the page says of a refusal."""
    return str(error) if isinstance(error, ApiError) else str(error["error"]["message"])
