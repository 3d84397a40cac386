"""Run parts of the suite as a process of its own, for tests that kill it.

    python -m tests.support.suite_process DIRECTORY PART[,PART...]

Prints one line when everything is ready and then waits to be killed.
"""

import asyncio
import sys
from pathlib import Path

from embedded.suite import Suite


async def _main(directory: Path, parts: list[str]) -> None:
    async with Suite(directory, free_ports=True, only=parts):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2].split(",")))
