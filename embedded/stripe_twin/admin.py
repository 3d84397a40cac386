"""The controls under `/_twin/`: faults, clock, redelivery, what the cardholder does, what there is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded.stripe_twin import faults, reversals
from embedded.stripe_twin.app import Twin, read_body
from embedded.stripe_twin.errors import ApiError, invalid, no_such
from embedded.stripe_twin.operations import disputes, refunds
from embedded.stripe_twin.store import MAX_ENDPOINTS, Endpoint
from embedded.stripe_twin.web import COMPLETE_ACTION
from embedded.stripe_twin.work import Json, Work, new_id

MAX_URL = 2_000

MAX_REDELIVERED = 10_000
Control = Callable[[Twin, Json, Mapping[str, str]], Json]


def routes(twin: Twin) -> list[Route]:
    """The routes of the controls."""
    return [
        Route("/_twin/state", _control(twin, state), methods=["GET"]),
        Route("/_twin/faults", _control(twin, add_fault), methods=["POST"]),
        Route("/_twin/faults", _control(twin, clear_faults), methods=["DELETE"]),
        Route("/_twin/clock", _control(twin, advance_clock), methods=["POST"]),
        Route("/_twin/redeliver", _control(twin, redeliver), methods=["POST"]),
        Route("/_twin/webhook_endpoints", _control(twin, add_endpoint), methods=["POST"]),
        Route("/_twin/webhook_endpoints/{id}", _control(twin, remove_endpoint), methods=["DELETE"]),
        Route("/_twin/disputes", _control(twin, open_dispute), methods=["POST"]),
        Route("/_twin/disputes/{id}/resolve", _control(twin, resolve_dispute), methods=["POST"]),
        Route("/_twin/refunds/{id}/complete", _control(twin, complete_refund), methods=["POST"]),
        Route("/_twin/{intents}/{id}/complete_action", _control(twin, complete_action), methods=["POST"]),
    ]


def _control(twin: Twin, control: Control) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await _json(request) if request.method == "POST" else {}
            with twin.store.transaction():
                answer = control(twin, body, request.path_params)
        except ApiError as error:
            return JSONResponse(error.body, error.status)
        except ValueError as error:
            return JSONResponse(invalid(str(error)).body, 400)
        twin.wake()
        return JSONResponse(answer)

    return endpoint


async def _json(request: Request) -> Json:
    # A web page cannot send this content type to another origin unasked, so none can reach the controls.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise invalid("Send a JSON object with Content-Type: application/json.", status=415)
    try:
        body = json.loads(await read_body(request) or "{}")
    except json.JSONDecodeError as error:
        raise invalid(f"Invalid JSON: {error}") from error
    if not isinstance(body, dict):
        raise invalid("Send a JSON object.")
    return body


def _only(body: Json, **expected: tuple[type | tuple[type, ...], Any]) -> Json:
    """The members of `body` with defaults; raises ValueError on an unknown, missing or mistyped one."""
    for name in body:
        if name not in expected:
            raise ValueError(f"unknown member {name!r}; known are {', '.join(expected)}")
    given: Json = {}
    for name, (kind, default) in expected.items():
        value = body.get(name, default)
        if value is ... or isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind):
            raise ValueError(f"{name} is missing or of the wrong type")
        given[name] = value
    return given


def state(twin: Twin, _body: Json, _path: Mapping[str, str]) -> Json:
    """Everything that can be counted, the clock, the faults and the endpoints (without their secrets)."""
    return {
        "clock": {"now_s": twin.clock.now(), "offset_s": twin.clock.offset_s},
        "faults": [_shown(rule) for rule in twin.store.rules()],
        "webhook_endpoints": [
            {"id": item.id, "url": item.url, "enabled_events": item.enabled_events} for item in twin.store.endpoints()
        ],
        **twin.store.summary(),
    }


def _shown(rule: faults.Rule) -> Json:
    return {
        "id": rule.id,
        "kind": f"{rule.fault.kind}:{rule.fault.argument}".rstrip(":"),
        **{name: getattr(rule, name) for name in ("match", "times_left", "rate", "seed", "seen", "fired")},
    }


def add_fault(twin: Twin, body: Json, _path: Mapping[str, str]) -> Json:
    """Arm a fault: `kind`, and optionally `match`, `times`, `rate` (share of the cases), `seed`."""
    given = _only(
        body,
        kind=(str, ...),
        match=(str, "*"),
        times=(int, 1),
        rate=((int, float), 1.0),
        seed=(int, 0),
    )
    if not 1 <= given["times"] <= faults.MAX_TIMES:
        raise ValueError(f"times must be from 1 to {faults.MAX_TIMES}, not {given['times']}")
    if not 0 < given["rate"] <= 1:
        raise ValueError(f"rate must be above 0 and at most 1, not {given['rate']}")
    if not 0 <= given["seed"] <= faults.MAX_SEED:
        raise ValueError(f"seed must be from 0 to {faults.MAX_SEED}")
    if not 0 < len(given["match"]) <= faults.MAX_PATTERN:
        raise ValueError(f"match must have 1 to {faults.MAX_PATTERN} characters")
    if len(twin.store.rules()) >= faults.MAX_FAULTS:
        raise ValueError(f"there are {faults.MAX_FAULTS} faults already; DELETE /_twin/faults removes them")
    rule_id = twin.store.add_rule(
        faults.parse(given["kind"]),
        match=given["match"],
        times=given["times"],
        rate=float(given["rate"]),
        seed=given["seed"],
    )
    return {"id": rule_id}


def clear_faults(twin: Twin, _body: Json, _path: Mapping[str, str]) -> Json:
    """Disarm every fault."""
    twin.store.clear_rules()
    return {"faults": []}


def advance_clock(twin: Twin, body: Json, _path: Mapping[str, str]) -> Json:
    """Let `advance_s` seconds pass for the twin: keys expire, retries come due."""
    twin.clock.advance(float(_only(body, advance_s=((int, float), ...))["advance_s"]))
    twin.store.keep_clock_offset(twin.clock.offset_s)
    return {"now_s": twin.clock.now(), "offset_s": twin.clock.offset_s}


def redeliver(twin: Twin, body: Json, _path: Mapping[str, str]) -> Json:
    """Send an event again to every endpoint: `event` names one, `all` means every one, oldest first.

    10,000 events at once: where there are more, `next` is what `after` says to go on.
    """
    given = _only(body, event=(str, ""), all=(bool, False), after=(str, ""))
    if bool(given["event"]) is given["all"]:
        raise ValueError("send either event (an event's id) or all (true)")
    for named in ("event", "after"):
        if given[named] and twin.store.get("event", given[named]) is None:
            raise no_such("event", given[named], param=named, status=404)
    events = twin.store.event_ids(given["after"], MAX_REDELIVERED + 1) if given["all"] else [given["event"]]
    more, events = events[MAX_REDELIVERED:], events[:MAX_REDELIVERED]
    endpoints = [endpoint.id for endpoint in twin.store.endpoints()]
    twin.store.owe_all(events, endpoints, now=twin.clock.now())
    answer: Json = {"queued": len(events) * len(endpoints)}
    return answer | ({"next": events[-1]} if more else {})


def add_endpoint(twin: Twin, body: Json, _path: Mapping[str, str]) -> Json:
    """Send events to `url` too, signed with `secret` (made when absent); `enabled_events` narrows them."""
    given = _only(body, url=(str, ...), secret=(str, ""), enabled_events=(list, ["*"]))
    check_url(given["url"])
    if not all(isinstance(item, str) for item in given["enabled_events"]):
        raise ValueError("enabled_events must be a list of event types")
    if len(twin.store.endpoints()) >= MAX_ENDPOINTS:
        raise ValueError(f"there are {MAX_ENDPOINTS} endpoints already; remove one first")
    endpoint = Endpoint(new_id("we"), given["url"], given["secret"] or new_id("whsec"), given["enabled_events"])
    twin.store.put_endpoint(endpoint)
    return {"id": endpoint.id, "url": endpoint.url, "secret": endpoint.secret}


def check_url(url: str) -> None:
    """Raises ValueError unless `url` is one that webhooks can be posted to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or len(url) > MAX_URL or not url.isprintable():
        raise ValueError(f"url must be an http or https address of at most {MAX_URL} characters, not {url[:100]!r}")


