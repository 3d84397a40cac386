"""The connection dies around COMMIT: what was answered as recorded is there once, and nothing else is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from services.kit.database import create_pool
from services.kit.groupcommit import GroupCommit
from services.metering.store import audit
from services.metering.store.recording import Recorded, Recording, record
from tests.support.databases import Database
from tests.support.metering import recording

NOW = datetime.now(UTC)
COMMIT = b"COMMIT"


class Cutter:
    """Stands between a client and PostgreSQL and cuts the connection at chosen COMMITs.

    Attributes:
        before: How many of the next COMMITs never reach the server.
        after: How many reach it, but their answer is lost.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.before = 0
        self.after = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
        deaf = asyncio.Event()

        async def answers() -> None:
            while data := await upstream_reader.read(65_536):
                if deaf.is_set():
                    return
                writer.write(data)
                await writer.drain()
            writer.close()

        back = asyncio.create_task(answers())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if COMMIT in data and self.before:
                    self.before -= 1
                    break
                if COMMIT in data and self.after:
                    self.after -= 1
                    deaf.set()
                    upstream_writer.write(data)
                    await upstream_writer.drain()
                    await back  # the server has answered, so it has committed
                    break
                upstream_writer.write(data)
                await upstream_writer.drain()
        back.cancel()
        upstream_writer.close()
        writer.close()


@pytest.fixture
async def cutter(database: Callable[[str], Database]) -> AsyncIterator[tuple[Cutter, asyncpg.Pool, asyncpg.Pool]]:
    """The cutter, a pool through it and a pool past it."""
    dsn = database("metering").service_dsn
    parts = urlsplit(dsn)
    made = Cutter(parts.hostname or "", parts.port or 0)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    through = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}"))
    async with (
        server,
        await create_pool(through, application_name="cut") as pool,
        await create_pool(dsn, application_name="whole") as whole,
    ):
        yield made, pool, whole


def recorder(pool: asyncpg.Pool) -> GroupCommit[Recording, Recorded]:
    return GroupCommit(pool, record, org_of=lambda item: item.usage.org, name="test")


async def assert_once(whole: asyncpg.Pool, ids: list[str]) -> None:
    rows = await whole.fetch("SELECT id FROM usage_events ORDER BY id")
    assert [row["id"] for row in rows] == sorted(ids)
    told = await whole.fetch(
        "SELECT e.id FROM outbox o, unnest(o.event_times, o.event_seqs) AS p (at, seq), usage_events e "
        "WHERE e.org = o.org AND e.occurred_at = p.at AND e.seq = p.seq ORDER BY e.id"
    )
    assert [row["id"] for row in told] == sorted(ids)
    async with audit.snapshot(whole, None) as snapshot:
        assert (await snapshot.rollups_that_differ()).count == 0
        assert (await snapshot.keys_without_event()).count == 0


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (2, 0), (0, 2), (1, 1)])
async def test_a_commit_without_an_answer_is_recorded_once(
    cutter: tuple[Cutter, asyncpg.Pool, asyncpg.Pool], before: int, after: int
) -> None:
    made, pool, whole = cutter
    made.before, made.after = before, after
    ids = [f"{n}" for n in range(20)]
    group = recorder(pool)

    answers = await group.submit_many([recording(id_, NOW) for id_ in ids])

    await group.close()
    assert (made.before, made.after) == (0, 0)
    assert all(isinstance(answer, Recorded) for answer in answers)
    await assert_once(whole, ids)


async def test_a_database_that_stays_away_leaves_the_outcome_to_the_same_ids(
    cutter: tuple[Cutter, asyncpg.Pool, asyncpg.Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last try the caller is told to send again, and then learns what became of it."""
    monkeypatch.setattr("services.kit.groupcommit._RECONNECT_DELAYS_S", (0.01, 0.01))
    made, pool, whole = cutter
    made.after = 3
    group = recorder(pool)

    (first,) = await group.submit_many([recording("a", NOW)])
    (second,) = await group.submit_many([recording("a", NOW)])

    await group.close()
    assert getattr(first, "reason", None) == "UNAVAILABLE"
    assert isinstance(second, Recorded)
    assert second.duplicate
    await assert_once(whole, ["a"])
