"""kill -9 of every part, one after the other, while a log is replayed: it goes on, and the books balance."""

import asyncio
import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from embedded.suite import Suite

PARTS = ("budget", "metering", "wallet", "worker", "twin", "gateway", "postgres", "temporal")
CALLS = 12_000
DEADLINE_S = 150


def write_log(path: Path, calls: int) -> None:
    dice = random.Random(7)  # noqa: S311 - a repeatable log
    at = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
    with path.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for _ in range(calls):
            at += timedelta(milliseconds=dice.randint(1, 800))
            file.write(f"{at:%Y-%m-%d %H:%M:%S.%f},{dice.randint(1, 9000)},{dice.randint(1, 900)}\n")


async def purse(suite: Suite, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "purse"),
        *("--data", str(suite.data_dir), *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_everything_is_killed_once_and_nothing_is_lost(tmp_path: Path) -> None:
    log = tmp_path / "calls.csv"
    write_log(log, CALLS)
    async with asyncio.timeout(DEADLINE_S), Suite(tmp_path / "data", free_ports=True) as suite:
        playing = asyncio.create_task(purse(suite, "replay", str(log), "--speed", "max", "--json"))
        killed_while_playing = []
        for part in PARTS:
            await _some_progress(suite, playing)
            if not playing.done():
                killed_while_playing.append(part)
            pid = suite.kill(part)
            await suite.wait_ready(part, other_than=pid)
        code, output = await playing
        summary: dict[str, Any] = json.loads(output.splitlines()[-1])
        audit_code, audit_output = await purse(suite, "audit", "--json")
        audit = json.loads(audit_output.splitlines()[-1])

    assert (0, CALLS, 0) == (code, summary["allowed"] + summary["denied"], summary["failed"]), summary
    assert [] == [check for check in audit["checks"] if not check["ok"]]
    assert (0, True) == (audit_code, audit["ok"])
    assert {"budget", "metering", "wallet"} <= set(killed_while_playing), "the replay ended before it was disturbed"


async def _some_progress(suite: Suite, playing: "asyncio.Task[tuple[int, str]]") -> None:
    """Waits until a little more was recorded, so that the next kill hits work in flight."""
    import asyncpg

    before: int | None = None
    while not playing.done():
        try:
            connection = await asyncpg.connect(suite.dsn("metering", "owner"))
            try:
                count = await connection.fetchval("SELECT count(*) FROM usage_keys")
            finally:
                await connection.close()
        except (OSError, asyncpg.PostgresError):
            count = before or 0
        if before is None:
            before = count
        elif count >= before + 200:
            return
        await asyncio.sleep(0.02)
