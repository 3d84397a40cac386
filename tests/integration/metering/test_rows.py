"""What is copied in binary form comes back as it was, whatever its values are."""

from datetime import UTC, datetime, timedelta

import asyncpg

from services.metering.domain.usage import Usage
from services.metering.store import rows
from services.metering.store.recording import record
from tests.support.metering import recording

NOW = datetime(2026, 11, 22, 12, 0, 0, 123_456, tzinfo=UTC)


def test_every_column_of_an_event_is_copied() -> None:
    assert sorted(rows.EVENT_COLUMNS) == sorted((*Usage._fields, "seq"))


async def test_events_come_back_as_they_went(service_books: asyncpg.Connection) -> None:
    items = [
        recording("plain", NOW),
        recording("unrated", NOW - timedelta(days=1), cost_nanos=None, currency="", rate_card_version=""),
        recording(
            "texts", NOW, labels='{"k": "ü\\"\\\\"}', operation='a"b\\c{,}', session="é 1", run="r", status="429"
        ),
        recording("kinds", NOW, extra='{"output_audio_tokens": 5}', service_tier="flex", failed=True, final=False),
        recording("adjusts", NOW, operations=0, corrects_source="test", corrects_id="plain", input_tokens=-5),
        recording("large", NOW, input_tokens=2**62, cost_nanos=2**63 - 1, session="x" * 128, effort="low"),
        *(recording(f"more-{n}", NOW + timedelta(microseconds=n), org=f"o{n % 3}") for n in range(250)),
    ]

    async with service_books.transaction():
        await record(service_books, items)

    columns = ", ".join(Usage._fields)
    stored = [Usage(*row) for row in await service_books.fetch(f"SELECT {columns} FROM usage_events")]  # noqa: S608
    assert sorted(stored, key=lambda one: one.id) == sorted((item.usage for item in items), key=lambda one: one.id)
    told = await service_books.fetch(
        "SELECT o.org, e.id, cardinality(o.event_seqs) AS size FROM outbox o, "
        "unnest(o.event_times, o.event_seqs) AS p (at, seq), usage_events e "
        "WHERE e.org = o.org AND e.occurred_at = p.at AND e.seq = p.seq AND o.topic = 'usage'"
    )
    assert sorted(row["id"] for row in told) == sorted(item.usage.id for item in items)
    assert max(row["size"] for row in told) <= 100


def test_arrays_as_text_keep_what_names_may_hold() -> None:
    assert rows.text_array([""]) == '{""}'
    assert rows.text_array(['a"b', "c\\d", "e,{}"]) == '{"a\\"b","c\\\\d","e,{}"}'
    assert rows.int_array([1, -2]) == "{1,-2}"
