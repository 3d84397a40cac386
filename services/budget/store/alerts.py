"""Crossings and other alerts, each with its outbox row in the same transaction, each once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget.domain import alerts
from services.budget.domain.alerts import AlertCause, Crossing
from services.budget.domain.budgets import LIFETIME_NUMBER, Dimension, OnExceed
from services.kit import outbox
from services.kit.outbox import OutboxRow
from services.kit.windows import LIFETIME_END_US

TOPIC: Final = "alerts"
"""The outbox topic that deliveries read."""

_ADD_CROSSINGS: Final = """
INSERT INTO crossings (org, budget_no, window_key, threshold, generation, limit_amount, spent_amount, reserved_amount,
    asked_amount, cause, on_exceed, subject, window_start_us, window_end_us, crossed_us)
SELECT n.*, $15 FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::bigint[], $14::bigint[])
    AS n
ON CONFLICT DO NOTHING
RETURNING budget_no, window_key, threshold, generation
"""
_ADD_NOTICES: Final = """
INSERT INTO alerts (org, kind, reference, detail, raised_us)
SELECT org, kind, reference, detail, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    AS n (org, kind, reference, detail)
ON CONFLICT DO NOTHING
RETURNING org, kind, reference, detail
"""
_CROSSED: Final = """
SELECT threshold FROM crossings WHERE org = $1 AND budget_no = $2 AND window_key = $3 GROUP BY 1 ORDER BY 1
"""

_ALERT_COLUMNS: Final = """c.org, c.budget_no, c.window_key, c.threshold, c.generation, c.limit_amount, c.spent_amount,
    c.reserved_amount, c.asked_amount, c.cause, c.on_exceed, c.subject, c.window_start_us, c.window_end_us,
    c.crossed_us, c.acknowledged_us, c.acknowledged_by, c.note, b.subject || '/budgets/' || b.budget_id AS budget,
    b.dimension, b.currency"""
_ALERT_FROM: Final = "crossings c JOIN budgets b ON b.org = c.org AND b.budget_no = c.budget_no"
# ':' and '0' as in the list of budgets: a subtree is the range from "subject/" to "subject0".
_LIST: Final = f"""
SELECT {_ALERT_COLUMNS} FROM {_ALERT_FROM}
WHERE c.org = $1 AND c.crossed_us < $11 AND c.crossed_us >= $10
    AND (c.crossed_us, c.budget_no, c.window_key, c.threshold, c.generation) < ($3, $4, $5, $6, $7)
    AND (c.subject = $2 OR (c.subject > $2 || '/' AND c.subject < $2 || '0'))
    AND ($8 = 0 OR (c.acknowledged_us IS NOT NULL) = ($8 = 2)) AND c.threshold >= $9
    AND ($12 = '' OR b.subject || '/budgets/' || b.budget_id = $12)
ORDER BY c.crossed_us DESC, c.budget_no DESC, c.window_key DESC, c.threshold DESC, c.generation DESC LIMIT $13
"""  # noqa: S608 - of constants
_GET: Final = f"""
SELECT {_ALERT_COLUMNS} FROM {_ALERT_FROM}
WHERE c.org = $1 AND c.budget_no = $2 AND c.window_key = $3 AND c.threshold = $4 AND c.generation = $5
"""  # noqa: S608 - of constants
_ACKNOWLEDGE: Final = """
UPDATE crossings SET acknowledged_us = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, acknowledged_by = $6,
    note = $7
WHERE org = $1 AND budget_no = $2 AND window_key = $3 AND threshold = $4 AND generation = $5
    AND acknowledged_us IS NULL
