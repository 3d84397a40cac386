"""The rule of recharges by forecast."""

import pytest

from services.kit import prediction


@pytest.mark.parametrize(
    ("succeeded", "p99_s", "delay_s"),
    [(0, 0.0, 3600), (9, 12.0, 3600), (9, 7200.2, 7201), (10, 12.0, 12), (100, 12.01, 13), (10, -3.0, 0)],
)
def test_a_delay_is_measured_once_enough_recharges_were_made(succeeded: int, p99_s: float, delay_s: int) -> None:
    assert prediction.delay_s(succeeded, p99_s) == delay_s


def test_lead_time_looks_as_far_as_a_recharge_takes_and_an_hour() -> None:
    assert prediction.hours_to_cover(24, None) == 24
    assert [prediction.hours_to_cover(24, delay_s) for delay_s in (0, 3600, 3601, 86_400)] == [2, 2, 3, 24]
    assert prediction.hours_to_cover(1, 3600) == 1


def test_the_first_week_leaves_half_of_a_recharge_unless_a_floor_says_otherwise() -> None:
    assert prediction.to_leave(0, 20, 167) == 10
    assert prediction.to_leave(0, 20, 168) == 0
    assert prediction.to_leave(3, 20, 0) == 3


def test_a_recharge_is_due_once_what_is_covered_leaves_too_little() -> None:
    assert prediction.due_at(5, 10) == 15
    # With nothing to cover, what must be left is enough; an idle wallet without a floor may be empty.
    assert prediction.due_at(5, 0) == 4
    assert prediction.due_at(0, 0) == -1


def test_the_larger_of_forecast_and_peak_is_covered() -> None:
    assert prediction.to_cover(10, 0) == 10
    assert prediction.to_cover(10, 6) == 10
    assert prediction.to_cover(10, 8) == 12
