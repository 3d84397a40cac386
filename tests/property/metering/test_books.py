"""Any sequence of batches leaves the books that a dictionary would: each call once, whatever is sent again."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.kit.database import create_pool
from services.kit.errors import PurseError, invalid
from services.kit.groupcommit import GroupCommit
from services.metering.store import audit
from services.metering.store import recording as recording_store
from services.metering.store.recording import Recorded, Recording, record
from tests.support.databases import Databases
from tests.support.metering import recording

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ORGS = itertools.count()


@dataclass(frozen=True)
class Sent:
    """A call as a test sends it: the same id with another cost is another call; a late one may not be new."""

    id: str
    cost_nanos: int
    minutes_ago: int
    session: str
    late: bool

    def item(self, org: str) -> Recording:
        made = recording(
            self.id,
            NOW - timedelta(minutes=self.minutes_ago),
            org=org,
            subject=f"orgs/{org}/agents/bot",
            cost_nanos=self.cost_nanos,
            session=self.session,
        )
        refusal = invalid("event.occurred_at", "too late", "TOO_OLD") if self.late else None
        return Recording(made.usage, made.payload_hash + bytes([self.minutes_ago]), refusal)

    @property
    def content(self) -> tuple[int, int, str]:
        return (self.cost_nanos, self.minutes_ago, self.session)


@dataclass(frozen=True)
class Step:
    """What happens at once: one batch, or several by replicas that race; `undone` is rolled back at its end."""

    batches: list[list[Sent]]
    undone: bool


sent = st.builds(
    Sent,
    id=st.sampled_from("abcdef"),
    cost_nanos=st.sampled_from([1, 2]),
    minutes_ago=st.sampled_from([0, 20]),
    session=st.sampled_from(["", "s"]),
    late=st.sampled_from([False, False, False, True]),
)
steps = st.builds(
    Step,
    batches=st.lists(st.lists(sent, min_size=1, max_size=6), min_size=1, max_size=3),
    undone=st.sampled_from([False, False, False, True]),
)


class UndoneError(Exception):
    """Rolls a transaction back."""


class Replicas:
    """Three replicas on one database."""

    def __init__(self, runner: asyncio.Runner, pool: asyncpg.Pool) -> None:
        self.runner = runner
        self.pool = pool

    async def play(self, org: str, plan: list[Step]) -> dict[str, tuple[int, int, str]]:
        """Plays steps against a dictionary and returns it."""
        replicas = [
            GroupCommit(self.pool, record, org_of=lambda item: item.usage.org, name=f"replica {n}") for n in range(3)
        ]
        known: dict[str, tuple[int, int, str]] = {}
        for step in plan:
            if step.undone:
                await self._undo(org, step.batches[0])
                continue
            answers = await asyncio.gather(
                *(
                    replica.submit_many([one.item(org) for one in batch])
                    for replica, batch in zip(replicas, step.batches, strict=False)
                )
            )
            self._settle(known, step.batches, answers)
        for replica in replicas:
            await replica.close()
        return known

    async def _undo(self, org: str, batch: list[Sent]) -> None:
        with contextlib.suppress(UndoneError):
            async with self.pool.acquire() as connection, connection.transaction():
                await record(connection, [one.item(org) for one in batch])
                raise UndoneError

    def _settle(
        self,
        known: dict[str, tuple[int, int, str]],
        batches: list[list[Sent]],
        answers: list[list[Recorded | Exception]],
    ) -> None:
        """Checks answers; among racing batches any may be the first, and then exactly one is."""
        pairs = [pair for batch, part in zip(batches, answers, strict=True) for pair in zip(batch, part, strict=True)]
        made: dict[str, tuple[int, int, str]] = {}
        for one, answer in pairs:
            if isinstance(answer, Recorded) and not answer.duplicate:
                assert one.id not in known, "a call was recorded twice"
                assert one.id not in made, "a call was recorded twice"
                assert not one.late
                made[one.id] = one.content
        known |= made
        for one, answer in pairs:
            if isinstance(answer, Recorded):
                assert known[one.id] == one.content
                assert answer.usage.cost_nanos == one.cost_nanos
            else:
                assert isinstance(answer, PurseError)
                assert answer.reason in {"USAGE_ID_REUSED", "TOO_OLD"}
                assert answer.reason == "TOO_OLD" or known[one.id] != one.content
                assert answer.reason == "USAGE_ID_REUSED" or one.late
        for one, answer in pairs:
            # What may be recorded is in the books afterwards, by this call or another of the same id.
            assert one.late or one.id in known, answer

    async def check(self, org: str, known: dict[str, tuple[int, int, str]]) -> None:
        """Events, keys, rollups, sessions and the outbox all say what the dictionary does."""
        rows = await self.pool.fetch(
            "SELECT id, cost_nanos, occurred_at, session FROM usage_events WHERE org = $1", org
        )
        stored = {
            row["id"]: (row["cost_nanos"], (NOW - row["occurred_at"]) // timedelta(minutes=1), row["session"])
            for row in rows
        }
        assert len(rows) == len(stored)
        assert stored == known
        told = await self.pool.fetch(
            "SELECT e.id FROM outbox o, unnest(o.event_times, o.event_seqs) AS p (at, seq), usage_events e "
            "WHERE o.org = $1 AND e.org = o.org AND e.occurred_at = p.at AND e.seq = p.seq",
            org,
        )
        assert sorted(row["id"] for row in told) == sorted(known)
        async with audit.snapshot(self.pool, org) as snapshot:
            for offenders in (
                await snapshot.events_without_key(),
                await snapshot.keys_without_event(),
                await snapshot.rollups_that_differ(),
                await snapshot.sessions_that_differ(),
            ):
                assert offenders.count == 0, offenders.names


@pytest.fixture(autouse=True, params=[1, 4], scope="module")
def copy_min(request: pytest.FixtureRequest) -> Iterator[None]:
    """From how many keys on they are copied: all batches of this test, or the larger ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_store, "COPY_MIN", request.param)
        yield


@pytest.fixture(scope="module")
def replicas(databases: Databases) -> Iterator[Replicas]:
    database = databases.create("metering")
    with asyncio.Runner() as runner:
        pool = runner.run(create_pool(database.service_dsn, application_name="test"))
        yield Replicas(runner, pool)
        runner.run(pool.close())
    databases.drop(database)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(steps, min_size=1, max_size=6))
def test_the_books_are_what_a_dictionary_would_be(replicas: Replicas, plan: list[Step]) -> None:
    org = f"o{next(ORGS)}"

    async def run() -> None:
        known = await replicas.play(org, plan)
        await replicas.check(org, known)

    replicas.runner.run(run())
