"""Recording over gRPC on real PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from services.kit.errors import Code
from services.kit.status import from_rpc_status
from tests.support.metering import Metering, record_all, refusal_of, usage_event
from tests.support.waiting import until


def one(event: metering_pb2.UsageEvent) -> metering_pb2.RecordUsageRequest:
    return metering_pb2.RecordUsageRequest(event=event)


def stamp(instant: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp


def error_of(result: metering_pb2.RecordUsageResult) -> tuple[str, str | None]:
    assert result.WhichOneof("result") == "error"
    error = from_rpc_status(result.error)
    return error.reason, error.field


async def test_a_call_is_rated_and_reaches_the_budget_service(metering: Metering) -> None:
    response = await metering.stub_for().RecordUsage(one(usage_event()))

    usage = response.usage
    # 1,000 in at $3 a million, 100 out at $15.
    assert (usage.cost.currency_code, usage.cost.amount_nanos) == ("USD", 3_000_000 + 1_500_000)
    assert usage.rate_card_version.startswith("genai-prices-")
    assert not usage.duplicate
    await until(lambda: metering.budget.applied, what="delivery")
    item = metering.budget.applied["test", "e1"]
    assert item.cost == usage.cost
    assert item.occurred_at == usage.occurred_at
    assert (item.requests, item.final) == (1, True)


async def test_the_row_says_all_that_the_event_did(metering: Metering, books: asyncpg.Connection) -> None:
    event = usage_event(
        model="claude-4-5-sonnet",
        labels={"env": "prod", "näme": "wért"},
        cache_read_tokens=400,
        reasoning_tokens=50,
        requests=3,
        session="s",
        run="r",
        effort="low",
        outcome=metering_pb2.CALL_OUTCOME_ERROR,
        status="529",
        reservation="orgs/acme/teams/support/reservations/r1",
        final=False,
    )

    await metering.stub_for().RecordUsage(one(event))

    row = await books.fetchrow("SELECT *, labels::text AS labels_text FROM usage_events")
    assert row["labels_text"] == '{"env": "prod", "näme": "wért"}'
    assert (row["model"], row["given_model"]) == ("claude-sonnet-4-5", "claude-4-5-sonnet")
    assert (row["input_tokens"], row["cache_read_tokens"], row["reasoning_tokens"]) == (1_000, 400, 50)
    assert (row["requests"], row["failed"], row["status"], row["final"]) == (3, True, "529", False)
    assert (row["session"], row["run"], row["effort"]) == ("s", "r", "low")
    assert row["reservation"] == event.reservation
    assert await books.fetchval("SELECT count(*) FROM usage_events_default") == 0


async def test_the_same_call_again_returns_the_first_and_adds_nothing(
    metering: Metering, books: asyncpg.Connection
) -> None:
    stub = metering.stub_for()
    first = (await stub.RecordUsage(one(usage_event()))).usage

    second = (await stub.RecordUsage(one(usage_event()))).usage

    assert second.duplicate
    second.duplicate = False
    assert second == first
    assert await books.fetchval("SELECT sum(operations) FROM usage_rollups") == 1


async def test_another_call_under_a_used_id_is_refused(metering: Metering, books: asyncpg.Connection) -> None:
    stub = metering.stub_for()
    await stub.RecordUsage(one(usage_event()))

    error = await refusal_of(stub.RecordUsage(one(usage_event(output_tokens=101))))

    assert (error.code, error.reason, error.field) == (Code.FAILED_PRECONDITION, "USAGE_ID_REUSED", "event.id")
    assert await books.fetchval("SELECT sum(output_tokens) FROM usage_rollups") == 100


async def test_ids_are_of_their_organisation_and_source(metering: Metering) -> None:
    events = [
        usage_event(),
        usage_event(source="other"),
        usage_event(subject="orgs/other"),
    ]

    results = await record_all(metering.stub_for(), events)

    assert [result.usage.duplicate for result in results] == [False, False, False]


async def test_items_of_a_batch_are_independent(metering: Metering, books: asyncpg.Connection) -> None:
    stub = metering.stub_for("orgs/acme", "agent")
    await stub.RecordUsage(one(usage_event("known")))
    events = [
        usage_event("a"),
        usage_event("b", subject="orgs/acme/oops"),
        usage_event("known"),
        usage_event("known", input_tokens=1),
        usage_event("a"),
        usage_event("a", input_tokens=1),
        usage_event("c", input_tokens=-1),
        usage_event("d", cost=type_pb2.Money(currency_code="USD", amount_nanos=1)),
        usage_event("e", occurred_at=stamp(datetime.now(UTC) - timedelta(hours=2))),
        usage_event("f", model="no-such-model"),
        usage_event("g"),
    ]

    results = await record_all(stub, events)

    recorded = {n for n, result in enumerate(results) if result.WhichOneof("result") == "usage"}
    assert recorded == {0, 2, 4, 9, 10}
    assert {n for n in recorded if results[n].usage.duplicate} == {2, 4}
    assert error_of(results[1]) == ("MALFORMED_SUBJECT", "event.subject")
    assert error_of(results[3]) == error_of(results[5]) == ("USAGE_ID_REUSED", "event.id")
    assert error_of(results[6]) == ("AMOUNT_OUT_OF_RANGE", "event.tokens.input_tokens")
    assert error_of(results[7]) == ("COST_NOT_YOURS", "event.cost")
    assert error_of(results[8]) == ("TOO_OLD", "event.occurred_at")
    assert not results[9].usage.HasField("cost")
    stored = await books.fetch("SELECT id FROM usage_events ORDER BY id")
    assert [row["id"] for row in stored] == ["a", "f", "g", "known"]
    assert await books.fetchval("SELECT count(*) FROM usage_keys") == 4
    assert await books.fetchval("SELECT sum(operations) FROM usage_rollups") == 4


async def test_a_call_sent_again_late_is_still_the_same_call(metering: Metering, books: asyncpg.Connection) -> None:
    """Its time was fine when it was recorded; a retry after the agent's hour must not turn it into a refusal."""
    when = datetime.now(UTC) - timedelta(hours=2)
    event = usage_event(occurred_at=stamp(when))
    await metering.stub_for().RecordUsage(one(event))

    agent = metering.stub_for("orgs/acme", "agent")
    again = (await agent.RecordUsage(one(event))).usage
    other = await refusal_of(agent.RecordUsage(one(usage_event("e2", occurred_at=stamp(when)))))

    assert again.duplicate
    assert (other.reason, other.field) == ("TOO_OLD", "event.occurred_at")


