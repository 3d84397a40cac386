"""A sample of what `make prove-budget` checks whole: windows against local dates that are looked up one by one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.budget import window_rules
from services.kit import windows
from tests.property.kit.test_windows import ODD, ZONES


@given(st.sampled_from(ZONES + ODD), st.integers(2020, 2040))
@settings(max_examples=6, deadline=None)
def test_the_windows_of_a_year_are_what_local_dates_say(zone: str, year: int) -> None:
    assert window_rules.check(zone, year, year) > 365 + 3 * 52 + 5 * 11 + 3


def test_a_window_that_begins_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    start_of = windows._start_of
    monkeypatch.setattr(windows, "_start_of", lambda zone, day: start_of(zone, day) + 3_600_000_000 * (day.month > 6))
    windows._memo.clear()
    try:
        with pytest.raises(window_rules.WindowError, match="2024-07-01"):
            window_rules.check("Europe/Berlin", 2024, 2024)
    finally:
        windows._memo.clear()
