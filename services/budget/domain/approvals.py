"""Approvals within a batch: which spends must wait for a person, and what becomes of those that do.

What waits is an ordinary hold with a mark, decided as any other; a decision moves it into the windows of now and takes
the mark away, or gives it back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from services.budget.domain.budgets import FOREVER_US
from services.kit.approvals import AUTO, Times, Urgency, next_step
from services.kit.errors import PurseError, conflict, invalid
from services.kit.subject import Subject

if TYPE_CHECKING:
    from services.budget.domain.model import Binding

_HOUR_US: Final = 3_600_000_000
HOLD_US: Final = 24 * _HOUR_US
"""How long a hold lives without word from its approval's workflow."""
RENEW_US: Final = 6 * _HOUR_US
"""How often a hold is placed anew."""
TROUBLE_US: Final = _HOUR_US // 4
"""How soon it is tried again where it could not be."""
LIVE_MIN_US: Final = _HOUR_US
"""How long a hold lives after the decision at least: whoever asked looks rarely."""
PENDING_MAX: Final = 10_000
"""The most approvals of an organisation that wait."""
PENDING_OF_SUBJECT_MAX: Final = 1_000
"""The most of one subject, so that none of them takes the others' room; of an agent, with all that it makes below."""
# At the edge itself the old window is still the running one.
_EDGE_US: Final = 1_000_000
_EVERYTHING: Final = -1


class Mark(IntEnum):
    """What a reservation has to do with approvals."""

    NONE = 0
    WAITING = 1
    DECIDED = 2


class Kind(IntEnum):
    """What is asked for."""

    OPERATION = 1
    BUDGET_RAISE = 2
    RECHARGES = 3


class ApprovalState(IntEnum):
    """Where an approval stands; the numbers of the contract."""

    PENDING = 1
    APPROVED = 2
    DENIED = 3
    EXPIRED = 4
    CANCELED = 5


class Verdict(IntEnum):
    """What is to become of an approval: a decision, its end, or its hold placed anew."""

    APPROVE = 1
    DENY = 2
    CANCEL = 3
    EXPIRE = 4
    RENEW = 5


ENDS: Final = {
    Verdict.APPROVE: ApprovalState.APPROVED,
    Verdict.DENY: ApprovalState.DENIED,
    Verdict.CANCEL: ApprovalState.CANCELED,
    Verdict.EXPIRE: ApprovalState.EXPIRED,
}


@dataclass(slots=True, frozen=True)
class ApprovalPolicy:
    """When a subject and those below it must ask.

    Attributes:
        above: By currency, in nano-units: what costs more needs an approval.
        held: By currency, in nano-units: the most that may be held for approvals that wait.
        times: Where they differ from the defaults.
        revision: Grows with every change; 0: none was ever set.
    """

    org: str
    subject: str
    above: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    times: Mapping[Urgency, Times] = field(default_factory=dict)
    revision: int = 0
    updated_us: int = 0
    updated_by: str = ""

    @property
    def etag(self) -> str:
        """What a change must give back to replace only what its author has seen."""
        return f"a.{self.revision}" if self.revision else ""


class ApprovalRule(NamedTuple):
    """What the policies on the way to the root say together of spends in one currency.

    Attributes:
        above: What costs more needs an approval; below 0: everything does; None: nothing does.
        subject: The subject whose policy says so; empty: none does.
        held: The subjects that limit what is held, and to how much.
    """

    above: int | None
    subject: str
    held: tuple[tuple[str, int], ...]


def rule_of(policies: list[ApprovalPolicy], currency: str) -> ApprovalRule:
    """The strictest of policies, which are in the order from the organisation down; of equal ones the uppermost.

    Without a cost there is no currency, and a spend of unknown cost is above every amount.
    """
    above, subject = None, ""
    for policy in policies:
        own = policy.above.get(currency) if currency or not policy.above else _EVERYTHING
        if own is not None and (above is None or own < above):
            above, subject = own, policy.subject
    held = tuple((p.subject, p.held[currency]) for p in policies if currency in p.held)
    return ApprovalRule(above, subject, held)