async def test_who_may_set_a_cost(metering: Metering) -> None:
    cost = type_pb2.Money(currency_code="EUR", amount_nanos=42)
    for role in ("operator", "service", "admin"):
        response = await metering.stub_for("orgs/acme", role).RecordUsage(one(usage_event(role, cost=cost)))
        assert response.usage.cost == cost

    error = await refusal_of(metering.stub_for("orgs/acme", "agent").RecordUsage(one(usage_event(cost=cost))))

    assert (error.code, error.field) == (Code.PERMISSION_DENIED, "event.cost")


async def test_what_nobody_foresaw_in_one_event_is_its_own_error(
    metering: Metering, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = usage_event("strange")
    strange.ClearField("tokens")
    strange.provider_response.body = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 1}}'

    def fail(*_: object) -> None:
        raise KeyError("told to fail")

    monkeypatch.setattr("services.metering.domain.responses.read", fail)
    results = await record_all(metering.stub_for(), [usage_event("a"), strange, usage_event("b")])

    assert error_of(results[1])[0] == "INTERNAL"
    assert [row["id"] for row in await books.fetch("SELECT id FROM usage_events ORDER BY id")] == ["a", "b"]


async def test_an_event_out_of_scope_is_refused_by_itself_and_nothing_of_it_is_told(
    metering: Metering, books: asyncpg.Connection
) -> None:
    team = "orgs/acme/teams/a"
    # What others recorded: neither that it is there nor that it differs may show.
    foreign = ["orgs/acme", "orgs/acme/teams/ab", "orgs/other", "orgs/acme/teams/b/agents/x"]
    await record_all(metering.stub_for(), [usage_event("known", subject=subject) for subject in foreign])
    before = await books.fetchval("SELECT count(*) FROM usage_events")
    stub = metering.stub_for(team, "agent")

    mixed = [
        usage_event("1", subject=team),
        *(usage_event("known", subject=subject) for subject in foreign),
        *(usage_event("new", subject=subject) for subject in foreign),
        usage_event("", subject="orgs/other"),
        usage_event("2", subject="orgs/-"),
        usage_event("3", subject=f"{team}/agents/x"),
    ]
    results = await record_all(stub, mixed)

    codes = [from_rpc_status(one.error).code if one.WhichOneof("result") == "error" else None for one in results]
    reasons = [error_of(one)[0] if one.WhichOneof("result") == "error" else "" for one in results]
    assert codes == [None, *[Code.PERMISSION_DENIED] * 9, Code.INVALID_ARGUMENT, None]
    assert reasons == ["", *["OUT_OF_SCOPE"] * 9, "MALFORMED_SUBJECT", ""]
    for known, new in zip(results[1:5], results[5:9], strict=True):
        assert known == new
    assert await books.fetchval("SELECT count(*) FROM usage_events") == before + 2

    wholly = await record_all(stub, [usage_event("4", subject="orgs/other"), usage_event("5", subject="orgs/acme")])
    assert [error_of(one)[0] for one in wholly] == ["OUT_OF_SCOPE"] * 2
    assert (await refusal_of(stub.RecordUsage(one(mixed[1])))).reason == "OUT_OF_SCOPE"
    refused = await refusal_of(
        metering.stub_for(team, "auditor").BatchRecordUsage(metering_pb2.BatchRecordUsageRequest(events=mixed[:1]))
    )
    assert refused.reason == "ROLE_MISSING"
    assert await books.fetchval("SELECT count(*) FROM usage_events") == before + 2


