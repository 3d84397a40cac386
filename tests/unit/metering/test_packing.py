"""Rows are packed in turns, so that other work of the process gets in between, and are the same rows all the same."""

from datetime import UTC, datetime

import pytest

from services.metering.store import rows
from tests.support.metering import recording

AT = datetime(2026, 3, 1, tzinfo=UTC)


async def packed(count: int) -> list[bytes]:
    events = [recording(f"e{n}", AT, session=f"s{n}").usage for n in range(count)]
    return [part async for part in rows.event_rows(events, [rows.pg_us(AT)] * count, range(count))]


@pytest.mark.parametrize("count", [0, 1, 6, 7])
async def test_turns_make_the_rows_of_one(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    whole = await packed(count)

    monkeypatch.setattr(rows, "TURN", 3)
    turns = await packed(count)

    assert b"".join(turns) == b"".join(whole)
    # A header, a part for each three events, and a trailer.
    assert len(turns) == 2 + -(-count // 3)
