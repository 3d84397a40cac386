"""What holds for every stream: each message is looked at for who may send it, and none is idle or old for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from services.kit.auth import Identity
from services.kit.errors import Code, PurseError, unauthenticated, unavailable

STREAMS_MAX: Final = 200
"""The most streams that are open at once in a process."""
IDLE_MAX_S: Final = 300.0
"""How long a caller may say nothing on its stream, in seconds."""
AGE_MAX_S: Final = 3_600.0
"""How long a stream lives, in seconds: others get traffic too, and a credential is looked at again."""
_SKEW_S: Final = 30


async def checked(
    messages: AsyncIterator[Any], who: Identity, authorize: Callable[[Any], None], idle_max_s: float
) -> AsyncIterator[Any]:
    """A caller's messages, each of which it may send.

    Args:
        messages: As they come.
        who: Who opened the stream.
        authorize: Raises where a message touches what the caller may not.
        idle_max_s: How long to wait for one.

    Raises:
        PurseError: PERMISSION_DENIED, UNAUTHENTICATED once the credential has expired, DEADLINE_EXCEEDED after
            silence.
    """
    source = aiter(messages)
    while True:
        try:
            async with asyncio.timeout(idle_max_s):
                message = await anext(source)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise PurseError(
                Code.DEADLINE_EXCEEDED,
                "STREAM_IDLE",
                f"nothing came for {idle_max_s:g} s; open another stream when there is something to say",
            ) from None
        if who.expires_at_s + _SKEW_S < time.time():
            raise unauthenticated("the token has expired; open another stream with a new one", "TOKEN_EXPIRED")
        authorize(message)
        yield message


def too_old(age_max_s: float) -> PurseError:
    """Why a stream ends that did nothing wrong."""
    return unavailable(f"a stream lives {age_max_s:g} s; open another and send what was not acknowledged")
