"""A stream of usage: acknowledged in order, looked at message by message, and recorded once however it ends."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import grpc
import pytest

from pursestrings import AsyncClient, _stream
from pursestrings.metering.v1 import metering_pb2
from services.kit.status import from_rpc_status
from tests.support.metering import EVERYONE, Metering, usage_event
from tests.support.waiting import until


def batch(*ids: str, **fields: str) -> metering_pb2.StreamUsageRequest:
    return metering_pb2.StreamUsageRequest(events=[usage_event(id_, **fields) for id_ in ids])


def open_stream(
    metering: Metering,
    requests: AsyncIterator[metering_pb2.StreamUsageRequest] | None = None,
    subject: str = EVERYONE,
    role: str = "service",
) -> Any:
    return metering.stub_for(subject, role).StreamUsage(requests)


async def test_batches_are_acknowledged_in_order_and_good_events_kept(
    metering: Metering, books: asyncpg.Connection
) -> None:
    async def send() -> AsyncIterator[metering_pb2.StreamUsageRequest]:
        for n in range(20):
            yield batch(*(f"{n}-{m}" for m in range(50)))
        yield batch("0-0", "new", "", "0-1")

    answers = [answer async for answer in open_stream(metering, send())]

    assert [answer.batch for answer in answers] == list(range(1, 22))
    assert [(one.recorded, one.duplicates, len(one.errors)) for one in answers[:20]] == [(50, 0, 0)] * 20
    assert (answers[20].recorded, answers[20].duplicates) == (3, 2)
    assert [one.index for one in answers[20].errors] == [2]
    assert await books.fetchval("SELECT count(*) FROM usage_events") == 1_001


async def test_half_a_stream_and_gone_is_recorded_as_acknowledged_and_not_doubled_when_sent_again(
    metering: Metering, books: asyncpg.Connection
) -> None:
    call = open_stream(metering)
    await call.write(batch("a", "b"))
    acknowledged = await call.read()
    await call.write(batch("c", "d"))
    call.cancel()
    assert isinstance(acknowledged, metering_pb2.StreamUsageResponse)
    assert acknowledged.recorded == 2

    async def again() -> AsyncIterator[metering_pb2.StreamUsageRequest]:
        yield batch("a", "b")
        yield batch("c", "d")

    answers = [answer async for answer in open_stream(metering, again())]

    assert [one.recorded for one in answers] == [2, 2]
    assert answers[0].duplicates == 2
    assert sorted(row["id"] for row in await books.fetch("SELECT id FROM usage_events")) == ["a", "b", "c", "d"]
    await until(lambda: len(metering.budget.applied) == 4, what="delivery")


async def test_an_event_out_of_scope_is_refused_by_itself(metering: Metering, books: asyncpg.Connection) -> None:
    async def send() -> AsyncIterator[metering_pb2.StreamUsageRequest]:
        mixed = batch("first", "second", "third")
        mixed.events[1].subject = "orgs/other/agents/x"
        yield mixed
        yield batch("other", subject="orgs/other")
        yield batch("last")

    answers = [answer async for answer in open_stream(metering, send(), "orgs/acme", "agent")]

    assert [answer.recorded for answer in answers] == [2, 0, 1]
    assert [[one.index for one in answer.errors] for answer in answers] == [[1], [0], []]
    assert {from_rpc_status(one.error).reason for answer in answers for one in answer.errors} == {"OUT_OF_SCOPE"}
    assert sorted(row["id"] for row in await books.fetch("SELECT id FROM usage_events")) == ["first", "last", "third"]


@pytest.mark.parametrize(
    ("limit", "value", "code"),
    [
        ("IDLE_MAX_S", 0.05, grpc.StatusCode.DEADLINE_EXCEEDED),
        ("AGE_MAX_S", 0.05, grpc.StatusCode.UNAVAILABLE),
        ("STREAMS_MAX", 0, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_streams_are_bounded(
    metering: Metering, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, code: grpc.StatusCode
) -> None:
    monkeypatch.setattr(f"services.kit.streams.{limit}", value)
    call = open_stream(metering)

    assert await asyncio.wait_for(call.code(), 30) == code


async def test_a_stream_needs_a_role(metering: Metering) -> None:
    call = open_stream(metering, None, "orgs/acme", "auditor")
    await call.write(batch("a"))

    assert await asyncio.wait_for(call.code(), 30) == grpc.StatusCode.PERMISSION_DENIED


async def test_the_client_sends_again_what_a_broken_stream_did_not_acknowledge(
    metering: Metering, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "BATCH", 3)
    # No stream gets older than this: each breaks after some batches.
    monkeypatch.setattr("services.kit.streams.AGE_MAX_S", 0.3)
    events = [usage_event(f"e{n}" if n != 4 else "") for n in range(60)]

    async def slowly() -> AsyncIterator[metering_pb2.UsageEvent]:
        for n, event in enumerate(events):
            if n % 12 == 0:
                await asyncio.sleep(0.1)
            yield event

    token = metering.keys.token(EVERYONE, "service")
    async with AsyncClient(metering=metering.address, token=token) as client:
        done = await client.record_stream(slowly())
        again = await client.record_stream(events)

    assert (done.recorded, done.refused_count) == (59, 1)
    assert [(event.id, refusal.field) for event, refusal in done.refused] == [("", "event.id")]
    assert (again.recorded, again.duplicates) == (59, 59)
    assert await books.fetchval("SELECT count(*) FROM usage_events") == 59
