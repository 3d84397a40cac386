"""Random months: caps hold, months tile time, and a decision never needs more than the state."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.wallet.recharge.domain import attempts as steps
from services.wallet.recharge.domain import outcome as outcomes
from services.wallet.recharge.domain import policy as rules
from services.wallet.recharge.domain.attempts import Attempt, AttemptState, Circumstances, Standing, State, WalletState
from services.wallet.recharge.domain.policy import Block, Policy, Situation, Start, Usage

ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Kiritimati", "America/Los_Angeles", "Pacific/Apia"])
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

policies = st.builds(
    Policy,
    enabled=st.booleans(),
    threshold_nanos=st.integers(1, 100),
    amount_nanos=st.integers(1, 50),
    max_count=st.integers(1, 4),
    max_amount_nanos=st.none() | st.integers(50, 120),
    cooldown=st.integers(0, 48).map(lambda hours: timedelta(hours=hours)),
    paused_reason=st.sampled_from(["", "", "", "a holiday"]),
)
events = st.lists(
    st.tuples(st.sampled_from(["succeed", "fail", "spend", "wait"]), st.integers(1, 400), ZONES, st.integers(0, 60)),
    max_size=60,
)


@given(policies, events)
def test_caps_hold_whatever_happens(policy: Policy, story: list[tuple[str, int, str, int]]) -> None:
    now, balance, pending = BEGIN, 0, ""
    last: tuple[str, str] | None = None
    last_started: datetime | None = None
    months: dict[str, list[int]] = {}
    for what, hours, zone, amount in story:
        now += timedelta(hours=hours)
        if what == "spend":
            balance -= amount
        elif pending and what == "succeed":
            balance, pending = balance + (policy.amount_nanos or 0), ""
        elif pending and what == "fail":
            months[pending].pop()
            pending = ""
        month = rules.month_in_force(last, zone, now)
        held = months.setdefault(month.key, [])
        situation = Situation(
            *(balance, month, Usage(len(held), sum(held)), bool(pending), last_started),
            is_open=True,
            has_card=True,
            currency="USD",
        )
        decision = rules.should_recharge(policy, situation, now)
        assert decision == rules.should_recharge(policy, situation, now)
        if isinstance(decision, Start):
            assert policy.enabled
            assert not policy.paused_reason
            assert not pending
            assert balance < policy.threshold_nanos
            assert last_started is None or now - last_started >= policy.cooldown
            held.append(decision.amount_nanos)
            pending, last_started, last = month.key, now, (month.key, month.zone)
        elif decision.why in {Block.COOLDOWN, *rules.CAPS}:
            assert decision.recheck_at is not None
            assert decision.recheck_at > now
        for one in months.values():
            assert len(one) <= policy.max_count
            assert policy.max_amount_nanos is None or sum(one) <= policy.max_amount_nanos


@given(st.lists(st.tuples(st.integers(0, 2000), ZONES), min_size=1, max_size=40))
def test_months_never_go_back(moves: list[tuple[int, str]]) -> None:
    now, last = BEGIN, None
    for hours, zone in moves:
        now += timedelta(hours=hours)
        month = rules.month_in_force(last, zone, now)
        assert last is None or month.key >= last[0]
        assert month.end > now
        last = (month.key, month.zone)


states = st.sampled_from(list(AttemptState)[1:])
codes = st.sampled_from(["generic_decline", "stolen_card", "authentication_required", ""])


@given(
    history=st.lists(st.tuples(states, codes, st.integers(0, 100), st.sampled_from(["pm_1", "pm_2"])), max_size=20),
    last_is_open=st.booleans(),
    status=st.sampled_from(["", "requires_confirmation", "requires_payment_method", "requires_action", "processing"]),
    hours=st.integers(0, 800),
    policy=policies,
    wallet_state=st.sampled_from(list(WalletState)),
    count=st.integers(0, 4),
)
def test_a_charge_is_never_decided_against_a_rule(
    *,
    history: list[tuple[AttemptState, str, int, str]],
    last_is_open: bool,
    status: str,
    hours: int,
    policy: Policy,
    wallet_state: WalletState,
    count: int,
) -> None:
    tries, at = [], BEGIN
    for number, (state, code, rest, method) in enumerate(history, 1):
        at += timedelta(hours=rest)
        tries.append(Attempt(number, state, method, at, at, code))
    if tries and last_is_open:
        tries[-1] = replace(tries[-1], state=AttemptState.OPEN, ended_at=None)
    now = at + timedelta(hours=hours)
    month = rules.month_in_force(None, "UTC", now)
    standing = Standing(State.PENDING, policy.amount_nanos or 0, "2026-01", BEGIN, tries, status)
    held = month.key == "2026-01"
    usage = Usage(count + held, (count + held) * (policy.amount_nanos or 0))
    world = Circumstances(policy, 0, wallet_state, "pm_1", month, usage)
    step = steps.next_step(standing, world, now)
    if not isinstance(step, steps.Charge):
        return
    assert policy.enabled
    assert not policy.paused_reason
    assert wallet_state is WalletState.OPEN
    assert now < BEGIN + steps.MAX_AGE
    assert status not in outcomes.AT_THE_BANK
    assert step.number <= steps.MAX_ATTEMPTS or step.resumed
    assert step.moves_month != held
    assert usage.count + step.moves_month <= policy.max_count
    last = tries[-1] if tries else None
    if step.resumed:
        assert last is not None
        assert last.state is AttemptState.OPEN
    elif last is not None and last.state is AttemptState.DECLINED and last.payment_method == "pm_1":
        assert last.decline_code not in steps.DEAD_CARD | steps.AUTHENTICATION
        assert now - last.authorized_at >= timedelta(hours=1)


intents = st.builds(
    outcomes.Intent,
    number=st.integers(1, 3),
    payment_intent=st.sampled_from(["pi_1", "pi_2", ""]),
    status=st.sampled_from(["succeeded", "canceled", "processing", "requires_action", "requires_payment_method", ""]),
    amount_received_minor=st.integers(0, 3000),
    currency=st.sampled_from(["USD", "EUR"]),
    livemode=st.booleans(),
    wallet=st.just("w"),
    recharge=st.just("r"),
    installation=st.just("i"),
    error_code=st.sampled_from(["", "generic_decline"]),
    error_mark=st.sampled_from(["", "ch_1", "ch_2"]),
)
open_attempts = st.none() | st.builds(
    outcomes.OpenAttempt, st.sampled_from(["", "ch_1"]), st.booleans(), st.sampled_from(["", "resource_missing"])
)


@given(st.lists(intents, max_size=3), open_attempts)
def test_an_outcome_always_has_its_reason(seen: list[outcomes.Intent], attempt: outcomes.OpenAttempt | None) -> None:
    result = outcomes.judge(seen, outcomes.Expected("i", "r", "w", "USD", livemode=False, amount_minor=2000), attempt)
    paid = [intent for intent in seen if intent.status == "succeeded"]
    assert bool(paid) == isinstance(result, outcomes.Succeeded | outcomes.Mismatch)
    if isinstance(result, outcomes.Succeeded):
        assert result.intent.currency == "USD"
        assert not result.intent.livemode
        assert 0 < result.intent.amount_received_minor <= 2000
    if isinstance(result, outcomes.AllCanceled):
        assert all(intent.status == "canceled" for intent in seen)
    if isinstance(result, outcomes.Declined):
        assert attempt is not None
        assert result.intent.status not in {"processing", "requires_action"} or not result.intent.payment_intent
        fresh = result.intent.error_mark and result.intent.error_mark != attempt.mark
        assert attempt.answered or attempt.answered_code or fresh
