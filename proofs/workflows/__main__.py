"""Proves what the workflows promise, and ends with one JSON line; exits 1 where a promise is broken.

Recharges by forecast against recharges by threshold; a storm of alerts, from the crossing to the webhook; recharges and
approvals while their worker is killed again and again; spends beside a thousand approvals that wait. Figures:
`hours_at_zero_predictive` and `hours_at_zero_threshold`, in eight weeks, of the default and of the one threshold that
serves all kinds of work, over the kinds that do not begin without a sign; `one_setting_ratio`, the average balance of
the one setting by forecast against that of the threshold; `alert_p95_s`, `alerts_lost` and `alerts_doubled`;
`ended_once`, how many recharges and approvals ended exactly once, which is all of them; `approvals_pending_ratio`, how
long spends take beside approvals that wait, against without.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from proofs.workflows import alerts, approvals, kills, prediction, prediction_plot

_PARTS = ("prediction", "alerts", "kills", "pending")
RATIO_MAX = 0.6
"""What the one setting may keep of what the one threshold needs."""


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proofs.workflows", description=__doc__)
    parser.add_argument("--only", choices=_PARTS, help="prove one part")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the storm of alerts (default 60)")
    parser.add_argument("--rate", type=int, default=100, help="alerts a second (default 100)")
    parser.add_argument("--kills", type=int, default=50, help="of the worker (default 50)")
    parser.add_argument("--recharges", type=int, default=500, help="beside the kills (default 500)")
    parser.add_argument("--approvals", type=int, default=200, help="beside the kills (default 200)")
    parser.add_argument("--trace", type=Path, help="a log of calls as `purse replay` reads it, one more kind of work")
    parser.add_argument("--plot", type=Path, help="draw the frontier into this SVG file")
    parser.add_argument("--other-work", action="store_true", help="compare on work that no setting was chosen by, too")
    return parser.parse_args(argv)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _prove(options: argparse.Namespace) -> dict[str, float | int]:
    task = asyncio.current_task()
    assert task is not None
    # Asked to stop, it still takes away what it made.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    wanted = {options.only} if options.only else set(_PARTS)
    figures: dict[str, float | int] = {}
    if "prediction" in wanted:
        figures |= await asyncio.to_thread(_predictions, options.trace, options.plot, other=options.other_work)
    if "alerts" in wanted:
        _say(f"{options.rate} alerts a second for {options.seconds:.0f} s")
        found = await alerts.run(options.seconds, options.rate)
        _say(f"  {found}")
        figures |= {name: found[name] for name in ("alert_p95_s", "alerts_lost", "alerts_doubled")}
    if "kills" in wanted:
        _say(
            f"{options.recharges} recharges and {options.approvals} approvals, the worker killed {options.kills} times"
        )
        found = await kills.run(options.kills, options.recharges, options.approvals, say=_say)
        _say(f"  {found}")
        figures["ended_once"] = found["ended_once"]
    if "pending" in wanted:
        _say("spends beside a thousand approvals that wait")
        with tempfile.TemporaryDirectory(prefix="purse-approvals-") as directory:
            waited = await approvals.hot_path(Path(directory), pending=approvals.PENDING, rounds=approvals.ROUNDS)
        _say(f"  {waited}")
        figures["approvals_pending_ratio"] = waited["approvals_pending_ratio"]
    return figures


def _predictions(trace: Path | None, plot: Path | None, *, other: bool) -> dict[str, float | int]:
    _say("recharges by forecast and by threshold over eight weeks of eight kinds of work")
    works = prediction.made(prediction.SEEDS) + ([prediction.logged(trace)] if trace else [])
    by_forecast = prediction.compare(works, prediction.predictives())
    by_threshold = prediction.compare(works, prediction.thresholds())
    default, one = (prediction.of(by_forecast, setting) for setting in (prediction.DEFAULT, prediction.ONE))
    threshold = prediction.cheapest(by_threshold)
    assert threshold is not None, "a threshold of ten days leaves nothing at zero"
    for outcome in (default, one, threshold):
        prediction.tell(outcome, _say)
    if (best := prediction.cheapest(by_forecast)) is not None:
        _say(f"  by hindsight the best of {len(by_forecast)} by forecast: {best.setting}, {best.mean_balance:.2f} days")
    if plot:
        prediction_plot.draw(plot, by_forecast, by_threshold)
    if other:
        _others(threshold.setting)
    figures = {
        "hours_at_zero_predictive": round(default.hours_but_unforeseen(), 2),
        "hours_at_zero_threshold": round(threshold.hours_but_unforeseen(), 2),
        "one_setting_ratio": round(one.mean_balance / threshold.mean_balance, 3),
    }
    if one.worst_zero > prediction.ZERO_MAX:
        _say(f"  the one setting leaves a kind of work at zero for {one.worst_zero:.3%} of its hours")
        figures["one_setting_ratio"] = 1.0
    return figures


def _others(threshold: prediction.Setting) -> None:
    """The same settings on other work, and what other delays make of them."""
    settings: list[prediction.Setting] = [prediction.DEFAULT, prediction.ONE]
    _say("  the same settings on other work of the same kinds, six times, and the best threshold there")
    works = prediction.made(prediction.OTHER_SEEDS)
    others = prediction.compare(works, settings)
    by_threshold = prediction.compare(works, prediction.thresholds())
    best = prediction.cheapest(by_threshold)
    for outcome in (*others, prediction.of(by_threshold, threshold), *([best] if best else [])):
        prediction.tell(outcome, _say)
    works = prediction.made(prediction.SEEDS)
    for delay_s in (300, 900, 6 * 3_600):
        _say(f"  a recharge that takes {delay_s / 60:.0f} minutes")
        (one,) = prediction.compare(works, [prediction.ONE], delay_s)
        best = prediction.cheapest(prediction.compare(works, prediction.thresholds(0.1, 12.0), delay_s))
        for outcome in (one, *([best] if best else [])):
            prediction.tell(outcome, _say)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints progress to standard error and the figures, one JSON object, to standard output."""
    try:
        options = _arguments(sys.argv[1:] if argv is None else argv)
        figures = asyncio.run(_prove(options))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(json.dumps(figures))
    wrong = any(figures.get(name) for name in ("hours_at_zero_predictive", "alerts_lost", "alerts_doubled"))
    all_of = options.recharges + options.approvals
    unended = figures.get("ended_once", all_of) < all_of
    return int(wrong or unended or figures.get("one_setting_ratio", 0) > RATIO_MAX)


if __name__ == "__main__":
    sys.exit(main())
