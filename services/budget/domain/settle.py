"""What becomes of an approval of an operation and of what it holds: together, or neither changes."""

from typing import Final

from services.budget.domain.apply import give_back
from services.budget.domain.approvals import (
    TROUBLE_US,
    Approval,
    ApprovalState,
    Mark,
    SettleItem,
    Verdict,
    decide_again,
    end,
    hold_until,
)
from services.budget.domain.decide import Batch
from services.budget.domain.extend import place
from services.budget.domain.model import Binding, Decision, DeniedReason, Reservation, State
from services.kit.errors import PurseError, conflict, not_found, unavailable

_NAMED_MAX: Final = 5


def settle(batch: Batch, item: SettleItem) -> Approval | PurseError:
    """Decides an approval, ends it, or places its hold anew; what it says stays."""
    key = (item.org, item.id)
    row = batch.approvals.get(key)
    if row is None or row.subject != item.subject.name:
        return not_found(f"approval {item.subject.name}/approvals/{item.id}", "APPROVAL_UNKNOWN")
    now_us = max(batch.now_us, item.at_us)
    if row.state is not ApprovalState.PENDING:
        if item.verdict in (Verdict.RENEW, Verdict.EXPIRE):
            return row
        return decide_again(row, item.verdict, item.by, item.decide_id) or row
    found = batch.reservations.get(key)
    if found is None or found.state is not State.OPEN or found.approval is not Mark.WAITING:
        refusal = _without_hold(row, item, now_us)
    elif item.verdict is Verdict.RENEW:
        refusal = _renew(batch, row, found, item, now_us)
    elif item.verdict is Verdict.APPROVE:
        refusal = _approve(batch, row, found, item, now_us)
    else:
        refusal = _end(batch, row, found, item, now_us)
    if refusal is None:
        batch.settled[key] = row
    return refusal or row


def _without_hold(row: Approval, item: SettleItem, now_us: int) -> PurseError | None:
    """Ends an approval whose hold usage has settled, though nobody had approved."""
    if item.verdict is Verdict.APPROVE:
        return conflict("APPROVAL_HOLD_GONE", f"{row.name} holds nothing any more; deny it, or let it be asked anew")
    if item.verdict in (Verdict.DENY, Verdict.CANCEL):
        end(row, item.verdict, now_us, by=item.by, reason=item.reason, decide_id=item.decide_id)
    else:
        end(row, Verdict.EXPIRE, now_us, by="", reason="what it held was used before anybody had decided", decide_id="")
    return None


def _end(batch: Batch, row: Approval, found: Reservation, item: SettleItem, now_us: int) -> PurseError | None:
    """Gives back what is held, at once; what has time left does not expire."""
    if item.verdict is Verdict.EXPIRE and now_us < min(row.expires_us, row.hold_us):
        return None
    give_back(batch, found, State.EXPIRED if item.verdict is Verdict.EXPIRE else State.RELEASED)
    found.approval = Mark.DECIDED
    batch.remarked[item.org, item.id] = found
    end(row, item.verdict, now_us, by=item.by, reason=_reason(row, item, now_us), decide_id=item.decide_id)
    return None


def _reason(row: Approval, item: SettleItem, now_us: int) -> str:
    if item.reason or item.verdict is not Verdict.EXPIRE:
        return item.reason
    if now_us >= row.expires_us:
        return "nobody decided in time"
    return row.trouble or "its hold was not kept alive"


def _renew(batch: Batch, row: Approval, found: Reservation, item: SettleItem, now_us: int) -> PurseError | None:
    binding = item.binding if found.binding is None else found.binding
    if binding is None:
        return _made_just_now(row)
    denial, _ = place(batch, found, item.dimensions, binding)
    if denial is not None:
        row.trouble = f"its hold cannot be placed in the windows of now: {_why(denial)}"[:500]
        row.renew_us = now_us + TROUBLE_US
        return None
    _keep(row, found, binding, now_us)
    return None


def _keep(row: Approval, found: Reservation, binding: Binding, now_us: int) -> None:
    row.trouble = ""
    hold_until(row, now_us, [counter.window_end_us for counter in binding.counters])
    found.expires_us = row.hold_us
    found.changed = True


def _approve(batch: Batch, row: Approval, found: Reservation, item: SettleItem, now_us: int) -> PurseError | None:
    """Moves the hold into the windows of now and lets it be spent; where it does not fit, the approval waits on."""
    if now_us >= min(row.expires_us, row.hold_us):
        return conflict("APPROVAL_EXPIRED", f"{row.name} has expired; it must be asked for anew", state="EXPIRED")
    binding = item.binding if found.binding is None else found.binding
    if binding is None:
        return _made_just_now(row)
    denial, _ = place(batch, found, item.dimensions, binding)
    if denial is not None:
        reason = "PAUSED" if denial.denied is DeniedReason.PAUSED else "APPROVAL_DOES_NOT_FIT"
        return conflict(
            reason,
            f"{row.name} cannot be approved now: {_why(denial)}; change that and approve again, or deny it",
            denied_reason=denial.denied.name,
        )
    found.expires_us = now_us + row.live_us
    found.changed = True
    found.approval = Mark.DECIDED
    row.hold_us = found.expires_us
    batch.remarked[item.org, item.id] = found
    end(row, item.verdict, now_us, by=item.by, reason=item.reason, decide_id=item.decide_id)
    return None


def _made_just_now(row: Approval) -> PurseError:
    return unavailable(f"{row.name} has just been made; send again")


def _why(denial: Decision) -> str:
    """A denial in words."""
    if denial.pauses:
        return f"{denial.pauses[0].subject} is paused ({denial.pauses[0].reason})"
    if denial.violations:
        names = ", ".join(use.budget.name for use in denial.violations[:_NAMED_MAX])
        return f"{denial.denied.name}: {names}"
    return denial.denied.name
