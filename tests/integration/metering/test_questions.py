"""GetUsage and QueryUsage say exactly what the events say, in any zone."""

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from services.kit.database import create_pool
from services.kit.windows import zone_info
from services.metering.domain.periods import Fold, Parts, parts_of
from services.metering.domain.questions import GroupBy, Span, ask, share_bps
from services.metering.store import reports
from services.metering.store.recording import record
from services.metering.store.sessions import SessionCounts
from tests.support.databases import Database
from tests.support.metering import Metering, record_all, recording, refusal_of, usage_event

SUBJECTS = [
    "orgs/acme",
    "orgs/acme/teams/support",
    "orgs/acme/teams/support/agents/bot",
    "orgs/acme/teams/support/agents/bot/agents/sub",
    "orgs/acme/teams/support/agents/bot-1",
    "orgs/acme/teams/support/agents/bot.x",
    "orgs/acme/teams/supporters",
    "orgs/acme-2/teams/support",
]
# Offsets of 5:45 and 12:45, half an hour of daylight saving, a day that begins at 1 in the morning.
ZONES = ["UTC", "Asia/Kathmandu", "Pacific/Chatham", "Australia/Lord_Howe", "Europe/Berlin", "America/Santiago"]
DIMENSIONS = {
    "DAY": metering_pb2.USAGE_DIMENSION_DAY,
    "MODEL": metering_pb2.USAGE_DIMENSION_MODEL,
    "SUBJECT": metering_pb2.USAGE_DIMENSION_SUBJECT,
    "PROVIDER": metering_pb2.USAGE_DIMENSION_PROVIDER,
    "OPERATION": metering_pb2.USAGE_DIMENSION_OPERATION,
}
MODELS = {"claude-sonnet-4-5": "anthropic", "gpt-4o": "openai", "no-such-model": "openai"}


