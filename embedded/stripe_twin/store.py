"""The twin's state in one SQLite file. SQL, and nothing but.

Write-ahead log, committed before a request is answered: what was answered survives `kill -9`. Losing
power may lose the last moments (`synchronous=NORMAL`), which is fine for a stand-in.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded.stripe_twin import faults
from embedded.stripe_twin.domain import StoredAnswer

Json = dict[str, Any]

SCHEMA_VERSION = 3
MAX_PENDING_DELIVERIES = 100_000
MAX_ENDPOINTS = 16

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE objects (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  created INTEGER NOT NULL,
  customer TEXT,
  parent TEXT,
  tag TEXT,
  body TEXT NOT NULL,
  private TEXT NOT NULL
) STRICT;
CREATE INDEX objects_by_kind ON objects (kind, seq);
CREATE INDEX objects_by_customer ON objects (kind, customer, seq);
CREATE INDEX objects_by_parent ON objects (kind, parent, seq);
CREATE TABLE idempotency (
  key TEXT PRIMARY KEY,
  endpoint TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  status INTEGER NOT NULL,
  body TEXT NOT NULL,
  request_id TEXT NOT NULL,
  created INTEGER NOT NULL
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created);
CREATE TABLE faults (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  argument TEXT NOT NULL,
  match TEXT NOT NULL,
  times_left INTEGER NOT NULL,
  rate REAL NOT NULL,
  seed INTEGER NOT NULL,
  seen INTEGER NOT NULL DEFAULT 0,
  fired INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE endpoints (
  id TEXT PRIMARY KEY,
  url TEXT NOT NULL,
  secret TEXT NOT NULL,
  enabled_events TEXT NOT NULL
) STRICT;
CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL,
  endpoint_id TEXT NOT NULL REFERENCES endpoints (id),
  state TEXT NOT NULL CHECK (state IN ('pending', 'held', 'delivered', 'gave_up', 'dropped')),
  attempts INTEGER NOT NULL DEFAULT 0,
  created REAL NOT NULL,
  due REAL NOT NULL,
  last_result TEXT
) STRICT;
CREATE INDEX deliveries_by_due ON deliveries (state, due);
CREATE INDEX deliveries_by_event ON deliveries (event_id);
"""

# What each format adds to the one before; a new file goes through all of them.
_UPGRADES = {
    2: """
CREATE TABLE timers (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  object_id TEXT NOT NULL,
  due REAL NOT NULL
) STRICT;
CREATE INDEX timers_by_due ON timers (due);
ALTER TABLE objects ADD COLUMN written REAL NOT NULL DEFAULT 0;
""",
    # What waits, in the order it is due: found without a look at all the rest.
    3: """
DROP INDEX deliveries_by_due;
CREATE INDEX deliveries_waiting ON deliveries (due, id) WHERE state IN ('pending', 'held');
CREATE INDEX deliveries_held ON deliveries (endpoint_id, id) WHERE state = 'held';
""",
}


