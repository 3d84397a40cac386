"""What answers say of further kinds of use and of corrected calls: the sums of the events, and calls as last said."""

from datetime import UTC, datetime, timedelta
from typing import Any

from pursestrings.metering.v1 import analysis_pb2, corrections_pb2, metering_pb2
from pursestrings.type.v1 import type_pb2
from tests.support.metering import Metering, record_all, usage_event

ORG = "orgs/acme"
BOT = f"{ORG}/agents/bot"


def event(id_: str, hours: int, extra: dict[str, int], **fields: Any) -> metering_pb2.UsageEvent:
    made = usage_event(id_, **({"subject": BOT, "run": "r"} | fields))
    made.tokens.extra.update(extra)
    made.occurred_at.FromDatetime(datetime.now(UTC) - timedelta(hours=hours))
    return made


def usd(nanos: int) -> type_pb2.Money:
    return type_pb2.Money(currency_code="USD", amount_nanos=nanos)


async def rows_of(metering: Metering, view: Any) -> list[analysis_pb2.UsageRow]:
    request = analysis_pb2.ListUsageRequest(subject=ORG, view=view)
    return list((await metering.stub_for().ListUsage(request)).rows)


async def test_further_kinds_are_in_every_answer(metering: Metering) -> None:
    stub = metering.stub_for("orgs/acme", "operator")
    fields: dict[str, Any] = {"provider": "openai", "model": "gpt-4o-audio-preview"}
    await record_all(
        stub,
        [
            event("a", 2, {"output_audio_tokens": 50, "input_audio_tokens": 7}, output_tokens=100, **fields),
            event("b", 1, {"output_audio_tokens": 5}, effort="low", **fields),
            event("c", 1, {}, run="other"),
        ],
    )
    corrected = corrections_pb2.CorrectUsageRequest(
        org=ORG, source="test", id="a", reason="counted anew", request_id="c", cost=usd(9),
        tokens=type_pb2.TokenCounts(input_tokens=1_000, output_tokens=100, extra={"output_audio_tokens": 60}),
    )  # fmt: skip
    await stub.CorrectUsage(corrected)

    start = datetime.now(UTC) - timedelta(days=1)
    for dimension, expected in (
        ("MODEL", {"openai/gpt-4o-audio-preview": {"output_audio_tokens": 65}}),
        ("EFFORT", {"": {"output_audio_tokens": 60}, "low": {"output_audio_tokens": 5}}),
        ("SUBJECT", {BOT: {"output_audio_tokens": 65}}),
    ):
        request = metering_pb2.QueryUsageRequest(
            subject=ORG, group_by=[metering_pb2.UsageDimension.Value(f"USAGE_DIMENSION_{dimension}")]
        )
        request.start_time.FromDatetime(start)
        answer = await metering.stub_for().QueryUsage(request)
        found = {group.keys[0]: dict(group.totals.tokens.extra) for group in answer.groups if group.totals.tokens.extra}
        assert found == expected
        assert dict(answer.totals.tokens.extra) == {"output_audio_tokens": 65}
    filtered = metering_pb2.QueryUsageRequest(
        subject=ORG, filter=metering_pb2.UsageFilter(efforts=["low"]), start_time=request.start_time
    )
    assert dict((await metering.stub_for().QueryUsage(filtered)).totals.tokens.extra) == {"output_audio_tokens": 5}

    calls = {row.id: dict(row.tokens.extra) for row in await rows_of(metering, analysis_pb2.USAGE_VIEW_CALLS)}
    assert calls == {"a": {"output_audio_tokens": 60}, "b": {"output_audio_tokens": 5}, "c": {}}
    runs = {row.run: dict(row.tokens.extra) for row in await rows_of(metering, analysis_pb2.USAGE_VIEW_RUNS)}
    assert runs == {"r": {"output_audio_tokens": 65}, "other": {}}


async def test_the_run_log_shows_calls_as_they_were_last_said_to_be(metering: Metering) -> None:
    stub = metering.stub_for("orgs/acme", "operator")
    await record_all(stub, [event(f"e{n}", 2, {}, input_tokens=100 + n) for n in range(12)])
    await record_all(stub, [event("free", 1, {}, provider="acme-ai", model="next-1")])
    for n, (id_, cost) in enumerate((("e0", 5), ("e0", 2), ("free", 7))):
        tokens = type_pb2.TokenCounts(input_tokens=90_000 + n, output_tokens=1)
        said: dict[str, Any] = {"cost": usd(cost), "tokens": tokens, "reason": "invoice", "request_id": f"c{n}"}
        await stub.CorrectUsage(corrections_pb2.CorrectUsageRequest(org=ORG, source="test", id=id_, **said))

    calls = await rows_of(metering, analysis_pb2.USAGE_VIEW_CALLS)
    by_id = {row.id: row for row in calls}
    assert len(calls) == len(by_id) == 13
    assert {row.calls for row in calls} == {1}
    assert (list(by_id["e0"].costs), by_id["e0"].tokens.input_tokens) == ([usd(2)], 90_001)
    assert (list(by_id["free"].costs), by_id["free"].total_tokens) == ([usd(7)], 90_003)
    assert {row.id for row in calls if row.unusual} == {"e0", "free"}

    [run] = await rows_of(metering, analysis_pb2.USAGE_VIEW_RUNS)
    assert (run.calls, run.total_tokens) == (13, sum(row.total_tokens for row in calls))
    assert run.costs[0].amount_nanos == sum(row.costs[0].amount_nanos for row in calls)
