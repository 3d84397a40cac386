"""Partitions are made ahead, and ids are forgotten when no event can have them any more."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.kit.database import create_pool
from services.metering.domain.usage import key_of
from services.metering.store import upkeep
from services.metering.store.recording import Recorded, record
from tests.support.databases import Database
from tests.support.metering import recording

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
async def pool(metering_database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(metering_database.service_dsn, application_name="test") as made:
        yield made


async def put(pool: asyncpg.Pool, id_: str, at: datetime) -> Recorded | Exception:
    async with pool.acquire() as connection, connection.transaction():
        (answer,) = await record(connection, [recording(id_, at)])
        return answer


async def partition_of(books: asyncpg.Connection, id_: str) -> str:
    name: str = await books.fetchval("SELECT tableoid::regclass::text FROM usage_events WHERE id = $1", id_)
    return name


async def test_months_are_made_once_from_the_first_to_the_last(pool: asyncpg.Pool, books: asyncpg.Connection) -> None:
    assert await upkeep.ensure_partitions(pool, NOW - timedelta(days=91), NOW + timedelta(days=62)) == 6
    assert await upkeep.ensure_partitions(pool, NOW - timedelta(days=91), NOW + timedelta(days=62)) == 0

    for id_, at in (
        ("a", NOW),
        ("b", datetime(2026, 8, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("c", datetime(2027, 1, 1, tzinfo=UTC)),
    ):
        await put(pool, id_, at)

    assert await partition_of(books, "a") == "usage_events_2026_11"
    assert await partition_of(books, "b") == "usage_events_2026_08"
    assert await partition_of(books, "c") == "usage_events_2027_01"


async def test_a_month_without_a_partition_is_recorded_all_the_same_and_stays(
    pool: asyncpg.Pool, books: asyncpg.Connection
) -> None:
    await put(pool, "a", NOW)

    assert await upkeep.ensure_partitions(pool, NOW, NOW + timedelta(days=31)) == 1

    assert await partition_of(books, "a") == "usage_events_default"
    again = await put(pool, "a", NOW)
    assert isinstance(again, Recorded)
    assert again.duplicate


async def test_a_range_that_is_absurd_is_refused(pool: asyncpg.Pool) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await upkeep.ensure_partitions(pool, NOW, NOW + timedelta(days=10_000))


async def test_ids_are_forgotten_after_every_event_that_could_have_them(
    pool: asyncpg.Pool, books: asyncpg.Connection
) -> None:
    for id_ in ("old", "young"):
        await put(pool, id_, NOW)
    age = "UPDATE usage_keys SET recorded_at = $1 WHERE key = $2"
    await books.execute(age, NOW - timedelta(days=92), key_of("test", "old"))
    await books.execute(age, NOW - timedelta(days=90), key_of("test", "young"))

    assert await upkeep.forget_keys(pool, NOW) is False

    assert [row["key"] for row in await books.fetch("SELECT key FROM usage_keys")] == [key_of("test", "young")]


async def test_the_relays_name_stays(pool: asyncpg.Pool) -> None:
    assert await upkeep.relay_name(pool) == await upkeep.relay_name(pool)
