"""The HTTP face: key, body, idempotency, faults, answer. What an endpoint does is in `operations`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from embedded.stripe_twin import domain, faults, params
from embedded.stripe_twin.clock import Clock
from embedded.stripe_twin.domain import StoredAnswer
from embedded.stripe_twin.errors import (
    ApiError,
    idempotency_in_use,
    internal,
    invalid,
    rate_limited,
    unauthorized,
)
from embedded.stripe_twin.faults import Fault
from embedded.stripe_twin.objects import API_VERSION
from embedded.stripe_twin.params import Params
from embedded.stripe_twin.routes import Operation, resolve
from embedded.stripe_twin.store import Store
from embedded.stripe_twin.work import Work, expand, new_id

log = logging.getLogger("stripe_twin")

MAX_BODY_BYTES = 1_000_000
KEY_PREFIXES = ("sk_test_", "rk_test_")


@dataclass(slots=True)
class Twin:
    """What every request shares. `wake` tells the courier that there is something to deliver."""

    store: Store
    clock: Clock
    wake: Callable[[], None]
    in_flight: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Call:
    """One API request, read and checked so far as can be done without looking at any state."""

    request_id: str
    method: str
    path: str
    operation: Operation
    ids: Mapping[str, str]
    params: Params
    digest: str
    key: str | None
    header_faults: tuple[Fault, ...]
    base_url: str

    @property
    def subject(self) -> str:
        """What a fault's pattern is matched with."""
        return f"{self.method} {self.path}"


class HungUp(Response):
    """No answer at all: the connection is closed before the first byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Abort the connection, then wait until the server knows that it is gone."""
        scope["state"]["connection"].transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


def create_app(
    twin: Twin,
    other_routes: list[Route],
    background: Callable[[], AbstractAsyncContextManager[None]],
) -> Starlette:
    """The whole application; `background` runs for as long as it serves."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with background():
            yield

    async def api(request: Request) -> Response:
        return await serve(twin, request)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "stripe_version": API_VERSION})

    return Starlette(
        routes=[
            Route("/health", health),
            *other_routes,
            Route("/{path:path}", api, methods=["GET", "POST", "DELETE"]),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": {"message": error.detail, "type": "invalid_request_error"}}, error.status_code)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse(internal().body, 500)


async def read_body(request: Request) -> str:
    """The body as text; raises ApiError past 1 MB or when it is not UTF-8."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise invalid(f"Request body too large: at most {MAX_BODY_BYTES} bytes.", status=413)
        chunks.append(chunk)
    try:
        return b"".join(chunks).decode()
    except UnicodeDecodeError as error:
        raise invalid("Invalid request body: it is not UTF-8.") from error


async def serve(twin: Twin, request: Request) -> Response:
    """One API request from its first byte to its answer."""
    request_id = new_id("req")
    try:
        call = await _read(request, request_id)
        fault = _api_fault(twin, call)
        _refuse(fault, call)
        return await _keyed(twin, call, fault)
    except ApiError as error:
        return _response(error.status, json.dumps(error.body), request_id, headers=error.headers)
    except ClientDisconnect:
        return HungUp()


async def _read(request: Request, request_id: str) -> Call:
    check_key(request.headers.get("authorization"))
    try:
        header_faults = tuple(faults.parse_header(request.headers.get("twin-fault", "")))
    except ValueError as error:
        raise invalid(f"Invalid Twin-Fault header: {error}") from error
    body = await read_body(request)
    key = request.headers.get("idempotency-key") if request.method == "POST" else None
    if key is not None and not 0 < len(key) <= domain.IDEMPOTENCY_KEY_LENGTH:
        raise invalid(f"Idempotency keys have 1 to {domain.IDEMPOTENCY_KEY_LENGTH} characters, not {len(key)}.")
    operation, ids = resolve(request.method, request.url.path)
    raw = params.decode(body if request.method == "POST" else request.url.query)
    return Call(
        request_id=request_id,
        method=request.method,
        path=request.url.path,
        operation=operation,
        ids=ids,
        params=operation.validate(raw),
        digest=domain.fingerprint(raw),
        key=key,
        header_faults=header_faults,
        base_url=str(request.base_url).rstrip("/"),
    )


