"""The audit finds sums of hours, days and subtrees, and folded sessions, that are not what they were folded from."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.kit.database import create_pool
from services.metering.store import audit, folding
from services.metering.store.audit import Offenders
from services.metering.store.recording import record
from tests.support.databases import Database
from tests.support.metering import recording

NOW = datetime.now(UTC)
FOLDS, SCOPES, SESSIONS = "I2.folds_equal_rollups", "I2.scopes_equal_folds", "I2.folded_sessions"


async def found(pool: asyncpg.Pool, org: str | None = None) -> dict[str, Offenders]:
    async with audit.snapshot(pool, org) as snapshot:
        return {name: offenders for name, _, offenders in await snapshot.folds_that_differ()}


async def failing(pool: asyncpg.Pool, org: str | None = None) -> list[str]:
    return [name for name, offenders in (await found(pool, org)).items() if offenders.count]


@pytest.mark.parametrize(
    ("breaks", "expected"),
    [
        ("UPDATE usage_periods SET cost_nanos = cost_nanos + 1 WHERE hours = 1", [FOLDS, SCOPES]),
        ("DELETE FROM usage_periods WHERE hours = 24", [FOLDS, SCOPES]),
        ("UPDATE usage_scopes SET errors = errors + 1 WHERE hours = 24 AND scope = 'orgs/acme'", [SCOPES]),
        ("DELETE FROM usage_scope_sessions WHERE scope = 'orgs/acme' AND session = 's1'", [SESSIONS]),
        (
            "INSERT INTO usage_scope_sessions SELECT org, scope, bucket, session || 'x' FROM usage_scope_sessions",
            [SESSIONS],
        ),
    ],
)
async def test_a_broken_fold_is_found(
    metering_database: Database, books: asyncpg.Connection, breaks: str, expected: list[str]
) -> None:
    async with await create_pool(metering_database.service_dsn, application_name="test") as pool:

        async def keep(prefix: str, hours: int) -> None:
            items = [
                recording(
                    f"{prefix}{n}",
                    NOW - timedelta(hours=hours * n),
                    subject=f"orgs/acme/teams/t{n % 2}/agents/a",
                    session=f"s{n % 3}",
                )
                for n in range(12)
            ]
            async with pool.acquire() as connection, connection.transaction():
                await record(connection, items)

        await keep("a", 7)
        assert await failing(pool) == []
        while await folding.fold(pool):
            pass
        assert await failing(pool) == []
        await keep("late", 5)  # marked, so it is not missed
        assert await failing(pool) == []
        while await folding.fold(pool):
            pass
        assert await failing(pool) == []

        await books.execute(breaks)

        assert await failing(pool) == expected
        assert await failing(pool, "acme") == expected
        assert await failing(pool, "other") == []
        (first, *_) = [one for one in (await found(pool)).values() if one.count]
        assert first.names[0].startswith("orgs/acme")
