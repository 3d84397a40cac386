"""Measures metering on a part of the suite of its own and ends with one JSON line; nothing is left behind."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from embedded.suite import Suite
from proofs.metering import forecast, ingest, queries, rating

PARTS = ("rating", "forecast", "ingest", "queries")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proofs.metering", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000, help="events that are asked about (default 10000000)")
    parser.add_argument("--ingest-events", type=int, default=100_000, help="events recorded a round (default 100000)")
    parser.add_argument("--only", choices=PARTS, help="this part alone; its figures are a part of the line")
    return parser.parse_args(argv)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _prove(options: argparse.Namespace) -> dict[str, float | int]:
    task = asyncio.current_task()
    assert task is not None
    # Asked to stop, it still takes away what it made.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    wanted = {options.only} if options.only else set(PARTS)
    figures: dict[str, float | int] = {}
    with tempfile.TemporaryDirectory(prefix="purse-prove-") as directory:
        if wanted & {"ingest", "queries"}:
            environ = {"PURSE_RECORD_PROCESSES": str(len(os.sched_getaffinity(0)))}
            async with Suite(Path(directory), free_ports=True, only={"postgres", "metering"}, environ=environ) as suite:
                if "ingest" in wanted:
                    figures |= await _recording(suite, options.ingest_events)
                if "queries" in wanted:
                    figures |= await _questions(suite, options.events)
    if "forecast" in wanted:
        figures |= _forecasts()
    if "rating" in wanted:
        rating_us = rating.measure()
        _say(f"rating: {rating_us:.2f} us a call")
        figures["rating_us"] = round(rating_us, 2)
    return figures


async def _recording(suite: Suite, events: int) -> dict[str, float | int]:
    _say("recording beside a raw COPY")
    recorded = await ingest.measure(suite, events=events)
    _say(f"  {recorded.events_per_s:,.0f} events/s, COPY {recorded.copy_rows_per_s:,.0f} rows/s")
    return {"copy_ratio": round(recorded.copy_ratio, 3), "lost": recorded.lost, "doubled": recorded.doubled}


async def _questions(suite: Suite, events: int) -> dict[str, float | int]:
    _say(f"questions over {events:,} events")
    asked = await queries.measure(suite, _say, events=events)
    _say(f"  day and model: median {asked.query_p50_ms:.0f} ms, p95 {asked.query_p95_ms:.0f} ms")
    _say(
        f"  today and the month, while {asked.arrived_per_s:,.0f} events/s arrive: "
        f"median {asked.today_p50_ms:.1f} ms, p95 {asked.today_p95_ms:.1f} ms"
    )
    return {"query_p95_ms": round(asked.query_p95_ms, 1), "today_p95_ms": round(asked.today_p95_ms, 1)}


def _forecasts() -> dict[str, float | int]:
    _say("forecast: eight weeks of seven kinds of work, three times")
    scores = forecast.back_test(_say)
    for horizon, score in scores.items():
        _say(f"  {horizon} h: p90 covered {score.coverage:.3f}, pinball loss {score.pinball_ratio:.3f} of the naive's")
    # The coverage farthest from what it should be, and the loss of the horizon that does worst against its bound.
    coverage = max((score.coverage for score in scores.values()), key=lambda value: abs(value - 0.9))
    worst = max(scores, key=lambda horizon: scores[horizon].pinball_ratio / forecast.PINBALL_BOUNDS[horizon])
    return {
        "forecast_p90_coverage": round(coverage, 3),
        "forecast_pinball_ratio": round(scores[worst].pinball_ratio / forecast.PINBALL_BOUNDS[worst], 3),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints progress to standard error and the figures, one JSON object, to standard output."""
    try:
        figures = asyncio.run(_prove(_arguments(sys.argv[1:] if argv is None else argv)))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
