"""A stream's end leaves nothing behind."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.kit.errors import PurseError, unavailable
from services.metering.streaming import in_order


async def test_what_was_read_ahead_and_fails_after_the_end_is_no_loose_end() -> None:
    loose: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loose.append(context))
    go_on, failed = asyncio.Event(), []

    async def messages() -> AsyncIterator[int]:
        for n in range(3):
            yield n

    async def handle(message: int) -> int:
        if message:
            await go_on.wait()
        failed.append(message)
        raise unavailable("a recording process has ended")

    with pytest.raises(PurseError):
        async for _ in in_order(messages(), handle):
            pass
    go_on.set()
    async with asyncio.timeout(10):
        while len(failed) < 3:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()

    assert loose == []
