"""Proves how fast spent money reaches the ledger: into one hot wallet, and into a thousand at once.

Ends with one JSON line.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import captures
from embedded.suite import Suite

_PARTS = ("postgres", "twin", "wallet", "metering", "budget")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.prove_wallet", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000, help="settled calls into the hot wallet (default 100000)")
    parser.add_argument("--rounds", type=int, default=20, help="seconds of a thousand posting wallets (default 20)")
    return parser.parse_args(argv)


async def _prove(options: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="purse-prove-") as directory:
        async with Suite(Path(directory), free_ports=True, only=_PARTS) as suite:
            hot = await captures.hot_wallet(suite, calls=options.calls)
            spread = await captures.many_wallets(suite, rounds=options.rounds)
    return {
        "hot_wallet_calls_per_s": round(hot),
        "wallets_posting": spread.wallets,
        "lag_first_s": round(spread.lag_first_s, 2),
        "lag_last_s": round(spread.lag_last_s, 2),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Proves, and prints the figures as the last line."""
    options = _arguments(sys.argv[1:] if argv is None else argv)
    print(json.dumps(asyncio.run(_prove(options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
