"""Which request is which operation. A path that is not here is not served by the twin."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from embedded.stripe_twin.errors import invalid
from embedded.stripe_twin.operations import (
    checkout,
    customers,
    disputes,
    payment_intents,
    payment_methods,
    reads,
    refunds,
    setup_intents,
)
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.work import Answer, Work

Handler = Callable[[Work, Params, Mapping[str, str]], Answer]


def _nothing_to_check(_params: Params) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Operation:
    """An endpoint: its path, its parameters, what else is refused before execution, what it does."""

    method: str
    path: str
    spec: Spec
    handler: Handler
    check: Callable[[Params], None] = _nothing_to_check

    def validate(self, params: Params) -> Params:
        """The typed parameters, or ApiError."""
        typed = self.spec.validate(params)
        self.check(typed)
        return typed


OPERATIONS = (
    Operation("GET", "/v1/account", reads.READ, reads.account),
    Operation("POST", "/v1/customers", customers.CREATE, customers.create),
    Operation("GET", "/v1/customers", customers.LIST, customers.listing),
    Operation("GET", "/v1/customers/{id}", reads.READ, customers.retrieve),
    Operation("POST", "/v1/customers/{id}", customers.UPDATE, customers.update),
    Operation(
        "GET",
        "/v1/customers/{customer}/payment_methods",
        payment_methods.LIST_OF_CUSTOMER,
        payment_methods.listing_of_customer,
    ),
    Operation(
        "GET",
        "/v1/customers/{customer}/payment_methods/{id}",
        reads.READ,
        payment_methods.retrieve_of_customer,
    ),
    Operation("POST", "/v1/payment_methods", payment_methods.CREATE, payment_methods.create),
    Operation("GET", "/v1/payment_methods", payment_methods.LIST, payment_methods.listing),
    Operation("GET", "/v1/payment_methods/{id}", reads.READ, payment_methods.retrieve),
    Operation("POST", "/v1/payment_methods/{id}", payment_methods.UPDATE, payment_methods.update),
    Operation("POST", "/v1/payment_methods/{id}/attach", payment_methods.ATTACH, payment_methods.attach),
    Operation("POST", "/v1/payment_methods/{id}/detach", reads.READ, payment_methods.detach),
    Operation("POST", "/v1/setup_intents", setup_intents.CREATE, setup_intents.create),
    Operation("GET", "/v1/setup_intents", setup_intents.LIST, setup_intents.listing),
    Operation("GET", "/v1/setup_intents/{id}", reads.READ, setup_intents.retrieve),
    Operation("POST", "/v1/setup_intents/{id}/confirm", setup_intents.CONFIRM, setup_intents.confirm),
    Operation("POST", "/v1/setup_intents/{id}/cancel", setup_intents.CANCEL, setup_intents.cancel),
    Operation(
        "POST",
        "/v1/payment_intents",
        payment_intents.CREATE,
        payment_intents.create,
        payment_intents.check_create,
    ),
    Operation("GET", "/v1/payment_intents", payment_intents.LIST, payment_intents.listing),
    Operation("GET", "/v1/payment_intents/search", payment_intents.SEARCH, payment_intents.search),
    Operation("POST", "/v1/payment_intents/{id}/capture", payment_intents.CAPTURE, payment_intents.capture),
    Operation("GET", "/v1/payment_intents/{id}", reads.READ, payment_intents.retrieve),
    Operation("POST", "/v1/payment_intents/{id}", payment_intents.UPDATE, payment_intents.update),
    Operation("POST", "/v1/payment_intents/{id}/confirm", payment_intents.CONFIRM, payment_intents.confirm),
    Operation("POST", "/v1/payment_intents/{id}/cancel", payment_intents.CANCEL, payment_intents.cancel),
    Operation("GET", "/v1/charges", reads.CHARGES, reads.charges),
    Operation("GET", "/v1/charges/{id}", reads.READ, reads.charge),
    Operation("POST", "/v1/checkout/sessions", checkout.CREATE, checkout.create, checkout.check_create),
    Operation("GET", "/v1/checkout/sessions", checkout.LIST, checkout.listing),
    Operation("GET", "/v1/checkout/sessions/{id}", reads.READ, checkout.retrieve),
    Operation("POST", "/v1/checkout/sessions/{id}/expire", reads.READ, checkout.expire),
    Operation("POST", "/v1/refunds", refunds.CREATE, refunds.create, refunds.check_create),
    Operation("GET", "/v1/refunds", refunds.LIST, refunds.listing),
    Operation("GET", "/v1/refunds/{id}", reads.READ, refunds.retrieve),
    Operation("POST", "/v1/refunds/{id}", refunds.UPDATE, refunds.update),
    Operation("GET", "/v1/disputes", disputes.LIST, disputes.listing),
    Operation("GET", "/v1/disputes/{id}", reads.READ, disputes.retrieve),
    Operation("POST", "/v1/disputes/{id}", disputes.UPDATE, disputes.update),
    Operation("POST", "/v1/disputes/{id}/close", reads.READ, disputes.close),
    Operation("GET", "/v1/events", reads.EVENTS, reads.events),
    Operation("GET", "/v1/events/{id}", reads.READ, reads.event),
)

_PATTERNS = [
    (operation, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[A-Za-z0-9_]{1,255})", operation.path) + "/?"))
    for operation in OPERATIONS
]


def resolve(method: str, path: str) -> tuple[Operation, dict[str, str]]:
    """The operation of a request and the ids in its path; raises a 404 ApiError where there is none."""
    for operation, pattern in _PATTERNS:
        match = pattern.fullmatch(path) if operation.method == method else None
        if match is not None:
            return operation, match.groupdict()
    raise invalid(
        f"Unrecognized request URL ({method}: {path}). The Stripe twin serves a part of Stripe's API; see "
        "docs/stripe-twin.md for what it is.",
        status=404,
    )
