"""The audit holds on true books and names what does not on others."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from services.kit.database import create_pool
from services.kit.errors import Code
from services.metering.domain.usage import key_of
from services.metering.store import deep_audit, folding, sealing
from services.metering.store.audit import snapshot
from services.metering.store.recording import record
from tests.support.databases import Database
from tests.support.metering import Metering, record_all, recording, refusal_of, usage_event
from tests.support.waiting import until


async def audit(metering: Metering, org: str = "") -> metering_pb2.AuditResponse:
    return await metering.stub_for().Audit(metering_pb2.AuditRequest(org=org))


def failing(response: metering_pb2.AuditResponse) -> dict[str, str]:
    return {check.name: check.detail for check in response.checks if not check.ok}


async def test_totals_are_by_organisation_and_currency_with_what_is_pending(metering: Metering) -> None:
    metering.budget.refuse_calls = 1_000_000
    euros = type_pb2.Money(currency_code="EUR", amount_nanos=7)
    events = [
        usage_event("a"),
        usage_event("b"),
        usage_event("c", cost=euros),
        usage_event("d", model="no-such-model"),
        usage_event("e", subject="orgs/other", session="s"),
    ]
    await record_all(metering.stub_for(), events)

    everything = await audit(metering)
    other = await audit(metering, "orgs/other")

    assert not failing(everything)
    totals = {(t.org, t.currency_code): (t.events, t.cost_nanos, t.unrated_events) for t in everything.totals}
    assert totals == {
        ("orgs/acme", ""): (1, 0, 1),
        ("orgs/acme", "EUR"): (1, 7, 0),
        ("orgs/acme", "USD"): (2, 9_000_000, 0),
        ("orgs/other", "USD"): (1, 4_500_000, 0),
    }
    for total in everything.totals:
        assert (total.pending_events, total.pending_cost_nanos) == (total.events, total.cost_nanos)
    assert [t.org for t in other.totals] == ["orgs/other"]

    metering.budget.refuse_calls = 0
    deadline = time.monotonic() + 20
    while any(t.pending_events or t.pending_cost_nanos for t in (await audit(metering)).totals):
        assert time.monotonic() < deadline
    assert len(metering.budget.applied) == 5


async def test_what_does_not_hold_is_named(metering: Metering, books: asyncpg.Connection) -> None:
    metering.budget.refused_ids = {"a"}
    await record_all(metering.stub_for(), [usage_event(id_, session="s") for id_ in ("a", "b", "c")])
    await until(lambda: len(metering.budget.applied) == 2, what="delivery")

    await books.execute("UPDATE outbox SET parked_at = now(), last_error = 'no'")
    assert list(failing(await audit(metering))) == ["I2.nothing_parked"]
    assert "acme/test/a: no" in failing(await audit(metering))["I2.nothing_parked"]
    await books.execute("DELETE FROM outbox")

    await books.execute("DELETE FROM usage_sessions")
    assert list(failing(await audit(metering))) == ["I2.sessions_equal_events"]
    await books.execute("UPDATE usage_rollups SET cost_nanos = cost_nanos + 1")
    assert "I2.rollups_equal_events" in failing(await audit(metering))
    await books.execute("DELETE FROM usage_keys WHERE key = usage_key_of('test', 'b')")
    assert "acme/test/b" in failing(await audit(metering))["I2.events_have_keys"]
    await books.execute("DELETE FROM usage_events WHERE id = 'c'")
    assert f"acme/{key_of('test', 'c').hex()}" in failing(await audit(metering))["I2.keys_have_events"]


async def test_who_may_audit_what(metering: Metering) -> None:
    request = metering_pb2.AuditRequest()
    one = metering_pb2.AuditRequest(org="orgs/acme")

    assert (await refusal_of(metering.stub_for("orgs/acme", "auditor").Audit(request))).code == Code.PERMISSION_DENIED
    assert (await refusal_of(metering.stub_for("orgs/acme", "agent").Audit(one))).code == Code.PERMISSION_DENIED
    assert (await metering.stub_for("orgs/acme", "auditor").Audit(one)).checks
    team = metering_pb2.AuditRequest(org="orgs/acme/teams/support")
    for request, reason in ((team, "NOT_AN_ORG"), (metering_pb2.AuditRequest(org="acme"), "MALFORMED_SUBJECT")):
        malformed = await refusal_of(metering.stub_for("orgs/acme/teams/support", "auditor").Audit(request))
        assert (malformed.field, malformed.reason) == ("org", reason)


async def test_what_changes_behind_a_seal_is_named_and_late_usage_is_not(
    metering_database: Database, books: asyncpg.Connection
) -> None:
    """Of sealed hours the sums are compared, not the events; what comes later is read until it is sealed."""
    at = datetime.now(UTC) - timedelta(days=3)
    async with await create_pool(metering_database.service_dsn, application_name="test") as pool:

        async def keep(*ids: str) -> None:
            async with pool.acquire() as connection, connection.transaction():
                items = [recording(id_, at, session="s", extra='{"output_audio_tokens": 5}') for id_ in ids]
                await record(connection, items)

        async def offenders() -> list[int]:
            async with snapshot(pool, None) as books_now:
                (total,) = await books_now.totals()
                assert total.events == await books.fetchval("SELECT count(*) FROM usage_events")
                return [
                    (await books_now.rollups_that_differ()).count,
                    (await books_now.sessions_that_differ()).count,
                    (await books_now.kinds_that_differ()).count,
                ]

        async def settle() -> None:
            while await folding.fold(pool):
                pass
            while await sealing.seal(pool):
                pass

        await keep("a", "b")
        assert await offenders() == [0, 0, 0]
        await settle()
        assert await books.fetchval("SELECT sum(events) FROM usage_seals") == 2
        assert await offenders() == [0, 0, 0]
        await keep("late")
        assert await offenders() == [0, 0, 0]
        while await folding.fold(pool):
            pass
        assert await offenders() == [0, 0, 0]
        await settle()
        assert await books.fetchval("SELECT sum(events) FROM usage_seals") == 3
        assert await offenders() == [0, 0, 0]

        await books.execute("UPDATE usage_rollups SET cost_nanos = cost_nanos - 1")
        assert await offenders() == [1, 0, 0]
        await books.execute("DELETE FROM usage_sessions")
        assert await offenders() == [1, 1, 0]
        await books.execute("UPDATE usage_kind_rollups SET quantity = quantity + 1")
        assert await offenders() == [1, 1, 1]


async def deep(metering: Metering) -> dict[str, str]:
    """What a deep audit says does not hold, part after part."""
    found: dict[str, str] = {}
    request = metering_pb2.AuditRequest(deep=True)
    while True:
        answer = await metering.stub_for().Audit(request)
        found |= failing(answer)
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def test_a_deep_audit_reads_the_events_behind_the_seals(
    metering: Metering, metering_database: Database, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep_audit, "PART_S", 0.0)
    now = datetime.now(UTC)
    async with await create_pool(metering_database.service_dsn, application_name="test") as pool:
        async with pool.acquire() as connection, connection.transaction():
            await record(connection, [recording(f"e{n}", now - timedelta(days=3 * n), session="s") for n in range(4)])
        # The service does this by itself as well, one of the two at a time.
        async with asyncio.timeout(20):
            while await books.fetchval("SELECT count(*) FROM usage_seals") < 3:
                await folding.fold(pool)
                await sealing.seal(pool)
    assert not await deep(metering)

    await books.execute("UPDATE usage_events SET cost_nanos = cost_nanos - 1 WHERE id = 'e2'")
    assert not failing(await audit(metering))
    assert list(await deep(metering)) == ["I2.rollups_equal_events", "I2.seals_equal_events"]
    await books.execute("UPDATE usage_events SET cost_nanos = cost_nanos + 1 WHERE id = 'e2'")
    await books.execute("DELETE FROM usage_events WHERE id = 'e1'")
    gone = await deep(metering)
    assert {"I2.keys_have_events", "I2.rollups_equal_events", "I2.sessions_equal_events"} <= gone.keys()
    assert key_of("test", "e1").hex() in gone["I2.keys_have_events"]
    refused = await refusal_of(metering.stub_for().Audit(metering_pb2.AuditRequest(deep=True, page_token="x")))
    assert refused.field == "page_token"
