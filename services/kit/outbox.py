"""The transactional outbox: what must be told to others is written with the change itself, and relayed after.

Rows that were delivered are deleted under SKIP LOCKED, so several relays share the work and no order of ids is
relied on (the order of a sequence is not the order of commits). Each service's first migration makes the table:

    CREATE TABLE outbox (
        org text NOT NULL,
        id bigint GENERATED ALWAYS AS IDENTITY,
        topic text NOT NULL,
        key text NOT NULL,
        payload bytea NOT NULL,
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        tries integer NOT NULL DEFAULT 0,
        last_error text,
        parked_at timestamptz,
        PRIMARY KEY (org, id)
    );
    CREATE INDEX outbox_due ON outbox (topic, due_at, id) WHERE parked_at IS NULL;

and where DeliveredThrough is used

    CREATE INDEX outbox_failed ON outbox (topic, org, created_at) WHERE last_error IS NOT NULL;

with SELECT, INSERT, UPDATE and DELETE granted to the service's role.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from services.kit.database import is_connection_lost
from services.kit.errors import Code, PurseError
from services.kit.loops import Loop
from services.kit.telemetry import OUTBOX_FAILED, OUTBOX_PARKED, OUTBOX_SENT, get_logger

_log = get_logger(__name__)
_BACKOFF_MAX_S = 300
ERROR_CHARS_MAX = 500
"""How much of an error is kept."""
_UNEXPLAINED_WAIT_MAX_S = 60
HELD_BACK_MAX = 1_000
"""The most organisations that are held back singly; with more, all are."""
# Only what says that the row itself is wrong counts as a try and may park it. A receiver that is out of reach, or that
# fails for reasons of its own, will take the row once it is mended.
_THE_ROWS_FAULT = frozenset({
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.FAILED_PRECONDITION,
    Code.OUT_OF_RANGE,
})  # fmt: skip
_OUT_OF_REACH = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.CANCELLED})

_PUT = """
INSERT INTO outbox (org, topic, key, payload)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
"""
_TAKE = """
SELECT org, id, topic, key, payload, tries, created_at FROM outbox
WHERE topic = $1 AND parked_at IS NULL AND due_at <= clock_timestamp()
ORDER BY due_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_DELETE = """
DELETE FROM outbox o USING unnest($1::text[], $2::bigint[]) AS sent(org, id)
WHERE o.org = sent.org AND o.id = sent.id
"""
# What fails without an explanation waits a quarter of its age, for there are no tries to go by.
_FAIL = f"""
UPDATE outbox o
SET tries = o.tries + f.counts, last_error = f.error,
    due_at = clock_timestamp() + make_interval(secs => coalesce(f.wait_s, least({_UNEXPLAINED_WAIT_MAX_S},
        greatest(1, extract(epoch FROM clock_timestamp() - o.created_at) / 4)))),
    parked_at = CASE WHEN o.tries + f.counts >= $6 THEN clock_timestamp() END
FROM unnest($1::text[], $2::bigint[], $3::integer[], $4::float8[], $5::text[]) AS f(org, id, counts, wait_s, error)
WHERE o.org = f.org AND o.id = f.id
"""  # noqa: S608 - a constant
_PENDING = """
SELECT count(*) FILTER (WHERE parked_at IS NULL) AS waiting, count(parked_at) AS parked FROM outbox WHERE topic = $1
"""
_HELD_BACK = """
SELECT org, min(created_at) AS through FROM outbox WHERE topic = $1 AND last_error IS NOT NULL GROUP BY org LIMIT $2
"""
_PROVED = """
SELECT clock_timestamp() AS now, pg_current_xact_id() AS next_xid,
    $2::xid8 IS NOT NULL AND pg_snapshot_xmin(pg_current_snapshot()) >= $2::xid8
    AND NOT EXISTS (SELECT FROM outbox WHERE topic = $1 AND xid < $2::xid8 AND last_error IS NULL) AS proved
"""
# The error stays: until it is delivered, the row holds its organisation back.
_REQUEUE = """
UPDATE outbox SET parked_at = NULL, tries = 0, due_at = clock_timestamp() WHERE topic = $1 AND parked_at IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """What to tell, before it is written.

    Attributes:
        org: The organisation, `acme` or `orgs/acme` as the service's other tables have it.
        topic: Which relay sends it.
        key: What it is about, for people; need not be unique.
        payload: The message.
    """

    org: str
    topic: str
    key: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A row that is due.

    Attributes:
        tries: How often it was refused so far.
        created_at: When it was written.
    """

    org: str
    id: int
    topic: str
    key: str
    payload: bytes
    tries: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Pending:
    """How much a topic has left: rows that wait, and rows given up until someone looks."""

    waiting: int
    parked: int


async def put(connection: asyncpg.Connection, rows: Sequence[OutboxRow]) -> None:
    """Writes rows in the caller's transaction."""
    if rows:
        await connection.execute(
            _PUT,
            [r.org for r in rows],
            [r.topic for r in rows],
            [r.key for r in rows],
            [r.payload for r in rows],
        )


async def pending(connection: asyncpg.Connection, topic: str) -> Pending:
    """How many rows of a topic wait or are parked."""
    row = await connection.fetchrow(_PENDING, topic)
    return Pending(row["waiting"], row["parked"])


