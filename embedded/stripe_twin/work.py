"""One request's unit of work: what an operation may read, write and announce. Runs inside a transaction."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, replace
from typing import Any

from embedded.stripe_twin import faults, objects
from embedded.stripe_twin.domain import wants
from embedded.stripe_twin.errors import no_such
from embedded.stripe_twin.params import LIST_LIMIT_DEFAULT, Params, Window
from embedded.stripe_twin.store import Filter, Record, Store

Json = dict[str, Any]

# A webhook that a `reorder` fault holds back goes out after the next one, or after this long.
REORDER_HOLD_S = 60.0

_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation answers; unlike an ApiError, its writes stay."""

    status: int
    body: Json


def ok(body: Json) -> Answer:
    """A plain 200."""
    return Answer(200, body)


def new_id(prefix: str) -> str:
    """An id like Stripe's, such as `pi_3k2J…`."""
    return prefix + "_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


@dataclass(slots=True)
class Work:
    """The state as one request sees it.

    `now_s` is the twin's time. `subject` (`POST /v1/…`) and `header_faults` decide which faults apply;
    `base_url` is where the pages for the cardholder are.
    """

    store: Store
    now_s: float
    request_id: str | None = None
    idempotency_key: str | None = None
    subject: str = ""
    header_faults: tuple[faults.Fault, ...] = ()
    base_url: str = ""

    @property
    def now(self) -> int:
        """The twin's time in whole seconds, as objects carry it."""
        return int(self.now_s)

    def get(self, kind: str, object_id: str, *, param: str, status: int = 400) -> Record:
        """An object that must exist; else the error Stripe answers (404 when the id was in the path)."""
        record = self.store.get(kind, object_id)
        if record is None:
            raise no_such(kind, object_id, param=param, status=status)
        return record

    def put(self, body: Json, private: Json | None = None, *, parent: str | None = None) -> Json:
        """Write an object of the kind its body names; `parent` is the id it is listed under."""
        self.store.put(body["object"], body, private or {}, written=self.now_s, parent=parent)
        return body

    def emit(self, event_type: str, body: Json) -> None:
        """Announce a change: an event with the object as it is now, queued for every endpoint that wants it."""
        endpoints = [item for item in self.store.endpoints() if wants(item.enabled_events, event_type)]
        event = objects.event(
            new_id("evt"),
            self.now,
            event_type,
            body,
            request_id=self.request_id,
            idempotency_key=self.idempotency_key,
            endpoints=len(endpoints),
        )
        self.store.put("event", event, {}, written=self.now_s, tag=event_type)
        fault = faults.first_of(self.header_faults, faults.WEBHOOK) or self.store.take_fault(event_type, faults.WEBHOOK)
        for endpoint in endpoints:
            self._owe(event["id"], endpoint.id, fault)

    def _owe(self, event_id: str, endpoint_id: str, fault: faults.Fault | None) -> None:
        state, due, copies = "pending", self.now_s, 1
        match fault.kind if fault else None:
            case "drop":
                state = "dropped"
            case "reorder":
                state, due = "held", self.now_s + REORDER_HOLD_S
            case "delay":
                due = self.now_s + (fault.seconds if fault else 0)
            case "duplicate":
                copies = fault.copies if fault else 1
        for _ in range(copies):
            self.store.owe(event_id, endpoint_id, created=self.now_s, due=due, state=state)

    def later(self, kind: str, object_id: str, *, after_s: float) -> None:
        """Let something happen to an object by itself once `after_s` seconds have passed; `timers` knows what."""
        self.store.add_timer(kind, object_id, due=self.now_s + after_s)

    def charging_fault(self) -> faults.Fault | None:
        """The fault that decides this request's charge, counted down; None lets the card decide."""
        return faults.first_of(self.header_faults, faults.CHARGING) or self.store.take_fault(
            self.subject, faults.CHARGING
        )

    def list(self, kind: str, url: str, params: Params, narrow: Filter) -> Answer:
        """A page of objects as `params` ask for it."""
        window: Window = params.get("created", Window())
        after, before = params.get("starting_after"), params.get("ending_before")
        found = self.store.page(
            kind,
            replace(narrow, first_created=window.first, last_created=window.last),
            limit=params.get("limit", LIST_LIMIT_DEFAULT),
            starting_after=after,
            ending_before=before,
        )
        if found is None:
            raise no_such(kind, after or before or "", param="starting_after" if after else "ending_before")
        items, has_more = found
        return ok(objects.page(url, items, has_more=has_more))


_KINDS = {
    "cus": "customer",
    "pm": "payment_method",
    "ch": "charge",
    "pi": "payment_intent",
    "seti": "setup_intent",
    "re": "refund",
    "du": "dispute",
    "cs": "checkout.session",
}


def expand(store: Store, body: Json, paths: list[str]) -> Json:
    """`body` with the references that `paths` name answered in full; what is null stays null."""
    for path in paths:
        body = _expanded(store, body, path.split("."))
    return body


def _expanded(store: Store, value: Any, path: list[str]) -> Any:
    if isinstance(value, list):
        return [_expanded(store, item, path) for item in value]
    if isinstance(value, str):
        kind = _KINDS.get(value.split("_")[0])
        record = store.get(kind, value) if kind else None
        value = record.body if record else value
    if path and isinstance(value, dict) and path[0] in value:
        return {**value, path[0]: _expanded(store, value[path[0]], path[1:])}
    return value
