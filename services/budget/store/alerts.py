"""Crossings and other alerts, each with its outbox row in the same transaction, each once."""

import json
from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain import alerts
from services.budget.domain.alerts import Crossing
from services.kit import outbox
from services.kit.outbox import OutboxRow

TOPIC: Final = "alerts"
"""The outbox topic that deliveries read."""

_ADD_CROSSINGS: Final = """
INSERT INTO crossings (org, budget_no, window_key, threshold, generation, limit_amount, spent_amount, crossed_us)
SELECT org, budget_no, window_key, threshold, generation, limit_amount, spent_amount, $8
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS n (org, budget_no, window_key, threshold, generation, limit_amount, spent_amount)
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

Notice = tuple[str, str, str, str]
"""org, kind, reference, detail."""


async def add_crossings(connection: asyncpg.Connection, found: Sequence[Crossing], at_us: int) -> None:
    """Writes those that are new, and an outbox row for each."""
    if not found:
        return
    rows = await connection.fetch(
        _ADD_CROSSINGS,
        [c.budget.org for c in found],
        [c.budget.no for c in found],
        [c.key for c in found],
        [c.threshold for c in found],
        [c.budget.generation for c in found],
        [c.budget.limit for c in found],
        [c.spent for c in found],
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
                json.dumps(
                    {
                        "type": f"budget.{row['kind'].lower()}",
                        "org": row["org"],
                        "reference": row["reference"],
                        "detail": row["detail"],
                        "raised_us": at_us,
                    },
                    separators=(",", ":"),
                    sort_keys=True,
                ).encode(),
            )
            for row in rows
        ],
    )
    return {(row["org"], row["kind"], row["reference"]) for row in rows}


async def crossed(connection: asyncpg.Connection, org: str, no: int, key: int) -> list[int]:
    """The thresholds that a window's use has reached."""
    return [row["threshold"] for row in await connection.fetch(_CROSSED, org, no, key)]
