"""What passes between the workflow of a review of caps and its activities. Standard library only."""

from dataclasses import dataclass, field

WORKFLOW = "RechargeCapReview"
TASK_QUEUE = "approvals"
WAKE = "wake"
DECIDE = "decide"
STATUS = "status"

LOOK = "look_at_cap_review"
TELL = "tell_of_cap_review"
DECISION = "decide_cap_review"

OPEN = "OPEN"
"""The state of a review that waits for a decision."""
ROLES = ("operator", "approver", "admin")
"""Who may decide."""
REASON_CHARS_MAX = 256
BY_CHARS_MAX = 256
COUNT_MAX = 1_000

REVIEW_UNKNOWN = "REVIEW_UNKNOWN"
"""The type of the error that ends a workflow: there is nothing to decide."""


@dataclass(frozen=True)
class ReviewInput:
    """What a workflow is started with.

    Attributes:
        review: `{subject}/rechargeReviews/{id}`, also the workflow's id.
        told: The last day that people were reminded on, carried over where a long history was cut.
    """

    review: str
    told: int = 0


@dataclass(frozen=True)
class Snapshot:
    """A review as the wallet service has it. Amounts are for people, `20.00 USD`.

    Attributes:
        state: OPEN, ALLOWED, KEPT_PAUSED or ENDED.
        cap: In words.
        charge: What the recharge that was stopped would have charged.
        recharged: What counts in the month, of how much.
        spent: In the month.
        created_at: ISO 8601, in UTC, as `month_end`.
        decided_by: Empty: nobody.
        extra: What was allowed, by name.
        facts: For programs: what an event says of it.
    """

    review: str
    wallet: str
    state: str
    month: str
    cap: str
    charge: str
    recharged: str
    spent: str
    balance: str
    created_at: str
    month_end: str
    decided_by: str = ""
    reason: str = ""
    extra: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tell:
    """What people are told.

    Attributes:
        type: Of the event, `recharge.cap_reminder`.
        key: The same one is told once.
    """

    snapshot: Snapshot
    type: str
    key: str


@dataclass(frozen=True)
class Decision:
    """What a person decides: either `keep_paused`, or what is allowed.

    Attributes:
        by: Who decides, such as `ann@acme.example` or a credential's subject and token id.
        role: As which of `ROLES`.
        reason: Why.
        keep_paused: The caps stay as they are until the month ends.
        extra_count: Recharges more.
        extra_amount: Money more in the wallet's currency, as a decimal such as `50.00`.
        until: ISO 8601; recharges begun before it count. Empty: the end of the month.
    """

    by: str
    role: str
    reason: str
    keep_paused: bool = False
    extra_count: int = 0
    extra_amount: str = ""
    until: str = ""


@dataclass(frozen=True)
class Decide:
    """A decision on its way to the wallet service; the same request decides the same once."""

    review: str
    request_id: str
    decision: Decision