@dataclass(slots=True)
class Approval:
    """What a person decides, as its row has it. Times are microseconds since 1970, 0 where there is none.

    Attributes:
        requested_by: The principal who asked.
        expires_us: When it expires, undecided; before it is written, after how long.
        amount: Nano-units of the currency, or the budget's unit for a raise.
        live_us: How long the hold lives once it is approved.
        target: The budget or the wallet that it is about.
        until_us: Until when a raise or more recharges last.
        hold_us: Until when the hold lives.
        renew_us: When the hold is to be placed anew.
        trouble: Why the hold could not be placed anew the last time.
        told: The subject whose subscribers were told last.
        decide_id: The id of the deciding request.
        next_us: When its workflow is to look next; None: it has nothing to do.
    """

    org: str
    id: str
    subject: str
    kind: Kind
    state: ApprovalState
    payload_hash: bytes
    justification: str
    urgency: Urgency
    requested_by: str
    created_us: int
    expires_us: int
    times: Times
    operation: str = ""
    provider: str = ""
    model: str = ""
    currency: str = ""
    amount: int = 0
    live_us: int = 0
    target: str = ""
    extra_count: int = 0
    until_us: int = 0
    hold_us: int = 0
    renew_us: int = 0
    trouble: str = ""
    told: str = ""
    reminders: int = 0
    escalations: int = 0
    decided_by: str = ""
    decided_us: int = 0
    decide_id: str = ""
    reason: str = ""
    outcome: str = ""
    next_us: int | None = None

    @property
    def name(self) -> str:
        """`{subject}/approvals/{id}`."""
        return f"{self.subject}/approvals/{self.id}"

    @property
    def must_allow(self) -> bool:
        """Whether the worker must still ask the wallet."""
        return self.kind is Kind.RECHARGES and self.state is ApprovalState.APPROVED and not self.outcome

    def advance_us(self) -> int | None:
        """When something is due: a step, the hold's renewal, or its end; None: never."""
        if self.state is not ApprovalState.PENDING:
            return 0 if self.must_allow else None
        due = [self.expires_us]
        if self.kind is Kind.OPERATION:
            due += [self.hold_us, self.renew_us]
        if (step := self.step()) is not None:
            due.append(step[1])
        return min(due)

    def step(self) -> tuple[object, int] | None:
        """What is told next, and when."""
        return next_step(self.times, self.created_us, self.expires_us, self.reminders, self.escalations)


class Need(NamedTuple):
    """What an answer to a spend says of its approval: whose policy asks for one, or the one that there is."""

    approval: Approval | None = None
    subject: str = ""
    above: int = -1


@dataclass(slots=True, eq=False)
class SettleItem:
    """Decides an approval of an operation, ends it, or places its hold anew.

    Attributes:
        by: Who does it; empty for what happens by itself.
        decide_id: The id of the deciding request.
        at_us: The time to go by, where it is later than the batch's; 0: the batch's.
        binding: As in an extension.
        dimensions: As in an extension.
    """

    org: str
    id: str
    subject: Subject
    verdict: Verdict
    by: str = ""
    reason: str = ""
    decide_id: str = ""
    at_us: int = 0
    binding: "Binding | None" = None
    dimensions: dict[int, int] = field(default_factory=dict)

    @property
    def places(self) -> bool:
        """Whether it puts the hold into the windows of now."""
        return self.verdict in (Verdict.APPROVE, Verdict.RENEW)


def opened(draft: Approval, now_us: int, *, waits: bool) -> Approval:
    """The row of an approval that is asked for now.

    Args:
        draft: With the time that it lives in the place of its end.
        now_us: The time.
        waits: Whether somebody must decide.
    """
    row = replace(draft, created_us=now_us, expires_us=now_us + draft.expires_us)
    if waits:
        row.next_us = now_us
        return row
    row.state, row.decided_by, row.decided_us = ApprovalState.APPROVED, AUTO, now_us
    row.reason = "within what needs no approval"
    return row


