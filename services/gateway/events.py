"""The gateway's HTTP face for usage: CloudEvents in, passed on to metering with the caller's own token."""

import asyncio
from typing import Any, Final

import grpc
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from google.protobuf import json_format

from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from services.gateway import cloudevents
from services.kit.errors import Code, PurseError, invalid
from services.kit.status import from_rpc_error, from_rpc_status

BODY_TIMEOUT_S: Final = 30.0
"""How long a body may take."""
CALL_BYTES_MAX: Final = 3 * 1024 * 1024
"""The most bytes of events passed on at once."""
AUTHORIZATION_CHARS_MAX: Final = 8_192
_STATUS: Final = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.RESOURCE_EXHAUSTED: 429,
}
_RETRY_AFTER_S: Final = 5


def events_router(metering: grpc.aio.Channel, *, timeout_s: float, requests_max: int) -> APIRouter:
    """Where usage is posted.

    Args:
        metering: A channel to the metering service, without a token: the caller's is passed on.
        timeout_s: How long one call to it may take.
        requests_max: Requests that are taken in at once.
    """
    stub: Any = metering_pb2_grpc.MeteringServiceStub(metering)
    room = asyncio.Semaphore(requests_max)
    router = APIRouter()

    @router.post("/v1/events")
    async def events(request: Request) -> Response:
        """Records CloudEvents of usage: one, or up to 1,000 with a result each."""
        if room.locked():
            return _error(_busy(f"{requests_max} requests are being taken in; send it again later"))
        async with room:
            try:
                return await record(request)
            except PurseError as error:
                return _error(error)

    async def record(request: Request) -> Response:
        authorization = request.headers.get("authorization", "")
        if len(authorization) > AUTHORIZATION_CHARS_MAX or not authorization.isascii():
            raise PurseError(Code.UNAUTHENTICATED, "BAD_TOKEN", "the Authorization header is too long or not ASCII")
        asked = cloudevents.read(dict(request.headers), await _body(request))
        accepted = [event for event in asked.events if not isinstance(event, PurseError)]
        recorded = iter(await _pass_on(stub, accepted, authorization, timeout_s))
        answers = [event if isinstance(event, PurseError) else next(recorded) for event in asked.events]
        if asked.single:
            return _error(answers[0]) if isinstance(answers[0], PurseError) else JSONResponse(_result(answers[0]))
        return JSONResponse({"results": [_result(answer) for answer in answers]})

    return router


async def _pass_on(
    stub: Any, events: list[metering_pb2.UsageEvent], authorization: str, timeout_s: float
) -> list[metering_pb2.RecordedUsage | PurseError]:
    answers: list[metering_pb2.RecordedUsage | PurseError] = []
    start = 0
    while start < len(events):
        part = metering_pb2.BatchRecordUsageRequest()
        size = 0
        for event in events[start:]:
            size += event.ByteSize()
            if part.events and size > CALL_BYTES_MAX:
                break
            part.events.append(event)
        start += len(part.events)
        metadata = (("authorization", authorization),) if authorization else ()
        try:
            response = await stub.BatchRecordUsage(part, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
            if not answers:
                raise failure from None
            # What was recorded before stays so; the rest is told as it is, and may be sent again.
            answers += [failure] * len(part.events)
            continue
        answers += [
            from_rpc_status(one.error) if one.WhichOneof("result") == "error" else one.usage for one in response.results
        ]
    return answers


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > cloudevents.BODY_BYTES_MAX:
                    raise invalid(
                        "body", f"is larger than {cloudevents.BODY_BYTES_MAX} bytes; send fewer", "PAYLOAD_TOO_LARGE"
                    )
                parts.append(part)
    except TimeoutError:
        raise invalid("body", f"did not come within {BODY_TIMEOUT_S:g} s", "BODY_TIMEOUT") from None
    return b"".join(parts)


def _busy(message: str) -> PurseError:
    return PurseError(Code.UNAVAILABLE, "TOO_MANY_REQUESTS", message)


def _result(answer: metering_pb2.RecordedUsage | PurseError) -> dict[str, Any]:
    if isinstance(answer, PurseError):
        return {"error": _told(answer)}
    return {"usage": json_format.MessageToDict(answer)}


def _told(error: PurseError) -> dict[str, Any]:
    told: dict[str, Any] = {"reason": error.reason, "message": error.message}
    return told | {"field": error.field} if error.field else told


def _error(error: PurseError) -> Response:
    status = {"PAYLOAD_TOO_LARGE": 413, "BODY_TIMEOUT": 408, "UNSUPPORTED_MEDIA_TYPE": 415}.get(
        error.reason, _STATUS.get(error.code, 503)
    )
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status in (429, 503) else None
    return JSONResponse({"error": _told(error)}, status, headers)
