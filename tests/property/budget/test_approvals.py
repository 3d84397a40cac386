"""Random requests, decisions and days over the pure rules: what waits is counted, and given back to the unit."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from services.budget.batch import _run_one
from services.budget.binder import Binder
from services.budget.caches import Directories
from services.budget.domain.approvals import (
    Approval,
    ApprovalPolicy,
    ApprovalState,
    Kind,
    Mark,
    Place,
    SettleItem,
    Verdict,
    refuse_more,
    rule_of,
)
from services.budget.domain.budgets import FOREVER_US, Budget, Dimension, OnExceed
from services.budget.domain.decide import Batch
from services.budget.domain.model import (
    Call,
    Decision,
    DeniedReason,
    ReleaseItem,
    Reservation,
    ReserveItem,
    State,
    WalletState,
)
from services.budget.domain.plan import Directory, Policy, WalletRef
from services.budget.domain.waiting import places
from services.kit.approvals import Times, Urgency
from services.kit.errors import PurseError
from services.kit.subject import parse
from services.kit.windows import WindowKind, WindowSpec

HOUR = 3_600_000_000
BEGIN = 1_790_000_000_000_000
BOT = parse("orgs/acme/teams/t/agents/bot")
WALLET = "orgs/acme/wallets/w"
LEASED, ABOVE, HELD_MAX = 60, 4, 30


def budget(no: int, subject: str, limit: int, kind: WindowKind) -> Budget:
    return Budget(
        no, "acme", subject, f"b{no}", "", Dimension.COST, "USD", limit, WindowSpec(kind, "UTC", 1, 1), OnExceed.BLOCK,
        (100,), None, 1, 1, 0, 0, 0, FOREVER_US,
    )  # fmt: skip


class ApprovalsMachine(RuleBasedStateMachine):
    """One organisation on one lease: a budget a day, one for ever, and a policy."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = BEGIN
        self.limits = {1: 40, 2: 70}
        budgets = [
            budget(1, "orgs/acme", 40, WindowKind.DAY),
            budget(2, "orgs/acme/teams/t", 70, WindowKind.LIFETIME),
        ]
        asking = ApprovalPolicy("acme", "orgs/acme/teams/t", {"USD": ABOVE}, {"USD": HELD_MAX})
        self.policy = Policy("acme", 1, budgets, approvals=[asking])
        self.directories = Directories()
        self.directories.put([Directory("acme", 1, (WalletRef(WALLET, "orgs/acme", "USD", WalletState.OPEN),))])
        self.counters: dict[tuple[int, int], int] = {}
        self.leased = 0
        self.reservations: dict[tuple[str, str], Reservation] = {}
        self.approvals: dict[tuple[str, str], Approval] = {}
        self.made = 0

    def held_in(self, place: Place) -> int:
        amounts = [
            row.amount
            for row in self.waiting()
            if (row.subject == place.subject or (place.whole and row.subject.startswith(f"{place.subject}/")))
            and place.currency in ("", row.currency)
        ]
        return sum(amounts) if place.currency else len(amounts)

    def run(self, item: Any) -> Any:
        """Runs one item as a batch of its own, as the runner does."""
        batch = Batch()
        batch.now_us = self.now_us
        batch.reservations = dict(self.reservations)
        batch.approvals = dict(self.approvals)
        binder = Binder(batch, {"acme": self.policy}, self.directories, self.now_us, set())
        binder.bind([item])
        if isinstance(item, ReserveItem) and item.approval is not None:
            batch.held = {place: self.held_in(place) for place in places(item)}
        binder.bind_holds(self.reservations.values())
        for counter in batch.counters.values():
            counter.load(0, self.counters.get((counter.no, counter.key), 0))
        lease = batch.leases.get(WALLET)
        if lease is not None:
            lease.load(LEASED, 0, 0, 0, reserved=self.leased, state=WalletState.OPEN)
        answer = _run_one(batch, item)
        for found in batch.reservations.values():
            found.binding = None
        self.reservations, self.approvals = batch.reservations, batch.approvals
        self.counters |= {key: counter.reserved for key, counter in batch.counters.items()}
        self.leased = lease.reserved if lease is not None else self.leased
        return answer

    def waiting(self) -> list[Approval]:
        return [row for row in self.approvals.values() if row.state is ApprovalState.PENDING]

    def spend(self, cost: int, draft: Approval | None, id_: str) -> ReserveItem:
        asks = (0, cost, 0, 0, 0, 1)
        return ReserveItem(
            "acme", id_, BOT, str(cost).encode(), Call(), "USD", asks, 0, cost, HOUR, False, False, "", approval=draft
        )  # fmt: skip

    @rule(cost=st.integers(0, 30), asks=st.booleans())
    def ask(self, cost: int, asks: bool) -> None:
        self.made += 1
        id_ = f"r{self.made}"
        draft = None
        if asks:
            draft = Approval(
                "acme", id_, BOT.name, Kind.OPERATION, ApprovalState.PENDING, b"h", "why", Urgency.HIGH, "bot", 0,
                30 * HOUR, Times(HOUR, 2 * HOUR, 30 * HOUR), live_us=HOUR,
            )  # fmt: skip
        answer = self.run(self.spend(cost, draft, id_))
        held = ("acme", id_) in self.reservations
        if isinstance(answer, Decision):
            if answer.denied is DeniedReason.NONE:
                assert held
                assert cost <= ABOVE
            elif answer.denied is DeniedReason.APPROVAL_REQUIRED:
                assert held == asks
                assert cost > ABOVE
        else:
            assert not held

    @precondition(lambda self: self.approvals)
    @rule(which=st.integers(0, 1_000), verdict=st.sampled_from(list(Verdict)))
    def settle(self, which: int, verdict: Verdict) -> None:
        key = sorted(self.approvals)[which % len(self.approvals)]
        before = self.approvals[key].state
        answer = self.run(SettleItem("acme", key[1], BOT, verdict, "ann", "so", "d1"))
        after = self.approvals[key]
        if before is not ApprovalState.PENDING:
            assert after.state is before
        elif isinstance(answer, PurseError):
            assert (verdict, after.state) == (Verdict.APPROVE, ApprovalState.PENDING)
        elif after.state is ApprovalState.APPROVED:
            found = self.reservations[key]
            assert (found.state, found.approval) == (State.OPEN, Mark.DECIDED)
            # It holds in the windows of now.
            today = int(f"{datetime.fromtimestamp(self.now_us / 1e6, UTC):%Y%m%d}")
            assert {(found.holds[at], found.holds[at + 1]) for at in range(0, len(found.holds), 4)} == {
                (1, today), (2, 0),
            }  # fmt: skip
            assert found.expires_us == self.now_us + HOUR
        elif after.state is not ApprovalState.PENDING:
            assert self.reservations[key].state is not State.OPEN
            again = self.run(self.spend(after.amount, None, key[1]))
            assert again.denied is DeniedReason.APPROVAL_DENIED

    @precondition(lambda self: self.reservations)
    @rule(which=st.integers(0, 1_000))
    def release(self, which: int) -> None:
        key = sorted(self.reservations)[which % len(self.reservations)]
        waits = self.reservations[key].approval is Mark.WAITING
        answer = self.run(ReleaseItem("acme", key[1], BOT.name))
        assert isinstance(answer, PurseError) == waits

    @rule(hours=st.integers(1, 13))
    def later(self, hours: int) -> None:
        self.now_us += hours * HOUR

    @invariant()
    def what_is_held_is_counted_and_fits(self) -> None:
        held: dict[tuple[int, int], int] = {}
        funded = 0
        for found in self.reservations.values():
            if found.state is not State.OPEN:
                continue
            funded += found.funding_held
            for at in range(0, len(found.holds), 4):
                window = (found.holds[at], found.holds[at + 1])
                held[window] = held.get(window, 0) + found.holds[at + 3]
        assert held.keys() <= self.counters.keys()
        for window, reserved in self.counters.items():
            assert reserved == held.get(window, 0)
            assert reserved <= self.limits[window[0]]
        assert funded == self.leased <= LEASED

    @invariant()
    def what_waits_holds_and_only_that(self) -> None:
        waits = {key for key, row in self.approvals.items() if row.state is ApprovalState.PENDING}
        marked = {key for key, found in self.reservations.items() if found.approval is Mark.WAITING}
        assert waits == marked == {key for key in marked if self.reservations[key].state is State.OPEN}
        assert sum(self.approvals[key].amount for key in waits) <= HELD_MAX


