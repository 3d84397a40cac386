"""When who is told of an approval, and who may decide it: pure rules over any times and any people."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.kit.approvals import (
    DEFAULT_TIMES,
    LONGEST_US,
    SHORTEST_US,
    SUMMARY_BYTES_MAX,
    Step,
    Times,
    is_ordered,
    next_step,
    refuse,
    summary,
)

S = 1_000_000
TIMES = st.lists(st.integers(1, 30 * 86_400), min_size=3, max_size=3, unique=True).map(
    lambda found: Times(*(one * S for one in sorted(found)))
)
NAMES = st.sampled_from(["ann", "joe", "bot", "orgs/acme#1"])
ROLES = st.sets(st.sampled_from(["agent", "operator", "approver", "auditor", "service", "admin"]), max_size=3)


def steps_of(times: Times, created_us: int, expires_us: int) -> list[tuple[Step, int]]:
    """All that is told of an approval that nobody decides."""
    told: list[tuple[Step, int]] = []
    reminders = escalations = 0
    while (step := next_step(times, created_us, expires_us, reminders, escalations)) is not None:
        told.append(step)
        reminders += step[0] is Step.REMIND
        escalations += step[0] is Step.ESCALATE
        assert len(told) < 64
    return told


def test_the_defaults_can_be_kept() -> None:
    assert all(is_ordered(times) for times in DEFAULT_TIMES.values())


@given(TIMES, st.integers(0, 4 * 10**15), st.integers(SHORTEST_US, LONGEST_US))
def test_people_are_told_in_order_and_before_it_expires(times: Times, created_us: int, lives_us: int) -> None:
    expires_us = created_us + lives_us
    told = steps_of(times, created_us, expires_us)
    instants = [at for _, at in told]
    assert instants == sorted(set(instants))
    assert all(created_us < at < expires_us for at in instants)
    assert [step for step, _ in told].count(Step.REMIND) == (created_us + times.remind_us < expires_us)
    # Each is told twice as late as the one before, so even the longest wait tells few.
    assert [at for step, at in told if step is Step.ESCALATE] == [
        at for k in range(32) if (at := created_us + times.escalate_us * 2**k) < expires_us
    ]


@given(NAMES, NAMES, ROLES, st.sampled_from(["PENDING", "APPROVED", "DENIED", "EXPIRED", "CANCELED"]))
def test_only_others_with_a_role_decide_and_only_once(asked: str, by: str, roles: set[str], state: str) -> None:
    refusal = refuse(state, asked, by, roles)
    may = bool(roles & {"operator", "approver", "admin"}) and asked != by and state == "PENDING"
    assert (refusal is None) == may


@settings(max_examples=40)
@given(st.text(max_size=120))
def test_a_summary_is_the_beginning_of_what_it_sums_up(text: str) -> None:
    short = summary(text)
    assert text.startswith(short)
    assert len(short.encode()) <= SUMMARY_BYTES_MAX
    assert short == text or len(short.encode()) > SUMMARY_BYTES_MAX - 4
