"""Many calls at once become few batches."""

import asyncio

import pytest

from pursestrings import AsyncClient, Unavailable
from pursestrings._coalesce import BATCH_MAX, Coalescer
from pursestrings._errors import Rejected
from tests.unit.client.servicer import Book, gate

BOT = "orgs/acme/agents/bot"


async def one(client: AsyncClient) -> None:
    async with client.reserve(BOT) as call:
        call.record(input_tokens=1)


async def test_what_starts_together_leaves_together(client: AsyncClient, book: Book) -> None:
    await asyncio.gather(*(one(client) for _ in range(500)))
    assert [500] == book.reserve_batches
    assert 500 == len(book.reserved) == len(book.recorded)
    assert len(book.record_batches) <= 3


async def test_a_single_call_waits_for_nobody(client: AsyncClient, book: Book) -> None:
    await one(client)
    await one(client)
    assert [1, 1] == book.reserve_batches


async def test_calls_gather_while_two_batches_are_under_way(client: AsyncClient, book: Book) -> None:
    let_go = asyncio.Event()

    async def hold(_request: object, _context: object) -> None:
        await let_go.wait()

    book.before_reserve = hold
    tasks = []
    for expected in (1, 2):
        tasks.append(asyncio.ensure_future(one(client)))
        while len(book.reserve_batches) < expected:
            await asyncio.sleep(0)
    tasks += [asyncio.ensure_future(one(client)) for _ in range(300)]
    await asyncio.sleep(0)
    let_go.set()
    await asyncio.gather(*tasks)
    assert [1, 1, 300] == book.reserve_batches
    assert 2 == book.in_flight_max


async def test_a_batch_is_bounded(client: AsyncClient, book: Book) -> None:
    await asyncio.gather(*(one(client) for _ in range(2 * BATCH_MAX + 5)))
    assert [BATCH_MAX, BATCH_MAX, 5] == sorted(book.reserve_batches, reverse=True)


class Sized:
    """An item of a given size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def ByteSize(self) -> int:
        return self.size


async def test_a_batch_is_bounded_in_bytes() -> None:
    sizes: list[list[int]] = []

    async def send(items: list[Sized], deadline_s: float) -> list[int | Rejected]:
        sizes.append([item.size for item in items])
        return [item.size for item in items]

    coalescer: Coalescer[Sized, int] = Coalescer("it", send, timeout_s=5)
    mib = 1024 * 1024
    await asyncio.gather(*(coalescer.submit(Sized(size)) for size in (mib, mib, 1, 3 * mib, 5)))
    assert [[mib, mib], [1], [3 * mib], [5]] == sizes


async def test_a_full_queue_refuses_at_once(monkeypatch: pytest.MonkeyPatch, client: AsyncClient, book: Book) -> None:
    monkeypatch.setattr("pursestrings._coalesce.QUEUE_MAX", 3)
    hold, arrived, let_go = gate()
    book.before_reserve = hold
    tasks = [asyncio.ensure_future(one(client)) for _ in range(3)]
    await arrived.wait()
    with pytest.raises(Unavailable, match="slow down"):
        await one(client)
    let_go.set()
    await asyncio.gather(*tasks)
    await one(client)


async def test_a_withdrawn_item_does_not_leave() -> None:
    sent: list[int] = []
    let_go = asyncio.Event()

    async def send(items: list[Sized], deadline_s: float) -> list[int | Rejected]:
        await let_go.wait()
        sent.extend(item.size for item in items)
        return [item.size for item in items]

    coalescer: Coalescer[Sized, int] = Coalescer("it", send, timeout_s=5)
    futures = []
    for size in (1, 2, 3):
        futures.append(coalescer.submit(Sized(size)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    futures[2].cancel()
    let_go.set()
    await coalescer.drain()
    assert [1, 2] == sorted(sent)


async def test_closing_fails_what_waits_to_be_tried_again() -> None:
    async def send(items: list[Sized], deadline_s: float) -> list[int | Rejected]:
        return [Rejected("UNAVAILABLE", "DOWN", "down")] * len(items)

    coalescer: Coalescer[Sized, int] = Coalescer("it", send, timeout_s=60)
    future = coalescer.submit(Sized(1))
    while not coalescer._resting:
        await asyncio.sleep(0)
    await coalescer.close()
    with pytest.raises(Unavailable, match=r"closed.*down"):
        await future


async def test_an_unforeseen_failure_reaches_every_caller() -> None:
    async def send(items: list[Sized], deadline_s: float) -> list[int | Rejected]:
        raise ZeroDivisionError

    coalescer: Coalescer[Sized, int] = Coalescer("it", send, timeout_s=60)
    futures = [coalescer.submit(Sized(1)), coalescer.submit(Sized(1))]
    for future in futures:
        with pytest.raises(ZeroDivisionError):
            await future
