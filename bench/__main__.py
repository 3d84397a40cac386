"""Runs every benchmark on a suite of its own and writes the figures to `.purse/bench.json`."""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import baseline, reserve, whole_path
from bench.result import Result
from embedded.suite import Suite

OUTPUT = Path(".purse/bench.json")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load runs (default 10, at most 120)")
    parser.add_argument("--calls", type=int, default=20_000, help="calls of the whole path (default 20000)")
    parser.add_argument("--only", choices=("reserve", "whole_path"), help="run one part")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"where to write (default {OUTPUT})")
    return parser.parse_args(argv)


async def _measure(options: argparse.Namespace) -> list[Result]:
    seconds = min(120.0, max(1.0, options.seconds))
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="purse-bench-") as directory:
        async with Suite(Path(directory), free_ports=True) as suite:
            if options.only in (None, "reserve"):
                hot = await reserve.measure(suite, orgs=1, seconds=seconds)
                one_by_one = await baseline.measure(suite, seconds=seconds)
                results.append(Result("batch_reserve_hot_org", hot, "decisions/s", one_by_one))
                spread = await reserve.measure(suite, orgs=1000, seconds=seconds)
                results.append(Result("batch_reserve_1000_orgs", spread, "decisions/s", ("batch_reserve_hot_org", hot)))
            if options.only in (None, "whole_path"):
                results.append(await whole_path.measure(suite, calls=options.calls))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints a line a figure, and writes them all."""
    options = _arguments(sys.argv[1:] if argv is None else argv)
    results = asyncio.run(_measure(options))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"results": [r.as_json() for r in results]}, indent=1) + "\n")
    for result in results:
        print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
