"""What passes between the recharge workflow and its activities. Standard library only."""

from dataclasses import dataclass
from enum import StrEnum

WORKFLOW = "Recharge"
TASK_QUEUE = "recharge"
WAKE = "wake"
CANCEL = "cancel"
STATUS = "status"

AUTHORIZE = "authorize_attempt"
CREATE = "create_payment_intent"
CONFIRM = "confirm_payment_intent"
REPORT = "report_attempt"
GIVE_UP = "fail_recharge"

RECHARGE_UNKNOWN = "RECHARGE_UNKNOWN"
"""The type of the error that ends a workflow: there is nothing to move."""


class Verdict(StrEnum):
    """What the wallet service says to do next."""

    CHARGE = "CHARGE"
    OBSERVE = "OBSERVE"
    WAIT = "WAIT"
    GIVE_UP = "GIVE_UP"
    ENDED = "ENDED"


@dataclass(frozen=True)
class RechargeInput:
    """What a workflow is started with.

    Attributes:
        recharge: `{subject}/recharges/{id}`, also the workflow's id.
        cancel_reason: Carried over where a long history was cut; empty: nobody wants it canceled.
    """

    recharge: str
    cancel_reason: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A recharge as the wallet service has it.

    Attributes:
        state: PENDING, SUCCEEDED or FAILED.
        amount: For people, `20.00 USD`.
    """

    recharge: str
    wallet: str
    state: str
    amount: str
    attempts: int
    payment_intent: str
    payment_intent_status: str
    decline_code: str
    reason: str
    failure_reason: str
    grant: str


@dataclass(frozen=True)
class Decision:
    """The answer of AuthorizeAttempt.

    Attributes:
        retry_after_s: WAIT and OBSERVE: when to ask again, in seconds.
        payment_intent: Empty where it is not created yet, or its creation is unknown.
        needs_person: WAIT: time alone does not end it.
    """

    verdict: Verdict
    reason: str
    snapshot: Snapshot
    retry_after_s: float = 0.0
    attempt: int = 0
    payment_intent_number: int = 0
    create_key: str = ""
    confirm_key: str = ""
    payment_intent: str = ""
    customer: str = ""
    payment_method: str = ""
    amount_minor: int = 0
    currency: str = ""
    installation: str = ""
    needs_person: bool = False


@dataclass(frozen=True)
class Created:
    """What a creation came to: a PaymentIntent, or the code of a refusal."""

    payment_intent: str = ""
    error_code: str = ""


@dataclass(frozen=True)
class Confirm:
    """What to confirm, with what, under which key."""

    payment_intent: str
    payment_method: str
    key: str


@dataclass(frozen=True)
class Report:
    """What an attempt made."""

    recharge: str
    attempt: int
    payment_intent: str
    answered: bool
    error_code: str = ""


@dataclass(frozen=True)
class GiveUp:
    """Which recharge to give up, and why.

    Attributes:
        advised: Whether the wallet service said so; else a person did.
    """

    recharge: str
    reason: str
    advised: bool = False
