"""`purse replay` of a generated log: reserved, recorded, applied, captured, until drained."""

import asyncio
import json
import random
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.result import Result
from embedded.suite import Suite

GOAL_CALLS_PER_S = 1000.0
_TIMEOUT_S = 600


async def measure(suite: Suite, *, calls: int) -> Result:
    """Calls a second from the first reservation until the last capture is posted, beside the goal."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "calls.csv"
        _write_log(log, calls)
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / "purse"), "--data", str(suite.data_dir), "replay", str(log)),
            *("--speed", "max", "--subjects", "20", "--json"),
            stdout=asyncio.subprocess.PIPE,
        )
        output = (await asyncio.wait_for(process.communicate(), _TIMEOUT_S))[0].decode()
    summary = json.loads(output.splitlines()[-1])
    if process.returncode != 0 or summary["allowed"] + summary["denied"] != calls:
        raise RuntimeError(f"the replay lost calls: {summary}")
    return Result("whole_path", summary["calls_per_s"], "calls/s", ("goal", GOAL_CALLS_PER_S))


def _write_log(path: Path, calls: int) -> None:
    dice = random.Random(2026)
    at = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
    with path.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for _ in range(calls):
            at += timedelta(milliseconds=dice.expovariate(1 / 400))
            context, generated = int(dice.lognormvariate(7.2, 0.9)) + 1, int(dice.lognormvariate(3.0, 1.0)) + 1
            file.write(f"{at:%Y-%m-%d %H:%M:%S.%f},{context},{generated}\n")
