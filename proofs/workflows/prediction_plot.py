"""The frontier of recharges by forecast and by threshold, drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from proofs.workflows.prediction import DEFAULT, ONE, ZERO_MAX, Outcome, frontier, of

_DAYS_SHOWN: Final = 8.0
_LEAST_SHOWN: Final = 1e-4


def draw(path: Path, by_forecast: Sequence[Outcome], by_threshold: Sequence[Outcome]) -> None:
    """Writes an SVG: the average balance, and the part of hours at zero of the kind of work each does worst on."""
    mpl.rcParams |= {"svg.hashsalt": "frontier", "font.size": 10}
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(*_points(by_forecast), s=14, color="tab:blue", alpha=0.35, linewidths=0)
    axes.plot(*_points(frontier(by_forecast)), color="tab:blue", marker="o", markersize=4, label="by forecast")
    axes.plot(*_points(frontier(by_threshold)), color="tab:red", marker="s", markersize=3, label="by threshold")
    axes.axhline(100 * ZERO_MAX, color="gray", linestyle=":")
    for setting, name, offset in ((DEFAULT, "default", (8, 10)), (ONE, "by lead time", (-30, -22))):
        (balance,), (zero,) = _points([of(by_forecast, setting)])
        axes.plot(balance, zero, marker="*", markersize=13, color="black", linestyle="none")
        axes.annotate(f"{name}: {setting}", (balance, zero), xytext=offset, textcoords="offset points")
    axes.set_yscale("log")
    axes.set_xlim(1, _DAYS_SHOWN)
    axes.set_ylim(100 * _LEAST_SHOWN, 2)
    axes.set_xlabel("average balance, days of mean spend (mean over all kinds of work)")
    axes.set_ylabel("% of hours at zero, worst kind")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def _points(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    return [one.mean_balance for one in outcomes], [100 * max(one.worst_zero, _LEAST_SHOWN) for one in outcomes]
