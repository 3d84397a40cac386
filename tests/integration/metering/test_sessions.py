"""Distinct sessions are those of the events, whatever is folded, remembered, or came late."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.kit.database import create_pool
from services.metering.domain.questions import Span
from services.metering.store import folding, windows
from services.metering.store.recording import Recording, record
from services.metering.store.sessions import SessionCounts
from tests.support.databases import Database
from tests.support.metering import recording

NOW = datetime.now(UTC)
SUBJECTS = ["orgs/acme", "orgs/acme/teams/t", "orgs/acme/teams/t/agents/a", "orgs/acme/teams/tt"]
HOURS = 60


@pytest.fixture
async def pool(metering_database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(metering_database.service_dsn, application_name="test") as made:
        yield made


async def keep(pool: asyncpg.Pool, items: list[Recording]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await record(connection, items)


async def fold_all(pool: asyncpg.Pool) -> None:
    while await folding.fold(pool):
        pass


def some(rng: random.Random, prefix: str, hours: tuple[int, int], count: int) -> list[Recording]:
    return [
        recording(
            f"{prefix}{n}",
            NOW - timedelta(hours=rng.uniform(*hours)),
            subject=rng.choice(SUBJECTS),
            model=rng.choice(["x", "y"]),
            session=rng.choice(["", *(f"s{k}" for k in range(25))]),
        )
        for n in range(count)
    ]


async def check(pool: asyncpg.Pool, items: list[Recording], spans: list[Span], counts: SessionCounts) -> None:
    for subject in SUBJECTS:
        mine = [
            item.usage
            for item in items
            if item.usage.session and (item.usage.subject == subject or item.usage.subject.startswith(f"{subject}/"))
        ]
        expected = [
            len({usage.session for usage in mine if span.start <= usage.occurred_at < span.end}) for span in spans
        ]
        found = await windows.totals_of(pool, subject, spans, counts)
        assert [totals.sessions for totals in found] == expected, subject


async def test_sessions_are_counted_exactly(pool: asyncpg.Pool) -> None:
    rng = random.Random(7)  # noqa: S311 - no secret
    day = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    spans = [
        Span(day - timedelta(days=2), day + timedelta(days=1)),
        Span(day - timedelta(days=1, minutes=30), day + timedelta(days=1)),
        Span(NOW - timedelta(hours=30), NOW - timedelta(hours=10)),
        Span(NOW - timedelta(minutes=10), NOW + timedelta(minutes=1)),
    ]
    counts = SessionCounts()
    items = some(rng, "a", (0, HOURS), 40)
    await keep(pool, items)
    await check(pool, items, spans, counts)
    for turn in range(3):
        await fold_all(pool)
        await check(pool, items, spans, counts)
        # What comes to folded hours, with new sessions and with known ones, then what comes now.
        for prefix, hours in (("late", (2, HOURS)), ("new", (0, 1))):
            more = some(rng, f"{prefix}{turn}", hours, 6)
            await keep(pool, more)
            items += more
            await check(pool, items, spans, counts)


async def test_a_count_is_remembered_and_goes_on(pool: asyncpg.Pool) -> None:
    span = Span(NOW - timedelta(days=3), NOW + timedelta(days=1))
    old = [recording(f"o{n}", NOW - timedelta(hours=30 + n), session=f"s{n}") for n in range(5)]
    recent = [recording(f"r{n}", NOW - timedelta(hours=4 + n), session=f"s{n + 3}") for n in range(5)]
    await keep(pool, old + recent)
    await fold_all(pool)
    counts = SessionCounts()
    hour = NOW.replace(minute=0, second=0, microsecond=0)
    # As it was when only the old ones were folded.
    earlier = Span(span.start, hour - timedelta(hours=20))
    assert [one.sessions for one in await windows.totals_of(pool, "orgs/acme", [earlier], counts)] == [5]
    assert [one.sessions for one in await windows.totals_of(pool, "orgs/acme", [span], counts)] == [8]
    # A shorter range neither takes the longer one's count nor takes its place.
    assert [one.sessions for one in await windows.totals_of(pool, "orgs/acme", [earlier, span], counts)] == [5, 8]