@dataclass(frozen=True, slots=True)
class Record:
    """A stored object: what the API shows, and what only the twin knows of it."""

    body: Json
    private: Json
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list is narrowed to; None does not narrow. Creation times in seconds, both ends included.

    `members` are members of the object that must have these values.
    """

    customer: str | None = None
    parent: str | None = None
    tags: tuple[str, ...] = ()
    first_created: int = 0
    last_created: int = 2**62
    members: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where webhooks go."""

    id: str
    url: str
    secret: str
    enabled_events: list[str] = field(default_factory=lambda: ["*"])


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event owed to one endpoint."""

    id: int
    attempts: int
    created: float
    event: Json
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Timer:
    """Something that happens to an object by itself."""

    id: int
    kind: str
    object_id: str


class StateError(Exception):
    """The state file cannot be used; the message says why and what to do."""


class Store:
    """One open state file. Not for use from several threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StateError(f"{folder} is in use by another Stripe twin; stop it or choose another --data") from error
        path = folder / "stripe-twin.sqlite3"
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            self.close()
            raise StateError(f"{path} has format {version}, this twin writes {SCHEMA_VERSION}; remove it to start anew")
        if version < SCHEMA_VERSION:
            steps = [_SCHEMA] * (version == 0) + [sql for number, sql in _UPGRADES.items() if number > version]
            self._db.executescript(f"BEGIN; {' '.join(steps)} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file; no other call may follow."""
        self._db.close()
        self._lock.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: commits at the end of the block, rolls back when it raises."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # --- objects --------------------------------------------------------------------------------------

    def put(
        self,
        kind: str,
        body: Json,
        private: Json,
        *,
        written: float,
        parent: str | None = None,
        tag: str | None = None,
    ) -> None:
        """Write an object, new or changed, at the time `written`; `parent` and `tag` are those of its first writing."""
        self._db.execute(
            "INSERT INTO objects (id, kind, created, customer, parent, tag, body, private, written)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET customer = excluded.customer,"
            " body = excluded.body, private = excluded.private, written = excluded.written",
            (
                body["id"],
                kind,
                body["created"],
                body.get("customer"),
                parent,
                tag,
                json.dumps(body),
                json.dumps(private),
                written,
            ),
        )

    def get(self, kind: str, object_id: str) -> Record | None:
        """One object, or None."""
        row = self._db.execute(
            "SELECT body, private, parent FROM objects WHERE id = ? AND kind = ?", (object_id, kind)
        ).fetchone()
        return Record(json.loads(row["body"]), json.loads(row["private"]), row["parent"]) if row else None

    def page(
        self,
        kind: str,
        narrow: Filter,
        *,
        limit: int,
        starting_after: str | None = None,
        ending_before: str | None = None,
    ) -> tuple[list[Json], bool] | None:
        """A page, newest first, and whether there is more; None when the cursor names no such object."""
        clauses = ["kind = ?", "created BETWEEN ? AND ?"]
        values: list[Any] = [kind, narrow.first_created, narrow.last_created]
        if narrow.customer is not None:
            clauses.append("customer = ?")
            values.append(narrow.customer)
        if narrow.parent is not None:
            clauses.append("parent = ?")
            values.append(narrow.parent)
        if narrow.tags:
            clauses.append(f"tag IN ({', '.join('?' * len(narrow.tags))})")
            values.extend(narrow.tags)
        for member, wanted in narrow.members.items():
            clauses.append("json_extract(body, ?) = ?")
            values.extend((f"$.{member}", wanted))
        for cursor, side in ((starting_after, "<"), (ending_before, ">")):
            if cursor is None:
                continue
            row = self._db.execute("SELECT seq FROM objects WHERE id = ? AND kind = ?", (cursor, kind)).fetchone()
            if row is None:
                return None
            clauses.append(f"seq {side} ?")
            values.append(row["seq"])
        backwards = ending_before is not None
        rows = self._db.execute(
            f"SELECT body FROM objects WHERE {' AND '.join(clauses)}"  # noqa: S608 - clauses are constants
            f" ORDER BY seq {'ASC' if backwards else 'DESC'} LIMIT ?",
            (*values, limit + 1),
        ).fetchall()
        items = [json.loads(row["body"]) for row in rows[:limit]]
        return (items[::-1] if backwards else items), len(rows) > limit

    def written_before(self, kind: str, instant: float) -> list[Json]:
        """Every object of a kind that has not changed since a time, newest first."""
        rows = self._db.execute(
            "SELECT body FROM objects WHERE kind = ? AND written <= ? ORDER BY seq DESC", (kind, instant)
        ).fetchall()
        return [json.loads(row["body"]) for row in rows]

    # --- idempotency ----------------------------------------------------------------------------------

    def stored_answer(self, key: str) -> StoredAnswer | None:
        """What is kept under an idempotency key, however old."""
        row = self._db.execute(
            "SELECT endpoint, fingerprint, status, body, request_id, created FROM idempotency WHERE key = ?", (key,)
        ).fetchone()
        return StoredAnswer(**row) if row else None

    def keep_answer(self, key: str, answer: StoredAnswer) -> None:
        """Keep an answer under its key, in place of one that had expired."""
        self._db.execute(
            "INSERT OR REPLACE INTO idempotency (key, endpoint, fingerprint, status, body, request_id, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                answer.endpoint,
                answer.fingerprint,
                answer.status,
                answer.body,
                answer.request_id,
                answer.created,
            ),
        )

    # --- clock and age --------------------------------------------------------------------------------

    def clock_offset_s(self) -> float:
        """How far ahead the clock was left."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'clock_offset_s'").fetchone()
        return float(row["value"]) if row else 0.0

    def keep_clock_offset(self, offset_s: float) -> None:
        """Remember how far ahead the clock is."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('clock_offset_s', ?)", (repr(offset_s),))

    def prune(self, *, answers_before: int, events_before: int) -> None:
        """Forget answers and events from before the given times, and the deliveries of those events."""
        self._db.execute("DELETE FROM idempotency WHERE created < ?", (answers_before,))
        self._db.execute("DELETE FROM deliveries WHERE created < ?", (events_before,))
        self._db.execute("DELETE FROM objects WHERE kind = 'event' AND created < ?", (events_before,))

    # --- timers ---------------------------------------------------------------------------------------

    def add_timer(self, kind: str, object_id: str, *, due: float) -> None:
        """Remember that something happens to an object at a time."""
        self._db.execute("INSERT INTO timers (kind, object_id, due) VALUES (?, ?, ?)", (kind, object_id, due))

    def due_timers(self, now: float, limit: int) -> list[Timer]:
        """What is to happen by `now`, earliest first."""
        rows = self._db.execute(
            "SELECT id, kind, object_id FROM timers WHERE due <= ? ORDER BY due, id LIMIT ?", (now, limit)
        ).fetchall()
        return [Timer(*row) for row in rows]

    def next_timer(self) -> float | None:
        """When the next thing happens, or None."""
        due = self._db.execute("SELECT MIN(due) FROM timers").fetchone()[0]
        return None if due is None else float(due)

    def remove_timer(self, timer_id: int) -> None:
        """It has happened."""
        self._db.execute("DELETE FROM timers WHERE id = ?", (timer_id,))

    # --- faults ---------------------------------------------------------------------------------------

    def rules(self) -> list[faults.Rule]:
        """Every stored fault, oldest first."""
        rows = self._db.execute("SELECT * FROM faults ORDER BY id").fetchall()
        return [
            faults.Rule(
                fault=faults.Fault(row["kind"], row["argument"]),
                **{name: row[name] for name in ("id", "match", "times_left", "rate", "seed", "seen", "fired")},
            )
            for row in rows
        ]

    def add_rule(self, fault: faults.Fault, *, match: str, times: int, rate: float, seed: int) -> int:
        """Store a fault; its id."""
        cursor = self._db.execute(
            "INSERT INTO faults (kind, argument, match, times_left, rate, seed) VALUES (?, ?, ?, ?, ?, ?)",
            (fault.kind, fault.argument, match, times, rate, seed),
        )
        return int(cursor.lastrowid or 0)

    def clear_rules(self) -> None:
        """Remove every fault."""
        self._db.execute("DELETE FROM faults")

    def take_fault(self, subject: str, kinds: frozenset[str]) -> faults.Fault | None:
        """The first fault of these kinds that fires for `subject`, counted down; else None."""
        for rule in self.rules():
            if rule.fault.kind not in kinds or not faults.matches(rule, subject):
                continue
            fired = faults.fires(rule)
            self._db.execute(
                "UPDATE faults SET seen = seen + 1, fired = fired + ?, times_left = times_left - ? WHERE id = ?",
                (fired, fired, rule.id),
            )
            if fired:
                return rule.fault
        return None

    # --- webhooks -------------------------------------------------------------------------------------

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Add an endpoint or change the one with its id."""
        self._db.execute(
            "INSERT INTO endpoints (id, url, secret, enabled_events) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET url = excluded.url, secret = excluded.secret, enabled_events = excluded.enabled_events",
            (endpoint.id, endpoint.url, endpoint.secret, json.dumps(endpoint.enabled_events)),
        )

    def remove_endpoint(self, endpoint_id: str) -> bool:
        """Remove an endpoint and what it was owed; whether there was one."""
        self._db.execute("DELETE FROM deliveries WHERE endpoint_id = ?", (endpoint_id,))
        return self._db.execute("DELETE FROM endpoints WHERE id = ?", (endpoint_id,)).rowcount > 0

    def event_ids(self, after: str, limit: int) -> list[str]:
        """The ids of `limit` events that follow the one of this id, all where it is empty, oldest first."""
        rows = self._db.execute(
            "SELECT id FROM objects WHERE kind = 'event' AND seq > coalesce("
            "(SELECT seq FROM objects WHERE kind = 'event' AND id = ?), -1) ORDER BY seq LIMIT ?",
            (after, limit),
        ).fetchall()
        return [row["id"] for row in rows]

    def endpoints(self) -> list[Endpoint]:
        """Every endpoint."""
        rows = self._db.execute("SELECT * FROM endpoints ORDER BY id").fetchall()
        return [_endpoint(row) for row in rows]

    def owe(self, event_id: str, endpoint_id: str, *, created: float, due: float, state: str) -> None:
        """Queue a delivery; past 100,000 waiting ones it is recorded as dropped."""
        self._owe([(event_id, endpoint_id)], created=created, due=due, state=state)

    def owe_all(self, events: Sequence[str], endpoints: Sequence[str], *, now: float) -> None:
        """Queue the delivery of every event to every endpoint at once, in order."""
        self._owe([(event, endpoint) for event in events for endpoint in endpoints], created=now, due=now)

    def _owe(self, wanted: Sequence[tuple[str, str]], *, created: float, due: float, state: str = "pending") -> None:
        waiting = self._db.execute("SELECT COUNT(*) FROM deliveries WHERE state IN ('pending', 'held')").fetchone()[0]
        room = max(0, MAX_PENDING_DELIVERIES - waiting)
        self._db.executemany(
            "INSERT INTO deliveries (event_id, endpoint_id, state, created, due, last_result)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (event, endpoint, state, created, due, None)
                if number < room
                else (event, endpoint, "dropped", created, due, "the queue was full")
                for number, (event, endpoint) in enumerate(wanted)
            ],
        )

    def due_deliveries(self, now: float, limit: int) -> list[Delivery]:
        """What is to be sent by `now`, longest due first."""
        rows = self._db.execute(
            "SELECT d.id, d.attempts, d.created, o.body, d.endpoint_id, e.url, e.secret, e.enabled_events"
            " FROM (SELECT * FROM deliveries WHERE state IN ('pending', 'held') AND due <= ?"
            "       ORDER BY due, id LIMIT ?) d"
            " JOIN endpoints e ON e.id = d.endpoint_id JOIN objects o ON o.id = d.event_id ORDER BY d.due, d.id",
            (now, limit),
        ).fetchall()
        return [
            Delivery(
                row["id"],
                row["attempts"],
                row["created"],
                json.loads(row["body"]),
                Endpoint(row["endpoint_id"], row["url"], row["secret"], json.loads(row["enabled_events"])),
            )
            for row in rows
        ]

    def next_due(self) -> float | None:
        """When the earliest waiting delivery is due, or None."""
        row = self._db.execute(
            "SELECT due FROM deliveries WHERE state IN ('pending', 'held') ORDER BY due, id LIMIT 1"
        ).fetchone()
        return None if row is None else float(row["due"])

    def delivered(self, delivery: Delivery, result: str, now: float) -> None:
        """The endpoint took it; events held back until a later one was delivered may go now."""
        self._db.execute(
            "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1, last_result = ? WHERE id = ?",
            (result, delivery.id),
        )
        self._db.execute(
            "UPDATE deliveries SET state = 'pending', due = ? WHERE state = 'held' AND endpoint_id = ? AND id < ?",
            (now, delivery.endpoint.id, delivery.id),
        )

    def failed(self, delivery: Delivery, result: str, retry_at: float | None) -> None:
        """The endpoint did not take it; None as `retry_at` gives up."""
        self._db.execute(
            "UPDATE deliveries SET state = ?, attempts = attempts + 1, due = coalesce(?, due), last_result = ?"
            " WHERE id = ?",
            ("gave_up" if retry_at is None else "pending", retry_at, result, delivery.id),
        )

    # --- what there is --------------------------------------------------------------------------------

    def summary(self) -> Json:
        """Counts of everything, for `GET /_twin/state`."""

        def pairs(sql: str) -> Json:
            return {str(name): count for name, count in self._db.execute(sql).fetchall()}

        charged = "SELECT json_extract(body, '$.currency'), {} FROM objects WHERE kind = 'charge' AND {} GROUP BY 1"
        paid = "json_extract(body, '$.status') = 'succeeded'"
        return {
            "objects": pairs("SELECT kind, COUNT(*) FROM objects GROUP BY kind"),
            "payment_intents": pairs(
                "SELECT json_extract(body, '$.status'), COUNT(*) FROM objects WHERE kind = 'payment_intent' GROUP BY 1"
            ),
            "charges_succeeded": pairs(charged.format("COUNT(*)", paid)),
            "amount_charged_minor": pairs(charged.format("SUM(json_extract(body, '$.amount'))", paid)),
            "deliveries": pairs("SELECT state, COUNT(*) FROM deliveries GROUP BY state"),
            "idempotency_keys": self._db.execute("SELECT COUNT(*) FROM idempotency").fetchone()[0],
        }


def _endpoint(row: sqlite3.Row) -> Endpoint:
    return Endpoint(row["id"], row["url"], row["secret"], json.loads(row["enabled_events"]))
