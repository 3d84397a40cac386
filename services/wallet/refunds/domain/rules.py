"""What a refund or a dispute does next, from what is stored and what Stripe says now."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

KEY_LIFE: Final = timedelta(hours=23)
"""How long a repeated idempotency key is sure to do nothing twice: Stripe keeps keys for 24 hours."""
LATE_FAILURES: Final = timedelta(days=35)
"""How long after a refund's success a bank may still send it back."""
_WON: Final = "won"
_LOST: Final = "lost"
_ENDED: Final = frozenset({_WON, _LOST, "warning_closed", "prevented"})


class RefundState(StrEnum):
    """Where a refund stands."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class ChargeFacts:
    """A PaymentIntent as Stripe has it, as far as a comparison needs it."""

    payment_intent: str
    status: str
    received_minor: int
    currency: str
    installation: str
    org: str
    wallet: str


@dataclass(frozen=True, slots=True)
class RefundFacts:
    """A refund as Stripe has it now.

    Attributes:
        id: Stripe's.
        status: Stripe's word.
        failure: Stripe's word for why it failed; empty: it did not.
        name: The refund that its metadata names; empty: none.
        installation: The installation that its metadata names.
        payment_intent: Whose charge it is of.
        amount_minor: In minor units.
        currency: Upper case.
    """

    id: str
    status: str
    failure: str
    name: str
    installation: str
    payment_intent: str
    amount_minor: int
    currency: str


def next_state(state: RefundState, status: str) -> RefundState:
    """Where a refund goes. A bank may send money back after Stripe called the refund succeeded; FAILED is for good."""
    if state is RefundState.FAILED or status in {"failed", "canceled"}:
        return RefundState.FAILED
    if status == "succeeded":
        return RefundState.SUCCEEDED
    return state


def gone_state(state: RefundState, created_at: datetime, now: datetime) -> RefundState:
    """Where a refund goes that Stripe had and does not know any more.

    Nobody can say whether its money was paid out, so none is made of it: the wallet stays debited, and once no bank
    would send it back any more it counts as paid out. It is FAILED only once Stripe itself says so.
    """
    if state is RefundState.PENDING and now >= created_at + LATE_FAILURES:
        return RefundState.SUCCEEDED
    return state


def gone_check_at(created_at: datetime, now: datetime) -> datetime | None:
    """When to ask again for a refund that is gone, since it may be that only the key was another account's."""
    return now + timedelta(days=1) if now < created_at + LATE_FAILURES else None


def refund_check_at(state: RefundState, *, known: bool, created_at: datetime, now: datetime) -> datetime | None:
    """When to ask Stripe again without an event; None: never.

    Args:
        state: The refund's.
        known: Whether Stripe is known to have it.
        created_at: When it was asked for.
        now: The deciding clock.
    """
    if state is RefundState.FAILED:
        return None
    if state is RefundState.SUCCEEDED:
        return now + timedelta(days=1) if now < created_at + LATE_FAILURES else None
    age = now - created_at
    if known:
        return now + min(max(age, timedelta(minutes=1)), timedelta(hours=6))
    return now + min(max(age, timedelta(seconds=5)), timedelta(minutes=10))


@dataclass(frozen=True, slots=True)
class DisputeFacts:
    """A dispute as Stripe has it now.

    Attributes:
        id: Stripe's.
        status: Stripe's word.
        reason: Stripe's word.
        withdrawn: Whether its money was ever taken.
        reinstated: Whether it was given back.
        payment_intent: Whose charge it is about.
        amount_minor: In minor units.
        currency: Upper case.
    """

    id: str
    status: str
    reason: str
    withdrawn: bool
    reinstated: bool
    payment_intent: str
    amount_minor: int
    currency: str

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be expected of it."""
        return self.status in _ENDED and (self.status != _WON or self.reinstated or not self.withdrawn)


@dataclass(frozen=True, slots=True)
class DisputeStep:
    """What is to be done about a dispute; amounts in nano-units.

    Attributes:
        debit: Take so much from the wallet.
        credit: Give so much back.
        freeze: Freeze the wallet if it is open; once for a dispute, so that a person who opens it again is heeded.
        thaw: End the freeze that this dispute made.
    """

    debit: int
    credit: int
    freeze: bool
    thaw: bool

    @property
    def moves(self) -> bool:
        """Whether anything is to be done at all."""
        return bool(self.debit or self.credit or self.freeze or self.thaw)


def dispute_step(
    facts: DisputeFacts, *, amount: int, withdrawn: int, restored: int, room: int, froze: bool, freeze_done: bool
) -> DisputeStep:
    """What is to be done, by level: repeated or late, it does what is missing and nothing twice.

    Args:
        facts: What Stripe says now.
        amount: What is disputed, in nano-units.
        withdrawn: What the wallet was debited with before.
        restored: What of that it got back before.
        room: What of the charge is neither refunded nor disputed.
        froze: Whether the wallet is frozen for this dispute.
        freeze_done: Whether its freeze was called for before.
    """
    taken = facts.withdrawn or facts.reinstated
    # What a dispute that is given back could not take, it need not take any more.
    debit = min(amount - withdrawn, room) if taken and not restored else 0
    credit = withdrawn + debit - restored if facts.reinstated else 0
    # A lost dispute leaves the freeze to a person: the card may not be the customer's own.
    harmless = facts.ended and facts.status != _LOST
    # Whatever the debit is: a refund that holds the room may come back, and what it frees is not there to be spent.
    freeze = taken and not harmless and not freeze_done
    return DisputeStep(debit, credit, freeze, thaw=froze and harmless)


def dispute_check_at(facts: DisputeFacts, now: datetime, *, short: bool, refund_open: bool) -> datetime | None:
    """When to ask Stripe again without an event; None: it has ended.

    Args:
        facts: What Stripe says now.
        now: The deciding clock.
        short: Whether the wallet was debited with less than is disputed.
        refund_open: Whether a refund of the charge may still come back, and leave its room to the dispute.
    """
    owed = short and refund_open and facts.withdrawn and not facts.reinstated
    return None if facts.ended and not owed else now + timedelta(hours=1)
