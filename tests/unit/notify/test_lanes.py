"""How deliveries go from try to try."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.budget.notify.domain import lanes
from services.budget.notify.domain.lanes import Asked, Channel, Lane

DAY_US = lanes.DAY_US


def lane(**fields: object) -> Lane:
    values = {
        "org": "a", "no": 1, "channel": Channel.WEBHOOK, "last_number": 0, "waiting": 0, "due_us": None,
        "woken_us": None, "held_by": "", "held_until_us": 0, "sent_us": 0, "failing_since_us": None, "off_us": None,
        "off_reason": "",
    }  # fmt: skip
    return Lane(**(values | fields))  # type: ignore[arg-type]


@settings(max_examples=20)
@given(st.text(max_size=40))
def test_a_delivery_is_tried_ten_times_over_three_days_and_given_up(message_id: str) -> None:
    now_us = tries = 0
    while (again_us := lanes.after_failure(message_id, tries + 1, now_us).next_try_us) is not None:
        rest_us = lanes.RESTS_S[tries] * lanes.S_US
        assert rest_us <= again_us - now_us <= rest_us * (1 + lanes.JITTER)
        assert lanes.after_failure(message_id, tries + 1, now_us).next_try_us == again_us
        now_us, tries = again_us, tries + 1
    assert tries + 1 == 10
    assert 3 * DAY_US < now_us < 4 * DAY_US


@given(
    st.text(max_size=40),
    st.integers(1, len(lanes.RESTS_S)),
    st.integers(0, 2 * lanes.HORIZON_US),
    st.integers(0, 2**31 * lanes.S_US),
)
def test_what_a_receiver_asks_for_makes_a_rest_longer_up_to_the_horizon(
    message_id: str, tries: int, since_us: int, rest_us: int
) -> None:
    now_us = 10**15
    own = lanes.after_failure(message_id, tries, now_us).next_try_us
    found = lanes.after_failure(message_id, tries, now_us, Asked(rest_us, now_us - since_us)).next_try_us
    assert own is not None
    assert found is not None
    horizon_us = now_us - since_us + lanes.HORIZON_US
    assert own <= found <= max(own, horizon_us)
    # As long as is asked for, and not much longer, where that is within both.
    assert found >= min(now_us + rest_us, horizon_us)
    assert found <= max(own, now_us + rest_us * (1 + lanes.JITTER))
    assert found == lanes.after_failure(message_id, tries, now_us, Asked(rest_us, now_us - since_us)).next_try_us


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**31), min_size=9, max_size=9))
def test_whatever_is_asked_for_all_tries_end_within_two_horizons(asked_s: list[int]) -> None:
    now_us = first_us = 10**15
    for tries, rest_s in enumerate(asked_s, 1):
        again_us = lanes.after_failure("m", tries, now_us, Asked(rest_s * lanes.S_US, first_us)).next_try_us
        assert again_us is not None
        now_us = again_us
    assert lanes.after_failure("m", 10, now_us, Asked(1, first_us)).next_try_us is None
    assert now_us - first_us <= 2 * lanes.HORIZON_US < lanes.KEPT_US


def test_a_channel_is_switched_off_after_five_days_without_a_success() -> None:
    assert not lanes.is_to_be_switched_off(None, 10 * DAY_US)
    assert not lanes.is_to_be_switched_off(5 * DAY_US, 10 * DAY_US - 1)
    assert lanes.is_to_be_switched_off(5 * DAY_US, 10 * DAY_US)


def test_a_workflow_is_woken_only_where_nothing_else_makes_it_look() -> None:
    assert lane().must_wake(100)
    assert not lane(waiting=1).must_wake(100)
    assert not lane(woken_us=50).must_wake(100)
    assert not lane(held_by="x", held_until_us=101).must_wake(100)
    assert lane(held_by="x", held_until_us=100).must_wake(100)


def test_a_full_or_switched_off_lane_admits_nothing() -> None:
    full = lanes.PENDING_MAX
    assert [lane(waiting=w).admit(5) for w in (0, full - 3, full, full + 1)] == [5, 3, 0, 0]
    assert lane(off_us=1).admit(5) == 0


def test_mails_are_a_minute_apart() -> None:
    assert lanes.mail_due_us(0, 10**12) == 10**12
    assert lanes.mail_due_us(10**12, 10**12 + 1) == 10**12 + 60 * lanes.S_US


@pytest.mark.parametrize("text", ["", "webhook-", "webhook-01", "webhook--1", "letter-1", "webhook-1x", "1", "mail-²"])
def test_what_is_no_id_of_a_delivery_is_none(text: str) -> None:
    assert lanes.parse_delivery_id(text) is None


@given(st.sampled_from(Channel), st.integers(min_value=1, max_value=10**18 - 1))
def test_ids_of_deliveries_are_read_as_they_are_written(channel: Channel, number: int) -> None:
    assert lanes.parse_delivery_id(lanes.delivery_id(channel, number)) == (channel, number)
