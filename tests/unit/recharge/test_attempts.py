"""What to do next about a recharge."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.wallet.domain.accounts import LEDGER_MAX_NANOS
from services.wallet.recharge.domain import attempts as steps
from services.wallet.recharge.domain.attempts import (
    Attempt,
    AttemptState,
    Charge,
    Circumstances,
    Ended,
    GiveUp,
    Observe,
    Standing,
    State,
    Wait,
    WalletState,
)
from services.wallet.recharge.domain.policy import Block, MonthKey, Policy, Usage

CREATED = datetime(2026, 11, 2, 12, tzinfo=UTC)
NOW = CREATED + timedelta(hours=2)
NOVEMBER = MonthKey("2026-11", "UTC", datetime(2026, 12, 1, tzinfo=UTC))
DECEMBER = MonthKey("2026-12", "UTC", datetime(2027, 1, 1, tzinfo=UTC))
POLICY = Policy(True, 500, 2000, 2, 4000, timedelta(0))
NEW = Standing(State.PENDING, 2000, "2026-11", CREATED, (), "")
WORLD = Circumstances(POLICY, 0, WalletState.OPEN, "pm_1", NOVEMBER, Usage(1, 2000))


def declined(number: int, code: str = "generic_decline", *, at: datetime = CREATED, method: str = "pm_1") -> Attempt:
    return Attempt(number, AttemptState.DECLINED, method, at, at, code)


def test_the_first_attempt() -> None:
    assert steps.next_step(NEW, WORLD, NOW) == Charge(1, resumed=False)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_an_ended_recharge_is_ended(state: State) -> None:
    assert steps.next_step(replace(NEW, state=state), WORLD, NOW) == Ended()


@pytest.mark.parametrize("status", ["", "requires_confirmation", "requires_payment_method"])
def test_an_unknown_outcome_is_the_same_attempt_again(status: str) -> None:
    opened = Attempt(1, AttemptState.OPEN, "pm_1", CREATED)
    standing = replace(NEW, attempts=(opened,), intent_status=status)
    assert steps.next_step(standing, WORLD, NOW) == Charge(1, resumed=True)


def test_while_the_bank_is_at_it_nothing_is_charged_or_given_up() -> None:
    opened = Attempt(1, AttemptState.OPEN, "pm_1", CREATED)
    standing = replace(NEW, attempts=(opened,), intent_status="processing")
    world = replace(WORLD, policy=None, wallet_state=WalletState.CLOSED)
    step = steps.next_step(standing, world, CREATED + timedelta(days=40))
    assert isinstance(step, Observe)


@pytest.mark.parametrize(
    "change",
    [
        {"policy": None},
        {"policy": replace(POLICY, enabled=False)},
        {"wallet_state": WalletState.CLOSED},
        {"balance_nanos": 500},
    ],
)
def test_what_is_not_needed_is_given_up(change: dict[str, object]) -> None:
    assert isinstance(steps.next_step(NEW, replace(WORLD, **change), NOW), GiveUp)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"policy": replace(POLICY, paused_reason="a human")},
        {"wallet_state": WalletState.FROZEN},
        {"payment_method": None},
    ],
)
def test_what_a_human_ends_is_waited_for(change: dict[str, object]) -> None:
    step = steps.next_step(NEW, replace(WORLD, **change), NOW)  # type: ignore[arg-type]
    assert isinstance(step, Wait)
    assert step.cap is None


def test_a_decline_rests_and_is_tried_again() -> None:
    standing = replace(NEW, attempts=(declined(1),), intent_status="requires_payment_method")
    rest = steps.next_step(standing, WORLD, CREATED)
    assert isinstance(rest, Wait)
    assert rest.retry_after_s == 3600
    assert steps.next_step(standing, WORLD, CREATED + timedelta(hours=1)) == Charge(2, resumed=False)


@pytest.mark.parametrize("code", ["lost_card", "stolen_card", "authentication_required"])
def test_some_declines_are_never_tried_again_with_the_same_card(code: str) -> None:
    standing = replace(NEW, attempts=(declined(1, code),), intent_status="requires_payment_method")
    for day in range(30):
        assert isinstance(steps.next_step(standing, WORLD, CREATED + timedelta(days=day)), Wait | GiveUp)
    another = replace(WORLD, payment_method="pm_2")
    assert steps.next_step(standing, another, CREATED) == Charge(2, resumed=False)


def test_authentication_on_session_waits_for_the_human() -> None:
    opened = Attempt(1, AttemptState.OPEN, "pm_1", CREATED)
    standing = replace(NEW, attempts=(opened,), intent_status="requires_action")
    assert isinstance(steps.next_step(standing, WORLD, NOW), Wait)
    assert steps.next_step(standing, replace(WORLD, payment_method="pm_2"), NOW) == Charge(2, resumed=False)


def test_fifteen_declines_are_enough() -> None:
    tries = tuple(declined(n) for n in range(1, 16))
    standing = replace(NEW, attempts=tries, intent_status="requires_payment_method")
    assert isinstance(steps.next_step(standing, WORLD, NOW), GiveUp)


def test_thirty_days_are_enough() -> None:
    world = replace(WORLD, month=DECEMBER, usage=Usage(0, 0))
    assert isinstance(steps.next_step(NEW, world, CREATED + timedelta(days=30)), GiveUp)
    assert isinstance(steps.next_step(NEW, world, CREATED + timedelta(days=30) - timedelta(seconds=1)), Charge)


def test_the_whole_schedule_fits_in_thirty_days() -> None:
    now = CREATED
    tries: list[Attempt] = []
    while True:
        standing = replace(NEW, attempts=tuple(tries), intent_status="requires_payment_method")
        step = steps.next_step(standing, WORLD, now)
        if isinstance(step, GiveUp):
            break
        if isinstance(step, Wait):
            now += timedelta(seconds=step.retry_after_s)
        else:
            assert isinstance(step, Charge)
            tries.append(declined(step.number, at=now))
    assert len(tries) == 15
    assert now < CREATED + timedelta(days=30)


def test_a_new_month_takes_the_hold_along_or_makes_it_wait() -> None:
    moved = replace(WORLD, month=DECEMBER, usage=Usage(1, 2000))
    assert steps.next_step(NEW, moved, NOW) == Charge(1, resumed=False, moves_month=True)
    full = steps.next_step(NEW, replace(moved, usage=Usage(2, 2000)), NOW)
    assert isinstance(full, Wait)
    assert full.cap is Block.COUNT_CAP
    dear = steps.next_step(NEW, replace(moved, usage=Usage(1, 2001)), NOW)
    assert isinstance(dear, Wait)
    assert dear.cap is Block.AMOUNT_CAP


def test_caps_lowered_below_what_is_held_stop_the_next_attempt() -> None:
    lowered = replace(WORLD, policy=replace(POLICY, max_count=1), usage=Usage(2, 4000))
    step = steps.next_step(NEW, lowered, NOW)
    assert isinstance(step, Wait)
    assert step.cap is Block.COUNT_CAP


def test_what_does_not_fit_waits_for_a_person() -> None:
    step = steps.next_step(replace(NEW, problem="currency is 'EUR'"), WORLD, NOW)
    assert isinstance(step, Wait)
    assert "EUR" in step.reason


def test_what_the_ledger_has_no_room_for_is_not_charged() -> None:
    full = replace(WORLD, moved_nanos=LEDGER_MAX_NANOS - 2 * NEW.amount_nanos)
    assert isinstance(steps.next_step(NEW, full, NOW), Charge)
    result = steps.next_step(NEW, replace(full, moved_nanos=full.moved_nanos + 1), NOW)
    assert isinstance(result, Wait)
    assert "ledger" in result.reason