def test_approvals_never_oversell() -> None:
    run_state_machine_as_test(ApprovalsMachine, settings=settings(max_examples=40, stateful_step_count=25))


AMOUNTS = st.dictionaries(st.sampled_from(["USD", "EUR"]), st.integers(0, 20), max_size=2)


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS), max_size=4), st.sampled_from(["USD", "EUR", ""]), st.integers(0, 25))
def test_the_strictest_policy_counts(
    found: list[tuple[Mapping[str, int], Mapping[str, int]]], code: str, cost: int
) -> None:
    policies = [ApprovalPolicy("acme", f"s{n}", above, held) for n, (above, held) in enumerate(found)]
    rule = rule_of(policies, code)
    if code:
        must_ask = any(code in one.above and cost > one.above[code] for one in policies)
        assert rule.held == tuple((one.subject, one.held[code]) for one in policies if code in one.held)
    else:
        must_ask = any(one.above for one in policies)
    assert (rule.above is not None and (cost if code else 0) > rule.above) == must_ask
    assert bool(rule.subject) == (rule.above is not None)


@given(st.integers(998, 1_001), st.integers(9_998, 10_001))
def test_what_waits_has_a_limit_of_the_subject_and_of_the_organisation(of_subject: int, of_org: int) -> None:
    held = {
        Place("acme", BOT.name): of_subject,
        Place("acme", BOT.root): of_org,
        Place("acme", BOT.name, "USD"): 10**18,
    }
    # What an agent makes below itself asks for the agent.
    for subject in (BOT, parse(f"{BOT.name}/agents/helper-1")):
        assert (refuse_more(held, subject) is None) == (of_subject < 1_000 and of_org < 10_000)
        assert refuse_more({}, subject) is None
