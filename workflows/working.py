"""What every activity that calls a service has around it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

import grpc
from temporalio import activity
from temporalio.exceptions import ApplicationError

from services.kit.errors import Code, PurseError
from services.kit.status import from_rpc_error

_HEARTBEAT_S: Final = 1.0
# The same call can never succeed; everything else may, once something is reachable, free or configured again.
FINAL: Final = frozenset({Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED})
# A service says no, to this call for good; UNIMPLEMENTED only says that it is older than whoever calls.
REFUSALS: Final = (FINAL - {Code.UNIMPLEMENTED}) | {Code.PERMISSION_DENIED, Code.OUT_OF_RANGE}


@contextlib.asynccontextmanager
async def working(final: frozenset[Code] = FINAL) -> AsyncIterator[None]:
    """Tells Temporal that the work goes on, so that a worker that was killed is noticed; translates errors.

    Args:
        final: What is not tried again.
    """
    beating = asyncio.create_task(_beat())
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _application_error(from_rpc_error(error), final) from None
    except PurseError as error:
        raise _application_error(error, final) from None
    finally:
        beating.cancel()


async def _beat() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(_HEARTBEAT_S)


def _application_error(error: PurseError, final: frozenset[Code]) -> ApplicationError:
    wait = None if error.retry_after_s is None else timedelta(seconds=error.retry_after_s)
    return ApplicationError(error.message, type=error.reason, non_retryable=error.code in final, next_retry_delay=wait)
