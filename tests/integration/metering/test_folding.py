"""Answers are the sums of the events, whatever is folded, is about to be, or came late."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.kit.database import create_pool
from services.kit.windows import zone_info
from services.metering.domain.questions import Filter, GroupBy, Span, ask
from services.metering.store import folding, reports, windows
from services.metering.store.recording import Recording, record
from services.metering.store.sessions import SessionCounts
from tests.support.databases import Database
from tests.support.metering import recording

SUBJECTS = [
    "orgs/acme",
    "orgs/acme/teams/t",
    "orgs/acme/teams/t/agents/a",
    "orgs/acme/teams/t/agents/a/agents/b",
    "orgs/acme/teams/tt/agents/teams",
    "orgs/acme/agents/bot",
]
TEAMS = {
    subject: "/".join(subject.split("/")[:4]) if subject.split("/")[2:3] == ["teams"] else "" for subject in SUBJECTS
}
AGENTS = {
    "orgs/acme": "",
    "orgs/acme/teams/t": "",
    "orgs/acme/teams/t/agents/a": "orgs/acme/teams/t/agents/a",
    "orgs/acme/teams/t/agents/a/agents/b": "orgs/acme/teams/t/agents/a",
    "orgs/acme/teams/tt/agents/teams": "orgs/acme/teams/tt/agents/teams",
    "orgs/acme/agents/bot": "orgs/acme/agents/bot",
}
NOW = datetime.now(UTC)


@pytest.fixture
async def pool(metering_database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(metering_database.service_dsn, application_name="test") as made:
        yield made


async def fold_all(pool: asyncpg.Pool) -> None:
    while await folding.fold(pool):
        pass


async def keep(pool: asyncpg.Pool, items: list[Recording]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await record(connection, items)


def some(rng: random.Random, prefix: str, count: int) -> list[Recording]:
    return [
        recording(
            f"{prefix}{n}",
            NOW - timedelta(seconds=rng.choice([3_600, 90_000, 400_000]) * rng.random()),
            subject=rng.choice(SUBJECTS),
            model=rng.choice(["x", "y"]),
            cost_nanos=rng.choice([-3, 1, 10**9, None]),
            currency="",
            run=rng.choice(["", "r1", "r2"]),
            labels=rng.choice(["{}", '{"team": "red"}', '{"team": "blue"}']),
        )
        for n in range(count)
    ]


def fixed(items: list[Recording]) -> list[Recording]:
    return [
        item._replace(usage=item.usage._replace(currency="" if item.usage.cost_nanos is None else "USD"))
        for item in items
    ]


async def check(pool: asyncpg.Pool, items: list[Recording], rng: random.Random) -> None:
    for zone in ("UTC", "America/New_York", "Asia/Kathmandu"):
        subject = rng.choice(SUBJECTS)
        start, end = sorted(NOW - timedelta(seconds=rng.uniform(0, 450_000)) for _ in range(2))
        chosen = [
            item.usage
            for item in items
            if start <= item.usage.occurred_at < end
            and (item.usage.subject == subject or item.usage.subject.startswith(f"{subject}/"))
        ]
        for group_by, key_of in (
            (GroupBy.DAY, lambda u: u.occurred_at.astimezone(zone_info(zone)).date().isoformat()),  # noqa: B023
            (GroupBy.TEAM, lambda u: TEAMS[u.subject]),
            (GroupBy.AGENT, lambda u: AGENTS[u.subject]),
            (GroupBy.RUN, lambda u: u.run),
            (GroupBy.LABEL, lambda u: {"{": "", "r": "red", "b": "blue"}[u.labels[10:11] or "{"]),
            (GroupBy.MONTH, lambda u: u.occurred_at.astimezone(zone_info(zone)).date().isoformat()[:7]),  # noqa: B023
        ):
            expected: dict[str, list[int]] = {}
            for one in chosen:
                sums = expected.setdefault(key_of(one), [0, 0])
                sums[0] += 1
                sums[1] += one.cost_nanos or 0
            question = ask(
                subject,
                start=start,
                end=end,
                group_by=[group_by],
                zone=zone,
                page_size=1_000,
                page_token="",
                now=end,
                label_key="team" if group_by is GroupBy.LABEL else "",
            )
            page = await reports.answer(pool, question, SessionCounts())
            found = {
                group.keys[0]: [group.totals.operations, sum(group.totals.costs.values())] for group in page.groups
            }
            assert found == expected, (group_by, zone)
            assert page.totals.operations == len(chosen)
            assert sum(page.totals.costs.values()) == sum(one.cost_nanos or 0 for one in chosen)


async def test_answers_are_the_sums_of_events_at_every_step_of_folding(pool: asyncpg.Pool) -> None:
    rng = random.Random(4)  # noqa: S311 - no secret
    items: list[Recording] = []
    for step in range(6):
        new = fixed(some(rng, f"{step}-", 60))
        await keep(pool, new)
        items += new
        await check(pool, items, rng)
        for _ in range(rng.randrange(1, 5)):
            await folding.fold(pool)
            await check(pool, items, rng)
    await fold_all(pool)
    await check(pool, items, rng)
    assert await pool.fetchval("SELECT count(*) FROM usage_late") == 0
    assert await pool.fetchval("SELECT count(*) FROM usage_scopes WHERE hours = 24")


async def test_usage_in_flight_while_its_hour_is_folded_is_not_lost(pool: asyncpg.Pool) -> None:
    """A writer that began before the hour closed is waited for; one that began later leaves a mark that stays."""
    at = NOW - timedelta(hours=30)
    await keep(pool, [recording("first", at)])
    async with pool.acquire() as before, before.transaction():
        await record(before, [recording("before", at)])
        await fold_all(pool)
        assert (await pool.fetchval("SELECT folded FROM usage_fold")).year == 1970
    async with pool.acquire() as after:
        transaction = after.transaction()
        await transaction.start()
        await record(after, [recording("after", at)])
        await pool.execute("UPDATE usage_fold SET barrier = '3'")  # as if it had begun after the fence
        await fold_all(pool)
        assert (await pool.fetchval("SELECT folded FROM usage_fold")).year > 1970
        assert await pool.fetchval("SELECT operations FROM usage_scopes WHERE scope = 'orgs/acme' AND hours = 1") == 2
        await transaction.commit()
    span = Span(at - timedelta(hours=2), at + timedelta(hours=2))
    assert (await windows.totals_of(pool, "orgs/acme", [span], SessionCounts()))[0].operations == 3
    await fold_all(pool)
    assert (await windows.totals_of(pool, "orgs/acme", [span], SessionCounts()))[0].operations == 3
    assert await pool.fetchval("SELECT operations FROM usage_scopes WHERE scope = 'orgs/acme' AND hours = 1") == 3


async def test_series_have_a_group_for_every_time_and_filters_choose(pool: asyncpg.Pool) -> None:
    day = datetime(2026, 10, 23, 22, tzinfo=UTC)  # the day before the clocks change in Berlin
    await keep(pool, [recording("a", day, model="x"), recording("b", day + timedelta(days=2), model="y", run="r")])
    await fold_all(pool)
    fields = {
        "start": day,
        "end": day + timedelta(days=3, hours=1),
        "zone": "Europe/Berlin",
        "page_token": "",
        "now": NOW,
    }

    async def groups(**more: object) -> dict[tuple[str, ...], int]:
        page = await reports.answer(pool, ask("orgs/acme", **{"page_size": 100, **fields, **more}), SessionCounts())  # type: ignore[arg-type]
        return {group.keys: group.totals.operations for group in page.groups}

    days = await groups(group_by=[GroupBy.DAY, GroupBy.MODEL], fill_zeros=True)
    assert list(days) == [(f"2026-10-{n}", f"anthropic/{model}") for n in (24, 25, 26) for model in ("x", "y")]
    assert [key for key, count in days.items() if count] == [
        ("2026-10-24", "anthropic/x"),
        ("2026-10-25", "anthropic/y"),  # 48 hours later, for the 25th has 25
    ]
    hours = await groups(group_by=[GroupBy.HOUR], fill_zeros=True)
    assert len(hours) == 73
    assert hours["2026-10-23T22:00Z",] == 1
    assert await groups(group_by=[GroupBy.MODEL], wanted=Filter(models=("anthropic/y",))) == {("anthropic/y",): 1}
    assert await groups(group_by=[GroupBy.MODEL], wanted=Filter(runs=("r",))) == {("anthropic/y",): 1}
    assert await groups(group_by=[GroupBy.MODEL], wanted=Filter(labels=(("a", "b"),))) == {}
