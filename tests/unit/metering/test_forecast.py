"""Forecasts: sensible with an hour, a day and six weeks of history, and as good as the back-test says."""

import numpy as np
import pytest

from proofs.metering import forecast as proof
from services.metering.domain.forecast import HISTORY_HOURS_MAX, Array, Forecaster, Spend

DOLLAR = 1e9


def office(hours: int) -> Array:
    t = np.arange(hours)
    busy = (t // 24 % 7 < 5) & (t % 24 >= 8) & (t % 24 < 18)
    noise = np.random.default_rng(1).gamma(8, 1 / 8, hours)
    return np.asarray(np.where(busy, 20.0, 0.5) * noise * DOLLAR, dtype=np.float64)


def test_nothing_was_spent() -> None:
    for history in (np.zeros(0), np.zeros(500)):
        forecaster = Forecaster(history, 0)
        assert forecaster.spend(24) == Spend(0.0, 0.0, 0.0)
        assert forecaster.hours == 0
        assert forecaster.hours_until(1.0, 0.99) is None
        assert forecaster.hours_until(0.0, 0.5) == 0


@pytest.mark.parametrize("hours", [1, 2, 24, 47, 48, 60, 6 * 168, 9 * 168])
@pytest.mark.parametrize("horizon", [1, 24, 200, 720])
def test_quantiles_are_ordered_and_sensible(hours: int, horizon: int) -> None:
    y = office(hours) + 1.0
    found = Forecaster(y, 0).spend(horizon)

    assert 0 <= found.p50 <= found.p90 <= found.p99
    assert found.p99 < 100 * horizon * (y.max() + DOLLAR)
    assert found.p90 > 0


def test_one_hour_is_taken_for_the_mean_with_a_wide_margin() -> None:
    found = Forecaster(np.array([2 * DOLLAR]), 0).spend(24)

    assert found.p50 == pytest.approx(48 * DOLLAR)
    assert found.p90 > 100 * DOLLAR


def test_six_weeks_see_the_weekend_coming() -> None:
    y = office(6 * 168)[: -2 * 24 - 6]  # up to Friday 18 o'clock
    weekend = Forecaster(y, 0).spend(48)
    monday = Forecaster(office(6 * 168), 0).spend(48)

    assert weekend.p90 < 0.25 * monday.p50
    assert monday.p50 == pytest.approx(2 * (10 * 20 + 14 * 0.5) * DOLLAR, rel=0.2)


def test_where_the_week_begins_matters() -> None:
    y = office(6 * 168)
    as_is, shifted = Forecaster(y, 0), Forecaster(y[24:], 24)

    assert as_is.spend(24).p50 == pytest.approx(shifted.spend(24).p50, rel=0.05)


def test_only_the_last_weeks_count_and_units_do_not() -> None:
    y = office(10 * 168)
    recent = Forecaster(y[-HISTORY_HOURS_MAX:], 0)
    long = Forecaster(y, 0)

    assert long.hours == HISTORY_HOURS_MAX
    assert long.spend(24) == recent.spend(24)
    assert Forecaster(y / DOLLAR, 0).spend(24).p90 == pytest.approx(long.spend(24).p90 / DOLLAR)


def test_time_to_depletion_is_earlier_for_less_money_and_more_certainty() -> None:
    forecaster = Forecaster(office(6 * 168), 0)
    found = {(amount, q): forecaster.hours_until(amount * DOLLAR, q) for amount in (1, 300, 10**9) for q in (0.5, 0.99)}

    assert found[10**9, 0.5] is None
    small, large, sure = found[1, 0.5], found[300, 0.5], found[300, 0.99]
    assert small is not None
    assert large is not None
    assert sure is not None
    assert small < large
    assert sure <= large
    assert forecaster.spend(large).p50 >= 300 * DOLLAR > forecaster.spend(large - 1).p50


def test_a_first_batch_is_not_taken_for_a_thousand() -> None:
    """What nobody saw coming is no reason to expect more of it than there was."""
    y = np.full(9 * 24, 0.2)
    y[2 * 24 + 2 : 2 * 24 + 6] = 20.0
    found = Forecaster(y, 0).spend_at(9 * 24 - 12, 24)

    assert found.p50 > 20
    assert found.p99 < 3 * 84


def test_the_peak_is_the_most_in_a_row() -> None:
    y = np.array([0.0, 0.0, 3.0, 1.0, 4.0, 1.0, 5.0])

    assert [Forecaster(y, 0).peak(hours) for hours in (1, 2, 3, 50)] == pytest.approx([5, 6, 10, 14])
    assert Forecaster(np.zeros(9), 0).peak(3) == 0.0


def test_the_back_test_holds_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick cut of `make prove-metering`."""
    monkeypatch.setattr(proof, "_SEEDS", (1,))

    scores = proof.back_test()

    assert proof.worst_pinball(scores) <= 1.0
    assert all(0.82 < score.coverage < 0.96 for score in scores.values())
