"""Loops wake, go on after errors, and end when told."""

import asyncio

from services.kit.loops import Loop, Loops

FOREVER_S = 3600.0


async def test_a_woken_loop_steps_again_without_waiting() -> None:
    steps: asyncio.Queue[int] = asyncio.Queue()

    async def step() -> bool:
        await steps.put(1)
        return False

    loop = Loop("t", step, FOREVER_S)
    async with asyncio.timeout(10), Loops([loop]):
        await steps.get()
        loop.wake()
        await steps.get()


async def test_more_to_do_is_done_at_once() -> None:
    left = 5
    done = asyncio.Event()

    async def step() -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()
        return left > 0

    async with asyncio.timeout(10), Loops([Loop("t", step, FOREVER_S)]):
        await done.wait()

    assert left == 0


async def test_an_error_does_not_end_the_loop() -> None:
    calls = 0
    done = asyncio.Event()

    async def step() -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("gone")
        done.set()
        return False

    async with asyncio.timeout(10), Loops([Loop("t", step, 0.01)]):
        await done.wait()

    assert calls >= 2


async def test_what_failed_is_tried_again_long_before_the_interval_is_over() -> None:
    """A loop that rests long between successes must not rest as long after a failure."""
    await fails_then_succeeds(failures=1, interval_s=FOREVER_S, error_rest_max_s=10.0)


async def test_the_rest_after_failures_has_the_limit_it_was_given() -> None:
    """Doubled without it, the rests after a dozen failures add up to more than the deadline."""
    await fails_then_succeeds(failures=12, interval_s=FOREVER_S, error_rest_max_s=0.01)


async def fails_then_succeeds(*, failures: int, interval_s: float, error_rest_max_s: float) -> None:
    left = failures
    done = asyncio.Event()

    async def step() -> bool:
        nonlocal left
        if left:
            left -= 1
            raise OSError("gone")
        done.set()
        return False

    loop = Loop("t", step, interval_s, error_rest_max_s=error_rest_max_s)
    async with asyncio.timeout(20), Loops([loop]):
        await done.wait()


async def test_leaving_ends_the_loop() -> None:
    async def step() -> bool:
        return False

    loops = Loops([Loop("t", step, FOREVER_S)])
    async with loops:
        pass

    assert all(task.done() for task in loops._tasks)
