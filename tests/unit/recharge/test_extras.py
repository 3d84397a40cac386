from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.kit.auth import ANY_ORG, Identity, set_identity
from services.kit.errors import PurseError
from services.kit.money import MAX_NANOS
from services.wallet.recharge.domain import extras as rules
from services.wallet.recharge.domain.attempts import WalletState
from services.wallet.recharge.domain.extras import ExtraError, Granted, in_force
from services.wallet.recharge.domain.policy import Extras, MonthKey, Policy, Usage
from services.wallet.recharge.service_caps import decider
from services.wallet.recharge.store.policies import Facts

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


def test_what_ended_with_its_month_is_over_for_a_recharge_that_moves_to_the_next() -> None:
    december = MonthKey("2026-12", "UTC", NEW_YEAR)
    begun = NOW + timedelta(days=1)
    known = Facts(
        "orgs/acme/wallets/w", "orgs/acme", "USD", WalletState.OPEN, None, None, POLICY, None, 0, 0, True, begun,
        december, Usage(0, 0), granted=[granted(days=11)],
    )  # fmt: skip
    assert known.extras_at(begun) == Extras(0, 0)
    assert replace(known, granted=[granted(days=12)]).extras_at(begun) == Extras(3, 30)
    assert replace(known, month=NOVEMBER).extras_at(begun) == Extras(3, 30)


def test_only_the_suite_itself_says_who_decided() -> None:
    def by(subject: str, role: str, named: str = "ann") -> str:
        set_identity(Identity(subject, frozenset({role}), "t1", 0))
        return decider(named)

    assert by(ANY_ORG, "service") == "ann"
    assert by("orgs/acme", "operator", "") == "orgs/acme#t1"
    for subject, role in (("orgs/acme", "service"), (ANY_ORG, "approver")):
        with pytest.raises(PurseError, match="role service of orgs/-"):
            by(subject, role)
    set_identity(Identity("orgs/acme", frozenset({"operator"}), "t1", 0, "bob@acme.example"))
    assert decider("") == "bob@acme.example"