"""

AlertKey = tuple[int, int, int, int, int]
"""When it was raised, budget number, window key, threshold, generation."""


@dataclass(slots=True, frozen=True)
class AlertRow:
    """An alert with what its budget was then."""

    no: int
    key: int
    threshold: int
    generation: int
    limit: int
    spent: int
    reserved: int
    asked: int
    cause: AlertCause
    on_exceed: OnExceed
    subject: str
    window_start_us: int | None
    window_end_us: int | None
    raised_us: int
    acknowledged_us: int | None
    acknowledged_by: str
    note: str
    budget: str
    dimension: Dimension
    currency: str

    @property
    def name(self) -> str:
        """`{subject}/alerts/{id}`."""
        return f"{self.subject}/alerts/{alerts.alert_id(self.no, self.key, self.threshold, self.generation)}"

    @property
    def place(self) -> AlertKey:
        """Where it stands in a list."""
        return (self.raised_us, self.no, self.key, self.threshold, self.generation)


Notice = tuple[str, str, str, str]
"""org, kind, reference, detail."""


async def add_crossings(connection: asyncpg.Connection, found: Sequence[Crossing], at_us: int) -> None:
    """Writes those that are new, and an outbox row for each."""
    if not found:
        return
    # A denial and use in one batch may meet the same threshold; the first one is told.
    first: dict[tuple[int, int, int, int], Crossing] = {}
    for one in found:
        first.setdefault((one.budget.no, one.key, one.threshold, one.budget.generation), one)
    found = list(first.values())
    rows = await connection.fetch(
        _ADD_CROSSINGS,
        [c.budget.org for c in found],
        [c.budget.no for c in found],
        [c.key for c in found],
        [c.threshold for c in found],
        [c.budget.generation for c in found],
        [c.budget.limit for c in found],
        [c.spent for c in found],
        [c.reserved for c in found],
        [c.asked for c in found],
        [int(c.cause) for c in found],
        [int(c.budget.on_exceed) for c in found],
        [c.budget.subject for c in found],
        [None if c.key == LIFETIME_NUMBER else c.window_start_us for c in found],
        [None if c.window_end_us >= LIFETIME_END_US else c.window_end_us for c in found],
        at_us,
    )
    new = {tuple(row) for row in rows}
    await outbox.put(
        connection,
        [
            OutboxRow(c.budget.org, TOPIC, alerts.key_of(c), alerts.payload(c, at_us))
            for c in found
            if (c.budget.no, c.key, c.threshold, c.budget.generation) in new
        ],
    )


async def add_notices(
    connection: asyncpg.Connection, notices: Sequence[Notice], at_us: int
) -> set[tuple[str, str, str]]:
    """Writes those that are new, and an outbox row for each; returns the new ones' org, kind and reference."""
    if not notices:
        return set()
    columns = list(zip(*notices, strict=True))
    rows = await connection.fetch(_ADD_NOTICES, *columns, at_us)
    await outbox.put(
        connection,
        [
            OutboxRow(
                row["org"],
                TOPIC,
                f"{row['kind']}:{row['reference']}",
                alerts.notice_payload(row["org"], row["kind"], row["reference"], row["detail"], at_us),
            )
            for row in rows
        ],
    )
    return {(row["org"], row["kind"], row["reference"]) for row in rows}


async def crossed(connection: asyncpg.Connection, org: str, no: int, key: int) -> list[int]:
    """The thresholds that a window's use has reached."""
    return [row["threshold"] for row in await connection.fetch(_CROSSED, org, no, key)]


def _alert_of(row: asyncpg.Record) -> AlertRow:
    (_, no, key, threshold, generation, limit, spent, reserved, asked, cause, on_exceed, subject, start_us, end_us,
     raised_us, acknowledged_us, by, note, budget, dimension, currency) = row  # fmt: skip
    return AlertRow(
        no, key, threshold, generation, limit, spent, reserved, asked, AlertCause(cause), OnExceed(on_exceed), subject,
        start_us, end_us, raised_us, acknowledged_us, by or "", note or "", budget, Dimension(dimension), currency,
    )  # fmt: skip


@dataclass(slots=True, frozen=True)
class AlertFilter:
    """Which alerts to list.

    Attributes:
        state: 0: all; 1: open; 2: acknowledged.
        threshold_min: The lowest threshold.
        budget: Its name; empty: all.
        from_us: Raised from then on.
        until_us: Raised before.
    """

    state: int
    threshold_min: int
    budget: str
    from_us: int
    until_us: int


async def list_page(
    connection: asyncpg.Connection, org: str, subject: str, wanted: AlertFilter, *, after: AlertKey, limit: int
) -> list[AlertRow]:
    """Alerts of a subtree, the newest first, from behind `after`."""
    rows = await connection.fetch(
        _LIST, org, subject, *after, wanted.state, wanted.threshold_min, wanted.from_us, wanted.until_us,
        wanted.budget, limit,
    )  # fmt: skip
    return [_alert_of(row) for row in rows]


async def get(connection: asyncpg.Connection, org: str, key: tuple[int, int, int, int]) -> AlertRow | None:
    """An alert by budget number, window key, threshold and generation."""
    row = await connection.fetchrow(_GET, org, *key)
    return _alert_of(row) if row else None


async def acknowledge(
    connection: asyncpg.Connection, org: str, key: tuple[int, int, int, int], by: str, note: str
) -> None:
    """Notes who has seen it, unless somebody had."""
    await connection.execute(_ACKNOWLEDGE, org, *key, by, note)