def stamp(instant: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp


def change_of_clocks(zone: ZoneInfo, before: datetime) -> datetime | None:
    """The last change of a zone's clocks in the 80 days before an instant."""
    for hours in range(80 * 24):
        at = before - timedelta(hours=hours)
        if at.astimezone(zone).utcoffset() != (at - timedelta(hours=1)).astimezone(zone).utcoffset():
            return at
    return None


def make_events(now: datetime, seed: int) -> list[metering_pb2.UsageEvent]:
    """Events all over the last weeks, many around midnights, quarters of hours and changes of clocks."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    instants = [now - timedelta(seconds=rng.uniform(0, 80 * 86_400)) for _ in range(150)]
    for name in ZONES:
        zone = zone_info(name)
        midnight = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
        edges = [midnight - timedelta(days=days) for days in range(4)]
        if changed := change_of_clocks(zone, now):
            edges.append(changed)
        instants += [edge + timedelta(microseconds=us) for edge in edges for us in (-1, 0, 1, 450_000_000, 900_000_000)]
    events = []
    for n, instant in enumerate(at for at in instants if at < now):
        model = rng.choice(list(MODELS))
        cost = type_pb2.Money(currency_code="EUR", amount_nanos=rng.randrange(10**6)) if rng.random() < 0.2 else None
        read = rng.randrange(500)
        events.append(
            usage_event(
                str(n),
                subject=rng.choice(SUBJECTS),
                provider=MODELS[model],
                model=model,
                operation=rng.choice(["", "chat", "embed"]),
                input_tokens=read + rng.randrange(5_000),
                cache_read_tokens=read,
                output_tokens=rng.randrange(500),
                outcome=rng.choice([0, 0, 0, metering_pb2.CALL_OUTCOME_ERROR]),
                session=rng.choice(["", "s1", "s2", "s3"]),
                final=rng.random() < 0.8,
                cost=cost,
                occurred_at=stamp(instant),
            )
        )
    return events


class Model:
    """The answers, computed from the events one by one."""

    def __init__(self, events: Iterable[tuple[metering_pb2.UsageEvent, metering_pb2.RecordedUsage]]) -> None:
        self.events = list(events)

    def select(self, subject: str, start: datetime, end: datetime) -> list[Any]:
        return [
            (event, usage)
            for event, usage in self.events
            if (event.subject == subject or event.subject.startswith(f"{subject}/"))
            and start <= event.occurred_at.ToDatetime(UTC) < end
        ]

    def totals(self, selected: list[Any]) -> metering_pb2.UsageTotals:
        costs: dict[str, int] = {}
        for _, usage in selected:
            if usage.HasField("cost"):
                costs[usage.cost.currency_code] = costs.get(usage.cost.currency_code, 0) + usage.cost.amount_nanos
        events = [event for event, _ in selected]
        read, made = (sum(getattr(e.tokens, name) for e in events) for name in ("input_tokens", "output_tokens"))
        return metering_pb2.UsageTotals(
            tokens=type_pb2.TokenCounts(
                input_tokens=read,
                output_tokens=made,
                cache_read_tokens=sum(e.tokens.cache_read_tokens for e in events),
            ),
            total_tokens=read + made,
            costs=[type_pb2.Money(currency_code=code, amount_nanos=nanos) for code, nanos in sorted(costs.items())],
            requests=sum(e.final for e in events),
            operations=len(events),
            sessions=len({e.session for e in events if e.session}),
            errors=sum(e.outcome == metering_pb2.CALL_OUTCOME_ERROR for e in events),
            unrated=sum(not usage.HasField("cost") for _, usage in selected),
            error_rate_bps=share_bps(sum(e.outcome == metering_pb2.CALL_OUTCOME_ERROR for e in events), len(events)),
        )

    def groups(
        self, selected: list[Any], group_by: list[str], zone: str
    ) -> dict[tuple[str, ...], metering_pb2.UsageTotals]:
        key_of: dict[str, Callable[[Any, Any], str]] = {
            "DAY": lambda event, _: event.occurred_at.ToDatetime(UTC).astimezone(zone_info(zone)).date().isoformat(),
            "MODEL": lambda _, usage: f"{usage.provider}/{usage.model}",
            "SUBJECT": lambda event, _: str(event.subject),
            "PROVIDER": lambda _, usage: str(usage.provider),
            "OPERATION": lambda event, _: str(event.call.operation),
        }
        found: dict[tuple[str, ...], list[Any]] = {}
        for event, usage in selected:
            found.setdefault(tuple(key_of[name](event, usage) for name in group_by), []).append((event, usage))
        return {key: self.totals(found[key]) for key in sorted(found)}


async def all_pages(metering: Metering, **fields: Any) -> list[metering_pb2.QueryUsageResponse]:
    stub = metering.stub_for()
    pages = [await stub.QueryUsage(metering_pb2.QueryUsageRequest(**fields))]
    while token := pages[-1].next_page_token:
        assert len(pages) < 1_000
        pages.append(await stub.QueryUsage(metering_pb2.QueryUsageRequest(**fields, page_token=token)))
    return pages


@pytest.fixture
async def recorded(metering: Metering) -> Model:
    events = make_events(datetime.now(UTC), seed=1)
    results = await record_all(metering.stub_for(), events)
    return Model((event, result.usage) for event, result in zip(events, results, strict=True))


async def test_any_range_in_any_zone_is_the_sum_of_its_events(metering: Metering, recorded: Model) -> None:
    rng = random.Random(2)  # noqa: S311 - no secret
    now = datetime.now(UTC)
    for n in range(60):
        subject = rng.choice(SUBJECTS)
        zone = ZONES[n % len(ZONES)]
        group_by = rng.sample(list(DIMENSIONS), rng.randrange(4))
        start, end = sorted(now - timedelta(microseconds=rng.randrange(85 * 86_400_000_000)) for _ in range(2))
        if n % 3 == 0:  # within one quarter of an hour, or two
            end = min(start + timedelta(minutes=rng.uniform(1, 20)), end)

        pages = await all_pages(
            metering,
            subject=subject,
            start_time=stamp(start),
            end_time=stamp(end),
            group_by=[DIMENSIONS[name] for name in group_by],
            time_zone=zone,
            count_sessions=True,
            page_size=rng.choice([1, 7, 1_000]) if n % 10 == 0 else 1_000,
        )

        selected = recorded.select(subject, start, end)
        whole = recorded.totals(selected)
        groups = [group for page in pages for group in page.groups]
        assert all(page.totals == whole for page in pages)
        expected = recorded.groups(selected, group_by, zone)
        assert [tuple(group.keys) for group in groups] == list(expected)
        assert [group.totals for group in groups] == list(expected.values())
        whole_costs = {cost.currency_code: cost.amount_nanos for cost in whole.costs}
        for group in groups:
            assert list(group.cost_share_bps) == [
                round(cost.amount_nanos * 10_000 / whole_costs[cost.currency_code]) if cost.amount_nanos else 0
                for cost in group.totals.costs
            ]


@pytest.mark.parametrize(
    ("zone", "changed"),
    [
        ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
        ("Pacific/Chatham", datetime(2026, 9, 26, 14, tzinfo=UTC)),
        ("America/Santiago", datetime(2026, 9, 6, 4, tzinfo=UTC)),
        ("Asia/Kathmandu", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ],
)
async def test_days_around_a_change_of_clocks_are_exact(
    metering_database: Database, zone: str, changed: datetime
) -> None:
    instants = [changed + timedelta(minutes=7 * n, microseconds=n % 3 - 1) for n in range(-500, 500)]
    span = Span(changed - timedelta(days=2, minutes=3), changed + timedelta(days=2))
    async with await create_pool(metering_database.service_dsn, application_name="test") as pool:
        async with pool.acquire() as connection, connection.transaction():
            await record(connection, [recording(str(n), at) for n, at in enumerate(instants)])
        question = ask(
            "orgs/acme",
            start=span.start,
            end=span.end,
            group_by=[GroupBy.DAY],
            zone=zone,
            page_size=0,
            page_token="",
            now=span.end,
        )

        page = await reports.answer(pool, question, SessionCounts())

    expected: dict[str, int] = {}
    for at in instants:
        if span.start <= at < span.end:
            day = at.astimezone(zone_info(zone)).date().isoformat()
            expected[day] = expected.get(day, 0) + 1
    assert {group.keys[0]: group.totals.operations for group in page.groups} == expected
    assert page.totals.operations == sum(expected.values())


async def test_today_and_this_month_in_every_zone(metering: Metering, recorded: Model) -> None:
    for zone in ZONES:
        for subject in SUBJECTS:
            answer = await metering.stub_for().GetUsage(metering_pb2.GetUsageRequest(subject=subject, time_zone=zone))
            local = datetime.now(UTC).astimezone(zone_info(zone))
            today = answer.today_start_time.ToDatetime(UTC)
            month = answer.month_start_time.ToDatetime(UTC)
            assert today.astimezone(zone_info(zone)).date() == local.date()
            assert month.astimezone(zone_info(zone)).date() == local.date().replace(day=1)
            far = datetime(2999, 1, 1, tzinfo=UTC)
            assert answer.today == recorded.totals(recorded.select(subject, today, far))
            assert answer.month == recorded.totals(recorded.select(subject, month, far))


async def test_nothing_was_used_where_nothing_was_recorded(metering: Metering) -> None:
    (page,) = await all_pages(metering, subject="orgs/nobody")

    assert page == metering_pb2.QueryUsageResponse(totals=metering_pb2.UsageTotals(tokens=type_pb2.TokenCounts()))


async def test_bad_questions_name_the_field(metering: Metering) -> None:
    stub = metering.stub_for()
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"subject": "orgs"}, "subject", "MALFORMED_SUBJECT"),
        ({"time_zone": "Nowhere/Town"}, "time_zone", "UNKNOWN_TIME_ZONE"),
        ({"group_by": [0]}, "group_by", "INVALID_ARGUMENT"),
        ({"group_by": [99]}, "group_by", "INVALID_ARGUMENT"),
        ({"group_by": [1, 2, 3, 4]}, "group_by", "INVALID_ARGUMENT"),
        ({"page_size": 1_001}, "page_size", "INVALID_ARGUMENT"),
        ({"page_token": "nonsense"}, "page_token", "INVALID_ARGUMENT"),
        ({"start_time": Timestamp(nanos=-1)}, "start_time", "INVALID_ARGUMENT"),
        ({"start_time": Timestamp(seconds=1)}, "start_time", "INVALID_ARGUMENT"),
    ]
    for fields, field, reason in cases:
        request = metering_pb2.QueryUsageRequest(**{"subject": "orgs/acme", **fields})
        error = await refusal_of(stub.QueryUsage(request))
        assert (error.field, error.reason) == (field, reason)
    zone = await refusal_of(stub.GetUsage(metering_pb2.GetUsageRequest(subject="orgs/acme", time_zone="X")))
    assert (zone.field, zone.reason) == ("time_zone", "UNKNOWN_TIME_ZONE")


async def test_a_subtree_is_read_by_its_index(metering: Metering, books: asyncpg.Connection) -> None:
    """One agent of a thousand: the plan reads its rows and its descendants', not the organisation's."""
    await books.execute(
        """
        INSERT INTO usage_periods
        SELECT 'acme', 1, date_trunc('hour', now()) - n / 1000 * interval '1 hour', 'orgs/acme/agents/a' || n % 1000,
               'p', 'm', 'o', 'USD', 1, 0, 0, 1, 0, 1, 1, 0, 1 FROM generate_series(1, 30000) AS n
        """
    )
    await books.execute(
        """
        INSERT INTO usage_scopes
        SELECT org, subject, hours, bucket, provider, model, operation, currency, 1, 0, 0, 1, 0, 1, 1, 0, 1
        FROM usage_periods
        """
    )
    await books.execute("ANALYZE usage_periods, usage_scopes")
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    parts = Parts((), (Span(now - timedelta(days=30), now),), (), ())
    for by_subject, index in ((True, "usage_periods_subject"), (False, "usage_scopes_pkey")):
        params = reports.Params()
        sql = reports.facts_sql(params, "orgs/acme/agents/a77", parts, by_subject=by_subject)

        plan = "\n".join(row[0] for row in await books.fetch(f"EXPLAIN {sql}", *params))

        assert index in plan
        assert "Seq Scan" not in plan


async def test_the_ends_of_a_range_are_read_by_the_events_key(metering: Metering, books: asyncpg.Connection) -> None:
    now = datetime.now(UTC).replace(minute=7, second=0, microsecond=0)
    await books.execute("SET enable_seqscan = off")  # the tables are empty, so nothing else would be read
    params = reports.Params()
    parts = parts_of(Span(now - timedelta(minutes=3), now), Fold(now))
    sql = reports.facts_sql(params, "orgs/acme/agents/a77", parts, by_subject=False)

    plan = "\n".join(row[0] for row in await books.fetch(f"EXPLAIN {sql}", *params))

    assert "_pkey on usage_events_" in plan
    assert "usage_rollups" not in plan
