from datetime import UTC, datetime, timedelta

import pytest

from services.kit.money import MAX_NANOS
from services.wallet.recharge.domain import extras as rules
from services.wallet.recharge.domain.extras import ExtraError, Granted, in_force
from services.wallet.recharge.domain.policy import Extras, MonthKey, Policy, Usage

NOW = datetime(2026, 11, 20, tzinfo=UTC)
NOVEMBER = MonthKey("2026-11", "UTC", datetime(2026, 12, 1, tzinfo=UTC))
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
POLICY = Policy(
    enabled=True, threshold_nanos=1, amount_nanos=5, max_count=10, max_amount_nanos=100, cooldown=timedelta(0)
)


def granted(month: str = "2026-11", count: int = 3, nanos: int = 30, days: int = 1, used: int = 0) -> Granted:
    return Granted(
        month,
        count,
        nanos,
        NOW + timedelta(days=days),
        Usage(0, 0),
        Usage(used, used * 10),
        cap_count=10,
        cap_nanos=100,
    )


def test_only_what_lasts_counts() -> None:
    assert in_force([granted(), granted(count=4, days=0)], POLICY, "2026-11", NOW) == Extras(3, 30)
    assert in_force([granted()], POLICY, "2026-10", NOW) == Extras(0, 0)


def test_the_next_month_has_what_this_one_left() -> None:
    for used, left in ((9, Extras(3, 30)), (11, Extras(2, 20)), (20, Extras(0, 0))):
        assert in_force([granted(days=20, used=used)], POLICY, "2026-12", NOW + timedelta(days=15)) == left


def test_without_an_amount_cap_only_the_count_counts() -> None:
    policy = Policy(
        enabled=True, threshold_nanos=1, amount_nanos=5, max_count=10, max_amount_nanos=None, cooldown=timedelta(0)
    )
    assert in_force([granted()], policy, "2026-11", NOW) == Extras(3, 0)


def test_until_is_the_months_end_unless_it_is_said() -> None:
    def check(until: datetime | None) -> datetime:
        return rules.check((), count=1, amount_nanos=0, until=until, month=NOVEMBER, last_end=NEW_YEAR, now=NOW)

    assert check(None) == NOVEMBER.end
    assert check(NEW_YEAR) == NEW_YEAR
    for wrong in (NOW, NEW_YEAR + timedelta(microseconds=1)):
        with pytest.raises(ExtraError, match="end of the next month"):
            check(wrong)


def test_a_month_has_its_limits() -> None:
    def check(known: list[Granted], count: int, nanos: int = 0) -> None:
        rules.check(known, count=count, amount_nanos=nanos, until=None, month=NOVEMBER, last_end=NEW_YEAR, now=NOW)

    check([granted(count=999)], 1)
    with pytest.raises(ExtraError, match="more than 1000"):
        check([granted(count=999)], 2)
    with pytest.raises(ExtraError, match="than an amount can be"):
        check([granted(nanos=2)], 0, MAX_NANOS - 1)
    with pytest.raises(ExtraError, match="the limit"):
        check([granted(count=1)] * rules.MAX_A_MONTH, 1)
    check([granted("2026-10", count=999)] * rules.MAX_A_MONTH, 1000)
