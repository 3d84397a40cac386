"""The forecast's back-test: eight weeks of generated hours of seven kinds, rolling origin, against a seasonal naive.

Generated, so it holds for these kinds of work and says nothing of others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.metering.domain.forecast import Array, Forecaster

HOURS: Final = 8 * 168
WARM_HOURS: Final = 21 * 24
HORIZONS: Final = (6, 24, 72)
PINBALL_BOUNDS: Final = {6: 0.75, 24: 0.75, 72: 0.85}
"""The most that the pinball loss at .9 may be of the naive's."""
COVERAGE_BOUNDS: Final = (0.85, 0.95)
_STEP_HOURS: Final = 5
_SEEDS: Final = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Score:
    """What one horizon came to.

    Attributes:
        coverage: The part of windows with spend that stayed at or below p90, the mean over workloads.
        pinball_ratio: Pinball loss at .9 against the naive's, the geometric mean over workloads, bursty apart.
    """

    coverage: float
    pinball_ratio: float


def workloads(seed: int) -> dict[str, Array]:
    """Eight weeks of hourly spend of each kind, beginning on a Monday."""
    rng = np.random.default_rng(seed)
    t = np.arange(HOURS)
    hour, day = t % 24, t // 24 % 7
    office = np.where((day < 5) & (hour >= 8) & (hour < 18), 1.0, 0.05)
    daily = 1.0 + 0.5 * np.sin((hour - 9) / 24 * 2 * np.pi)

    def noisy(mean: Array, spread: float) -> Array:
        return np.asarray(mean * rng.gamma(1 / spread**2, spread**2, HOURS), dtype=np.float64)

    weeks = np.repeat(rng.lognormal(0, 0.15, HOURS // 24), 24)
    launch = np.where(t < 5 * 168 + 40, 0.1, 1.0)
    batch = np.where((day == 2) & (hour >= 2) & (hour < 6), 20.0, 0.2)
    return {
        "steady": noisy(10 * daily * weeks, 0.3),
        "office hours": noisy(20 * office * weeks, 0.4),
        "bursty": noisy(np.full(HOURS, 1.0), 0.5) + np.where(rng.random(HOURS) < 0.02, rng.pareto(1.5, HOURS) * 10, 0),
        "growing": noisy(5 * daily * 1.012 ** (t / 24) * weeks, 0.35),
        "dead": np.where(t < 4 * 168, noisy(8 * daily, 0.3), 0.0),
        "launch": noisy(10 * daily * launch * weeks, 0.35),
        "weekly batch": noisy(batch, 0.25),
    }


def back_test(progress: Callable[[str], None] = lambda _: None) -> dict[int, Score]:
    """The score of each horizon."""
    scores = {}
    for horizon in HORIZONS:
        coverages: dict[str, list[float]] = {}
        ratios: dict[str, list[float]] = {}
        for seed in _SEEDS:
            for name, y in workloads(seed).items():
                coverage, ratio = _score(y, horizon)
                coverages.setdefault(name, []).append(coverage)
                ratios.setdefault(name, []).append(ratio)
        for name, values in coverages.items():
            progress(f"  {horizon:2} h {name:13} covered {np.mean(values):.3f} loss {np.mean(ratios[name]):.3f}")
        logs = [np.log(np.mean(values)) for name, values in ratios.items() if name != "bursty"]
        mean = float(np.mean([np.nanmean(values) for values in coverages.values()]))
        scores[horizon] = Score(mean, float(np.exp(np.mean(logs))))
    return scores


def worst_pinball(scores: dict[int, Score]) -> float:
    """The ratio of the horizon that does worst against its bound, as a part of that bound."""
    return max(score.pinball_ratio / PINBALL_BOUNDS[horizon] for horizon, score in scores.items())


def _score(y: Array, horizon: int) -> tuple[float, float]:
    forecaster = Forecaster(y, 0)
    assert forecaster.hours == y.size
    origins = np.arange(WARM_HOURS, y.size - horizon + 1, _STEP_HOURS)
    sums = np.concatenate(([0.0], np.cumsum(y)))
    actual = sums[origins + horizon] - sums[origins]
    said = np.array([forecaster.spend_at(int(origin), horizon).p90 for origin in origins])
    naive = np.array([_naive(sums, int(origin), horizon) for origin in origins])
    spent = actual > 0
    coverage = float(np.mean(actual[spent] <= said[spent])) if spent.any() else float("nan")
    return coverage, _pinball(actual, said) / _pinball(actual, naive)


def _naive(sums: Array, origin: int, horizon: int) -> float:
    """p90 of the naive: the same hours a week ago, and the 90 % quantile of how far off that always was."""
    point = sums[origin - 168 + horizon] - sums[origin - 168]
    past = np.arange(168, origin - horizon + 1)
    errors = (sums[past + horizon] - sums[past]) - (sums[past - 168 + horizon] - sums[past - 168])
    return float(max(0.0, point + np.quantile(errors, 0.9)))


def _pinball(actual: Array, said: Array) -> float:
    off = actual - said
    return float(np.mean(np.maximum(0.9 * off, -0.1 * off)))
