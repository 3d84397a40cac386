"""What the sweep asks about a wallet, when a recharge is due by the answer, and what it tells of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from pursestrings.metering.v1 import analysis_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import predictive_pb2
from services.metering.domain.forecast import Array, Forecaster
from workflows.predictive.part import EVERY, SHARDS, schedules
from workflows.predictive.rule import Found, depletion_question, question
from workflows.predictive.types import STARTED_SHOWN_MAX, Tally

USD = 1_000_000_000


def wallet(balance: float, floor: float = 0.0, **settings: Any) -> predictive_pb2.PredictiveWallet:
    said = {"predict_hours_ahead": 24, "quantile_percent": 90, **settings}
    return predictive_pb2.PredictiveWallet(
        wallet="orgs/acme/teams/a/wallets/main",
        currency_code="USD",
        time_zone="Europe/Berlin",
        balance_nanos=round(balance * USD),
        settings=predictive_pb2.PredictiveSettings(
            **said, floor=type_pb2.Money(currency_code="USD", amount_nanos=round(floor * USD)) if floor else None
        ),
        recharge_delay_p99_s=5400,
        charge_nanos=30 * USD,
        excluded_subjects=["orgs/acme/teams/a/agents/x"],
    )


def is_due(balance: float, history: Array, floor: float = 0.0, **settings: Any) -> bool:
    """By metering's forecast of hours of dollars."""
    one = wallet(balance, floor, **settings)
    asked = question(one)
    forecaster = Forecaster(history * USD, 0)
    found = forecaster.spend(asked.horizon_hours)
    return Found(
        one,
        analysis_pb2.ForecastResponse(
            horizon_hours=asked.horizon_hours,
            spend=analysis_pb2.SpendQuantiles(
                p50_nanos=round(found.p50), p90_nanos=round(found.p90), p99_nanos=round(found.p99)
            ),
            history_hours=forecaster.hours,
            peak_nanos=round(forecaster.peak(asked.peak_hours)) if asked.peak_hours else 0,
        ),
    ).is_due()


def test_a_mean_of_fifteen_dollars_a_day_does_not_reach_twenty() -> None:
    """20 USD last 32 hours at the mean: outside of 24 hours, unless days differ by as much."""
    flat = np.full(6 * 168, 15 / 24)
    assert not is_due(20, flat)
    assert not is_due(20, flat, quantile_percent=99)
    assert is_due(15, flat)

    days = np.random.default_rng(1).permutation([9.0, 12.0, 13.0, 15.0, 15.0, 16.0, 25.0] * 6)
    varied = np.repeat(days / 24, 24)
    assert varied.mean() == pytest.approx(15 / 24)
    assert not is_due(20, varied, quantile_percent=50)
    assert is_due(20, varied)


def test_a_burst_is_not_missed() -> None:
    """Ten dollars within an hour, every ninth hour or so: the mean of two hours is 2.4 USD."""
    bursts = np.where(np.random.default_rng(1).random(6 * 168) < 1 / 9, 10.0, 0.1)
    assert is_due(9, bursts, quantile_percent=90, predict_hours_ahead=2)
    assert not is_due(9, bursts, quantile_percent=50, predict_hours_ahead=2)
    # One alone, five weeks ago at another hour: no quantile tells of it, but what happened may happen again.
    once = np.full(6 * 168, 0.1)
    once[170] = 10.0
    assert not is_due(14, once, quantile_percent=99, predict_hours_ahead=3)
    assert is_due(14, once, quantile_percent=99, lead_time=True)
    assert not is_due(15.3, once, quantile_percent=99, lead_time=True)


def test_the_first_week_leaves_half_of_a_recharge() -> None:
    week = np.full(168, 0.01)
    assert is_due(15, week[1:])
    assert not is_due(15, week)
    assert not is_due(15, week[1:], floor=1)
    assert is_due(14.9, np.zeros(500))
    assert not is_due(15, np.zeros(500))


def test_metering_is_asked_for_what_the_wallet_pays() -> None:
    asked = question(wallet(10))
    assert (asked.subject, asked.currency_code, asked.time_zone) == ("orgs/acme/teams/a", "USD", "Europe/Berlin")
    assert list(asked.excluded_subjects) == ["orgs/acme/teams/a/agents/x"]
    assert (asked.horizon_hours, asked.peak_hours, asked.HasField("amount_nanos")) == (24, 0, False)
    assert depletion_question(wallet(10)).amount_nanos == 10 * USD
    assert depletion_question(wallet(-1)).amount_nanos == 0


def test_by_lead_time_it_looks_as_far_as_a_recharge_takes() -> None:
    asked = question(wallet(10, lead_time=True))
    assert (asked.horizon_hours, asked.peak_hours) == (3, 2)
    asked = question(wallet(10, lead_time=True, predict_hours_ahead=1))
    assert (asked.horizon_hours, asked.peak_hours) == (1, 1)


def test_the_reason_is_the_forecast_at_the_policys_quantile() -> None:
    as_of = datetime(2026, 3, 4, tzinfo=UTC)
    forecast = analysis_pb2.ForecastResponse(
        horizon_hours=24, spend=analysis_pb2.SpendQuantiles(p50_nanos=1, p90_nanos=2, p99_nanos=3), history_hours=77
    )
    forecast.as_of_time.FromDatetime(as_of)
    depletion = analysis_pb2.Depletion()
    depletion.p90_time.FromDatetime(as_of + timedelta(hours=9))
    reason = Found(wallet(10), forecast).reason(depletion)
    assert (reason.spend_nanos, reason.quantile_percent, reason.hours_ahead, reason.history_hours) == (2, 90, 24, 77)
    assert reason.depletion_time.ToDatetime(UTC) == as_of + timedelta(hours=9)
    assert not Found(wallet(10, quantile_percent=99), forecast).reason(depletion).HasField("depletion_time")


def test_what_pages_came_to_adds_up_in_words() -> None:
    first = Tally(100, 2, ["a", "b"], {"COOLDOWN": 1}, 1, "w: why")
    whole = first.plus(Tally(20, 30, ["c"] * 30, {"COOLDOWN": 1, "PENDING": 3}))
    assert (whole.looked, whole.started, whole.blocked) == (120, 32, {"COOLDOWN": 2, "PENDING": 3})
    assert len(whole.names) == STARTED_SHOWN_MAX
    assert whole.words() == (
        "looked at 120 wallets, started 32, and left 5 that were due (COOLDOWN 2, PENDING 3); 1 could not be looked at"
    )


def test_each_part_of_the_wallets_has_a_schedule_of_its_own() -> None:
    made = schedules()
    assert [one.argument.shard for one in made] == list(range(SHARDS))  # type: ignore[attr-defined]
    assert len({one.name for one in made}) == len({one.offset for one in made}) == SHARDS
    # Later than by chance the one before at most, and all within one round.
    assert all(one.offset + one.jitter < EVERY for one in made)
