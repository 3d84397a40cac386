"""The rules of approvals that the budget service and the workflow share: who may decide, and when who is told.

Pure, and of the standard library alone: workflows import it.
"""

from collections.abc import Collection
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

DECIDERS: Final = ("operator", "approver")
"""The roles that may decide, of the subject or above it."""
AUTO: Final = "AUTO"
"""Who has decided where nobody needed to."""
PENDING: Final = "PENDING"
SUMMARY_BYTES_MAX: Final = 200
"""How long a summary in Temporal may be."""
REASON_CHARS_MAX: Final = 500

_S: Final = 1_000_000
_MIN: Final = 60 * _S
_HOUR: Final = 60 * _MIN
_DAY: Final = 24 * _HOUR
SHORTEST_US: Final = _S
LONGEST_US: Final = 30 * _DAY


class Urgency(IntEnum):
    """How soon somebody should decide; the numbers of the contract."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


class Times(NamedTuple):
    """When who is told, in microseconds from the request on.

    Attributes:
        remind_us: The approvers are reminded.
        escalate_us: Those a level up are told; again at twice, four times, ... that time, each a level further up.
        expire_us: Nobody can decide any more.
    """

    remind_us: int
    escalate_us: int
    expire_us: int


DEFAULT_TIMES: Final = {
    Urgency.LOW: Times(24 * _HOUR, 48 * _HOUR, 7 * _DAY),
    Urgency.MEDIUM: Times(2 * _HOUR, 8 * _HOUR, 24 * _HOUR),
    Urgency.HIGH: Times(15 * _MIN, 30 * _MIN, 4 * _HOUR),
}


class Step(StrEnum):
    """What is told while an approval waits."""

    REMIND = "REMIND"
    ESCALATE = "ESCALATE"


class Refusal(NamedTuple):
    """Why somebody may not decide: a stable reason, and what to do about it."""

    reason: str
    message: str


def next_step(
    times: Times, created_us: int, expires_us: int, reminders: int, escalations: int
) -> tuple[Step, int] | None:
    """What is told next, and when; None: nothing before the approval expires.

    Args:
        times: Of the approval.
        created_us: When it was asked for.
        expires_us: When it expires, which may be sooner than its times say.
        reminders: How often was reminded.
        escalations: How often those a level up were told.
    """
    steps = []
    if not reminders and not escalations:
        steps.append((Step.REMIND, created_us + times.remind_us))
    steps.append((Step.ESCALATE, created_us + times.escalate_us * 2**escalations))
    step = min(steps, key=lambda one: one[1])
    return step if step[1] < expires_us else None


def is_ordered(times: Times) -> bool:
    """Whether times can be kept: each later than the one before, and none out of bounds."""
    return SHORTEST_US <= times.remind_us < times.escalate_us < times.expire_us <= LONGEST_US


def refuse(state: str, requested_by: str, decided_by: str, roles: Collection[str]) -> Refusal | None:
    """Why this person may not decide this approval; None: they may.

    Args:
        state: Of the approval, by its name.
        requested_by: The principal who asked.
        decided_by: The principal who wants to decide.
        roles: Theirs.
    """
    if not set(roles) & {*DECIDERS, "admin"}:
        return Refusal(
            "ROLE_MISSING", f"deciding needs one of the roles {' and '.join(DECIDERS)}, of the subject or above it"
        )
    if not decided_by.strip():
        return Refusal("DECIDER_MISSING", "decided_by: say who decides")
    if decided_by == requested_by:
        return Refusal("OWN_REQUEST", f"{decided_by} asked for it; somebody else must decide")
    if state != PENDING:
        return Refusal("APPROVAL_DECIDED", f"it is {state.lower()} already, and what is decided stays")
    return None


def summary(text: str) -> str:
    """A summary as Temporal takes it: cut by bytes, between characters."""
    return text.encode()[:SUMMARY_BYTES_MAX].decode(errors="ignore")
