"""The pages that a person clicks: a cardholder's authentication, and Checkout. Plain HTML, no script."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from embedded.stripe_twin import cards, currencies
from embedded.stripe_twin.app import Twin, read_body
from embedded.stripe_twin.errors import ApiError
from embedded.stripe_twin.operations import checkout, payment_intents, sessions, setup_intents
from embedded.stripe_twin.params import decode
from embedded.stripe_twin.store import Record
from embedded.stripe_twin.work import Json, Work

COMPLETE_ACTION = {
    "payment_intents": payment_intents.complete_action,
    "setup_intents": setup_intents.complete_action,
}

_PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def routes(twin: Twin) -> list[Route]:
    """The routes of the pages."""

    async def authenticate(request: Request) -> Response:
        return await _authenticate(twin, request)

    async def pay(request: Request) -> Response:
        return await _pay(twin, request)

    async def returned(request: Request) -> Response:
        return _returned(twin, request)

    return [
        Route("/_twin/authenticate/{id}", authenticate, methods=["GET", "POST"]),
        Route("/c/pay/{id}", pay, methods=["GET", "POST"]),
        Route("/c/pay/{id}/return", returned, methods=["GET"]),
    ]


def _page(name: str, status: int = 200, **given: object) -> Response:
    return HTMLResponse(_PAGES.get_template(name).render(**given), status, {"Cache-Control": "no-store"})


def _said(text: str, *, secret: str = "", status: int = 200) -> Response:
    return _page("authenticate.html", status, text=text, secret=secret)


async def _authenticate(twin: Twin, request: Request) -> Response:
    """The cardholder's page; only the holder of the client secret sees it."""
    kind = "setup_intent" if request.path_params["id"].startswith("seti_") else "payment_intent"
    record = twin.store.get(kind, request.path_params["id"])
    try:
        form = decode(await read_body(request)) if request.method == "POST" else {}
    except ApiError as error:
        return _said(str(error), status=error.status)
    secret = form.get("client_secret", request.query_params.get("client_secret"))
    if record is None or record.body["client_secret"] != secret:
        return _said("No such payment, or the link is not whole.", status=404)
    intent = record.body
    if request.method == "GET" and intent["status"] == "requires_action":
        text = "Save a card."
        if "amount" in intent:
            text = f"Pay {currencies.written(intent['amount'], intent['currency'])}."
        return _said(text, secret=intent["client_secret"])
    if request.method == "POST":
        outcome = "succeeded" if form.get("outcome") == "succeeded" else "failed"
        try:
            with twin.store.transaction():
                done = COMPLETE_ACTION[f"{kind}s"](Work(twin.store, twin.clock.now()), intent["id"], outcome)
        except ApiError as error:
            return _said(str(error), status=error.status)
        twin.wake()
        intent = done.body.get("error", {}).get(kind, done.body)
    return_url = record.private.get("return_url")
    if return_url is None:
        return _said(f"The payment is now {intent['status']}. You may close this page.")
    query = urlencode({kind: intent["id"], f"{kind}_client_secret": secret, "redirect_status": intent["status"]})
    return RedirectResponse(f"{return_url}{'&' if '?' in return_url else '?'}{query}", status_code=303)


async def _pay(twin: Twin, request: Request) -> Response:
    """The page of a Checkout session."""
    record = twin.store.get(sessions.KIND, request.path_params["id"])
    if record is None or record.body["status"] != "open":
        return _ended(record)
    if request.method == "GET":
        return _checkout(twin, record, "")
    try:
        form = decode(await read_body(request))
        month, _, year = str(form.get("expiry", "")).partition("/")
        work = Work(
            twin.store,
            twin.clock.now(),
            subject=f"POST {request.url.path}",
            base_url=str(request.base_url).rstrip("/"),
        )
        with twin.store.transaction():
            answer = checkout.submit(work, record, str(form.get("number", "")), month, year)
    except ApiError as error:
        return _checkout(twin, record, checkout.message_of(error))
    twin.wake()
    if answer.status != 200:
        return _checkout(twin, _again(twin, record), checkout.message_of(answer.body))
    action = answer.body["next_action"]
    if action is None:
        return _ended(_again(twin, record))
    return RedirectResponse(action["redirect_to_url"]["url"], status_code=303)


def _returned(twin: Twin, request: Request) -> Response:
    """Back from the bank's page."""
    record = twin.store.get(sessions.KIND, request.path_params["id"])
    if record is None or record.body["status"] != "open":
        return _ended(record)
    return _checkout(twin, record, "The bank could not authenticate you. Try again, or use another card.")


def _again(twin: Twin, record: Record) -> Record:
    found = twin.store.get(sessions.KIND, record.body["id"])
    assert found is not None
    return found


def _ended(record: Record | None) -> Response:
    if record is None:
        return _closed("This page does not exist", "The link is not whole.", 404)
    session = record.body
    if session["status"] == "expired":
        return _closed("This page has expired", "Ask for a new link.", 410)
    success_url = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
    return RedirectResponse(success_url, status_code=303)


def _closed(heading: str, text: str, status: int) -> Response:
    return _page("checkout.html", status, heading=heading, text=text, error="", open=False)


def _checkout(twin: Twin, record: Record, error: str) -> Response:
    session: Json = record.body
    total = currencies.written(session["amount_total"], session["currency"]) if session["mode"] == "payment" else ""
    year = datetime.fromtimestamp(twin.clock.now(), UTC).year + 1
    return _page(
        "checkout.html",
        402 if error else 200,
        heading=f"Pay {total}" if total else "Save a card",
        text="" if total else "It is charged later, within the limits that were set for it.",
        error=error,
        open=True,
        items=checkout.lines(record),
        cards=list(cards.BY_KEY.values()),
        expiry=f"12/{year % 100:02d}",
        button=f"Pay {total}" if total else "Save the card",
        cancel_url=session["cancel_url"],
    )
