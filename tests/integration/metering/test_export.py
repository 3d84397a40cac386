"""Exports: the events themselves in every form, cut and gone on with, and only what was recorded when they began."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
from pyarrow import concat_tables, parquet  # type: ignore[import-untyped]

from pursestrings.metering.v1 import corrections_pb2, export_pb2
from pursestrings.type.v1 import type_pb2
from services.kit.status import from_rpc_error
from services.metering import service_export
from services.metering.domain import exporting
from services.metering.domain.exporting import Format
from services.metering.store import export as store
from tests.support.metering import Metering, record_all, usage_event

CSV = export_pb2.EXPORT_FORMAT_CSV
JSONL = export_pb2.EXPORT_FORMAT_JSONL
PARQUET = export_pb2.EXPORT_FORMAT_PARQUET


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and pieces of a few rows, so that a small export has many."""
    monkeypatch.setattr(store, "SCAN_MAX", 7)
    monkeypatch.setattr(exporting, "PIECE_BYTES_MAX", dict.fromkeys(Format, 1_500))


async def fill(metering: Metering, count: int = 40, prefix: str = "e", hours: int = 24) -> None:
    """Events of two agents and another organisation, some of which happened at the same instant."""
    now = datetime.now(UTC) - timedelta(hours=hours)
    events = []
    for n in range(count):
        event = usage_event(f"{prefix}{n}", labels={"task": f'"a, {n}"'}, session=f"s{n % 3}", run="ü")
        event.subject = "orgs/other/agents/x" if n % 5 == 4 else f"orgs/acme/agents/bot{n % 2}"
        event.occurred_at.FromDatetime(now + timedelta(minutes=n // 3))
        events.append(event)
    events[0].tokens.extra["output_audio_tokens"] = 50
    events[0].prompt_hash = b"\x01\xff"
    events[1].call.model = "nobody-prices-this"
    assert all(one.HasField("usage") for one in await record_all(metering.stub_for(), events))


def request(format_: Any, subject: str = "orgs/acme", token: str = "") -> export_pb2.ExportUsageRequest:
    return export_pb2.ExportUsageRequest(subject=subject, format=format_, resume_token=token)


async def pieces(
    metering: Metering, asked: export_pb2.ExportUsageRequest, most: int | None = None, role: str = "service"
) -> list[export_pb2.ExportUsageResponse]:
    """The pieces of an export, or the first of them; then it is cut."""
    call = metering.stub_for("orgs/-", role).ExportUsage(asked)
    found: list[export_pb2.ExportUsageResponse] = []
    async for one in call:
        found.append(one)
        if len(found) == most:
            call.cancel()
            break
    return found


async def refused(metering: Metering, asked: export_pb2.ExportUsageRequest) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pieces(metering, asked)
    return from_rpc_error(caught.value).reason


async def recorded(books: asyncpg.Connection) -> list[asyncpg.Record]:
    return list(await books.fetch("SELECT * FROM usage_events WHERE org = 'acme' ORDER BY occurred_at, seq"))


async def test_every_form_has_the_events_as_they_are(metering: Metering, books: asyncpg.Connection) -> None:
    await fill(metering)
    rows = await recorded(books)
    assert len(rows) == 32

    found = await pieces(metering, request(JSONL))
    lines = [json.loads(line) for line in b"".join(one.data for one in found).splitlines()]
    assert len(found) > 5
    assert [one.done for one in found] == [False] * (len(found) - 1) + [True]
    assert found[-1].rows == len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert set(line) == set(exporting.COLUMNS)
        assert datetime.fromisoformat(line.pop("occurred_at")) == row["occurred_at"]
        assert datetime.fromisoformat(line.pop("recorded_at")) == row["recorded_at"]
        assert line.pop("labels") == json.loads(row["labels"])
        assert line.pop("extra") == json.loads(row["extra"] or "{}")
        assert line.pop("prompt_hash") == (row["prompt_hash"].hex() if row["prompt_hash"] else None)
        assert line == {name: row[name] for name in line}

    text = b"".join(one.data for one in await pieces(metering, request(CSV))).decode()
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(read[0]) == exporting.COLUMNS
    assert [one["id"] for one in read] == [row["id"] for row in rows]
    assert [one["labels"] for one in read] == [row["labels"] for row in rows]
    assert [one["cost_nanos"] for one in read] == [str(row["cost_nanos"] or "") for row in rows]

    parts = [parquet.read_table(io.BytesIO(one.data)) for one in await pieces(metering, request(PARQUET)) if one.data]
    table = concat_tables(parts).to_pylist()
    assert len(parts) > 2
    assert [one["id"] for one in table] == [row["id"] for row in rows]
    assert [one["cost_nanos"] for one in table] == [row["cost_nanos"] for row in rows]
    assert [one["occurred_at"] for one in table] == [row["occurred_at"] for row in rows]
    assert (read[0]["prompt_hash"], table[0]["prompt_hash"], lines[0]["operation"]) == ("01ff", "01ff", "chat")
    assert dict(table[0]["extra"]) == {"output_audio_tokens": 50}
    assert dict(table[2]["labels"]) == json.loads(rows[2]["labels"])


async def test_an_export_that_is_cut_again_and_again_has_each_row_of_its_beginning_once(
    metering: Metering, books: asyncpg.Connection
) -> None:
    await fill(metering)
    before = [row["id"] for row in await recorded(books)]
    data, token, rows = b"", "", 0
    for cut in range(100):
        [*kept] = await pieces(metering, request(CSV, token=token), most=1 + cut % 2)
        data += b"".join(one.data for one in kept)
        assert kept[-1].rows >= rows
        token, rows = kept[-1].resume_token, kept[-1].rows
        if kept[-1].done:
            break
        if cut == 2:
            # Where it has not read yet, and not of it: recorded after its beginning.
            await fill(metering, 20, prefix="late", hours=20)

    assert cut > 3
    assert [one["id"] for one in csv.DictReader(io.StringIO(data.decode(), newline=""))] == before
    assert rows == len(before)
    assert (await pieces(metering, request(CSV)))[-1].rows == len(before) + 16


async def test_a_beginning_waits_for_what_is_being_recorded(
    metering: Metering, service_books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CUT_TIMEOUT_S", 0.05)
    recording = service_books.transaction()
    await recording.start()
    await service_books.fetchval("SELECT begin_usage()")

    assert await refused(metering, request(CSV)) == "UNAVAILABLE"

    await recording.rollback()
    await pieces(metering, request(CSV))


async def test_an_agents_export_is_its_own_rows_and_corrections_are_rows(metering: Metering) -> None:
    await fill(metering)
    event = usage_event("audio", subject="orgs/acme/agents/bot1", tokens=type_pb2.TokenCounts(input_tokens=9))
    await record_all(metering.stub_for(), [event])
    correction = corrections_pb2.CorrectUsageRequest(
        org="orgs/acme", source="test", id="audio", reason="invoice", request_id="c1",
        cost=type_pb2.Money(currency_code="USD", amount_nanos=7),
    )  # fmt: skip
    corrected = await metering.stub_for("orgs/acme", "operator").CorrectUsage(correction)

    found = await pieces(metering, request(JSONL, "orgs/acme/agents/bot1"))

    rows = [json.loads(line) for line in b"".join(one.data for one in found).splitlines()]
    assert {one["subject"] for one in rows} == {"orgs/acme/agents/bot1"}
    adjusting = [one for one in rows if one["corrects_id"] == "audio"]
    assert [(one["operations"], one["cost_nanos"]) for one in adjusting] == [
        (0, corrected.usage.cost_difference.amount_nanos)
    ]
    assert sum(one["cost_nanos"] for one in rows if "audio" in (one["id"], one["corrects_id"])) == 7


async def test_an_export_without_rows_is_still_one(metering: Metering) -> None:
    [text] = await pieces(metering, request(CSV))
    assert (text.data.decode(), text.done) == (",".join(exporting.COLUMNS) + "\r\n", True)
    [part] = await pieces(metering, request(PARQUET))
    assert tuple(parquet.read_table(io.BytesIO(part.data)).column_names) == exporting.COLUMNS
    [lines] = await pieces(metering, request(JSONL))
    assert (lines.data, lines.rows) == (b"", 0)


async def test_what_is_asked_wrongly_is_refused(
    metering: Metering, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(metering)
    [first] = await pieces(metering, request(CSV), most=1)

    assert await refused(metering, request(0)) == "INVALID_ARGUMENT"
    assert await refused(metering, request(CSV, token="x")) == "INVALID_ARGUMENT"
    assert await refused(metering, request(JSONL, token=first.resume_token)) == "INVALID_ARGUMENT"
    assert await refused(metering, request(CSV, "orgs/other", first.resume_token)) == "INVALID_ARGUMENT"

    month = f"{datetime.now(UTC) - timedelta(days=1):%Y_%m}"
    for name in await books.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'usage_events'::regclass"
    ):
        if name["name"] != "usage_events_default" and name["name"] <= f"usage_events_{month}":
            await books.execute(f"ALTER TABLE usage_events DETACH PARTITION {name['name']}")
    assert await refused(metering, request(CSV, token=first.resume_token)) == "EXPORT_GONE"

    monkeypatch.setattr(service_export, "EXPORTS_MAX", 0)
    assert await refused(metering, request(CSV)) == "BUSY"
