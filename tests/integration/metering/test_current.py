"""Today's and this month's totals are those of the events, whatever a process remembers of them."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.kit.database import create_pool
from services.metering.domain.kinds import extra_json
from services.metering.domain.questions import Span, Totals
from services.metering.store import current, folding
from services.metering.store.current import CurrentTotals
from services.metering.store.recording import Recording, record
from services.metering.store.sessions import SessionCounts
from tests.support.databases import Database
from tests.support.metering import recording

NOW = datetime.now(UTC)
DAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
HOUR = NOW.replace(minute=0, second=0, microsecond=0)
SUBJECTS = ["orgs/acme", "orgs/acme/teams/t", "orgs/acme/teams/t/agents/a", "orgs/acme/teams/tt"]
SPANS = [Span(HOUR - timedelta(hours=5, minutes=30), HOUR + timedelta(hours=18, minutes=30)),
         Span(DAY - timedelta(days=9), DAY + timedelta(days=20))]  # fmt: skip


@pytest.fixture
async def pool(metering_database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(metering_database.service_dsn, application_name="test") as made:
        yield made


@pytest.fixture
def remembered() -> CurrentTotals:
    return CurrentTotals(SessionCounts())


async def keep(pool: asyncpg.Pool, items: list[Recording]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await record(connection, items)


async def fold_all(pool: asyncpg.Pool) -> None:
    while await folding.fold(pool):
        pass


def some(rng: random.Random, prefix: str, hours: float, count: int) -> list[Recording]:
    made = []
    for n in range(count):
        item = recording(
            f"{prefix}{n}",
            NOW - timedelta(hours=rng.uniform(0, hours)),
            subject=rng.choice(SUBJECTS),
            model=rng.choice(["x", "y"]),
            session=rng.choice(["", *(f"s{k}" for k in range(30))]),
            cost_nanos=rng.choice([1, 10**9]),
        )
        extra = extra_json(rng.choice([(), (("audio_ms", 7),), (("web_searches", 1),)]))
        made.append(item._replace(usage=item.usage._replace(extra=extra)))
    return made


def sums_of(items: list[Recording], subject: str, span: Span) -> tuple[object, ...]:
    mine = [
        item.usage
        for item in items
        if span.start <= item.usage.occurred_at < span.end
        and (item.usage.subject == subject or item.usage.subject.startswith(f"{subject}/"))
    ]
    kinds = [usage.extra or "" for usage in mine]
    return (
        len(mine),
        sum(usage.input_tokens for usage in mine),
        sum(usage.cost_nanos or 0 for usage in mine),
        len({usage.session for usage in mine if usage.session}),
        sum("audio_ms" in one for one in kinds) * 7,
        sum("web_searches" in one for one in kinds),
    )


def told(totals: Totals) -> tuple[object, ...]:
    return (
        totals.operations,
        totals.tokens[0],
        sum(totals.costs.values()),
        totals.sessions,
        totals.extra.get("audio_ms", 0),
        totals.extra.get("web_searches", 0),
    )


async def check(pool: asyncpg.Pool, remembered: CurrentTotals, items: list[Recording]) -> None:
    for subject in SUBJECTS:
        for spans in (SPANS, SPANS[:1]):
            found = await remembered.totals_of(pool, subject, spans)
            assert [told(one) for one in found] == [sums_of(items, subject, span) for span in spans], subject


async def test_totals_are_those_of_the_events_at_every_step(pool: asyncpg.Pool, remembered: CurrentTotals) -> None:
    rng = random.Random(11)  # noqa: S311 - no secret
    items: list[Recording] = []
    await check(pool, remembered, items)
    for turn in range(4):
        # Of all hours: late once they are folded; then of hours that are not folded, with sessions known and new.
        for name, hours, count in (("any", 12 * 24.0, 25), ("now", 0.4, 10), ("again", 0.4, 3)):
            more = some(rng, f"{name}{turn}-", hours, count)
            await keep(pool, more)
            items += more
            await check(pool, remembered, items)
        for _ in range(rng.randrange(1, 4)):
            await folding.fold(pool)
            await check(pool, remembered, items)
        await fold_all(pool)
        await check(pool, remembered, items)
        # Late, and folded again before anybody asks.
        more = some(rng, f"unseen{turn}-", 12 * 24.0, 10)
        await keep(pool, more)
        items += more
        await fold_all(pool)
        await check(pool, remembered, items)


@pytest.mark.parametrize("subject", [SUBJECTS[0], SUBJECTS[2]])
async def test_a_session_of_the_hour_in_which_a_day_begins_is_counted_once(
    pool: asyncpg.Pool, remembered: CurrentTotals, subject: str
) -> None:
    """Days begin within an hour in many zones: a session of that hour may be the old day's, the new day's, or both."""
    begin = SPANS[0].start
    before, after = begin - timedelta(minutes=20), begin + timedelta(minutes=20)
    items = [
        recording("old", before, subject=subject, session="of yesterday"),
        recording("new", after, subject=subject, session="of today"),
        recording("both1", before, subject=subject, session="of both"),
        recording("both2", after, subject=subject, session="of both"),
        recording("sibling", after, subject=SUBJECTS[3], session="of yesterday"),
    ]
    await keep(pool, items)
    await fold_all(pool)
    await check(pool, remembered, items)
    now = datetime.now(UTC)  # of an hour that is not folded, however long ago the tests began
    more = [recording(f"again{n}", now, subject=subject, session=item.usage.session) for n, item in enumerate(items)]
    await keep(pool, more)
    await check(pool, remembered, items + more)


async def test_what_is_remembered_saves_reading_it(
    pool: asyncpg.Pool, remembered: CurrentTotals, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = some(random.Random(3), "a", 100, 50)  # noqa: S311 - no secret
    await keep(pool, items)
    await fold_all(pool)
    await check(pool, remembered, items)

    async def read_again(*_: object) -> None:
        raise AssertionError("all was read again")

    monkeypatch.setattr(CurrentTotals, "_anew", read_again)
    # Not when the tests began: that hour may have been folded since.
    new = recording("new", datetime.now(UTC), subject=SUBJECTS[2], session="never seen")
    await keep(pool, [new])
    await check(pool, remembered, [*items, new])


async def test_a_session_of_a_transaction_that_ends_late_is_counted(
    pool: asyncpg.Pool, remembered: CurrentTotals
) -> None:
    first, early, late = (recording(f"r{n}", NOW, session=f"s{n}") for n in range(3))
    await keep(pool, [first])
    await check(pool, remembered, [first])
    async with pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        await record(slow, [late])
        await asyncio.wait_for(keep(pool, [early._replace(usage=early.usage._replace(model="other"))]), 5)
        await check(pool, remembered, [first, early])
        await transaction.commit()
    await check(pool, remembered, [first, early, late])


async def test_more_sessions_than_are_remembered_are_counted_all_the_same(
    pool: asyncpg.Pool, remembered: CurrentTotals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current, "NAMES_MAX", 3)
    monkeypatch.setattr(current, "ALL_NAMES_MAX", 4)
    items = [recording(f"r{n}", NOW, session=f"s{n}", subject=SUBJECTS[n % 2]) for n in range(3)]
    await keep(pool, items)
    await check(pool, remembered, items)
    more = [recording(f"m{n}", NOW, session=f"t{n}", subject=SUBJECTS[n % 2]) for n in range(2)]
    await keep(pool, more)
    await check(pool, remembered, items + more)
