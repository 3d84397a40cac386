"""The gateway's HTTP face: Stripe's webhooks, health. It passes on what comes and decides nothing."""

import asyncio
from typing import TYPE_CHECKING, Final

import grpc
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pursestrings.wallet.v1 import wallet_pb2 as pb
from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.kit.errors import Code, PurseError
from services.kit.status import from_rpc_error
from services.kit.telemetry import get_logger

if TYPE_CHECKING:
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

PAYLOAD_BYTES_MAX: Final = 256 * 1024
"""The largest webhook event taken."""
BODY_TIMEOUT_S: float = 10.0
"""How long a body may take."""
SIGNATURE_CHARS_MAX: Final = 4096
"""The longest Stripe-Signature header taken."""

_WALLET: Final = "pursestrings.wallet.v1.WalletService"
_READY_TIMEOUT_S: Final = 2.0
# What the sender can do something about; everything else it should send again later.
_STATUS: Final = {Code.INVALID_ARGUMENT: 400, Code.FAILED_PRECONDITION: 409}
_RETRY_AFTER_S: Final = 5
_DONE: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Thank you</title></head>
<body><main><h1>Thank you</h1>
<p>You may close this page. What you paid or saved reaches the wallet within moments.</p></main></body>
</html>
"""

_log = get_logger(__name__)


def create_app(wallet: grpc.aio.Channel, *, timeout_s: float, requests_max: int) -> FastAPI:
    """The application.

    Args:
        wallet: A channel to the wallet service, with the gateway's token.
        timeout_s: How long one call to it may take.
        requests_max: Events that are taken in at once.
    """
    stub: WalletServiceAsyncStub = wallet_pb2_grpc.WalletServiceStub(wallet)
    health = health_pb2_grpc.HealthStub(wallet)
    room = asyncio.Semaphore(requests_max)
    app = FastAPI(title="Pursestrings", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/webhooks/stripe")
    async def stripe(request: Request) -> Response:
        """Takes one event of Stripe: 2xx only once it is stored; Stripe sends everything else again, for days."""
        signature = request.headers.get("stripe-signature", "")
        if not signature or len(signature) > SIGNATURE_CHARS_MAX:
            return _refused(400, "BAD_SIGNATURE", "the Stripe-Signature header is missing or too long")
        if room.locked():
            return _error(503, "TOO_MANY_REQUESTS", f"{requests_max} events are being taken in; send it again later")
        async with room:
            return await take(request, signature)

    async def take(request: Request, signature: str) -> Response:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                payload = await _body(request)
        except TimeoutError:
            return _refused(408, "BODY_TIMEOUT", f"the body did not come within {BODY_TIMEOUT_S:g} s")
        if payload is None:
            return _refused(413, "PAYLOAD_TOO_LARGE", f"an event is at most {PAYLOAD_BYTES_MAX} bytes")
        try:
            answer = await stub.IngestStripeEvent(
                pb.IngestStripeEventRequest(payload=payload, signature=signature), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            return _refusal(from_rpc_error(error))
        return JSONResponse({"event": answer.event_id, "duplicate": answer.duplicate})

    app.add_api_route("/payments/done", _done, methods=["GET"])

    @app.get("/health")
    async def live() -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """The wallet service answers too."""
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=_WALLET), timeout=_READY_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return _error(503, "UNAVAILABLE", "the wallet service is out of reach")
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            return _error(503, "UNAVAILABLE", "the wallet service is not ready")
        return JSONResponse({"status": "ok"})

    return app


async def _done() -> Response:
    """Where Stripe's pages go on to: whatever its visitor says, Stripe tells the wallet what was paid."""
    return HTMLResponse(_DONE)


async def _body(request: Request) -> bytes | None:
    """The raw body, untouched, since its signature covers every byte; None where it is too large."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > PAYLOAD_BYTES_MAX:
            return None
        parts.append(part)
    return b"".join(parts)


def _refusal(error: PurseError) -> Response:
    status = _STATUS.get(error.code, 503)
    return _refused(status, error.reason, error.message)


def _refused(status: int, reason: str, message: str) -> Response:
    """An event that was not stored, which somebody who looks for it finds in the log."""
    _log.warning("a webhook event was not stored", status=status, reason=reason, error=message)
    return _error(status, reason, message)


def _error(status: int, reason: str, message: str) -> Response:
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else None
    return JSONResponse({"error": {"reason": reason, "message": message}}, status, headers)
