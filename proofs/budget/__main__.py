"""Proves what budget promises under load, and ends with one line of JSON.

Windows are what local dates say; the service does what a plain model of its rules says; nothing is sold twice by two
servers to eight client processes; twenty budgets on eight levels and a million counters elsewhere cost little.
Everything runs in a temporary folder, on loopback, and is gone at the end.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from proofs.budget import books, machine, model, oversell, ratios, window_rules
from proofs.budget.servers import ground

TIMEOUT_S = 1_500.0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proofs.budget", description=__doc__)
    parser.add_argument("--spends", type=int, default=100_000, help="reservations asked for (default 100000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each load runs (default 20, at most 120)")
    parser.add_argument("--slices", type=int, default=10, help="into how many slices a load is cut (default 10)")
    parser.add_argument("--counters", type=int, default=1_000_000, help="of other subjects (default 1000000)")
    parser.add_argument(
        "--only", choices=("windows", "model", "oversell", "twenty", "million", "books"), help="prove one part"
    )
    parser.add_argument("--examples", type=int, default=200, help="random histories beside the model (default 200)")
    parser.add_argument("--events", type=int, default=1_000_000, help="of the books that are audited (default 1000000)")
    parser.add_argument("--years", type=int, default=21, help="of windows, from 2020 on (default 21)")
    return parser.parse_args(argv)


async def _prove(options: argparse.Namespace) -> dict[str, object]:
    seconds = min(120.0, max(1.0, options.seconds))
    figures: dict[str, object] = {}
    if options.only in (None, "windows"):
        figures |= await asyncio.to_thread(_windows, 2020, 2019 + options.years)
    if options.only == "windows":
        return figures
    with tempfile.TemporaryDirectory(prefix="purse-prove-") as directory:
        async with ground(Path(directory)) as place:
            for database in ("model", "sold", "deep", "empty", "crowded", "books"):
                await place.copy(database)
            if options.only in (None, "model"):
                print(f"{options.examples} random histories beside a plain model of the rules", flush=True)
                dsns = place.dsn("model", "owner"), place.dsn("model", "service")
                await asyncio.to_thread(_model, *dsns, options.examples)
                figures["histories"] = options.examples
            if options.only in (None, "oversell"):
                print(f"{options.spends} reservations from {oversell.CLIENTS} processes to {oversell.SERVERS} servers")
                sold = await oversell.prove(place, "sold", spends=options.spends, timeout_s=TIMEOUT_S / 2)
                print(
                    f"  {sold.decisions} decisions in {sold.seconds:.0f} s; {sold.oversold_nanos} nanos oversold, "
                    f"{sold.missing_nanos} below the limits, {sold.unexplained_nanos} unexplained",
                    flush=True,
                )
                figures["oversold_nanos"] = sold.oversold_nanos
                figures["unsold_nanos"] = sold.missing_nanos
                figures["unexplained_nanos"] = sold.unexplained_nanos
                figures["decisions"] = sold.decisions
            if options.only in (None, "twenty"):
                print("20 budgets on 8 levels, in an organisation of 10,000, beside 3 on 3 levels", flush=True)
                ratio = await ratios.twenty_budgets(place, "deep", seconds=seconds, slices=options.slices)
                figures["ratio_20_budgets"] = round(ratio, 3)
            if options.only in (None, "million"):
                print(f"{options.counters} counters of other subjects beside none", flush=True)
                ratio = await ratios.million_counters(
                    place, "empty", "crowded", seconds=seconds, slices=options.slices, counters=options.counters
                )
                figures["ratio_million_counters"] = round(ratio, 3)
            if options.only in (None, "books"):
                print(f"an audit of {options.events} events", flush=True)
                taken_s = await books.audit_time(place, "books", events=options.events)
                print(f"  {taken_s:.1f} s; its callers wait {books.DEADLINE_S:.0f} s", flush=True)
                figures["audit_seconds"] = round(taken_s, 1)
    return figures


def _model(owner_dsn: str, service_dsn: str, examples: int) -> None:
    with model.world(owner_dsn, service_dsn) as made:
        machine.run(made, examples=examples, steps=40)


def _windows(first: int, last: int) -> dict[str, object]:
    """Checks the windows of one zone of every distinct set of clock rules."""
    sets = [zones[0] for zones in window_rules.rule_sets(first, last).values()]
    print(f"windows of {len(sets)} distinct sets of clock rules, {first} to {last}", flush=True)
    checked = 0
    for number, zone in enumerate(sets, 1):
        checked += window_rules.check(zone, first, last)
        if number % 20 == 0 or number == len(sets):
            print(f"  {checked:,} windows of {number} sets hold", flush=True)
    return {"window_rule_sets": len(sets), "windows": checked}


def main(argv: Sequence[str] | None = None) -> int:
    """Proves, and prints the figures as the last line; 1 when something was oversold, lost or unexplained."""
    options = _arguments(sys.argv[1:] if argv is None else argv)

    async def bounded() -> dict[str, object]:
        async with asyncio.timeout(TIMEOUT_S):
            return await _prove(options)

    figures = asyncio.run(bounded())
    print(json.dumps(figures))
    return int(any(figures.get(name) for name in ("oversold_nanos", "unsold_nanos", "unexplained_nanos")))


if __name__ == "__main__":
    sys.exit(main())
