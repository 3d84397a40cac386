"""One call to one service, tried again while that can help."""

import asyncio
import random
from collections.abc import Awaitable
from typing import Any, Final, Protocol, TypeVar

import grpc

from pursestrings._errors import Rejected, Unavailable, from_rpc_error, is_retryable

_PAUSE_MIN_S: Final = 0.05
_PAUSE_MAX_S: Final = 1.0

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)


class Rpc(Protocol[Request_contra, Response_co]):
    """A method of a stub."""

    def __call__(self, request: Request_contra, *, timeout: float | None = ...) -> Awaitable[Response_co]:
        """Calls it with a deadline in seconds."""


async def invoke(
    rpc: Rpc[Any, Response_co], request: object, *, timeout_s: float, what: str, answer_s: float | None = None
) -> Response_co:
    """The answer to a request that is safe to repeat: it reads, or its ids make it happen once.

    Args:
        rpc: The stub's method.
        request: Its message.
        timeout_s: How long to try in all.
        what: The service's name, for messages.
        answer_s: How long one answer may take, for calls that work for long once they are reached.

    Raises:
        Rejected: The service refuses the request.
        Unavailable: No answer in time.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    tries = 0
    while True:
        left_s = deadline_s - loop.time()
        # Half of the time first, so that a service that hangs leaves room for another try.
        own_s = max(left_s / 2 if tries == 0 else left_s, 0.001)
        try:
            return await rpc(request, timeout=answer_s or own_s)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
        if not is_retryable(refusal):
            raise refusal
        pause_s = pause(tries, refusal)
        tries += 1
        if loop.time() + pause_s >= deadline_s:
            raise Unavailable(f"{what} is unavailable (no answer in time): {refusal.message}") from refusal
        await asyncio.sleep(pause_s)


def pause(tries: int, refusal: Rejected | None) -> float:
    """Seconds to wait after this many tries before: doubling with jitter up to a second, or what was asked for."""
    own_s = min(_PAUSE_MAX_S, _PAUSE_MIN_S * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
    asked_s = (refusal.retry_after_s or 0.0) if refusal is not None else 0.0
    return max(own_s, min(asked_s, _PAUSE_MAX_S))
