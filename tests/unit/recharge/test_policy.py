"""Which policies make sense, and what stops a recharge."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.wallet.recharge.domain import policy as rules
from services.wallet.recharge.domain.policy import (
    Amount,
    Block,
    Blocked,
    CurrencyError,
    Draft,
    MonthKey,
    PolicyError,
    Situation,
    Start,
    Usage,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MONTH = MonthKey("2026-11", "UTC", datetime(2026, 12, 1, tzinfo=UTC))
CENT = 10_000_000
GOOD = Draft(True, Amount("USD", 500 * CENT), Amount("USD", 2000 * CENT), 3, Amount("USD", 6000 * CENT), timedelta(0))
POLICY = rules.check(GOOD, "USD")
LOW = Situation(0, MONTH, Usage(0, 0), pending=False, last_started=None, is_open=True, has_card=True)


def test_a_good_policy_is_taken_as_it_is() -> None:
    assert POLICY == rules.Policy(True, 500 * CENT, 2000 * CENT, 3, 6000 * CENT, timedelta(0))


def test_the_amount_is_rounded_up_to_what_can_be_charged() -> None:
    asked = replace(GOOD, amount=Amount("USD", 1999 * CENT + 1))
    assert rules.check(asked, "USD").amount_nanos == 2000 * CENT


def test_yen_have_no_cents() -> None:
    yen = Draft(True, Amount("JPY", 10**12), Amount("JPY", 10**11 + 1), 1, None, timedelta(0))
    assert rules.check(yen, "JPY").amount_nanos == 101 * 10**9


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("threshold", {"threshold": None}),
        ("threshold", {"threshold": Amount("USD", 0)}),
        ("threshold", {"threshold": Amount("USD", -1)}),
        ("amount", {"amount": None}),
        ("amount", {"amount": Amount("USD", 0)}),
        ("amount", {"amount": Amount("USD", -1)}),
        ("amount", {"amount": Amount("USD", 49 * CENT)}),
        ("amount", {"amount": Amount("USD", 2**63 - 1)}),
        ("amount", {"amount": Amount("USD", 100_000_000 * CENT), "max_amount": None}),
        ("max_count_per_month", {"max_count": 0}),
        ("max_count_per_month", {"max_count": 1001}),
        ("max_amount_per_month", {"max_amount": Amount("USD", 1999 * CENT)}),
        ("cooldown", {"cooldown": timedelta(seconds=-1)}),
        ("cooldown", {"cooldown": timedelta(days=367)}),
    ],
)
def test_what_can_never_work_is_refused_by_field(field: str, change: dict[str, object]) -> None:
    with pytest.raises(PolicyError) as refused:
        rules.check(replace(GOOD, **change), "USD")  # type: ignore[arg-type]
    assert refused.value.field == field


@pytest.mark.parametrize("field", ["threshold", "amount", "max_amount"])
def test_another_currency_is_refused(field: str) -> None:
    with pytest.raises(CurrencyError):
        rules.check(replace(GOOD, **{field: Amount("EUR", 9000 * CENT)}), "USD")  # type: ignore[arg-type]


def test_a_low_balance_starts_one() -> None:
    assert rules.should_recharge(POLICY, LOW, NOW) == Start(2000 * CENT)


@pytest.mark.parametrize(
    ("why", "policy", "situation"),
    [
        (Block.DISABLED, {"enabled": False}, {}),
        (Block.ENOUGH, {}, {"balance_nanos": 500 * CENT}),
        (Block.PAUSED, {"paused_reason": "a holiday"}, {}),
        (Block.PENDING, {}, {"pending": True}),
        (Block.NOT_OPEN, {}, {"is_open": False}),
        (Block.NO_CARD, {}, {"has_card": False}),
    ],
)
def test_what_an_event_ends_has_no_time(why: Block, policy: dict[str, object], situation: dict[str, object]) -> None:
    changed = replace(POLICY, **policy), replace(LOW, **situation)  # type: ignore[arg-type]
    assert rules.should_recharge(*changed, NOW) == Blocked(why)


def test_a_nano_below_the_threshold_is_below() -> None:
    assert isinstance(rules.should_recharge(POLICY, replace(LOW, balance_nanos=500 * CENT - 1), NOW), Start)


def test_the_cooldown_ends_to_the_moment() -> None:
    policy = replace(POLICY, cooldown=timedelta(hours=1))
    last = NOW - timedelta(hours=1)
    assert isinstance(rules.should_recharge(policy, replace(LOW, last_started=last), NOW), Start)
    late = replace(LOW, last_started=last + timedelta(microseconds=1))
    assert rules.should_recharge(policy, late, NOW) == Blocked(Block.COOLDOWN, NOW + timedelta(microseconds=1))


def test_caps_hold_until_the_month_ends() -> None:
    full = replace(LOW, usage=Usage(3, 3000 * CENT))
    assert rules.should_recharge(POLICY, full, NOW) == Blocked(Block.COUNT_CAP, MONTH.end)
    dear = replace(LOW, usage=Usage(1, 4001 * CENT))
    assert rules.should_recharge(POLICY, dear, NOW) == Blocked(Block.AMOUNT_CAP, MONTH.end)
    fits = replace(LOW, usage=Usage(2, 4000 * CENT))
    assert rules.should_recharge(POLICY, fits, NOW) == Start(2000 * CENT)


def test_a_month_is_the_wallets_own() -> None:
    at = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    assert rules.month_in_force(None, "UTC", at).key == "2026-11"
    assert rules.month_in_force(None, "Europe/Berlin", at).key == "2026-12"


def test_a_change_of_zone_waits_for_the_next_month() -> None:
    at = datetime(2026, 11, 30, 12, tzinfo=UTC)
    # In Kiritimati it is December already; the open November runs on in its own zone.
    assert rules.month_in_force(("2026-11", "UTC"), "Pacific/Kiritimati", at).key == "2026-11"
    later = datetime(2026, 12, 1, tzinfo=UTC)
    assert rules.month_in_force(("2026-11", "UTC"), "Pacific/Kiritimati", later).key == "2026-12"
