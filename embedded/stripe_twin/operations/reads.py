"""What can only be read: charges, events, the account."""

from __future__ import annotations

from collections.abc import Mapping

from embedded.stripe_twin import objects
from embedded.stripe_twin import params as p
from embedded.stripe_twin.params import Params, Spec
from embedded.stripe_twin.store import Filter
from embedded.stripe_twin.work import Answer, Work, ok

CHARGES = Spec({"customer": p.text, "payment_intent": p.text, **p.PAGE})
EVENTS = Spec({"type": p.text, "types": p.strings, **p.PAGE})
READ = Spec(p.EXPAND)


def charge(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One charge."""
    return ok(work.get("charge", path["id"], param="id", status=404).body)


def charges(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """Charges, newest first."""
    narrow = Filter(customer=params.get("customer"), parent=params.get("payment_intent"))
    return work.list("charge", "/v1/charges", params, narrow)


def event(work: Work, _params: Params, path: Mapping[str, str]) -> Answer:
    """One event of the last 30 days."""
    return ok(work.get("event", path["id"], param="id", status=404).body)


def events(work: Work, params: Params, _path: Mapping[str, str]) -> Answer:
    """Events of the last 30 days, newest first."""
    types = [params["type"]] if "type" in params else params.get("types", [])
    return work.list("event", "/v1/events", params, Filter(tags=tuple(types)))


def account(_work: Work, _params: Params, _path: Mapping[str, str]) -> Answer:
    """The account behind the key."""
    return ok(objects.account())
