"""Usage reaches the budget service at least once, whatever it answers, and it is told up to when all has."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import grpc
import pytest

from pursestrings.budget.v1 import budget_pb2_grpc
from services.kit.channel import channel
from services.kit.database import create_pool
from services.kit.outbox import Pending, pending, requeue
from services.metering import wire
from services.metering.relay import UsageRelay
from services.metering.store import relaying
from services.metering.store.recording import TOPIC, record
from tests.support.databases import Database
from tests.support.metering import FakeBudget, Metering, record_all, recording, running_budget, usage_event
from tests.support.waiting import until

NOW = datetime.now(UTC)


class Relays:
    """A database, a budget service and as many relays as a test wants; nothing runs by itself."""

    def __init__(self, pool: asyncpg.Pool, budget: FakeBudget, address: str) -> None:
        self.pool = pool
        self.budget = budget
        self._channel = channel(address, None)
        self.relay = self.another()

    def another(self, **more: float) -> UsageRelay:
        stub = budget_pb2_grpc.BudgetServiceStub(self._channel)
        return UsageRelay(self.pool, stub, name="metering-test", tries_max=3, **more)  # type: ignore[arg-type]

    async def record(self, *ids: str) -> None:
        async with self.pool.acquire() as connection, connection.transaction():
            await record(connection, [recording(id_, NOW) for id_ in ids])

    async def deliver(self) -> None:
        """Delivers what is due, as if no time had to pass between tries."""
        while await self.relay.deliver():
            pass

    async def report_past(self, instant: datetime) -> None:
        """Reports until all is said to be delivered to after an instant.

        Whatever is under way in the whole server, another test's transaction too, holds the proof back.
        """
        async with asyncio.timeout(20):
            while not self.budget.delivered_through or self.budget.delivered_through <= instant:
                await self.relay.report()
                await asyncio.sleep(0.01)

    async def hurry(self) -> None:
        """Makes what was postponed due now."""
        await self.pool.execute("UPDATE outbox SET due_at = now() WHERE parked_at IS NULL")

    async def pending(self) -> Pending:
        async with self.pool.acquire() as connection:
            return await pending(connection, TOPIC)

    async def close(self) -> None:
        await self._channel.close()


@pytest.fixture
async def relays(metering_database: Database) -> AsyncIterator[Relays]:
    budget = FakeBudget()
    async with (
        running_budget(budget) as address,
        await create_pool(metering_database.service_dsn, application_name="test") as pool,
    ):
        made = Relays(pool, budget, address)
        yield made
        await made.close()


async def test_a_lost_answer_is_asked_again_and_applied_once(relays: Relays) -> None:
    await relays.record("a", "b")
    relays.budget.lose_answers = 1

    await relays.deliver()
    assert await relays.pending() == Pending(1, 0)  # one row, of two events
    await relays.hurry()
    await relays.deliver()

    assert sorted(id_ for _, id_ in relays.budget.applied) == ["a", "b"]
    assert relays.budget.calls == [2, 2]
    assert await relays.pending() == Pending(0, 0)


async def test_a_refused_event_waits_alone_and_is_parked(relays: Relays) -> None:
    relays.budget.refused_ids = {"bad"}
    await relays.record("a", "bad", "b")

    for _ in range(3):
        await relays.deliver()
        await relays.hurry()

    assert sorted(id_ for _, id_ in relays.budget.applied) == ["a", "b"]
    assert relays.budget.calls == [3, 1, 1]
    assert await relays.pending() == Pending(0, 1)
    relays.budget.refused_ids = set()
    async with relays.pool.acquire() as connection:
        assert await requeue(connection, TOPIC) == 1
    await relays.deliver()
    assert ("test", "bad") in relays.budget.applied


async def test_an_event_that_breaks_its_call_is_found_and_the_others_go_through(relays: Relays) -> None:
    relays.budget.breaking_ids = {"5"}
    await relays.record(*(str(n) for n in range(9)))

    await relays.deliver()

    assert len(relays.budget.applied) == 8
    assert await relays.pending() == Pending(1, 0)


async def test_an_event_that_is_not_there_is_parked_and_the_others_go_through(
    relays: Relays, books: asyncpg.Connection
) -> None:
    await relays.record("a", "b", "c")
    await books.execute("DELETE FROM usage_events WHERE id = 'b'")

    for _ in range(3):
        await relays.deliver()
        await relays.hurry()

    assert sorted(id_ for _, id_ in relays.budget.applied) == ["a", "c"]
    assert await relays.pending() == Pending(0, 1)
    assert "EVENT_MISSING" in await relays.pool.fetchval("SELECT last_error FROM outbox")


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED],
)
async def test_a_budget_service_out_of_reach_parks_nothing(relays: Relays, code: grpc.StatusCode) -> None:
    relays.budget.refusal_code = code
    relays.budget.refuse_calls = 10
    await relays.record("a", "b")

    for _ in range(10):
        await relays.deliver()
        await relays.hurry()

    assert await relays.pending() == Pending(1, 0)
    await relays.deliver()
    assert await relays.pending() == Pending(0, 0)


@pytest.mark.parametrize("events_a_row", [1, 7, 100])
async def test_no_more_is_locked_than_is_told_of(relays: Relays, events_a_row: int) -> None:
    rows = 400 // events_a_row
    for n in range(rows):
        await relays.record(*(f"{n}-{k}" for k in range(events_a_row)))
    async with relays.pool.acquire() as connection, connection.transaction():
        taken, more = await relaying.take(connection, 150)
        told = sum(len(row.pointers) for row in taken)
        locked = rows - await relays.pool.fetchval(
            "SELECT count(*) FROM (SELECT FROM outbox FOR UPDATE SKIP LOCKED) AS free"
        )

    assert more
    assert 150 <= told < 150 + events_a_row
    assert len(taken) == locked
    async with relays.pool.acquire() as connection, connection.transaction():
        taken, more = await relaying.take(connection, 500)
        assert sum(len(row.pointers) for row in taken) == min(rows, relaying.ROWS_MAX) * events_a_row
        assert more == (events_a_row == 1)


async def test_full_rows_behind_small_ones_do_not_swell_a_delivery(relays: Relays) -> None:
    for n in range(30):
        await relays.record(*(f"{n}-{k}" for k in range(1 if n < 10 else 100)))
    async with relays.pool.acquire() as connection, connection.transaction():
        taken, more = await relaying.take(connection, 1_000)

    assert 1_000 <= sum(len(row.pointers) for row in taken) < 1_100
    assert more


async def test_relays_share_the_work(relays: Relays) -> None:
    await relays.record(*(str(n) for n in range(400)))
    several = [relays.another(batch_max=20) for _ in range(4)]

    async def drain(relay: UsageRelay) -> None:
        while await relay.deliver():
            pass

    await asyncio.gather(*(drain(relay) for relay in several))
    await relays.deliver()

    assert len(relays.budget.applied) == 400
    assert sum(relays.budget.calls) == 400


async def test_what_a_call_may_hold_is_bounded_in_bytes(relays: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    await relays.record(*(str(n) for n in range(10)))
    size = wire.usage_item(recording("0", NOW).usage).ByteSize()
    monkeypatch.setattr("services.metering.relay.CALL_BYTES_MAX", 3 * size)

    await relays.deliver()

    assert relays.budget.calls == [3, 3, 3, 1]


async def test_delivered_through_waits_for_what_is_not_delivered(relays: Relays) -> None:
    await relays.record("a")
    recorded = datetime.now(UTC)
    for _ in range(3):
        await relays.relay.report()
    assert relays.budget.delivered_through is None or relays.budget.delivered_through < recorded

    await relays.deliver()
    await relays.report_past(recorded)

    assert relays.budget.relay == "metering-test"


@pytest.mark.parametrize("parked", [False, True])
async def test_usage_that_fails_holds_back_its_own_organisation_alone(relays: Relays, *, parked: bool) -> None:
    before = datetime.now(UTC)
    relays.budget.refused_ids = {"bad"}
    await relays.record("bad")
    recorded = datetime.now(UTC)
    for _ in range(3 if parked else 1):
        await relays.deliver()
        await relays.hurry()
    assert await relays.pending() == Pending(1 - parked, parked)
    await relays.report_past(recorded)

    assert list(relays.budget.held_back) == ["orgs/acme"]
    assert before < relays.budget.held_back["orgs/acme"] < recorded

    # Sent again it is not delivered yet; delivered, it holds back nothing.
    relays.budget.refused_ids = set()
    async with relays.pool.acquire() as connection:
        await requeue(connection, TOPIC)
    await relays.relay.report()
    assert list(relays.budget.held_back) == ["orgs/acme"]
    await relays.deliver()
    await relays.relay.report()
    assert relays.budget.held_back == {}


async def test_with_too_many_organisations_held_back_nothing_is_said(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.outbox.HELD_BACK_MAX", 0)
    relays.budget.refused_ids = {"bad"}
    await relays.record("bad")
    await relays.deliver()
    for _ in range(3):
        await relays.relay.report()
    assert relays.budget.delivered_through is None


async def test_a_budget_service_with_a_fault_of_its_own_parks_nothing(relays: Relays) -> None:
    relays.budget.breaking_ids = {"a"}
    await relays.record("a", "b")

    for _ in range(10):
        await relays.deliver()
        await relays.hurry()

    assert await relays.pending() == Pending(1, 0)
    assert "INTERNAL" in await relays.pool.fetchval("SELECT last_error FROM outbox")
    relays.budget.breaking_ids = set()
    await relays.deliver()
    assert await relays.pending() == Pending(0, 0)


async def test_delivered_through_waits_for_what_is_not_committed(relays: Relays) -> None:
    """A row that a slow transaction writes is not there to be seen, and yet it was begun before."""
    async with relays.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await record(connection, [recording("slow", NOW)])
        written = datetime.now(UTC)
        for _ in range(4):
            await relays.relay.report()
            await relays.deliver()
        assert relays.budget.delivered_through is None or relays.budget.delivered_through < written
        await transaction.commit()
    await relays.deliver()
    await relays.report_past(written)

    assert ("test", "slow") in relays.budget.applied


async def test_an_idle_metering_goes_on_to_report(metering: Metering) -> None:
    await until(lambda: metering.budget.delivered_through, what="a first report")
    first = metering.budget.delivered_through
    assert first is not None

    await until(lambda: (metering.budget.delivered_through or first) > first, what="a later report")

    assert metering.budget.relay.startswith("metering-")
    assert len(metering.budget.relay) <= 63


async def test_usage_is_delivered_as_soon_as_it_is_committed_through_failures(metering: Metering) -> None:
    metering.budget.lose_answers = 2
    for n in range(5):
        await record_all(metering.stub_for(), [usage_event(f"{n}-{m}") for m in range(20)])

    await until(lambda: len(metering.budget.applied) == 100, what="delivery")
