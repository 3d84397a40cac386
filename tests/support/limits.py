"""Budgets that have had windows before: a test cannot wait for a day to pass."""

import time
from datetime import UTC, datetime, timedelta

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import Budgets, rows
from tests.support.databases import Database

DAY_S = 86_400


def quiet_zone() -> str:
    """A zone whose day began 6 to 7 hours ago, so that none ends while a test runs."""
    ahead = (6 - datetime.now(UTC).hour) % 24
    # POSIX signs: Etc/GMT-6 is six hours ahead.
    return f"Etc/GMT-{ahead}" if ahead <= 14 else f"Etc/GMT+{24 - ahead}"


def daily(zone: str | None = None) -> budget_pb2.Window:
    """A day of the quiet zone."""
    return budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY, time_zone=zone or quiet_zone())


def days_ago_s(days: int) -> float:
    """An instant of that day of the quiet zone, in Unix seconds."""
    return time.time() - days * DAY_S


async def backdate(database: Database, name: str, days: int) -> None:
    """Makes a budget one that was created so many days ago."""
    subject, _, budget_id = name.rpartition("/budgets/")
    await rows(
        database,
        """
        WITH moved AS (
            UPDATE budgets SET created_us = created_us - $3, effective_from_us = effective_from_us - $3
            WHERE subject = $1 AND budget_id = $2 RETURNING org)
        UPDATE org_policy SET epoch = epoch + 1 WHERE org IN (SELECT org FROM moved)
        """,
        subject,
        budget_id,
        days * DAY_S * 1_000_000,
    )


async def hold_was_placed_before(database: Database, reservation: str, days: int) -> None:
    """Moves what a reservation holds, and when it was made, into the windows of so many days ago."""
    id_ = reservation.rpartition("/")[2]
    await rows(
        database,
        """
        WITH held AS (
            SELECT r.org, r.id, r.holds[1 + 4 * i] AS no, r.holds[2 + 4 * i] AS key, r.holds[4 + 4 * i] AS amount,
                to_char(to_date(r.holds[2 + 4 * i]::text, 'YYYYMMDD') - $2::int, 'YYYYMMDD')::bigint AS before
            FROM reservations r, generate_series(0, cardinality(r.holds) / 4 - 1) AS i WHERE r.id = $1
        ), taken AS (
            UPDATE counters c SET reserved = c.reserved - h.amount FROM held h
            WHERE c.org = h.org AND c.budget_no = h.no AND c.window_key = h.key
        ), given AS (
            INSERT INTO counters (org, budget_no, window_key, reserved) SELECT org, no, before, amount FROM held
            ON CONFLICT (org, budget_no, window_key) DO UPDATE SET reserved = counters.reserved + excluded.reserved
        )
        UPDATE reservations r SET created_us = r.created_us - $2 * 86400000000::bigint, holds = (
            SELECT array_agg(x ORDER BY place, part) FROM (
                SELECT row_number() OVER () AS place, no, before, amount FROM held) AS m,
                LATERAL (VALUES (1, m.no), (2, m.before), (3, m.amount), (4, m.amount)) AS v (part, x))
        WHERE r.id = $1
        """,
        id_,
        days,
    )


async def status_of(budget: Budgets, name: str) -> budget_pb2.BudgetStatus:
    """A budget's status."""
    response = await budget.admin.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=name))
    found: budget_pb2.BudgetStatus = response.status
    return found


def at(days: int) -> datetime:
    """That many days ago, aware."""
    return datetime.now(UTC) - timedelta(days=days)
