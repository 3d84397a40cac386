"""How long questions take over ten million events of one organisation, and today's while usage arrives.

Events are generated inside the database, a day a statement, as are their rollups and sessions; that those statements
write what the service does is checked first, on events that the service recorded itself. The service folds the rollups,
and its answers are compared with the events.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import asyncpg

from embedded.suite import Suite
from proofs.metering import ingest
from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from services.kit.channel import channel

DAYS: Final = 30
AGENTS: Final = 50
QUERIES: Final = 60
"""How many questions by day and model are timed."""
TODAYS: Final = 200
"""How many of today and this month are: they are short, so a moment's noise is a larger part of them."""
ARRIVING_PER_S: Final = 2_000
_BATCH: Final = 100
_ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
_FOLD_TIMEOUT_S: Final = 900.0
_LOAD_TIMEOUT_S: Final = 600.0

_EVENTS: Final = """
INSERT INTO usage_events (
    org, occurred_at, source, id, subject, provider, model, given_provider, given_model, operation, labels,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, requests,
    cost_nanos, currency, rate_card_version, session, run, effort, failed, status, reservation, final, recorded_at, seq)
SELECT $1, at, 'prove', n::text, 'orgs/' || $1 || '/teams/t' || n % 5 || '/agents/a' || n % 50,
    (ARRAY['anthropic', 'openai', 'google'])[1 + n % 3], 'model-' || n % 6, '', 'model-' || n % 6,
    (ARRAY['chat', 'plan'])[1 + n / 7 % 2], '{}', 1000 + n % 977, n % 100, 0, 100 + n % 89, 0, 1,
    1000000 + n % 7919, 'USD', 'v1', 's' || n % 50 || '-' || n / 5000, 'r' || n / 20000, '', n % 97 = 0, '', '', true,
    at, n
FROM (SELECT n, $4::timestamptz + (n - $2::bigint) * $5::interval AS at FROM generate_series($2::bigint, $3::bigint) AS n) AS g
"""  # noqa: E501
_ROLLUPS: Final = """
INSERT INTO {table} (
    org, bucket, subject, provider, model, operation, currency, input_tokens, cache_read_tokens, cache_write_tokens,
    output_tokens, reasoning_tokens, requests, operations, errors, cost_nanos)
SELECT org, date_bin('15 minutes', occurred_at, 'epoch'::timestamptz), subject, provider, model, operation, currency,
    sum(input_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
    sum(requests), sum(operations), sum(CASE WHEN failed THEN operations ELSE 0 END), coalesce(sum(cost_nanos), 0)
FROM usage_events WHERE org = $1 AND occurred_at >= $2 AND occurred_at < $3 GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY 2, 3, 4, 5, 6
"""
_SESSIONS: Final = """
INSERT INTO {table} (org, bucket, subject, provider, model, operation, session)
SELECT DISTINCT org, date_bin('15 minutes', occurred_at, 'epoch'::timestamptz), subject, provider, model, operation,
    session
FROM usage_events WHERE org = $1 AND occurred_at >= $2 AND occurred_at < $3 AND session <> ''
ORDER BY 2, 3, 4, 5, 6
"""

