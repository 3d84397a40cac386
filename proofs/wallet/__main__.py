"""Proves what wallets promise, and ends with one JSON line; exits 1 where the books differ or a cap was passed.

Recharges while a fifth of what Stripe is asked or tells goes wrong, through the core and through Temporal; settled
calls into one hot wallet up to the posted ledger; a thousand wallets that post every second. Everything runs in
temporary folders, on loopback, and is gone at the end.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from embedded.suite import Suite
from proofs.wallet import captures, posting, recharges, workflows

TIMEOUT_S = 5_400.0
_PARTS = ("recharges", "workflows", "hot", "many")
_SERVICES = ("postgres", "twin", "wallet", "metering", "budget")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proofs.wallet", description=__doc__)
    parser.add_argument("--only", choices=_PARTS, help="prove one part")
    parser.add_argument("--recharges", type=_some, default=10_000, help="through the core (default 10000)")
    parser.add_argument("--workflows", type=_some, default=300, help="recharges through Temporal (default 300)")
    parser.add_argument("--calls", type=_some, default=100_000, help="into the hot wallet (default 100000)")
    parser.add_argument("--seconds", type=_some, default=60, help="of a thousand posting wallets (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults (default 1)")
    return parser.parse_args(argv)


def _some(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"is at least 1, not {number}")
    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _told(found: recharges.Recharges) -> recharges.Recharges:
    _say(f"  {found.recharges:,} ended in {found.seconds:,.0f} s after {found.faults:,} faults")
    _say(
        f"  {found.charges:,} charges, {found.grants:,} grants, {found.difference_nanos} nanos of difference, "
        f"{found.cap_breaches} caps passed"
    )
    return found


async def _prove(options: argparse.Namespace) -> dict[str, float | int]:
    task = asyncio.current_task()
    assert task is not None
    # Asked to stop, it still takes away what it made.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    wanted = {options.only} if options.only else set(_PARTS)
    figures: dict[str, float | int] = {}
    ran = []
    if "recharges" in wanted:
        _say(f"{options.recharges:,} recharges through the core, with faults")
        with tempfile.TemporaryDirectory(prefix="purse-prove-") as directory:
            found = await recharges.prove(Path(directory), _say, recharges=options.recharges, seed=options.seed)
        ran.append(_told(found))
    if "workflows" in wanted:
        _say(f"{options.workflows:,} recharges through Temporal, with faults")
        with tempfile.TemporaryDirectory(prefix="purse-prove-") as directory:
            found = await workflows.prove(Path(directory), recharges=options.workflows, seed=options.seed)
        ran.append(_told(found))
    for name in ("recharges", "charges", "grants", "difference_nanos", "cap_breaches") if ran else ():
        figures[name] = sum(getattr(found, name) for found in ran)
    if wanted & {"hot", "many"}:
        with tempfile.TemporaryDirectory(prefix="purse-prove-") as directory:
            async with Suite(Path(directory), free_ports=True, only=_SERVICES) as suite:
                if "hot" in wanted:
                    _say(f"{options.calls:,} settled calls into one hot wallet")
                    figures["hot_wallet_calls_per_s"] = round(await captures.hot_wallet(suite, calls=options.calls))
                    _say(f"  {figures['hot_wallet_calls_per_s']:,} calls/s")
                if "many" in wanted:
                    _say(f"{posting.WALLETS:,} wallets, one settled call each a second, for {options.seconds} s")
                    lag = await posting.prove(suite, seconds=options.seconds)
                    _say(f"  lag {lag.lag_first_s:.2f} s, then {lag.lag_last_s:.2f} s; at most {lag.lag_max_s:.2f} s")
                    figures["wallets_posting"] = lag.wallets
                    figures["lag_first_s"] = round(lag.lag_first_s, 2)
                    figures["lag_last_s"] = round(lag.lag_last_s, 2)
    return figures


async def _bounded(options: argparse.Namespace) -> dict[str, float | int]:
    async with asyncio.timeout(TIMEOUT_S):
        return await _prove(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints progress to standard error and the figures, one JSON object, to standard output."""
    try:
        figures = asyncio.run(_bounded(_arguments(sys.argv[1:] if argv is None else argv)))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(json.dumps(figures))
    same = figures.get("charges") == figures.get("grants")
    return int(not same or bool(figures.get("difference_nanos")) or bool(figures.get("cap_breaches")))


if __name__ == "__main__":
    sys.exit(main())