def hold_until(row: Approval, now_us: int, edges_us: list[int]) -> None:
    """Sets until when the hold of an approval that waits lives, and when it is placed anew.

    Args:
        row: The approval.
        now_us: The time.
        edges_us: When the windows end that it holds in.
    """
    row.hold_us = min(row.expires_us, now_us + HOLD_US)
    renew = FOREVER_US if row.hold_us == row.expires_us else now_us + RENEW_US
    row.renew_us = min([renew, *(edge + _EDGE_US for edge in edges_us if edge < FOREVER_US - _EDGE_US)])


def decide_again(row: Approval, verdict: Verdict, by: str, decide_id: str) -> PurseError | None:
    """What a decision on a decided approval is: None, the same decision sent again; else why it is refused."""
    if row.decided_by == by and row.decide_id == decide_id and decide_id and ENDS[verdict] is row.state:
        return None
    if verdict is Verdict.CANCEL and row.state is ApprovalState.CANCELED:
        return None
    return conflict(
        "APPROVAL_DECIDED",
        f"{row.name} is {row.state.name.lower()} already"
        + (f" by {row.decided_by}" if row.decided_by else "")
        + "; what is decided stays",
        state=row.state.name,
        decided_by=row.decided_by,
    )


def end(row: Approval, verdict: Verdict, now_us: int, *, by: str, reason: str, decide_id: str) -> None:
    """Ends an approval that waits."""
    row.state = ENDS[verdict]
    row.decided_by, row.decided_us, row.reason, row.decide_id = by, now_us, reason, decide_id
    # The workflow shows the end, and asks the wallet where it must; it is woken for that.
    row.next_us = now_us if row.must_allow else None


def answerable(subject: str) -> str:
    """The outermost agent of a subject: those below it are of its own making. Without an agent, the subject."""
    before, agent, below = subject.partition("/agents/")
    return f"{before}{agent}{below.partition('/')[0]}"


class Place(NamedTuple):
    """Where approvals that wait are counted or, by currency, what they hold is summed up.

    Attributes:
        currency: Of what is held; empty: it is counted how many wait.
    """

    org: str
    subject: str
    currency: str = ""

    @property
    def whole(self) -> bool:
        """Whether those below the subject count with it: always, but for how many a subject without an agent asks."""
        return bool(self.currency) or "/agents/" in self.subject or self.subject == f"orgs/{self.org}"

    def has(self, subject: str) -> bool:
        """Whether what is asked for a subject, which is this one or below it, counts here."""
        return self.whole or self.subject == subject


def counted(subject: Subject) -> list[Place]:
    """Where it is counted how many wait before one more is asked for a subject."""
    return [Place(subject.org, name) for name in dict.fromkeys((answerable(subject.name), subject.root))]


def refuse_more(held: Mapping[Place, int], subject: Subject) -> PurseError | None:
    """Why nobody is asked any more, where too many approvals wait; None: they do not.

    Args:
        held: How many wait in the places where that is counted.
        subject: For whom is asked.
    """
    for place in counted(subject):
        most = PENDING_MAX if place.subject == subject.root else PENDING_OF_SUBJECT_MAX
        if held.get(place, 0) >= most:
            return conflict(
                "TOO_MANY_APPROVALS",
                f"{most} approvals of {place.subject} wait, which is the limit; decide or cancel some",
            )
    return None


def check_estimate(cost: int | None) -> None:
    """Refuses an operation whose cost is not known: nobody can decide what nobody has named."""
    if cost is None:
        raise invalid(
            "operation.spend.estimate",
            "give the cost, or a model and both token counts, so that whoever decides knows it",
            "ESTIMATE_INCOMPLETE",
        )