Stub: TypeAlias = "metering_pb2_grpc.MeteringServiceAsyncStub"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long questions took, in milliseconds."""

    query_p95_ms: float
    query_p50_ms: float
    today_p95_ms: float
    today_p50_ms: float
    arrived_per_s: float


async def measure(suite: Suite, say: Say, *, events: int) -> Latency:
    """Loads, checks and measures on a suite that runs PostgreSQL and metering."""
    org = f"queries-{time.time_ns():x}"
    token = suite.mint("orgs/-", ["service"])
    owner = await asyncpg.connect(suite.dsn("metering", "owner"), command_timeout=600)
    try:
        async with channel(suite.address("metering"), token) as opened:
            await _check_statements(owner, metering_pb2_grpc.MeteringServiceStub(opened), f"{org}-check")
        say("  the statements that load write what the service does")
        await suite.down("metering")
        start, end = await _load(owner, suite.dsn("metering", "owner"), org, events, say)
        began_s = time.perf_counter()
        await suite.up("metering")
        await _folded(owner, end)
        await owner.execute(
            "VACUUM ANALYZE usage_scopes, usage_periods, usage_rollups, usage_sessions, usage_scope_sessions"
        )
        # Sealing what was folded reads all events once more, and is not what is measured.
        await owner.execute("DELETE FROM usage_unsealed")
        say(f"  folded in {time.perf_counter() - began_s:.0f} s")
        async with channel(suite.address("metering"), token) as opened:
            stub = metering_pb2_grpc.MeteringServiceStub(opened)
            await _check_answer(owner, stub, org, start, end)
            say("  the answer is the sum of the events")
            query = await _timed(
                lambda turn: stub.QueryUsage(_query(org, start, end, _ZONES[turn % len(_ZONES)])), QUERIES
            )
            say(f"  by day and model: median {statistics.median(query):.0f} ms")
            async with _arriving(stub, org) as arrived:
                began_s, before = time.perf_counter(), arrived[0]
                today = await _timed(lambda _: stub.GetUsage(_today(org)), TODAYS, pause_s=0.02)
                rate = (arrived[0] - before) / (time.perf_counter() - began_s)
    finally:
        await owner.close()
    return Latency(_p95(query), statistics.median(query), _p95(today), statistics.median(today), rate)


async def _check_statements(owner: asyncpg.Connection, stub: Stub, org: str) -> None:
    for request in ingest.make_requests(org, 1, 5_000):
        await stub.BatchRecordUsage(request, timeout=60)
    now = datetime.now(UTC)
    for table, statement in (("usage_rollups", _ROLLUPS), ("usage_sessions", _SESSIONS)):
        columns = statement[statement.index("(") + 1 : statement.index(")")]
        async with owner.transaction():
            await owner.execute(f"CREATE TEMPORARY TABLE loaded (LIKE {table}) ON COMMIT DROP")
            await owner.execute(statement.format(table="loaded"), org, now - timedelta(days=1), now + timedelta(days=1))
            for one, other in ((table, "loaded"), ("loaded", table)):
                kept, expected = (f"SELECT {columns} FROM {name} WHERE org = $1" for name in (one, other))  # noqa: S608
                rows = await owner.fetch(f"{kept} EXCEPT {expected}", org)
                if rows:
                    raise RuntimeError(f"the statement for {table} does not write what the service does: {rows[0]}")


async def _load(owner: asyncpg.Connection, dsn: str, org: str, events: int, say: Say) -> tuple[datetime, datetime]:
    end = datetime.now(UTC).replace(second=0, microsecond=0)
    start = end - timedelta(days=DAYS)
    per_day = events // DAYS
    await owner.fetchval("SELECT ensure_usage_partitions($1, $2)", start, end)
    began_s = time.perf_counter()
    days = iter(range(DAYS))

    async def load(connection: asyncpg.Connection) -> None:
        # Enough to sum a day by hashes, not by sorting it.
        await connection.execute("SET synchronous_commit = off; SET work_mem = '256MB'")
        for day in days:
            begin = start + timedelta(days=day)
            numbers = (day * per_day, (day + 1) * per_day - 1)
            await connection.execute(
                _EVENTS, org, *numbers, begin, timedelta(days=1) / per_day, timeout=_LOAD_TIMEOUT_S
            )
            if day % 5 == 4:
                say(f"  {(day + 1) * per_day:,} events after {time.perf_counter() - began_s:.0f} s")

    async def sum_up(connection: asyncpg.Connection, table: str, statement: str) -> None:
        for day in range(-1, DAYS + 1):  # of UTC, which the loaded days are not
            begin = start.replace(hour=0, minute=0) + timedelta(days=day)
            end = begin + timedelta(days=1)
            await connection.execute(statement.format(table=table), org, begin, end, timeout=_LOAD_TIMEOUT_S)
        say(f"  {table} after {time.perf_counter() - began_s:.0f} s")

    other = await asyncpg.connect(dsn, command_timeout=_LOAD_TIMEOUT_S)
    try:
        await asyncio.gather(load(owner), load(other))
        await asyncio.gather(sum_up(owner, "usage_rollups", _ROLLUPS), sum_up(other, "usage_sessions", _SESSIONS))
    finally:
        await other.close()
    # What was loaded past the service bears no marks, so all is folded anew.
    await owner.execute("TRUNCATE usage_scopes, usage_periods, usage_scope_sessions")
    await owner.execute("UPDATE usage_fold SET folded = 'epoch', closing = 'epoch', barrier = NULL")
    await owner.execute("SET synchronous_commit = on")
    await owner.execute("VACUUM ANALYZE usage_rollups, usage_sessions, usage_events")
    return start, end


async def _folded(owner: asyncpg.Connection, end: datetime) -> None:
    async with asyncio.timeout(_FOLD_TIMEOUT_S):
        while await owner.fetchval("SELECT folded < $1 FROM usage_fold", end - timedelta(minutes=75)):
            await asyncio.sleep(0.5)


async def _check_answer(owner: asyncpg.Connection, stub: Stub, org: str, start: datetime, end: datetime) -> None:
    row = await owner.fetchrow(
        "SELECT count(*), sum(input_tokens), sum(cost_nanos) FROM usage_events WHERE org = $1 AND occurred_at < $2",
        org,
        end,
    )
    for zone in _ZONES:
        answer = await stub.QueryUsage(_query(org, start, end, zone), timeout=60)
        found = [answer.totals.operations, answer.totals.tokens.input_tokens, answer.totals.costs[0].amount_nanos]
        by_groups = [
            sum(group.totals.operations for group in answer.groups),
            sum(group.totals.tokens.input_tokens for group in answer.groups),
            sum(group.totals.costs[0].amount_nanos for group in answer.groups),
        ]
        if found != list(map(int, row)) or by_groups != found or answer.next_page_token:
            raise RuntimeError(f"{zone}: the answer is {found}, its groups {by_groups}, the events say {list(row)}")


def _query(org: str, start: datetime, end: datetime, zone: str) -> metering_pb2.QueryUsageRequest:
    request = metering_pb2.QueryUsageRequest(
        subject=f"orgs/{org}",
        group_by=[metering_pb2.USAGE_DIMENSION_DAY, metering_pb2.USAGE_DIMENSION_MODEL],
        time_zone=zone,
        page_size=1_000,
    )
    request.start_time.FromDatetime(start)
    request.end_time.FromDatetime(end)
    return request


def _today(org: str) -> metering_pb2.GetUsageRequest:
    return metering_pb2.GetUsageRequest(subject=f"orgs/{org}")


async def _timed(ask: Callable[[int], Awaitable[object]], calls: int, *, pause_s: float = 0.0) -> list[float]:
    """How long calls took one after the other, in milliseconds; the first few are not counted."""
    times = []
    for turn in range(calls + 5):
        began_s = time.perf_counter()
        await ask(turn)
        times.append((time.perf_counter() - began_s) * 1_000)
        await asyncio.sleep(pause_s)
    return times[5:]


@asynccontextmanager
async def _arriving(stub: Stub, org: str) -> AsyncIterator[list[int]]:
    """Usage arrives at a steady rate while the block runs; gives a counter of what was recorded."""
    requests = iter(_small(org))
    recorded = [0]

    async def send() -> None:
        due_s = time.perf_counter()
        waiting: set[asyncio.Task[None]] = set()
        for request in requests:
            task = asyncio.create_task(_record(stub, request, recorded))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            due_s += _BATCH / ARRIVING_PER_S
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))

    sender = asyncio.create_task(send())
    try:
        yield recorded
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def _record(stub: Stub, request: metering_pb2.BatchRecordUsageRequest, recorded: list[int]) -> None:
    response: Awaitable[metering_pb2.BatchRecordUsageResponse] = stub.BatchRecordUsage(request, timeout=60)
    recorded[0] += len((await response).results)


def _small(org: str) -> list[metering_pb2.BatchRecordUsageRequest]:
    whole = [event for request in ingest.make_requests(org, 2, 20 * ARRIVING_PER_S) for event in request.events]
    return [metering_pb2.BatchRecordUsageRequest(events=whole[n : n + _BATCH]) for n in range(0, len(whole), _BATCH)]


def _p95(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.95)]
