"""A small cut of `make prove-workflows`' comparison, and that it counts right."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from proofs.metering.forecast import HOURS
from proofs.workflows import prediction as proof
from proofs.workflows.prediction import DAY, DELAY_S, ONE, RECHARGE, Outcome, Predictive, Threshold, Workload
from services.metering.domain.forecast import Forecaster


def outcome(balance: float, zero: float) -> Outcome:
    return Outcome(Threshold(0), {"a": zero, "b": 0.0}, {}, {"a": balance, "b": balance})


def test_by_lead_time_one_setting_keeps_less_than_one_threshold() -> None:
    works = [work for work in proof.made([1]) if work.kind in ("steady", "weekly batch", "sessions")]
    (one,) = proof.compare(works, [ONE], processes=1)
    best = proof.cheapest(proof.compare(works, proof.thresholds(0.5, 4.0), processes=1))

    assert one.worst_zero <= proof.ZERO_MAX
    assert one.hours_but_unforeseen() == 0
    assert best is not None
    # Bursts, of which there are none here, make the difference larger.
    assert one.mean_balance < 1.2 * best.mean_balance
    assert one.balance["steady"] < 0.7 * best.balance["steady"]


def test_a_balance_falls_and_recharges_arrive_an_hour_after_it_was_low() -> None:
    steps = np.zeros(HOURS * 12, dtype=np.int64)
    steps[100] = 2 * DAY
    steps[200] = 3 * DAY
    (found,) = proof.compare([Workload("one", steps)], [Threshold(DAY // 2)], processes=1)
    # 2, then 0 for an hour, 2, -1 for an hour, then 1 until the end.
    assert found.zero_hours == {"one": 2.0}
    assert found.first_week_hours == {"one": 2.0}
    days = 2 * 100 + 2 * (200 - 112) + 1 * (steps.size - 212)
    assert found.balance["one"] == pytest.approx(days / steps.size)


def test_one_recharge_is_on_its_way_at_most() -> None:
    steps = np.full(HOURS * 12, RECHARGE // 6, dtype=np.int64)
    (found,) = proof.compare([Workload("one", steps)], [Threshold(100 * DAY)], processes=1)
    # Twice as much is spent as can arrive: only the first recharge's worth was ever there.
    assert found.zero_hours["one"] > HOURS - 2
    assert found.balance["one"] < 0.01


def test_a_forecast_knows_the_past_alone() -> None:
    hours = next(work.hours for work in proof.made([1]) if work.kind == "office hours")
    cut = 700
    whole, known = Forecaster(hours, 0), Forecaster(hours[:cut], 0)
    assert whole.spend_at(cut, 24).p90 == pytest.approx(known.spend(24).p90, rel=0.02)
    assert whole.peak_at(cut, 3) == pytest.approx(known.peak(3))


def test_the_frontier_is_what_no_other_beats() -> None:
    outcomes = [outcome(3, 1), outcome(1, 5), outcome(2, 5), outcome(2, 3), outcome(4, 1)]
    best = proof.frontier(outcomes)
    assert [(one.mean_balance, one.zero_hours["a"]) for one in best] == [(1, 5), (2, 3), (3, 1)]
    assert all(left.worst_zero > right.worst_zero for left, right in pairwise(best))
    assert proof.cheapest(outcomes) == outcomes[0]
    assert proof.cheapest([outcome(1, 5)]) is None


def test_a_log_is_stretched_to_eight_weeks(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = ["2023-11-16 18:00:00,100,0", "2023-11-16 18:30:00,0,50", "2023-11-16 19:00:00,100,0"]
    log.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    work = proof.logged(log)
    places = np.flatnonzero(work.steps)
    assert places.tolist() == [0, work.steps.size // 2, work.steps.size - 1]
    assert work.steps[places].tolist() == [14 * DAY, 28 * DAY, 14 * DAY]


def test_settings_say_what_they_are() -> None:
    assert str(ONE) == "p99, lead time"
    assert str(Predictive(floor=DAY // 2)) == "p90, 24 h ahead, floor of 0.50 days"
    assert str(Threshold(DAY)) == "threshold of 1.00 days"
    assert DELAY_S == 3600