async def test_a_batch_has_1_to_1000_events(metering: Metering) -> None:
    for count in (0, 1_001):
        error = await refusal_of(record_all(metering.stub_for(), [usage_event(str(n)) for n in range(count)]))
        assert (error.reason, error.field) == ("BATCH_TOO_LARGE", "events")


async def test_the_largest_batch_of_the_largest_events_within_a_message(metering: Metering) -> None:
    labels = {f"{n:063d}": "ü" * 255 for n in range(16)}
    subject = "orgs/o" + "".join(f"/teams/{'t' * 63}" for _ in range(7))
    events = [
        usage_event("ü" * 124 + f"{n:04d}", subject=subject, labels=labels, session="ü" * 128, model="m" * 256)
        for n in range(300)
    ]

    results = await record_all(metering.stub_for(), events)

    assert all(result.WhichOneof("result") == "usage" for result in results)
    await until(lambda: len(metering.budget.applied) == 300, what="delivery")


async def test_a_storm_of_duplicates_is_recorded_once(metering: Metering, books: asyncpg.Connection) -> None:
    events = [usage_event(str(n)) for n in range(50)]
    stub = metering.stub_for()

    answers = await asyncio.gather(*(record_all(stub, events[n % 7 :] + events[: n % 7]) for n in range(20)))

    fresh = [r.usage.id for results in answers for r in results if not r.usage.duplicate]
    assert sorted(fresh) == sorted(str(n) for n in range(50))
    assert await books.fetchval("SELECT sum(operations) FROM usage_rollups") == 50
    await until(lambda: len(metering.budget.applied) == 50, what="delivery")


