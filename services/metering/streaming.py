"""Answers a stream in order while it reads ahead, a bounded number of messages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from services.kit.errors import Code, PurseError
from services.kit.telemetry import get_logger

Message = TypeVar("Message")
Answer = TypeVar("Answer")

AHEAD_MAX: Final = 4
"""The most messages of one stream that are handled at once; more wait at the sender."""
_WAIT_S: Final = 0.2
_WAITS_MAX: Final = 50

_log = get_logger(__name__)


async def in_order(
    messages: AsyncIterator[Message], handle: Callable[[Message], Awaitable[Answer]], ahead_max: int = AHEAD_MAX
) -> AsyncIterator[Answer]:
    """Handles messages side by side and gives the answers in the order of the messages.

    What ends the stream early, a message that may not be sent or one that cannot be handled, is raised when all
    messages before it have been answered.
    """
    waiting: asyncio.Queue[asyncio.Task[Answer] | Exception | None] = asyncio.Queue(ahead_max - 1)

    async def read() -> None:
        try:
            async for message in messages:
                task = asyncio.create_task(_insist(handle, message))
                task.add_done_callback(_look_at)
                await waiting.put(task)
        except Exception as error:
            await waiting.put(error)
        else:
            await waiting.put(None)

    reading = asyncio.create_task(read())
    try:
        while (one := await waiting.get()) is not None:
            if isinstance(one, Exception):
                raise one
            yield await one
    finally:
        # What was handed over goes on: it is recorded, though nobody is told.
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


def _look_at(task: asyncio.Task[Answer]) -> None:
    """Takes note of how it ended: of what was read ahead nobody else does when the stream ends before it."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, PurseError):
        _log.error("a message of a stream failed", exc_info=error)


async def _insist(handle: Callable[[Message], Awaitable[Answer]], message: Message) -> Answer:
    """Handles a message; a full queue makes a stream wait, not fail."""
    for _ in range(_WAITS_MAX):
        try:
            return await handle(message)
        except PurseError as error:
            if error.code != Code.RESOURCE_EXHAUSTED:
                raise
        await asyncio.sleep(_WAIT_S)
    return await handle(message)
