"""How fast usage is recorded beside a raw COPY of the same rows, and whether any is lost or doubled on the way.

A recording process for each core, batches answered by counts and refusals: what a sender in bulk would set.

Rounds alternate in one PostgreSQL: a COPY of rows into a table like the one that holds usage, with its key, then as
many events through BatchRecordUsage. The ratio is that of the medians, so a slow moment of the machine hits both.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from embedded.suite import Suite
from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from pursestrings.type.v1 import type_pb2
from services.kit.channel import channel

BATCH: Final = 1_000
IN_FLIGHT: Final = 8
"""Batches that the client has under way at once: four for each of two recording processes."""
SOURCE: Final = "prove"
_MODELS: Final = (
    ("anthropic", "claude-sonnet-4-5"),
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("google", "gemini-2.5-flash"),
)
_OPERATIONS: Final = ("chat", "plan", "search", "summarise")
_RAW: Final = "raw_copy"


@dataclass(frozen=True, slots=True)
class Ingest:
    """What was measured.

    Attributes:
        events_per_s: Recorded, each answered as such.
        copy_rows_per_s: The same rows by COPY.
        lost: Events answered as recorded that are not in the books, or not in the rollups.
        doubled: Events that are there more than once, or twice in the rollups.
    """

    events_per_s: float
    copy_rows_per_s: float
    lost: int
    doubled: int

    @property
    def copy_ratio(self) -> float:
        """Recording as a part of the raw COPY."""
        return self.events_per_s / self.copy_rows_per_s


async def measure(suite: Suite, *, events: int = 100_000, rounds: int = 5) -> Ingest:
    """Measures on a suite that runs at least PostgreSQL and metering.

    Args:
        suite: Its budget service should be down: what is measured is recording, and delivery is another's work.
        events: Recorded in a round.
        rounds: How many; the first of each kind is a warm-up and counts for what is lost or doubled only.
    """
    org = f"ingest-{time.time_ns():x}"
    token = suite.mint("orgs/-", ["service"])
    owner = await asyncpg.connect(suite.dsn("metering", "owner"))
    copied: list[float] = []
    recorded: list[float] = []
    try:
        async with channel(suite.address("metering"), token) as open_channel:
            stub = metering_pb2_grpc.MeteringServiceStub(open_channel)
            for number in range(rounds + 1):
                requests = make_requests(org, number, events)
                recorded.append(await _record(stub, requests) / events)
                copied.append(await _copy(owner, org, number) / events)
            lost, doubled = await _count(owner, org, events * (rounds + 1))
    finally:
        await owner.execute(f"DROP TABLE IF EXISTS {_RAW}")
        await owner.close()
    return Ingest(1 / statistics.median(recorded[1:]), 1 / statistics.median(copied[1:]), lost, doubled)


def make_requests(org: str, number: int, events: int) -> list[metering_pb2.BatchRecordUsageRequest]:
    """Batches of different events of an organisation, as an SDK would send them."""
    dice = random.Random(number)
    now = datetime.now(UTC) - timedelta(minutes=1)
    made = [_event(org, f"{number}-{n}-{dice.getrandbits(64):016x}", now, dice) for n in range(events)]
    return [
        metering_pb2.BatchRecordUsageRequest(events=made[n : n + BATCH], errors_only=True)
        for n in range(0, events, BATCH)
    ]


def _event(org: str, id_: str, now: datetime, dice: random.Random) -> metering_pb2.UsageEvent:
    # A session is one agent's, and a run is one session's.
    run = dice.randrange(2_000)
    session = run % 500
    provider, model = _MODELS[session % len(_MODELS)]
    output = dice.randrange(1, 2_000)
    event = metering_pb2.UsageEvent(
        subject=f"orgs/{org}/teams/t{session % 5}/agents/a{session % 20}",
        source=SOURCE,
        id=id_,
        call=type_pb2.CallAttributes(provider=provider, model=model, operation=dice.choice(_OPERATIONS)),
        tokens=type_pb2.TokenCounts(
            input_tokens=dice.randrange(1_000, 50_000),
            cache_read_tokens=dice.randrange(1_000),
            output_tokens=output,
            reasoning_tokens=dice.randrange(output),
        ),
        session=f"s{session}",
        run=f"r{run}",
    )
    event.occurred_at.FromDatetime(now + timedelta(microseconds=dice.randrange(30_000_000)))
    return event


async def _record(
    stub: "metering_pb2_grpc.MeteringServiceAsyncStub", requests: Sequence[metering_pb2.BatchRecordUsageRequest]
) -> float:
    """Sends every batch and returns how long it took until all were answered as recorded, in seconds."""
    left = iter(requests)

    async def send() -> None:
        for request in left:
            response = await stub.BatchRecordUsage(request, timeout=60)
            if response.recorded != len(request.events):
                raise RuntimeError(f"not recorded: {response.errors[:1]}")

    began_s = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - began_s


async def _copy(owner: asyncpg.Connection, org: str, number: int) -> float:
    """COPYs the rows of a round as they were kept into a table of their own, with their key; in seconds."""
    await owner.execute(f"DROP TABLE IF EXISTS {_RAW}")
    await owner.execute(f"CREATE TABLE {_RAW} (LIKE usage_events INCLUDING ALL)")
    rows = await owner.fetch("SELECT * FROM usage_events WHERE org = $1 AND id LIKE $2", org, f"{number}-%")
    records = [tuple(row) for row in rows]
    began_s = time.perf_counter()
    await owner.copy_records_to_table(_RAW, records=records)
    return time.perf_counter() - began_s


async def _count(owner: asyncpg.Connection, org: str, sent: int) -> tuple[int, int]:
    """How many events are lost and doubled, in the events or in the rollups, whichever is worse."""
    kept = await owner.fetchval("SELECT count(DISTINCT (source, id)) FROM usage_events WHERE org = $1", org)
    rows = await owner.fetchval("SELECT count(*) FROM usage_events WHERE org = $1", org)
    summed = int(await owner.fetchval("SELECT sum(operations) FROM usage_rollups WHERE org = $1", org))
    return max(0, sent - kept, sent - summed), max(0, rows - kept, summed - sent)
