"""What passes between the approval workflow, its activities and whoever decides by it. Standard library only."""

from dataclasses import dataclass

WORKFLOW = "Approval"
TASK_QUEUE = "approvals"
WAKE = "wake"
STATUS = "status"
DECIDE = "decide"

ADVANCE = "advance_approval"
SETTLE = "decide_approval"
CANCEL = "cancel_approval"
ALLOW = "allow_recharges"

APPROVE = "APPROVE"
DENY = "DENY"
VERDICTS = (APPROVE, DENY)

APPROVAL_UNKNOWN = "APPROVAL_UNKNOWN"
"""The type of the error that ends a workflow: there is nothing to move."""


@dataclass(frozen=True)
class ApprovalInput:
    """What a workflow is started with.

    Attributes:
        approval: `{subject}/approvals/{id}`, also the workflow's id.
        requested_by: The principal who asked, who may not decide.
        what: In words, with the amount.
        expires_at: RFC 3339.
        cancel_reason: Carried over where a long history was cut; empty: nobody wants it canceled.
    """

    approval: str
    requested_by: str = ""
    what: str = ""
    expires_at: str = ""
    cancel_reason: str = ""


@dataclass(frozen=True)
class Decide:
    """The update `decide`, as a person sends it.

    Attributes:
        verdict: APPROVE or DENY.
        decided_by: Who decides. Whoever may write to the namespace is trusted to say who he is.
        role: Theirs: approver or operator.
        reason: Why; whoever asked reads it.
    """

    verdict: str = ""
    decided_by: str = ""
    role: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Settle:
    """A decision on its way to the budget service; the same request id decides once."""

    approval: str
    verdict: str
    decided_by: str
    reason: str
    request_id: str


@dataclass(frozen=True)
class Cancel:
    """Which approval is not wanted any more, and why."""

    approval: str
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """An approval as the budget service has it.

    Attributes:
        state: PENDING, APPROVED, DENIED, EXPIRED or CANCELED.
        told: Whose subscribers were told last.
        trouble: Why its hold could not be placed anew the last time.
        outcome: What came of a raise or of more recharges.
    """

    approval: str
    state: str
    requested_by: str
    justification: str
    urgency: str
    decided_by: str = ""
    reason: str = ""
    told: str = ""
    reminders: int = 0
    escalations: int = 0
    trouble: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class Progress:
    """What was done, and what is due next.

    Attributes:
        next_at_s: When to ask again, in Unix seconds; 0: never.
        must_allow: The wallet is to be asked for more recharges.
    """

    snapshot: Snapshot
    next_at_s: float = 0.0
    must_allow: bool = False
