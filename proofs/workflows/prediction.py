"""Recharges by forecast against recharges by threshold: what each keeps on the wallet, and how long it is empty.

Eight kinds of work of eight weeks, three times as the forecast's back-test makes them; one more from a log of calls
where one is given, stretched to eight weeks. A recharge of two days' mean spend is on its way for an hour, and one at
most; both are looked at every five minutes. Spend goes on where the balance is used up, as the service records it, so
that both see the same. The rule is the service's own (`services.kit.prediction`), and so are the forecasts, made anew
with every hour from what was known then. Amounts are nano-days of a workload's mean spend.
"""

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from proofs.metering.forecast import HOURS, workloads
from pursestrings.cli.replay_log import read_log
from services.kit import prediction
from services.metering.domain.forecast import Array, Forecaster

SEEDS: Final = (1, 2, 3)
OTHER_SEEDS: Final = (4, 5, 6, 7, 8, 9)
"""Work that no setting was chosen by."""
ZERO_MAX: Final = 0.001
"""The part of its hours that a workload may be at zero with."""
UNFORESEEN: Final = frozenset({"bursty", "weekly batch"})
"""What begins without a sign."""

DAY: Final = 1_000_000_000
RECHARGE: Final = 2 * DAY
DELAY_S: Final = 3_600
STEPS_PER_HOUR: Final = 12
_STEP_S: Final = 300
_DAY_HOURS: Final = 24
_OUTPUT_TOKEN_COST: Final = 4
_NEVER: Final = 1 << 40

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Workload:
    """Eight weeks of one kind of work, from a Monday on.

    Attributes:
        kind: What it is called; several of a kind are averaged.
        steps: Spend of each five minutes, a day's mean is `DAY`.
    """

    kind: str
    steps: Ints

    @property
    def hours(self) -> Array:
        """Spend by hour, as the forecast takes it."""
        return np.asarray(self.steps.reshape(-1, STEPS_PER_HOUR).sum(axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Recharges below a balance."""

    below: int

    def __str__(self) -> str:
        return f"threshold of {self.below / DAY:.2f} days"


@dataclass(frozen=True, slots=True)
class Predictive:
    """Recharges by forecast, as a policy says it."""

    quantile: int = 90
    hours_ahead: int = 24
    lead_time: bool = False
    floor: int = 0

    def __str__(self) -> str:
        ahead = "lead time" if self.lead_time else f"{self.hours_ahead} h ahead"
        return f"p{self.quantile}, {ahead}" + (f", floor of {self.floor / DAY:.2f} days" if self.floor else "")


Setting = Threshold | Predictive
DEFAULT: Final = Predictive()
"""What a policy is unless it says otherwise."""
ONE: Final = Predictive(99, 24, lead_time=True)
"""The setting for all kinds of work: by lead time, nothing else said."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a setting came to.

    Attributes:
        zero_hours: Of each kind, the hours of eight weeks with nothing left; the mean over those of a kind.
        first_week_hours: As many of them as were in the first week.
        balance: Of each kind, the average balance in days of mean spend.
    """

    setting: Setting
    zero_hours: dict[str, float]
    first_week_hours: dict[str, float]
    balance: dict[str, float]

    @property
    def mean_balance(self) -> float:
        """Over all kinds."""
        return float(np.mean(list(self.balance.values())))

    @property
    def worst_zero(self) -> float:
        """The part of its hours that the kind it does worst on is at zero."""
        return max(self.zero_hours.values()) / HOURS

    def hours_but_unforeseen(self) -> float:
        """Hours at zero of all kinds together that do not begin without a sign."""
        return sum(hours for kind, hours in self.zero_hours.items() if kind not in UNFORESEEN)


def made(seeds: Iterable[int]) -> list[Workload]:
    """The kinds of work, each once for a seed."""
    return [
        Workload(kind, _scaled(np.repeat(hours / STEPS_PER_HOUR, STEPS_PER_HOUR)))
        for seed in seeds
        for kind, hours in {**workloads(seed), "sessions": _sessions(seed)}.items()
    ]


def logged(path: Path) -> Workload:
    """The calls of a log, stretched to eight weeks; an output token costs as much as four input tokens.

    Raises:
        CliError: The file cannot be read as a log.
    """
    log = read_log(path)
    at = np.asarray(log.offsets_us, dtype=np.float64)
    cost = np.asarray(log.input_tokens, dtype=np.float64) + _OUTPUT_TOKEN_COST * np.asarray(log.output_tokens)
    count = HOURS * STEPS_PER_HOUR
    steps = np.minimum((at / max(1.0, float(at.max())) * count).astype(np.int64), count - 1)
    return Workload("log", _scaled(np.bincount(steps, weights=cost, minlength=count).astype(np.float64)))


def thresholds(step: float = 0.1, most: float = 10.0) -> list[Setting]:
    """Thresholds, in days of mean spend."""
    return [Threshold(round(days * DAY)) for days in np.arange(step, most + step / 2, step)]


def predictives(hours: Sequence[int] = (2, 6, 12, 24, 48), floors: Sequence[float] = (0.0, 0.5, 1.0)) -> list[Setting]:
    """Policies by forecast; floors in days of mean spend."""
    return [
        Predictive(quantile, ahead or 24, not ahead, round(floor * DAY))
        for quantile in (50, 90, 99)
        for ahead in (0, *hours)
        for floor in floors
    ]


def compare(
    works: Sequence[Workload], settings: Sequence[Setting], delay_s: int = DELAY_S, processes: int = 0
) -> list[Outcome]:
    """What each setting comes to.

    Args:
        works: The work.
        settings: Forecasts are made once for all that look equally far.
        delay_s: How long a recharge is on its way.
        processes: How many make forecasts; 0: as many as there are processors.
    """
    ahead = sorted({_hours(one, delay_s) for one in settings if isinstance(one, Predictive)})
    task = functools.partial(_said, ahead=ahead, peak_hours=prediction.peak_hours(delay_s))
    count = processes or os.cpu_count() or 1
    if ahead and count > 1:
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            said = pool.map(task, [work.hours for work in works], chunksize=1)
    else:
        said = [task(work.hours) for work in works]
    due_at = np.stack([[_due_at(one, of, delay_s) for one in settings] for of in said])
    zero, first_week, balance = _simulate(np.stack([work.steps for work in works]), due_at, delay_s)
    return [
        Outcome(
            setting,
            _by_kind(works, zero[:, place]),
            _by_kind(works, first_week[:, place]),
            _by_kind(works, balance[:, place]),
        )
        for place, setting in enumerate(settings)
    ]


def cheapest(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The one that keeps the least among those that leave no kind at zero for too long; None: all do."""
    fit = [one for one in outcomes if one.worst_zero <= ZERO_MAX]
    return min(fit, key=lambda one: one.mean_balance, default=None)


def of(outcomes: Iterable[Outcome], setting: Setting) -> Outcome:
    """The outcome of a setting that was compared."""
    return next(one for one in outcomes if one.setting == setting)


def frontier(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that no other beats both ways, by balance."""
    best: list[Outcome] = []
    for one in sorted(outcomes, key=lambda one: (one.mean_balance, one.worst_zero)):
        if not best or one.worst_zero < best[-1].worst_zero:
            best.append(one)
    return best


@dataclass(frozen=True, slots=True)
class _Said:
    """What was forecast of one work with every hour. `spend` is by hours ahead, an hour, and p50, p90 and p99."""

    spend: dict[int, Ints]
    peak: Ints
    history: Ints


def _said(hours: Array, ahead: Sequence[int], peak_hours: int) -> _Said:
    forecaster = Forecaster(hours, 0)
    # What was before the first spend is no history.
    origins = np.maximum(0, np.arange(HOURS) - (HOURS - forecaster.hours))
    spend = {}
    for horizon in ahead:
        said = [forecaster.spend_at(int(origin), horizon) for origin in origins]
        spend[horizon] = np.rint([(one.p50, one.p90, one.p99) for one in said]).astype(np.int64)
    peak = np.rint([forecaster.peak_at(int(origin), peak_hours) for origin in origins]).astype(np.int64)
    return _Said(spend, peak, origins)


def _due_at(setting: Setting, said: _Said, delay_s: int) -> list[int]:
    """Of each hour the balance at which a recharge is due, by the service's rule."""
    if isinstance(setting, Threshold):
        return [setting.below - 1] * HOURS
    place = (50, 90, 99).index(setting.quantile)
    spend = said.spend[_hours(setting, delay_s)][:, place].tolist()
    peaks = said.peak.tolist() if setting.lead_time else [0] * HOURS
    return [
        prediction.due_at(prediction.to_leave(setting.floor, RECHARGE, history), prediction.to_cover(forecast, peak))
        for forecast, peak, history in zip(spend, peaks, said.history.tolist(), strict=True)
    ]


def _hours(setting: Predictive, delay_s: int) -> int:
    return prediction.hours_to_cover(setting.hours_ahead, delay_s if setting.lead_time else None)


def _simulate(steps: Ints, due_at: Ints, delay_s: int) -> tuple[Array, Array, Array]:
    """Hours at zero in all and in the first week, and the average balance, of each work under each setting.

    Args:
        steps: Spend, by work and five minutes.
        due_at: Balances at which a recharge is due, by work, setting and hour.
        delay_s: How long one is on its way.
    """
    shape = due_at.shape[:2]
    balance, arrives = np.full(shape, RECHARGE), np.full(shape, _NEVER)
    zero, first_week, total = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    delay = -(-delay_s // _STEP_S)
    for step in range(steps.shape[1]):
        there = arrives == step
        balance += RECHARGE * there
        arrives[there] = _NEVER
        balance -= steps[:, step, None]
        zero += balance <= 0
        total += np.maximum(balance, 0)
        hour = step // STEPS_PER_HOUR
        if step == prediction.WEEK_HOURS * STEPS_PER_HOUR:
            first_week = zero.copy()
        starts = (balance <= due_at[:, :, hour]) & (arrives == _NEVER)
        arrives[starts] = step + delay
    return zero / STEPS_PER_HOUR, first_week / STEPS_PER_HOUR, total / steps.shape[1] / DAY


def _by_kind(works: Sequence[Workload], values: Array) -> dict[str, float]:
    kinds = dict.fromkeys(work.kind for work in works)
    return {
        kind: float(np.mean([value for work, value in zip(works, values, strict=True) if work.kind == kind]))
        for kind in kinds
    }


def _scaled(steps: Array) -> Ints:
    per_day = steps.mean() * STEPS_PER_HOUR * _DAY_HOURS
    return np.asarray(np.rint(steps / per_day * DAY), dtype=np.int64)


def _sessions(seed: int) -> Array:
    """Agents that are set to work now and then, mostly by day, each for some hours at a rate of its own."""
    rng = np.random.default_rng(1_000 + seed)
    t = np.arange(HOURS)
    awake = (t // 24 % 7 < 5) & (t % 24 >= 7) & (t % 24 < 20)
    hours = np.zeros(HOURS)
    for start in np.repeat(t, rng.poisson(np.where(awake, 0.5, 0.08))):
        hours[start : start + 1 + rng.geometric(0.4)] += rng.lognormal(0, 0.8)
    return hours


def tell(outcome: Outcome, say: Callable[[str], None]) -> None:
    """Says what a setting came to, kind by kind."""
    say(f"  {outcome.setting}: {outcome.mean_balance:.2f} days, worst {outcome.worst_zero:.3%} of hours at zero")
    for kind, hours in outcome.zero_hours.items():
        first = f", {outcome.first_week_hours[kind]:.2f} in the first week" if hours else ""
        say(f"    {kind:13} {outcome.balance[kind]:5.2f} days, {hours:5.2f} h at zero{first}")
