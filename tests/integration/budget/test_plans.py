"""The hot statements go by the indexes made for them, whatever the tables' sizes were when they were planned."""

import re
from typing import Any

import asyncpg
import pytest

from services.budget.store import batch, leases, reservations
from services.budget.store.dsn import for_lookups

STATEMENTS = {
    "lock reservations": (batch._RESERVATIONS, {"reservations_pkey"}),
    "find usage": (batch._USAGE, {"applied_usage_pkey"}),
    "hold epochs": (batch._EPOCHS, {"org_policy_pkey"}),
    "lock leases": (batch._LEASES, {"leases_pkey"}),
    "lock counters": (batch._COUNTERS, {"counters_pkey"}),
    "lock counters and find pauses": (batch._COUNTERS_AND_PAUSES, {"counters_pkey", "pauses_active"}),
    "write decisions": (batch._WRITE, {"counters_pkey", "leases_pkey"}),
    "change reservations": (batch._CHANGE_RESERVATIONS, {"reservations_pkey"}),
    "overdue holds": (reservations._OVERDUE, {"reservations_expiry"}),
    "next operations": (leases._NEXT_OPS, {"lease_ops_open", "leases_pkey"}),
    "take draws": (leases._TAKE_DRAWS, {"lease_draws_pkey"}),
    "write operations": (leases._WRITE_OPS, {"leases_pkey"}),
    "store answers": (leases._ANSWER, {"lease_ops_pkey", "leases_pkey", "lease_ops_open"}),
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_hot_statement_reads_no_whole_table(database: Any, name: str) -> None:
    statement, indexes = STATEMENTS[name]
    parameters = 1 + max(int(number) for number in re.findall(r"\$(\d+)", statement))
    connection = await asyncpg.connect(for_lookups(database("budget").service_dsn))
    try:
        values = ", ".join(["NULL"] * (parameters - 1))
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE hot AS {statement}")
        lines = [row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE hot({values})")]
    finally:
        await connection.close()
    plan = "\n".join(lines)
    assert "Seq Scan" not in plan
    assert "Hash Join" not in plan
    assert indexes <= set(re.findall(r"using (\w+)", plan)), plan