def check_key(authorization: str | None) -> None:
    """Raises a 401 ApiError unless the header carries a test-mode secret key (Bearer, or Basic's user)."""
    scheme, _, value = (authorization or "").partition(" ")
    key = value.strip()
    if scheme.lower() == "basic":
        try:
            key = base64.b64decode(key, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            key = ""
    if not key or scheme.lower() not in ("bearer", "basic"):
        raise unauthorized(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using "
            "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
        )
    if not key.startswith(KEY_PREFIXES) or len(key) == len(KEY_PREFIXES[0]):
        shown = f"{key[:8]}{'*' * 8}" if key[:3] in ("sk_", "rk_", "pk_") else "*" * 8
        raise unauthorized(
            f"Invalid API Key provided: {shown}. The Stripe twin takes test-mode keys only: sk_test_… or rk_test_…."
        )


def _api_fault(twin: Twin, call: Call) -> tuple[Fault, ...]:
    """The faults of this request that have to do with its answer: its header's, else the first stored one."""
    kinds = faults.REFUSING | faults.ANSWERING | {"slow"}
    named = tuple(fault for fault in call.header_faults if fault.kind in kinds)
    if named:
        return named
    with twin.store.transaction():
        stored = twin.store.take_fault(call.subject, kinds)
    return (stored,) if stored else ()


def _refuse(chosen: tuple[Fault, ...], call: Call) -> None:
    fault = faults.first_of(chosen, faults.REFUSING)
    match fault.kind if fault else None:
        case "error_500_before":
            raise internal()
        case "rate_limit_429":
            raise rate_limited()
        case "conflict_409":
            raise idempotency_in_use(call.key or "none given")


async def _keyed(twin: Twin, call: Call, chosen: tuple[Fault, ...]) -> Response:
    if call.key is not None:
        stored = domain.replay_for(
            call.key,
            twin.store.stored_answer(call.key),
            endpoint=call.path,
            digest=call.digest,
            now=int(twin.clock.now()),
            in_flight=call.key in twin.in_flight,
        )
        if stored is not None:
            return await _answer(chosen, stored, call, replayed=True)
        twin.in_flight.add(call.key)
    try:
        slow = faults.first_of(chosen, frozenset({"slow"}))
        if slow is not None:
            await asyncio.sleep(slow.seconds)
        answer = _execute(twin, call, faults.first_of(chosen, faults.ANSWERING))
    finally:
        twin.in_flight.discard(call.key or "")
    twin.wake()
    return await _answer(chosen, answer, call, replayed=False)


def _execute(twin: Twin, call: Call, fault: Fault | None) -> StoredAnswer:
    """Run the operation and keep its answer, in one transaction; an error keeps its answer but no writes."""
    now_s = twin.clock.now()

    def kept(status: int, body: Mapping[str, object]) -> StoredAnswer:
        if fault is not None and fault.kind == "error_500_after":
            status, body = 500, internal().body
        answer = StoredAnswer(call.path, call.digest, status, json.dumps(body), call.request_id, int(now_s))
        if call.key is not None:
            twin.store.keep_answer(call.key, answer)
        return answer

    work = Work(twin.store, now_s, call.request_id, call.key, call.subject, call.header_faults, base_url=call.base_url)
    try:
        with twin.store.transaction():
            answer = call.operation.handler(work, call.params, call.ids)
            body = answer.body
            if answer.status == 200:
                body = expand(twin.store, body, call.params.get("expand", []))
            return kept(answer.status, body)
    except ApiError as error:
        with twin.store.transaction():
            return kept(error.status, error.body)


async def _answer(chosen: tuple[Fault, ...], answer: StoredAnswer, call: Call, *, replayed: bool) -> Response:
    fault = faults.first_of(chosen, faults.ANSWERING)
    match fault.kind if fault else None:
        case "lost_answer":
            return HungUp()
        case "timeout":
            await asyncio.sleep(fault.seconds if fault else 0)
    headers = {"Idempotency-Key": call.key, "Original-Request": answer.request_id} if call.key else {}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return _response(answer.status, answer.body, call.request_id, headers=headers)


def _response(status: int, body: str, request_id: str, *, headers: Mapping[str, str]) -> Response:
    standard = {"Request-Id": request_id, "Stripe-Version": API_VERSION, "Cache-Control": "no-cache, no-store"}
    return Response(body, status, headers={**standard, **headers}, media_type="application/json")
