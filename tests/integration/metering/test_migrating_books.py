"""Books of the first schema, undelivered usage included, are the same books after all migrations."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from pursestrings.budget.v1 import budget_pb2_grpc
from services.kit.channel import channel
from services.kit.database import create_pool
from services.kit.migrate import migrate, migrations_dir
from services.metering.relay import UsageRelay
from services.metering.store import audit, folding, sealing
from services.metering.store.recording import Recorded, record
from tests.support.databases import Database
from tests.support.metering import FakeBudget, recording, running_budget

FIRST = ("0001_usage.sql", "0010_kinds_and_corrections.sql")
NOW = datetime.now(UTC).replace(microsecond=0)
EVENTS = 600
UNDELIVERED = 250

# As that version wrote: a key, an event, a row of the outbox with the message in it, and the sums.
_WRITE = (
    """
    INSERT INTO usage_events (
        org, occurred_at, source, id, subject, provider, model, given_provider, given_model, operation, labels,
        input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, requests, cost_nanos,
        currency, rate_card_version, session, run, effort, failed, status, reservation, final, recorded_at)
    SELECT 'acme', $1::timestamptz - n * interval '3 hours', 'test', 'e' || n, 'orgs/acme/agents/bot', 'anthropic',
        'claude-sonnet-4-5', '', 'claude-sonnet-4-5', 'chat', '{}', 1000, 0, 0, 100, 0, 1, 4500000, 'USD', 'v1',
        's' || n % 9, '', '', false, '', '', true, $1::timestamptz - n * interval '3 hours'
    FROM generate_series(0, $2::bigint - 1) AS n
    """,
    """
    INSERT INTO usage_key (org, source, id, payload_hash, occurred_at, recorded_at)
    SELECT org, source, id, '[]', occurred_at, recorded_at FROM usage_events
    """,
    """
    INSERT INTO usage_rollups (
        org, bucket, subject, provider, model, operation, currency, input_tokens, cache_read_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, requests, operations, errors, cost_nanos)
    SELECT org, date_bin('15 minutes', occurred_at, 'epoch'::timestamptz), subject, provider, model, operation,
        currency, sum(input_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(output_tokens),
        sum(reasoning_tokens), sum(requests), count(*), 0, sum(cost_nanos)
    FROM usage_events GROUP BY 1, 2, 3, 4, 5, 6, 7
    """,
    """
    INSERT INTO usage_sessions (org, bucket, subject, provider, model, operation, session)
    SELECT DISTINCT org, date_bin('15 minutes', occurred_at, 'epoch'::timestamptz), subject, provider, model,
        operation, session FROM usage_events
    """,
)
_TELL = """
INSERT INTO outbox (org, topic, key, payload)
SELECT org, 'usage', source || '/' || id, 'a message' FROM usage_events ORDER BY occurred_at DESC LIMIT $1
"""


async def write_old_books(made: Database, folder: Path) -> None:
    """Puts the database back to the first schema and writes books in it."""
    admin = await asyncpg.connect(made.admin_dsn)
    await admin.execute(
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner; "
        "GRANT USAGE ON SCHEMA public TO metering_service"
    )
    await admin.close()
    for name in FIRST:
        shutil.copy(migrations_dir("metering") / name, folder / name)
    assert await migrate("metering", made.owner_dsn, directory=folder) == list(FIRST)
    owner = await asyncpg.connect(made.owner_dsn)
    # The older months are in partitions; the last one is in the default partition, as where a loop had failed.
    await owner.execute("SELECT ensure_usage_partitions($1, $2)", NOW - timedelta(days=91), NOW - timedelta(days=35))
    await owner.execute(_WRITE[0], NOW, EVENTS)
    for statement in _WRITE[1:]:
        await owner.execute(statement)
    await owner.execute(_TELL, UNDELIVERED)
    await owner.close()


async def test_old_books_are_told_deduplicated_and_audited(database: Callable[[str], Database], tmp_path: Path) -> None:
    made = database("metering")
    await write_old_books(made, tmp_path)

    await migrate("metering", made.owner_dsn)

    budget = FakeBudget()
    async with (
        running_budget(budget) as address,
        channel(address, None) as open_channel,
        await create_pool(made.service_dsn, application_name="test") as pool,
    ):
        await assert_true(pool)
        old = NOW - timedelta(hours=30)
        async with pool.acquire() as connection, connection.transaction():
            again, new = await record(connection, [recording("e10", old), recording("new", NOW)])
        assert isinstance(again, Recorded)
        assert isinstance(new, Recorded)
        assert (again.duplicate, new.duplicate) == (True, False)

        relay = UsageRelay(pool, budget_pb2_grpc.BudgetServiceStub(open_channel), name="test")
        while await relay.deliver():
            pass
        assert {id_ for _, id_ in budget.applied} == {"new", *(f"e{n}" for n in range(UNDELIVERED))}
        assert await pool.fetchval("SELECT count(*) FROM outbox") == 0

        while await folding.fold(pool):
            pass
        while await sealing.seal(pool):
            pass
        assert await assert_true(pool) == EVENTS + 1


async def assert_true(pool: asyncpg.Pool) -> int:
    """That the books hold; returns how many events they have."""
    async with audit.snapshot(pool, None) as snapshot:
        for check in (
            snapshot.events_without_key,
            snapshot.keys_without_event,
            snapshot.rollups_that_differ,
            snapshot.sessions_that_differ,
        ):
            assert await check() == audit.Offenders(0, []), check.__name__
        (total,) = await snapshot.totals()
        assert total.cost_nanos == 4_500_000 * total.events
        return total.events
