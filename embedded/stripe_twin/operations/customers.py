"""Customers: create, retrieve, update, list."""

from __future__ import annotations

from collections.abc import Mapping

from embedded.stripe_twin import objects
from embedded.stripe_twin import params as p
from embedded.stripe_twin.errors import invalid
from embedded.stripe_twin.operations import payment_methods
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.store import Filter
from embedded.stripe_twin.work import Answer, Work, new_id, ok

_TEXTS = ("description", "email", "name", "phone")

_WRITE: dict[str, p.Check] = {
    **dict.fromkeys(_TEXTS, p.text),
    "metadata": p.metadata,
    "invoice_settings": p.mapping,
    **p.EXPAND,
}
CREATE = Spec({**_WRITE, "payment_method": p.text})
UPDATE = Spec(_WRITE)
LIST = Spec(p.PAGE)


def create(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """A new customer, with a card attached when `payment_method` names one."""
    customer = work.put(objects.customer(new_id("cus"), work.now, params))
    work.emit("customer.created", customer)
    if "payment_method" in params:
        payment_methods.attach(work, {"customer": customer["id"]}, {"id": params["payment_method"]})
    default = customer["invoice_settings"]["default_payment_method"]
    if default is not None:
        check_owns(work, customer["id"], default)
    return ok(customer)


def retrieve(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One customer."""
    return ok(work.get("customer", path["id"], param="id", status=404).body)


def update(work: Work, params: Params, path: Mapping[str, str]) -> Answer:
    """Change what the parameters name."""
    customer = dict(work.get("customer", path["id"], param="id", status=404).body)
    customer |= {name: params[name] or None for name in _TEXTS if name in params}
    if "metadata" in params:
        customer["metadata"] = p.merge_metadata(customer["metadata"], params["metadata"])
    if "default_payment_method" in params.get("invoice_settings", {}):
        method = params["invoice_settings"]["default_payment_method"]
        if method:
            check_owns(work, customer["id"], method)
        customer["invoice_settings"] = {**customer["invoice_settings"], "default_payment_method": method or None}
    work.put(customer)
    work.emit("customer.updated", customer)
    return ok(customer)


def listing(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """Customers, newest first."""
    return work.list("customer", "/v1/customers", params, Filter())


def check_owns(work: Work, customer_id: str, method_id: str) -> None:
    """Raises ApiError unless the payment method is attached to the customer."""
    record = work.store.get("payment_method", method_id)
    if record is None or record.body["customer"] != customer_id:
        raise invalid(
            f"The customer does not have a payment method with the ID {method_id}. The payment method must be "
            "attached to the customer.",
            param="invoice_settings[default_payment_method]",
            code="resource_missing",
        )
