"""Spends that must wait for a person: refused until one is asked, held while one is, and told what was decided."""

from typing import TYPE_CHECKING

from services.budget.domain.approvals import (
    Approval,
    ApprovalState,
    Mark,
    Need,
    Place,
    counted,
    hold_until,
    opened,
    refuse_more,
)
from services.budget.domain.model import Binding, Decision, DeniedReason, Reservation, ReserveItem, State
from services.kit.errors import PurseError, conflict

if TYPE_CHECKING:
    from services.budget.domain.decide import Batch


def ask(batch: "Batch", item: ReserveItem, binding: Binding) -> Decision | PurseError | None:
    """What stops a spend that its budgets allow, since a person must decide first; None: it may go on.

    One that asks for an approval goes on, and waits if the policy says so, unless too much waits already.
    """
    rule = binding.rule
    if item.approval is None:
        return _required(
            item, Need(None, rule.subject, rule.above if rule.above is not None else -1) if rule else Need()
        )
    if (row := batch.approvals.get((item.org, item.id))) is not None:
        return _refuse_ended(row, item)
    if not waits(item, binding):
        return None
    if (refusal := refuse_more(batch.held, item.subject)) is not None:
        return refusal
    for subject, most in rule.held if rule else ():
        if batch.held.get(Place(item.org, subject, item.currency), 0) + (item.cost or 0) > most:
            return Decision(
                DeniedReason.APPROVALS_HELD,
                cost=item.cost,
                currency=item.currency,
                rate_version=item.rate_version,
                need=Need(None, subject),
            )
    return None


def waits(item: ReserveItem, binding: Binding) -> bool:
    """Whether somebody must decide. Where no policy says what passes, whoever asks wants to be told."""
    rule = binding.rule
    return rule is None or rule.above is None or (item.cost or 0) > rule.above


def places(item: ReserveItem) -> list[Place]:
    """What must be known of the approvals that wait before a spend is asked about: how many, and what they hold."""
    rule = item.binding.rule
    held = [Place(item.org, subject, item.currency) for subject, _ in rule.held] if rule else []
    return counted(item.subject) + held


def note_asked(batch: "Batch", item: ReserveItem, made: Reservation, decision: Decision) -> None:
    """Notes the approval of a spend that this batch holds, and turns the answer into one that waits if it must."""
    assert item.approval is not None
    assert made.binding is not None
    row = opened(item.approval, batch.now_us, waits=waits(item, made.binding))
    row.currency, row.amount = item.currency, item.cost or 0
    row.provider, row.model = item.call.provider, item.call.model
    key = (item.org, item.id)
    if row.state is ApprovalState.PENDING:
        made.approval = Mark.WAITING
        hold_until(row, batch.now_us, [counter.window_end_us for counter in made.binding.counters])
        made.expires_us = row.hold_us
        for name in item.subject.ancestors:
            for currency, more in (("", 1), (row.currency, row.amount)):
                place = Place(item.org, name, currency)
                if place in batch.held and place.has(row.subject):
                    batch.held[place] += more
        decision.denied, decision.need = DeniedReason.APPROVAL_REQUIRED, Need(row)
    else:
        made.approval = Mark.DECIDED
    decision.expires_us = made.expires_us
    batch.approvals[key] = row
    batch.asked.append(row)
    batch.remarked[key] = made


def _refuse_ended(row: Approval, item: ReserveItem) -> PurseError:
    """Why nothing can be asked under the id of an approval that holds nothing."""
    if item.approval is None or row.payload_hash != item.approval.payload_hash:
        return reused(item.id)
    return conflict(
        "APPROVAL_ENDED",
        f"{row.name} is {row.state.name.lower()}, and its reservation is forgotten; ask anew with another id",
        field="request_id",
        state=row.state.name,
    )


def reused(id_: str) -> PurseError:
    """The refusal of an id that was used for something else."""
    return conflict(
        "REQUEST_ID_REUSED",
        f"request_id: {id_} was used for another request; use a new id for each",
        field="request_id",
        request_id=id_,
    )


def again(batch: "Batch", known: Reservation, item: ReserveItem) -> Decision | PurseError | None:
    """The answer to a spend that is sent again and was asked about; None: it is as any other.

    While it waits it must wait; once it is denied, has expired or was canceled, it is denied with who said so and why.
    """
    row = batch.approvals.get((item.org, item.id))
    if item.approval is not None and (row is None or row.payload_hash != item.approval.payload_hash):
        return reused(item.id)
    if row is None:
        return None
    if row.state is ApprovalState.PENDING and known.state is State.OPEN and known.approval is Mark.WAITING:
        answer = _required(item, Need(row))
        answer.reservation, answer.expires_us, answer.wallet = known.name, known.expires_us, known.wallet or ""
        return answer
    if row.state in (ApprovalState.PENDING, ApprovalState.APPROVED):
        return None
    return Decision(DeniedReason.APPROVAL_DENIED, cost=known.cost, currency=known.currency, need=Need(row))


def _required(item: ReserveItem, need: Need) -> Decision:
    return Decision(
        DeniedReason.APPROVAL_REQUIRED,
        cost=item.cost,
        currency=item.currency,
        rate_version=item.rate_version,
        need=need,
    )