async def test_the_service_cannot_change_what_was_recorded(
    metering: Metering, service_books: asyncpg.Connection
) -> None:
    await metering.stub_for().RecordUsage(one(usage_event()))

    for statement in (
        "UPDATE usage_events SET cost_nanos = 0",
        "DELETE FROM usage_events",
        "TRUNCATE usage_events",
        "DELETE FROM usage_rollups",
        "UPDATE rate_cards SET content = ''",
        "UPDATE usage_keys SET payload_hash = ''",
        "DROP TABLE usage_events",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service_books.execute(statement)


async def test_bad_input_names_the_field_and_changes_nothing(metering: Metering, books: asyncpg.Connection) -> None:
    def money(code: str, nanos: int) -> type_pb2.Money:
        return type_pb2.Money(currency_code=code, amount_nanos=nanos)

    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"subject": "orgs/acme/oops"}, "event.subject", "MALFORMED_SUBJECT"),
        ({"subject": "orgs/a" + "/teams/t" * 8}, "event.subject", "MALFORMED_SUBJECT"),
        ({"id": ""}, "event.id", "INVALID_ARGUMENT"),
        ({"input_tokens": -1}, "event.tokens.input_tokens", "AMOUNT_OUT_OF_RANGE"),
        ({"output_tokens": 2**63 - 1}, "event.tokens.output_tokens", "AMOUNT_OUT_OF_RANGE"),
        ({"cost": money("USD", -1)}, "event.cost.amount_nanos", "AMOUNT_OUT_OF_RANGE"),
        ({"cost": money("USX", 1)}, "event.cost.currency_code", "INVALID_ARGUMENT"),
        ({"occurred_at": Timestamp(seconds=1)}, "event.occurred_at", "TOO_OLD"),
        ({"occurred_at": Timestamp(seconds=2**35)}, "event.occurred_at", "IN_THE_FUTURE"),
        ({"labels": {"k": "v" * 1_000_000}}, "event.call.labels.k", "INVALID_ARGUMENT"),
    ]
    for fields, field, reason in cases:
        error = await refusal_of(metering.stub_for().RecordUsage(one(usage_event(**fields))))
        assert (error.field, error.reason) == (field, reason)
    assert await books.fetchval("SELECT count(*) FROM usage_keys") == 0
    assert await books.fetchval("SELECT count(*) FROM outbox") == 0


async def test_further_kinds_of_use_are_rated_kept_and_summed(metering: Metering, books: asyncpg.Connection) -> None:
    event = usage_event(provider="openai", model="gpt-audio", output_tokens=100)
    event.tokens.extra["output_audio_tokens"] = 60
    twin = usage_event()
    twin.CopyFrom(event)
    twin.id = "e2"

    answers = await record_all(metering.stub_for(), [event, twin])

    # 1,000 in at $2.50 a million; of 100 out, 40 are text at $10 and 60 audio at $64.
    assert [answer.usage.cost.amount_nanos for answer in answers] == [2_500_000 + 400_000 + 3_840_000] * 2
    assert await books.fetchval("SELECT extra FROM usage_events LIMIT 1") == '{"output_audio_tokens": 60}'
    assert [tuple(row) for row in await books.fetch("SELECT kind, quantity FROM usage_kind_rollups")] == [
        ("output_audio_tokens", 120)
    ]
    audited = await metering.stub_for().Audit(metering_pb2.AuditRequest(org="orgs/acme"))
    assert all(check.ok for check in audited.checks)


async def test_a_model_without_a_price_is_listed_and_alerted_once(
    metering: Metering, books: asyncpg.Connection
) -> None:
    await record_all(metering.stub_for(), [usage_event(f"e{n}", model="unheard-of") for n in range(3)])
    await record_all(metering.stub_for(), [usage_event("e4", model="unheard-of")])

    assert await books.fetchval("SELECT count(*) FROM unrated_usage") == 4
    alerts = await books.fetch(
        "SELECT org, key, convert_from(payload, 'UTF8') AS told FROM outbox WHERE topic = 'alerts'"
    )
    assert [(row["org"], row["key"]) for row in alerts] == [("acme", "UNRATED")]
    assert '"model" : "unheard-of"' in alerts[0]["told"]


async def test_a_providers_answer_is_read_and_one_without_usage_refused_alone(metering: Metering) -> None:
    answer = b'{"model": "claude-sonnet-4-5", "usage": {"input_tokens": 600, "cache_read_input_tokens": 400, '
    read = usage_event("e1", model="")
    empty = usage_event("e2", model="")
    for event, body in ((read, answer + b'"output_tokens": 100}}'), (empty, b'{"model": "claude-sonnet-4-5"}')):
        event.ClearField("tokens")
        event.provider_response.body = body

    results = await record_all(metering.stub_for(), [empty, read, read])

    assert error_of(results[0]) == ("NO_USAGE", "event.provider_response")
    # 600 in at $3 a million, 400 from the cache at $0.30, 100 out at $15.
    assert results[1].usage.cost.amount_nanos == 1_800_000 + 120_000 + 1_500_000
    assert results[2].usage.duplicate