async def requeue(connection: asyncpg.Connection, topic: str) -> int:
    """Sends parked rows again; returns how many."""
    status: str = await connection.execute(_REQUEUE, topic)
    return int(status.rpartition(" ")[2])


Send = Callable[[list[OutboxMessage]], Awaitable[Sequence[Exception | None]]]


class Relay:
    """Delivers one topic, at least once; the receiver makes it exactly once.

    Args:
        pool: The outbox's database.
        topic: Which rows.
        send: Delivers a batch and returns, row by row, None or why it was refused. What it raises counts for all.
        batch_max: The most rows a delivery.
        tries_max: After how many refusals of the row itself it is parked; other failures never park it.
        interval_s: How often to look without being woken.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        topic: str,
        send: Send,
        *,
        batch_max: int = 500,
        tries_max: int = 10,
        interval_s: float = 0.25,
    ) -> None:
        self._pool = pool
        self._topic = topic
        self._send = send
        self._batch_max = batch_max
        self._tries_max = tries_max
        self.loop = Loop(f"relay {topic}", self.step, interval_s)

    def wake(self) -> None:
        """Says that there may be rows; called after a commit that wrote some."""
        self.loop.wake()

    async def run(self) -> None:
        """Delivers until cancelled."""
        await self.loop.run()

    async def step(self) -> bool:
        """Delivers one batch; returns whether more may be due."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(_TAKE, self._topic, self._batch_max)
            if not rows:
                return False
            # By id, which is the order of writing within one transaction.
            messages = [OutboxMessage(*row) for row in sorted(rows, key=lambda row: row["id"])]
            results = await self._deliver(messages)
            sent = [m for m, error in zip(messages, results, strict=True) if error is None]
            failed = [(m, error) for m, error in zip(messages, results, strict=True) if error is not None]
            if sent:
                await connection.execute(_DELETE, [m.org for m in sent], [m.id for m in sent])
                OUTBOX_SENT.labels(self._topic).inc(len(sent))
            if failed:
                await self._postpone(connection, failed)
        return len(rows) == self._batch_max and bool(sent)

    async def _deliver(self, messages: list[OutboxMessage]) -> Sequence[Exception | None]:
        try:
            results = await self._send(messages)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return [error] * len(messages)
        if len(results) != len(messages):
            raise AssertionError(f"{self._topic}: {len(messages)} rows got {len(results)} results")
        return results

    async def _postpone(self, connection: asyncpg.Connection, failed: list[tuple[OutboxMessage, Exception]]) -> None:
        counts = [int(is_the_rows_fault(error)) for _, error in failed]
        waits_s = [wait_s_of(message.tries, error) for message, error in failed]
        parked = sum(m.tries + c >= self._tries_max for c, (m, _) in zip(counts, failed, strict=True))
        _log.warning(
            "outbox delivery failed",
            topic=self._topic,
            rows=len(failed),
            parked=parked,
            error=repr(failed[0][1]),
        )
        OUTBOX_FAILED.labels(self._topic).inc(len(failed))
        OUTBOX_PARKED.labels(self._topic).inc(parked)
        await connection.execute(
            _FAIL,
            [m.org for m, _ in failed],
            [m.id for m, _ in failed],
            counts,
            waits_s,
            [repr(error)[:ERROR_CHARS_MAX] for _, error in failed],
            self._tries_max,
        )


def is_the_rows_fault(error: Exception) -> bool:
    """Whether what was told is refused for its own sake, which another try does not mend."""
    return isinstance(error, PurseError) and error.code in _THE_ROWS_FAULT


def wait_s_of(tries: int, error: Exception) -> float | None:
    """How long until the next try, in seconds, after this many refusals; None: by the row's age."""
    if is_the_rows_fault(error):
        return float(min(_BACKOFF_MAX_S, 2 ** min(tries, 10)))
    out_of_reach = error.code in _OUT_OF_REACH if isinstance(error, PurseError) else is_connection_lost(error)
    return 1.0 if out_of_reach else None


class DeliveredThrough:
    """Up to which instant all that was written is delivered, but for the rows that failed.

    A row that failed, parked or not, holds back its own organisation only: see `held_back`.

    A transaction that writes an outbox row may commit long after another that began later, so ids and times of rows
    prove nothing. Instead: note (now, a new transaction id); once no transaction below that id is in flight and no row
    below it is left, all that was written before that instant has been delivered. The id is one that is taken: a
    snapshot's xmax is only one past the last *completed* transaction, and those in flight may lie above it.

    Args:
        topic: Which rows.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._noted: tuple[datetime, int] | None = None
        self._proved: datetime | None = None

    async def observe(self, connection: asyncpg.Connection) -> datetime | None:
        """The latest instant that is proved; None until the first is."""
        row = await connection.fetchrow(_PROVED, self._topic, self._noted[1] if self._noted else None)
        if self._noted is not None and row["proved"]:
            self._proved = self._noted[0]
            self._noted = None
        if self._noted is None:
            self._noted = (row["now"], row["next_xid"])
        return self._proved

    async def held_back(self, connection: asyncpg.Connection) -> list[tuple[str, datetime]] | None:
        """Organisations with rows that failed, and when the oldest of those was written; None: too many of them.

        Called after `observe`: what it proved holds for these organisations only up to their own instants.
        """
        rows = await connection.fetch(_HELD_BACK, self._topic, HELD_BACK_MAX + 1)
        return None if len(rows) > HELD_BACK_MAX else [(row["org"], row["through"]) for row in rows]
