"""PaymentMethods: create, attach, detach, retrieve, list; and finding the one an intent names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from embedded.stripe_twin import cards, objects
from embedded.stripe_twin import params as p
from embedded.stripe_twin.cards import Card
from embedded.stripe_twin.domain import card_error
from embedded.stripe_twin.errors import ApiError, invalid, no_such
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.store import Filter, Record
from embedded.stripe_twin.work import Answer, Json, Work, new_id, ok

CREATE = Spec(
    {
        "type": p.choice("card"),
        "card": p.mapping,
        "billing_details": p.mapping,
        "metadata": p.metadata,
        **p.EXPAND,
    },
    required=("type", "card"),
)
UPDATE = Spec({"billing_details": p.mapping, "metadata": p.metadata, **p.EXPAND})
ATTACH = Spec({"customer": p.text, **p.EXPAND}, required=("customer",))
LIST = Spec({"customer": p.text, "type": p.choice("card"), **p.PAGE})
LIST_OF_CUSTOMER = Spec({"type": p.choice("card"), **p.PAGE})
READ = Spec(p.EXPAND)

# When the caller gives none, as test tokens and `pm_card_…` do.
DEFAULT_EXPIRY_MONTH = 8


def create(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """A card from a test token or a test number; it belongs to nobody until it is attached."""
    given = params["card"]
    if "token" in given:
        card = cards.by_token(given["token"])
        if card is None:
            raise no_such("token", given["token"], param="card[token]")
        month, year = _default_expiry(work)
    else:
        card, month, year = _typed_card(work, given)
    return ok(_new_method(work, card, month, year, params))


def _typed_card(work: Work, given: Params) -> tuple[Card, int, int]:
    for name in ("number", "exp_month", "exp_year"):
        if not isinstance(given.get(name), str):
            raise invalid(f"Missing required param: card[{name}].", param=f"card[{name}]", code="parameter_missing")
    card = cards.BY_NUMBER.get(re.sub(r"[ -]", "", given["number"]))
    if card is None:
        raise _refused_card("incorrect_number", "Your card number is incorrect: it is not a test card.", "number")
    month = p.integer("card[exp_month]", given["exp_month"])
    year = p.integer("card[exp_year]", given["exp_year"])
    year += 2000 if year < 100 else 0
    today = datetime.fromtimestamp(work.now, UTC)
    if not 1 <= month <= 12:
        raise _refused_card("invalid_expiry_month", "Your card's expiration month is invalid.", "exp_month")
    if not (today.year, today.month) <= (year, month) <= (today.year + 50, 12):
        raise _refused_card("invalid_expiry_year", "Your card's expiration year is invalid.", "exp_year")
    return card, month, year


def _refused_card(code: str, message: str, param: str) -> ApiError:
    return ApiError(402, card_error(cards.Decline(code, code, message, param=param)))


def _default_expiry(work: Work) -> tuple[int, int]:
    return DEFAULT_EXPIRY_MONTH, datetime.fromtimestamp(work.now, UTC).year + 1


def _new_method(work: Work, card: Card, month: int, year: int, params: Params) -> Json:
    method = objects.payment_method(new_id("pm"), work.now, card, exp_month=month, exp_year=year, params=params)
    return work.put(method, {"card": card.key})


def retrieve(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One payment method."""
    return ok(work.get("payment_method", path["id"], param="payment_method", status=404).body)


def retrieve_of_customer(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One payment method of the customer in the path."""
    record = work.store.get("payment_method", path["id"])
    if record is None or record.body["customer"] != path["customer"]:
        raise no_such("customer", path["customer"], param="customer", status=404)
    return ok(record.body)


def update(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Change billing details or metadata."""
    record = work.get("payment_method", path["id"], param="payment_method", status=404)
    method = dict(record.body)
    if "billing_details" in params:
        method["billing_details"] = objects.billing_details(params["billing_details"])
    if "metadata" in params:
        method["metadata"] = p.merge_metadata(method["metadata"], params["metadata"])
    work.put(method, record.private)
    work.emit("payment_method.updated", method)
    return ok(method)


def attach(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Give a card to a customer. Cards that a bank refuses are refused here already, save one (…0341)."""
    record = find(work, path["id"], customer=None, param="payment_method", status=404, attaching=True)
    work.get("customer", params["customer"], param="customer")
    if record.body["customer"] is not None:
        raise invalid("The payment method you provided has already been attached to a customer.")
    card = card_of(record)
    if card.declines_on_attach and card.decline is not None:
        raise ApiError(402, card_error(card.decline))
    return ok(give_to_customer(work, record, params["customer"], set_up=False))


def give_to_customer(work: Work, record: Record, customer: str, *, set_up: bool) -> Json:
    """Attach without checks; `set_up` records that the cardholder authenticated it for off-session use."""
    method = {**record.body, "customer": customer}
    work.put(method, {**record.private, "set_up": set_up or record.private.get("set_up", False)})
    if record.body["customer"] is None:
        work.emit("payment_method.attached", method)
    return method


def detach(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """Take a card from its customer, for good: it can be neither attached nor charged again."""
    record = work.get("payment_method", path["id"], param="payment_method", status=404)
    customer_id = record.body["customer"]
    if customer_id is None:
        raise invalid("The payment method you provided is not attached to a customer so detachment is impossible.")
    method = {**record.body, "customer": None}
    work.put(method, {**record.private, "detached": True})
    customer = work.get("customer", customer_id, param="customer").body
    if customer["invoice_settings"]["default_payment_method"] == method["id"]:
        settings = {**customer["invoice_settings"], "default_payment_method": None}
        work.emit("customer.updated", work.put({**customer, "invoice_settings": settings}))
    work.emit("payment_method.detached", method)
    return ok(method)


def listing(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """The payment methods of a customer; without one the list is empty, as at Stripe."""
    if "customer" not in params:
        return ok(objects.page("/v1/payment_methods", [], has_more=False))
    work.get("customer", params["customer"], param="customer")
    return work.list("payment_method", "/v1/payment_methods", params, Filter(customer=params["customer"]))


def listing_of_customer(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """The payment methods of the customer in the path."""
    work.get("customer", path["customer"], param="customer", status=404)
    url = f"/v1/customers/{path['customer']}/payment_methods"
    return work.list("payment_method", url, params, Filter(customer=path["customer"]))


def card_of(record: Record) -> Card:
    """The test card behind a stored payment method."""
    return cards.BY_KEY[record.private["card"]]


def find(
    work: Work, method_id: str, *, customer: str | None, param: str, status: int = 400, attaching: bool = False
) -> Record:
    """The payment method that a request names, usable with `customer`.

    A well-known `pm_card_…` becomes a new one each time. Raises ApiError when it does not exist, was
    detached, or belongs to another customer than the one named.
    """
    if cards.is_test_id(method_id):
        card = cards.by_test_id(method_id)
        if card is None:
            raise no_such("PaymentMethod", method_id, param=param, status=status)
        method_id = _new_method(work, card, *_default_expiry(work), {})["id"]
    record = work.store.get("payment_method", method_id)
    if record is None:
        raise no_such("PaymentMethod", method_id, param=param, status=status)
    if record.private.get("detached") or record.private.get("used"):
        raise invalid(
            "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, or "
            "was detached from a Customer, and may not be used again. To use a PaymentMethod multiple times, you "
            "must attach it to a Customer first."
        )
    owner = record.body["customer"]
    if not attaching and owner is not None and owner != customer:
        raise invalid(
            f"The `payment_method` parameter supplied {method_id} belongs to the Customer {owner}. Please include "
            "the Customer in the `customer` parameter.",
            param=param,
        )
    return record
