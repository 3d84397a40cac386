"""Random months with extras, against plain sums: what is let in beyond a cap had been allowed, and was in time."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.wallet.recharge.domain import extras
from services.wallet.recharge.domain import policy as rules
from services.wallet.recharge.domain.extras import Granted
from services.wallet.recharge.domain.policy import Policy, Situation, Start, Usage

BEGIN = datetime(2026, 1, 20, tzinfo=UTC)
AMOUNT = 10

story = st.lists(
    st.tuples(st.sampled_from(["end", "end", "end", "fail", "allow"]), st.integers(0, 72), st.integers(1, 3)),
    min_size=20,
    max_size=60,
)


class Wallet:
    """What a wallet that always needs money keeps of its months and extras."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.months: dict[str, int] = {}
        self.allowed: list[tuple[str, int, int, datetime, Usage]] = []

    def granted(self) -> list[Granted]:
        return [
            Granted(month, count, nanos, until, then, self.used(month), *self.caps(month))
            for month, count, nanos, until, then in self.allowed
        ]

    def used(self, month: str) -> Usage:
        count = self.months.get(month, 0)
        return Usage(count, count * AMOUNT)

    def caps(self, month: str) -> tuple[int, int | None]:
        return (self.policy.max_count, self.policy.max_amount_nanos) if month in self.months else (0, None)


@given(count_cap=st.integers(1, 3), nanos_cap=st.none() | st.integers(10, 40), moves=story, lasting=st.booleans())
def test_nothing_is_let_in_that_was_not_allowed(
    *, count_cap: int, nanos_cap: int | None, moves: list[tuple[str, int, int]], lasting: bool
) -> None:
    policy = Policy(
        enabled=True,
        threshold_nanos=100,
        amount_nanos=AMOUNT,
        max_count=count_cap,
        max_amount_nanos=nanos_cap,
        cooldown=timedelta(0),
    )
    wallet, now, pending = Wallet(policy), BEGIN, ""
    for what, hours, size in moves:
        now += timedelta(hours=hours)
        month = rules.month_in_force(None, "UTC", now)
        if what == "fail" and pending:
            wallet.months[pending] -= 1
            pending = ""
        elif what == "end":
            pending = ""
        elif what == "allow" and size:
            following = rules.month_in_force(None, "UTC", month.end + timedelta(hours=1))
            until = min(now + timedelta(days=20 * size), following.end) if lasting else month.end
            wallet.allowed.append((month.key, size, size * AMOUNT, until, wallet.used(month.key)))
        before = wallet.used(month.key)
        in_force = extras.in_force(wallet.granted(), policy, month.key, now)
        situation = Situation(
            *(0, month, before, bool(pending), None), is_open=True, has_card=True, currency="USD", extras=in_force
        )
        if isinstance(rules.should_recharge(policy, situation, now), Start):
            wallet.months[month.key] = before.count + 1
            pending = month.key
            within = before.count < count_cap and (nanos_cap is None or before.amount_nanos + AMOUNT <= nanos_cap)
            assert within or any(until > now for *_, until, _ in wallet.allowed)
        check_sums(wallet)


def check_sums(wallet: Wallet) -> None:
    """By the money too: what an amount cap leaves below a whole recharge is let in with what an extra leaves."""
    caps = [(wallet.policy.max_count, 1, [(key, count) for key, count, *_ in wallet.allowed])]
    if wallet.policy.max_amount_nanos is not None:
        caps.append((wallet.policy.max_amount_nanos, AMOUNT, [(key, nanos) for key, _, nanos, *_ in wallet.allowed]))
    for cap, unit, allowed in caps:
        beyond = {month: max(0, count * unit - cap) for month, count in wallet.months.items()}
        # An extra of several months lets in what it says once; none lets in before its own month, or after the next.
        assert sum(beyond.values()) <= sum(more for _, more in allowed)
        for month, more in beyond.items():
            first = datetime.fromisoformat(f"{month}-01T00:00:00+00:00")
            near = {month, f"{first - timedelta(days=1):%Y-%m}"}
            assert more <= sum(size for key, size in allowed if key in near)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=6), st.integers(1, 5), st.integers(0, 8))
def test_one_extra_lets_in_what_it_says_whatever_came_before(
    before: list[tuple[int, int]], more: int, count: int
) -> None:
    """However many counted, lowered caps and extras that are over included, so many more begin and then none."""
    policy = Policy(
        enabled=True,
        threshold_nanos=1,
        amount_nanos=AMOUNT,
        max_count=2,
        max_amount_nanos=None,
        cooldown=timedelta(0),
    )
    over = [
        Granted("2026-01", size, 0, BEGIN - timedelta(hours=age), Usage(0, 0), Usage(count, 0), 2, None)
        for size, age in before
    ]
    fresh = Granted("2026-01", more, 0, BEGIN + timedelta(days=1), Usage(count, 0), Usage(count, 0), 2, None)
    in_force = extras.in_force([*over, fresh], policy, "2026-01", BEGIN)
    assert policy.max_count + in_force.count - count == more + max(0, policy.max_count - count)
