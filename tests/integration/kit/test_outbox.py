"""What is written with a change is delivered at least once, and nothing is lost behind a slow transaction."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from services.kit import outbox
from services.kit.errors import Code, PurseError, invalid, unavailable
from services.kit.loops import Loops
from services.kit.outbox import DeliveredThrough, OutboxMessage, OutboxRow, Pending, Relay

DEADLINE_S = 20


def row(key: str, topic: str = "t") -> OutboxRow:
    return OutboxRow("acme", topic, key, key.encode())


async def put(pool: asyncpg.Pool, *keys: str) -> None:
    async with pool.acquire() as connection:
        await outbox.put(connection, [row(key) for key in keys])


async def left(pool: asyncpg.Pool) -> Pending:
    async with pool.acquire() as connection:
        return await outbox.pending(connection, "t")


class Receiver:
    """Keeps what arrives; refuses what it is told to."""

    def __init__(self, refuse: dict[str, Exception] | None = None) -> None:
        self.got: list[str] = []
        self.refuse = refuse or {}

    async def __call__(self, messages: list[OutboxMessage]) -> Sequence[Exception | None]:
        self.got += [m.key for m in messages if m.key not in self.refuse]
        return [self.refuse.get(m.key) for m in messages]


async def test_rows_are_sent_in_order_and_gone(pool: asyncpg.Pool) -> None:
    receiver = Receiver()
    await put(pool, *"abc")

    await Relay(pool, "t", receiver).step()

    assert list("abc") == receiver.got
    assert Pending(0, 0) == await left(pool)


async def test_another_topic_is_left_alone(pool: asyncpg.Pool) -> None:
    receiver = Receiver()
    async with pool.acquire() as connection:
        await outbox.put(connection, [row("x", topic="other")])

    assert not await Relay(pool, "t", receiver).step()
    assert [] == receiver.got


async def test_each_row_is_acknowledged_singly(pool: asyncpg.Pool) -> None:
    receiver = Receiver({"b": invalid("b", "is refused")})
    await put(pool, *"abc")

    await Relay(pool, "t", receiver).step()

    assert ["a", "c"] == receiver.got
    assert Pending(1, 0) == await left(pool)


async def test_poison_is_parked_and_can_be_sent_again(pool: asyncpg.Pool) -> None:
    receiver = Receiver({"b": invalid("b", "is refused")})
    relay = Relay(pool, "t", receiver, tries_max=2)
    await put(pool, "b")
    for _ in range(2):
        await relay.step()
        await pool.execute("UPDATE outbox SET due_at = clock_timestamp()")
    assert Pending(0, 1) == await left(pool)

    receiver.refuse.clear()
    async with pool.acquire() as connection:
        assert 1 == await outbox.requeue(connection, "t")
    await relay.step()

    assert ["b"] == receiver.got
    assert Pending(0, 0) == await left(pool)


async def test_a_receiver_out_of_reach_never_parks_a_row(pool: asyncpg.Pool) -> None:
    receiver = Receiver({"b": unavailable("down")})
    relay = Relay(pool, "t", receiver, tries_max=2)
    await put(pool, "b")

    for _ in range(5):
        await relay.step()
        await pool.execute("UPDATE outbox SET due_at = clock_timestamp()")

    assert Pending(1, 0) == await left(pool)


@pytest.mark.parametrize(
    "error", [PurseError(code, code.name, "its own fault") for code in (Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS)]
)
async def test_a_fault_of_the_receiver_never_parks_a_row_but_is_seen(pool: asyncpg.Pool, error: PurseError) -> None:
    receiver = Receiver({"b": error})
    relay = Relay(pool, "t", receiver, tries_max=2)
    await put(pool, "b")
    await pool.execute("UPDATE outbox SET created_at = clock_timestamp() - interval '40 s'")

    for _ in range(5):
        await relay.step()
        waits_s = await pool.fetchval("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM outbox")
        assert 5 < waits_s < 60
        await pool.execute("UPDATE outbox SET due_at = clock_timestamp()")

    assert Pending(1, 0) == await left(pool)
    assert error.code.name in await pool.fetchval("SELECT last_error FROM outbox")


async def test_a_send_that_raises_keeps_every_row(pool: asyncpg.Pool) -> None:
    async def send(_: list[OutboxMessage]) -> Sequence[Exception | None]:
        raise ConnectionError("gone")

    await put(pool, *"ab")

    await Relay(pool, "t", send).step()

    assert Pending(2, 0) == await left(pool)


async def test_two_relays_share_the_rows(pool: asyncpg.Pool) -> None:
    receiver = Receiver()
    await put(pool, *(str(n) for n in range(40)))

    async with asyncio.timeout(DEADLINE_S), Loops([Relay(pool, "t", receiver, batch_max=3).loop for _ in range(2)]):
        while (await left(pool)).waiting:
            await asyncio.sleep(0.01)

    assert sorted(str(n) for n in range(40)) == sorted(receiver.got)


async def test_a_woken_relay_sends_at_once(pool: asyncpg.Pool) -> None:
    receiver = Receiver()
    relay = Relay(pool, "t", receiver, interval_s=3600)

    async with asyncio.timeout(DEADLINE_S), Loops([relay.loop]):
        await put(pool, "a")
        relay.wake()
        while (await left(pool)).waiting:
            await asyncio.sleep(0.01)

    assert ["a"] == receiver.got


async def test_delivered_through_waits_for_a_transaction_in_flight(pool: asyncpg.Pool) -> None:
    """Ids are no order: a row that commits late, with a low id, still holds the watermark back."""
    through = DeliveredThrough("t")
    relay = Relay(pool, "t", Receiver())
    async with pool.acquire() as watcher, pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        await outbox.put(slow, [row("late")])
        await put(pool, "early")
        assert await through.observe(watcher) is None
        await relay.step()
        noted = await watcher.fetchval("SELECT clock_timestamp()")
        assert await through.observe(watcher) is None

        await transaction.commit()
        assert await through.observe(watcher) is None
        await relay.step()
        proved = await through.observe(watcher)

        assert proved is not None
        assert proved < noted
        later = await through.observe(watcher)
        assert later is not None
        assert later > noted


async def test_a_row_that_failed_holds_back_its_own_organisation_alone(pool: asyncpg.Pool) -> None:
    through = DeliveredThrough("t")
    await put(pool, "b")
    await Relay(pool, "t", Receiver({"b": invalid("b", "is refused")}), tries_max=1).step()
    assert Pending(0, 1) == await left(pool)

    async with pool.acquire() as connection:
        written = await connection.fetchval("SELECT created_at FROM outbox")
        assert await through.observe(connection) is None
        proved = await through.observe(connection)
        assert proved is not None
        assert proved > written
        assert await through.held_back(connection) == [("acme", written)]
