"""Old months of events go, and nothing else does: their sums, their ids and the audit's totals stay."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.kit.database import create_pool
from services.kit.errors import PurseError
from services.metering.domain.questions import GroupBy, Span, ask
from services.metering.store import audit, export, folding, reports, retention, sealing, upkeep
from services.metering.store.recording import Recorded, record
from services.metering.store.sessions import SessionCounts
from tests.support.databases import Database
from tests.support.metering import recording

NOW = datetime.now(UTC)
KEPT = timedelta(days=120)
OLD = (NOW - timedelta(days=200)).replace(day=10, hour=7, minute=20)
MONTH = OLD.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
NEXT_MONTH = (MONTH + timedelta(days=32)).replace(day=1)


@pytest.fixture
async def pool(metering_database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(metering_database.service_dsn, application_name="test") as made:
        yield made


async def put(pool: asyncpg.Pool, id_: str, at: datetime, **fields: object) -> Recorded:
    async with pool.acquire() as connection, connection.transaction():
        (answer,) = await record(connection, [recording(id_, at, **({"recorded_at": NOW} | fields))])
        assert isinstance(answer, Recorded)
        return answer


async def settle(pool: asyncpg.Pool) -> None:
    """Folds and seals all that is over."""
    while await folding.fold(pool):
        pass
    while await sealing.seal(pool):
        pass


async def totals(pool: asyncpg.Pool) -> list[audit.OrgTotal]:
    async with audit.snapshot(pool, None) as snapshot:
        for check in (
            snapshot.events_without_key,
            snapshot.keys_without_event,
            snapshot.rollups_that_differ,
            snapshot.sessions_that_differ,
            snapshot.kinds_that_differ,
        ):
            assert await check() == audit.Offenders(0, []), check.__name__
        return await snapshot.totals()


async def spent(pool: asyncpg.Pool, span: Span, *, by: GroupBy) -> int:
    question = ask(
        "orgs/acme",
        start=span.start,
        end=span.end,
        group_by=[by],
        zone="UTC",
        page_size=10,
        page_token="",
        now=NOW,
    )
    return sum((await reports.answer(pool, question, SessionCounts())).totals.costs.values())


@pytest.mark.parametrize("has_partition", [True, False])
async def test_a_month_goes_and_its_sums_and_ids_stay(
    pool: asyncpg.Pool, books: asyncpg.Connection, has_partition: bool
) -> None:
    if has_partition:
        await upkeep.ensure_partitions(pool, OLD, NOW)
    for n in range(5):
        await put(pool, f"old{n}", OLD + timedelta(hours=n), session=f"s{n}", extra='{"output_audio_tokens": 5}')
    await put(pool, "new", NOW)
    await settle(pool)
    before = await totals(pool)
    days = Span(MONTH, NEXT_MONTH)
    spent_before = await spent(pool, days, by=GroupBy.DAY)
    assert await spent(pool, days, by=GroupBy.SESSION) == spent_before > 0
    await books.execute("DELETE FROM outbox")

    dropped = await retention.drop_month(pool, KEPT)
    while dropped.month is not None and dropped.month < MONTH:
        dropped = await retention.drop_month(pool, KEPT)

    assert dropped == ("DROPPED", MONTH)
    assert [row["id"] for row in await books.fetch("SELECT id FROM usage_events")] == ["new"]
    assert await totals(pool) == before
    assert await spent(pool, days, by=GroupBy.DAY) == spent_before
    assert (await put(pool, "old0", OLD, session="s0", extra='{"output_audio_tokens": 5}')).duplicate
    with pytest.raises(PurseError) as refused:
        await spent(pool, days, by=GroupBy.SESSION)
    assert refused.value.reason == "EVENTS_DROPPED"
    with pytest.raises(PurseError):
        await spent(pool, Span(OLD, NEXT_MONTH), by=GroupBy.DAY)
    with pytest.raises(PurseError):
        await export.begin(pool, "orgs/acme", Span(OLD, NOW), of_all_kept=False)
    rest = await export.begin(pool, "orgs/acme", Span(OLD, NOW + timedelta(hours=1)), of_all_kept=True)
    assert [row.id for _, row in (await export.page(pool, rest, export.Place(OLD, 0))).rows] == ["new"]


async def test_what_is_still_needed_stays(pool: asyncpg.Pool, books: asyncpg.Connection) -> None:
    await put(pool, "a", OLD)
    await put(pool, "b", OLD, cost_nanos=None, currency="", rate_card_version="")

    assert (await retention.drop_month(pool, KEPT)).outcome == "UNDELIVERED"
    await books.execute("DELETE FROM outbox WHERE topic = 'usage'")
    assert (await retention.drop_month(pool, KEPT)).outcome == "UNRATED"
    await books.execute("DELETE FROM unrated_usage")
    assert (await retention.drop_month(pool, KEPT)).outcome == "UNSEALED"
    await settle(pool)
    await put(pool, "late", OLD)
    await books.execute("DELETE FROM outbox WHERE topic = 'usage'")
    assert (await retention.drop_month(pool, KEPT)).outcome == "UNSEALED"
    await folding.fold(pool)
    assert (await retention.drop_month(pool, KEPT)).outcome == "UNSEALED"
    await settle(pool)
    await books.execute("UPDATE usage_seals SET cost_nanos = cost_nanos + 1")
    assert (await retention.drop_month(pool, KEPT)).outcome == "SUMS_DIFFER"
    await books.execute("UPDATE usage_seals SET cost_nanos = cost_nanos - 1")
    assert await books.fetchval("SELECT count(*) FROM usage_events") == 3
    assert (await retention.drop_month(pool, KEPT)).outcome == "DROPPED"
    assert (await retention.drop_month(pool, KEPT)).outcome == "NONE_DUE"


async def test_what_is_young_stays_whoever_asks(pool: asyncpg.Pool) -> None:
    await upkeep.ensure_partitions(pool, NOW - timedelta(days=91), NOW)
    await put(pool, "young", NOW - timedelta(days=90))
    await settle(pool)
    await pool.execute("DELETE FROM outbox")

    assert await retention.drop_month(pool, KEPT) == ("NONE_DUE", None)
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await retention.drop_month(pool, timedelta(days=1))
    for forbidden in (
        "DELETE FROM usage_events",
        "DROP TABLE usage_events_default",
        "UPDATE usage_retention SET events_from = now()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(forbidden)


async def test_several_replicas_drop_a_month_once(pool: asyncpg.Pool) -> None:
    await upkeep.ensure_partitions(pool, OLD, OLD)
    await put(pool, "a", OLD)
    await settle(pool)
    await pool.execute("DELETE FROM outbox")

    outcomes = [one.outcome for one in await asyncio.gather(*(retention.drop_month(pool, KEPT) for _ in range(4)))]

    assert outcomes.count("DROPPED") == 1
    assert set(outcomes) <= {"DROPPED", "BUSY", "NONE_DUE"}
