"""Which policies make sense, and what stops a recharge."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.kit import money
from services.wallet.recharge.domain import policy as rules
from services.wallet.recharge.domain.policy import (
    Amount,
    Block,
    Blocked,
    CurrencyError,
    Draft,
    Forecast,
    MonthKey,
    PolicyError,
    Predictive,
    Situation,
    Start,
    Usage,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MONTH = MonthKey("2026-11", "UTC", datetime(2026, 12, 1, tzinfo=UTC))
CENT = 10_000_000
GOOD = Draft(True, Amount("USD", 500 * CENT), Amount("USD", 2000 * CENT), 3, Amount("USD", 6000 * CENT), timedelta(0))
POLICY = rules.check(GOOD, "USD")
UP_TO: dict[str, object] = {"amount": None, "target": Amount("USD", 2500 * CENT), "max_amount": None}
FORECAST = Forecast(1000 * CENT, 90, 24, NOW)
AHEAD = replace(POLICY, threshold_nanos=100 * CENT, predictive=Predictive(24, 90, lead_time=False))
LOW = Situation(0, MONTH, Usage(0, 0), pending=False, last_started=None, is_open=True, has_card=True, currency="USD")


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
        ("amount", {"target": Amount("USD", 3000 * CENT)}),
        ("target", {"amount": None, "target": Amount("USD", 500 * CENT)}),
        ("max_amount_per_month", {**UP_TO, "max_amount": Amount("USD", 1500 * CENT)}),
        (
            "max_amount_per_month",
            {**UP_TO, "least": Amount("USD", 2000 * CENT), "max_amount": Amount("USD", 1999 * CENT)},
        ),
        ("amount", {"most": Amount("USD", 1999 * CENT)}),
        ("amount", {"least": Amount("USD", 2001 * CENT)}),
        ("min_amount", {"least": Amount("USD", 49 * CENT)}),
        ("max_amount", {"most": Amount("USD", 49 * CENT)}),
        ("max_amount", {"most": Amount("USD", 100_000_000 * CENT)}),
        ("max_amount", {**UP_TO, "least": Amount("USD", 900 * CENT), "most": Amount("USD", 800 * CENT)}),
        ("predictive.floor", {"threshold": Amount("USD", -1), "predictive": Predictive(24, 90, False)}),
        ("predictive.predict_hours_ahead", {"predictive": Predictive(0, 90, False)}),
        ("predictive.predict_hours_ahead", {"predictive": Predictive(721, 90, False)}),
        ("predictive.quantile_percent", {"predictive": Predictive(24, 95, False)}),
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


def test_up_to_a_target_charges_what_is_missing_within_its_bounds() -> None:
    drafted = replace(GOOD, **UP_TO, least=Amount("USD", 300 * CENT), most=Amount("USD", 2200 * CENT + 1))  # type: ignore[arg-type]
    policy = rules.check(drafted, "USD")
    assert 2200 * CENT == policy.max_nanos
    for balance, charge in ((490 * CENT + 1, 2010 * CENT), (-100 * CENT, 2200 * CENT), (2400 * CENT, 300 * CENT)):
        assert charge == policy.charge_nanos(balance, "USD")
    assert 0 == policy.charge_nanos(2500 * CENT, "USD")
    assert rules.should_recharge(policy, replace(LOW, balance_nanos=490 * CENT), NOW) == Start(2010 * CENT)
    # Without bounds of its own, the currency's: what is missing is at least what can be charged.
    free = rules.check(replace(GOOD, **UP_TO), "USD")  # type: ignore[arg-type]
    assert 50 * CENT == free.charge_nanos(2490 * CENT, "USD")
    assert 99_999_999 * CENT == free.charge_nanos(-(10**18), "USD")


@pytest.mark.parametrize(
    ("code", "missing", "charge"),
    [("JPY", 49, 50), ("JPY", 51, 51), ("KWD", 1, 1), ("ISK", 7, 7), ("UGX", 900, 900)],
)
def test_what_is_missing_is_rounded_to_what_the_currency_can_pay(code: str, missing: int, charge: int) -> None:
    unit = 10**9
    policy = rules.Policy(True, unit, None, 1, None, timedelta(0), target_nanos=1000 * unit)
    assert charge * unit == policy.charge_nanos((1000 - missing) * unit, code)
    step = money.currency(code).increment_nanos
    assert charge * unit + step == policy.charge_nanos((1000 - missing) * unit - 1, code) or missing < charge


def test_a_forecast_that_reaches_the_balance_starts_one() -> None:
    # A dollar must be left of it.
    at = replace(LOW, balance_nanos=1100 * CENT)
    assert rules.should_recharge(AHEAD, at, NOW) == Blocked(Block.ENOUGH)
    forecast = replace(FORECAST, floor_nanos=100 * CENT)
    assert rules.should_recharge(AHEAD, at, NOW, forecast) == Start(2000 * CENT)
    assert rules.should_recharge(AHEAD, replace(at, balance_nanos=1100 * CENT + 1), NOW, forecast) == Blocked(
        Block.ENOUGH
    )
    assert rules.should_recharge(POLICY, at, NOW, forecast) == Blocked(Block.ENOUGH)
    nothing = replace(forecast, spend_nanos=0)
    assert rules.should_recharge(AHEAD, replace(at, balance_nanos=100 * CENT), NOW, nothing) == Blocked(Block.ENOUGH)


def test_below_the_floor_no_forecast_is_needed() -> None:
    assert rules.should_recharge(AHEAD, replace(LOW, balance_nanos=100 * CENT - 1), NOW) == Start(2000 * CENT)


def test_one_forecast_starts_one() -> None:
    at = replace(LOW, balance_nanos=1000 * CENT, last_started=NOW)
    assert rules.should_recharge(AHEAD, at, NOW + timedelta(hours=1), FORECAST) == Blocked(Block.STALE)
    fresh = replace(FORECAST, as_of=NOW + timedelta(minutes=1))
    assert rules.should_recharge(AHEAD, at, NOW + timedelta(hours=1), fresh) == Start(2000 * CENT)


def test_a_forecast_by_a_target_that_is_reached_charges_nothing() -> None:
    policy = replace(AHEAD, amount_nanos=None, target_nanos=900 * CENT)
    assert rules.should_recharge(policy, replace(LOW, balance_nanos=900 * CENT), NOW, FORECAST) == Blocked(
        Block.AT_TARGET
    )
