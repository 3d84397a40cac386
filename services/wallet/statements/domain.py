"""Pure rules of statements and of the comparison with Stripe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

from services.kit import money
from services.wallet.refunds.domain.rules import ChargeFacts, DisputeFacts, RefundFacts, RefundState
from services.wallet.refunds.store.charges import ChargeRow
from services.wallet.refunds.store.disputes import DisputeRow
from services.wallet.refunds.store.refunds import RefundRow
from services.wallet.statements.store import Moved

SUCCEEDED: Final = "succeeded"
_FIGURES: Final = {
    "capture": ("spent", 1),
    "reverse": ("spent", -1),
    "refund": ("refunded", 1),
    "refund_failed": ("refunded", -1),
    "dispute": ("disputed", 1),
    "reinstate": ("disputed", -1),
    "expire": ("expired", 1),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What a month did to a balance, in nano-units; all but `spent` and those that are net are never below 0."""

    paid: int = 0
    granted: int = 0
    promotional: int = 0
    moved_in: int = 0
    moved_out: int = 0
    spent: int = 0
    refunded: int = 0
    disputed: int = 0
    expired: int = 0

    @property
    def change(self) -> int:
        """How much the balance grew."""
        came_in = self.paid + self.granted + self.promotional + self.moved_in
        return came_in - self.moved_out - self.spent - self.refunded - self.disputed - self.expired


def figures_of(moved: Sequence[Moved]) -> Figures:
    """The figures of a month. What only moves between available, escrow and debt changes no balance."""
    found = dict.fromkeys((field.name for field in fields(Figures)), 0)
    for one in moved:
        if one.kind == "grant":
            paid = "paid" if one.charged else "granted"
            found["promotional" if one.giver == "promotion" else paid] += one.amount
        elif one.kind == "move":
            found["moved_in" if one.giver == "moved_in" else "moved_out"] += one.amount
        elif one.kind in _FIGURES:
            name, sign = _FIGURES[one.kind]
            found[name] += sign * one.amount
    return Figures(**found)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that does not agree; see the contract for the kinds.

    Attributes:
        payment_intent: Whose state at Stripe it goes by; empty: it is one of the books alone.
    """

    kind: str
    wallet: str
    subject: str
    detail: str
    nanos: int = 0
    payment_intent: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same in two looks."""
        return self.kind, self.subject


def compare_charges(
    seen: Sequence[ChargeFacts], charges: Sequence[ChargeRow], grants: Mapping[str, int]
) -> list[Difference]:
    """Charges at Stripe against what is stored and granted; `seen` are those of this installation and scope."""
    found = []
    stored = {charge.payment_intent: charge for charge in charges}
    paid = {one.payment_intent: one for one in seen if one.status == SUCCEEDED}
    for name, one in paid.items():
        charge = stored.get(name)
        received = money.from_minor_units(one.received_minor, one.currency)
        if charge is None:
            detail = f"Stripe charged {money.format_nanos(received, one.currency)}; nothing was granted for it"
            found.append(Difference("CHARGE_WITHOUT_GRANT", one.wallet, name, detail, received, name))
        elif (received, one.currency) != (charge.amount, charge.currency):
            detail = f"Stripe received {received} nanos of {one.currency}, stored are {charge.amount} {charge.currency}"
            found.append(Difference("CHARGE_AMOUNT", charge.wallet, name, detail, received - charge.amount, name))
    for charge in charges:
        if (name := charge.payment_intent) not in paid:
            detail = f"{charge.source} was granted {charge.amount} nanos; Stripe shows no such charge"
            found.append(Difference("CHARGE_UNKNOWN", charge.wallet, name, detail, -charge.amount, name))
        if grants.get(charge.grant) != charge.amount:
            had = grants.get(charge.grant, 0)
            detail = f"{charge.source} received {charge.amount} nanos, its grant has {had}"
            found.append(Difference("GRANT_WITHOUT_CHARGE", charge.wallet, charge.grant, detail, had - charge.amount))
    return found


def compare_refunds(charge: ChargeRow, seen: Sequence[RefundFacts], stored: Sequence[RefundRow]) -> list[Difference]:
    """The refunds of one charge."""
    found = []
    intent = charge.payment_intent
    by_id = {row.stripe_refund: row for row in stored if row.stripe_refund}
    ids = {one.id for one in seen}
    for one in seen:
        row = by_id.get(one.id)
        lives = one.status not in {"failed", "canceled"}
        nanos = money.from_minor_units(one.amount_minor, one.currency)
        if row is None:
            if lives:
                detail = f"Stripe refunded {nanos} nanos that nobody asked for here; the wallet was not debited"
                found.append(Difference("REFUND_UNKNOWN", charge.wallet, one.id, detail, nanos, intent))
        elif lives is (row.state is RefundState.FAILED) or nanos != row.amount:
            detail = f"{row.name} is {row.state} with {row.amount} nanos, at Stripe {one.status} with {nanos}"
            found.append(Difference("REFUND_STATE", charge.wallet, row.name, detail, nanos - row.amount, intent))
    found += [
        Difference(
            "REFUND_MISSING",
            row.wallet,
            row.name,
            f"{row.stripe_refund} is not among Stripe's refunds",
            -row.amount,
            intent,
        )
        for row in stored
        if row.stripe_refund and row.stripe_refund not in ids
    ]
    return found


def compare_disputes(charge: ChargeRow, seen: Sequence[DisputeFacts], stored: Sequence[DisputeRow]) -> list[Difference]:
    """The disputes about one charge."""
    found = []
    intent = charge.payment_intent
    by_id = {row.id: row for row in stored}
    for one in seen:
        row = by_id.get(one.id)
        nanos = min(money.from_minor_units(one.amount_minor, one.currency), charge.amount)
        out = nanos if one.withdrawn and not one.reinstated else 0
        if row is None:
            if out:
                detail = f"Stripe withdrew {nanos} nanos for a dispute that is not known here"
                found.append(Difference("DISPUTE_UNKNOWN", charge.wallet, one.id, detail, nanos, intent))
        elif row.withdrawn - row.restored != out:
            detail = f"{row.withdrawn} nanos were debited and {row.restored} restored; Stripe says {one.status}"
            nanos = out - row.withdrawn + row.restored
            found.append(Difference("DISPUTE_STATE", charge.wallet, one.id, detail, nanos, intent))
    return found