def remove_endpoint(twin: Twin, _body: Json, path: Mapping[str, str]) -> Json:
    """Stop sending to an endpoint."""
    if not twin.store.remove_endpoint(path["id"]):
        raise no_such("webhook endpoint", path["id"], param="id", status=404)
    return {"id": path["id"], "deleted": True}


def complete_action(twin: Twin, body: Json, path: Mapping[str, str]) -> Json:
    """Do what the cardholder or the bank would: `outcome` succeeded, failed or decline:CODE."""
    complete = COMPLETE_ACTION.get(path["intents"])
    if complete is None:
        raise invalid(f"Unrecognized request URL: there are {' and '.join(COMPLETE_ACTION)}.", status=404)
    outcome = _only(body, outcome=(str, "succeeded"))["outcome"]
    if outcome.startswith("decline:"):
        faults.parse(outcome)
    elif outcome not in ("succeeded", "failed"):
        raise ValueError(f"outcome must be succeeded, failed or decline:CODE, not {outcome!r}")
    return complete(Work(twin.store, twin.clock.now()), path["id"], outcome).body


def open_dispute(twin: Twin, body: Json, _path: Mapping[str, str]) -> Json:
    """Let the cardholder dispute a charge: `payment_intent` or `charge`, and `amount`, `reason`, `inquiry`."""
    given = _only(
        body,
        charge=(str, ""),
        payment_intent=(str, ""),
        amount=(int, 0),
        reason=(str, "fraudulent"),
        inquiry=(bool, False),
    )
    if bool(given["charge"]) is bool(given["payment_intent"]):
        raise ValueError("send either payment_intent or charge")
    if given["reason"] not in reversals.DISPUTE_REASONS:
        raise ValueError(f"reason must be one of {', '.join(reversals.DISPUTE_REASONS)}")
    work = Work(twin.store, twin.clock.now())
    charge = refunds.charge_named(work, given)
    amount = given["amount"] or charge["amount_captured"] - charge["amount_refunded"]
    return disputes.opened(work, charge, amount, reason=given["reason"], inquiry=given["inquiry"])


def resolve_dispute(twin: Twin, body: Json, path: Mapping[str, str]) -> Json:
    """Let the bank decide a dispute: `outcome` won or lost; escalated makes a dispute of an inquiry."""
    outcome = _only(body, outcome=(str, ...))["outcome"]
    work = Work(twin.store, twin.clock.now())
    dispute = work.get("dispute", path["id"], param="id", status=404).body
    allowed = ("won", "lost", "escalated") if dispute["status"] in reversals.INQUIRY else ("won", "lost")
    if outcome not in allowed:
        raise ValueError(f"outcome must be one of {', '.join(allowed)}, not {outcome!r}")
    return disputes.resolve(work, dispute, outcome)


def complete_refund(twin: Twin, body: Json, path: Mapping[str, str]) -> Json:
    """Let the bank answer a refund: `outcome` succeeded or failed."""
    outcome = _only(body, outcome=(str, ...))["outcome"]
    if outcome not in ("succeeded", "failed"):
        raise ValueError(f"outcome must be succeeded or failed, not {outcome!r}")
    return refunds.settle(Work(twin.store, twin.clock.now()), path["id"], outcome).body
