"""Books of millions of events on a database, written by sets, and how long it takes to audit all of them."""

import time

from proofs.budget.servers import Ground
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit.channel import channel

_ORGS = 20
_BUDGETS = 2_000
_DAYS = 90
DEADLINE_S = 30.0
"""What every caller of Audit waits for."""


async def audit_time(ground: Ground, database: str, *, events: int) -> float:
    """Seconds that Audit takes over so many events of 90 days, on three budgets each, and a tenth as many reservations.

    Raises:
        RuntimeError: The books do not hold, though they do.
    """
    await _fill(ground, database, events)
    await ground.settle()
    async with ground.server(database) as address, channel(address, ground.token) as to_budget:
        stub = budget_pb2_grpc.BudgetServiceStub(to_budget)
        began = time.monotonic()
        answer = await stub.Audit(budget_pb2.AuditRequest(), timeout=10 * DEADLINE_S)
        seconds = time.monotonic() - began
    wrong = [f"{check.name}: {check.detail}" for check in answer.checks if not check.ok]
    if wrong or sum(total.events for total in answer.totals) != events:
        raise RuntimeError(f"{events} events that hold are said not to: {wrong}")
    return seconds


async def _fill(ground: Ground, database: str, events: int) -> None:
    """Events as ApplyUsage writes them, and the counters that follow from them."""
    effect = f"1 + (i % {_BUDGETS}) / 3 * 3 + {{}}, 20260101 + i % {_DAYS}, {{}}"
    effects = ", ".join(effect.format(place, amount) for place, amount in enumerate(("1000 + i % 977", "i % 500", "1")))
    now_us = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    await ground.execute(
        database,
        f"INSERT INTO org_policy (org) SELECT 'o' || n FROM generate_series(0, {_ORGS - 1}) AS n",  # noqa: S608
        f"""
        INSERT INTO applied_usage (org, source, id, subject, payload_hash, occurred_us, applied_us, currency,
            cost_nanos, rated, wallet, drawn_nanos, reservation, unreserved, effects)
        SELECT 'o' || (i % {_BUDGETS}) / 3 % {_ORGS}, 'gateway', md5(i::text), 'orgs/o/teams/t' || i % 1000,
            decode(md5(i::text), 'hex'), {now_us} - i, {now_us} - i, 'USD', 1000 + i % 977, true, NULL, 0, NULL, true,
            ARRAY[{effects}]
        FROM generate_series(1, {events}) AS i
        """,  # noqa: S608 - numbers
        f"""
        INSERT INTO reservations (org, id, subject, state, payload_hash, currency, cost_nanos, funding_held, created_us,
            expires_us, rate_version, model, holds, closed_us)
        SELECT 'o' || (i % {_BUDGETS}) / 3 % {_ORGS}, md5(i::text), 'orgs/o/teams/t' || i % 1000,
            CASE WHEN i % 10 = 0 THEN 1 ELSE 2 END, decode(md5(i::text), 'hex'), 'USD', 1000, 0, {now_us} - i,
            {now_us} + 80000000000, '', 'm',
            ARRAY[1 + (i % {_BUDGETS}) / 3 * 3, 20260101 + i % {_DAYS}, 1000,
                CASE WHEN i % 10 = 0 THEN 1000 ELSE 0 END],
            CASE WHEN i % 10 <> 0 THEN {now_us} - i END
        FROM generate_series(1, {events // 10}) AS i
        """,  # noqa: S608 - numbers
        """
        INSERT INTO counters (org, budget_no, window_key, spent, reserved)
        SELECT org, budget_no, window_key, sum(spent), sum(reserved) FROM (
            SELECT org, effects[1 + 3 * i] AS budget_no, effects[2 + 3 * i] AS window_key, effects[3 + 3 * i] AS spent,
                0 AS reserved
            FROM applied_usage, generate_series(0, cardinality(effects) / 3 - 1) AS i
            UNION ALL
            SELECT org, holds[1], holds[2], 0, holds[4] FROM reservations
        ) AS each GROUP BY 1, 2, 3
        """,
        "VACUUM ANALYZE applied_usage, reservations, counters",
    )
