"""What a receiver may write into Retry-After, and how long that is."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.notify.retry_after import STATUSES, WAIT_MAX_S, wait_s

NOW = datetime(2026, 11, 22, 12, 0, 0, 500_000, tzinfo=UTC)


@given(st.sampled_from(sorted(STATUSES)), st.integers(0, 10**12))
def test_seconds_are_taken_as_they_are_up_to_the_most(status: int, seconds: int) -> None:
    assert wait_s(status, f" {seconds} ".encode(), NOW) == min(seconds, WAIT_MAX_S)


@given(st.integers(-(10**7), 10**7))
def test_a_date_is_waited_for_and_one_that_is_over_is_not(seconds: int) -> None:
    at = NOW.replace(microsecond=0) + timedelta(seconds=seconds)
    found = wait_s(503, format_datetime(at, usegmt=True).encode(), NOW)
    # Half a second of the first one is over.
    assert found == max(0, min(seconds, WAIT_MAX_S))


@given(st.sampled_from([429, 503]), st.one_of(st.binary(max_size=200), st.text(max_size=80).map(str.encode)))
def test_whatever_is_written_there_is_an_answer_within_bounds(status: int, value: bytes) -> None:
    assert 0 <= wait_s(status, value, NOW) <= WAIT_MAX_S


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "-5", "1.5", "1e3", "+7", "²", "Sun, 22 Nov 2026", "Sun, 99 Nov 2026 99:99:99 GMT"),
        *("Fri, 31 Dec 9999 23:59:59 -2400", "Mon, 01 Jan 0001 00:00:00 +2359", "1" * 65),
    ],
)
def test_what_cannot_be_read_asks_for_nothing_or_is_bounded(value: str) -> None:
    assert wait_s(429, value.encode(), NOW) in {0, WAIT_MAX_S}


@given(st.integers(100, 599).filter(lambda status: status not in STATUSES))
def test_other_answers_ask_for_nothing(status: int) -> None:
    assert wait_s(status, b"120", NOW) == 0
