"""Between the contract's messages and the domain's values: approvals and their policies."""

from typing import Any, Final

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2
from services.budget import wire
from services.budget.approvals.domain.policies import PolicyDraft
from services.budget.domain.approvals import LIVE_MIN_US, Approval, ApprovalPolicy, ApprovalState, Kind
from services.budget.domain.budgets import AMOUNT_MAX
from services.budget.domain.model import ReserveItem
from services.budget.rates import Rates
from services.kit.approvals import LONGEST_US, REASON_CHARS_MAX, SHORTEST_US, Times, Urgency
from services.kit.errors import invalid
from services.kit.money import CURRENCIES
from services.kit.subject import Subject

_US: Final = 1_000_000
_OPERATION_CHARS_MAX: Final = 200
_JUSTIFICATION_CHARS_MAX: Final = 1_000
_WHO_CHARS_MAX: Final = 128
_RECHARGES_MAX: Final = 1_000
_UNTIL_MAX_US: Final = 253_402_300_799 * _US


def text_of(text: str, field: str, most: int, *, least: int = 1) -> str:
    """A text of people without the space around it; refused by its field where it is too short or too long."""
    found = text.strip()
    if not least <= len(found) <= most:
        raise invalid(field, f"must be {least} to {most} characters" if least else f"must be at most {most} characters")
    if "\0" in found:
        raise invalid(field, "holds a zero byte; remove it")
    return found


def reason_of(text: str, *, least: int = 1) -> str:
    """Why somebody decides so."""
    return text_of(text, "reason", REASON_CHARS_MAX, least=least)


def decider_of(text: str) -> str:
    """Who decides, as role service says it."""
    found = text_of(text, "decided_by", _WHO_CHARS_MAX)
    wire.check_text(found, "decided_by")
    return found


def subject_of(request: budget_pb2.RequestApprovalRequest) -> Subject:
    """For whom is asked.

    Raises:
        PurseError: Nothing is asked for, or for somebody else than whose budget or wallet it is.
    """
    kind = request.WhichOneof("kind")
    if kind == "budget_raise":
        of, _ = wire.resource_of(request.budget_raise.budget, "budgets", "budget_raise.budget")
    elif kind == "recharges":
        of, _ = wire.resource_of(request.recharges.wallet, "wallets", "recharges.wallet")
    elif kind == "operation":
        of = wire.subject_of(request.operation.spend.subject or request.subject)
    else:
        raise invalid("kind", "is required: say what is asked for, an operation, a budget_raise or recharges")
    if request.subject and request.subject != of.name:
        raise invalid("subject", f"is {request.subject[:80]}; what is asked for belongs to {of.name}")
    return of


def draft_of(request: budget_pb2.RequestApprovalRequest, subject: Subject, requested_by: str) -> Approval:
    """What is asked for, but its times.

    Raises:
        PurseError: The field at fault.
    """
    wire.check_request_id(request.request_id)
    if request.urgency not in (0, *Urgency):
        raise invalid("urgency", "is LOW, MEDIUM or HIGH")
    draft = Approval(
        subject.org,
        request.request_id,
        subject.name,
        Kind.OPERATION,
        ApprovalState.PENDING,
        wire.digest(request),
        text_of(request.justification, "justification", _JUSTIFICATION_CHARS_MAX),
        Urgency(request.urgency or Urgency.MEDIUM),
        requested_by,
        0,
        0,
        Times(0, 0, 0),
    )
    if request.HasField("operation"):
        draft.operation = text_of(request.operation.operation, "operation.operation", _OPERATION_CHARS_MAX)
    elif request.HasField("budget_raise"):
        _read_raise(draft, request.budget_raise)
    else:
        _read_recharges(draft, request.recharges)
    return draft


def _read_raise(draft: Approval, asked: pb.BudgetRaise) -> None:
    if not asked.HasField("end_time"):
        raise invalid("budget_raise.end_time", "is required; a raise ends by itself")
    draft.kind, draft.target = Kind.BUDGET_RAISE, asked.budget
    draft.amount, draft.until_us = asked.amount, wire.time_us(asked.end_time)


def _read_recharges(draft: Approval, asked: pb.MoreRecharges) -> None:
    draft.kind, draft.target = Kind.RECHARGES, asked.wallet
    if not 0 <= asked.extra_count <= _RECHARGES_MAX:
        raise invalid("recharges.extra_count", f"is {asked.extra_count}; it must be 0 to {_RECHARGES_MAX}")
    draft.extra_count = asked.extra_count
    if asked.HasField("extra_amount"):
        if asked.extra_amount.currency_code not in CURRENCIES:
            raise invalid(
                "recharges.extra_amount.currency_code", "is no currency known here; use a code such as 'USD'",
                "UNKNOWN_CURRENCY",
            )  # fmt: skip
        draft.amount, draft.currency = asked.extra_amount.amount_nanos, asked.extra_amount.currency_code
    if not 0 <= draft.amount <= AMOUNT_MAX or not (draft.amount or draft.extra_count):
        raise invalid("recharges", "ask for at least one more recharge, or for an amount above 0")
    if asked.HasField("until_time"):
        draft.until_us = wire.time_us(asked.until_time)
        if not 0 < draft.until_us <= _UNTIL_MAX_US:
            raise invalid("recharges.until_time", "must be a time between 1970 and the year 9999")


def ttl_us_of(request: budget_pb2.RequestApprovalRequest) -> int | None:
    """How long an approval is to live; None: by its urgency."""
    if not request.HasField("ttl"):
        return None
    ttl_us = request.ttl.seconds * _US + request.ttl.nanos // 1000
    if not SHORTEST_US <= ttl_us <= LONGEST_US:
        raise invalid("ttl", f"is {ttl_us / _US:g} s; an approval lives 1 s to 30 days")
    return ttl_us


def spend_of(request: budget_pb2.RequestApprovalRequest, draft: Approval, rates: Rates) -> ReserveItem:
    """The spend that is asked about, as Reserve takes it.

    Raises:
        PurseError: The field at fault.
    """
    spend = budget_pb2.ReserveRequest()
    spend.CopyFrom(request.operation.spend)
    for field, value in (("subject", draft.subject), ("request_id", draft.id)):
        if getattr(spend, field) not in ("", value):
            raise invalid(f"operation.spend.{field}", f"must be {value}, as in the request, or empty")
        setattr(spend, field, value)
    if spend.validate_only:
        raise invalid("operation.spend.validate_only", "must not be set: what waits for a person is held")
    item = wire.reserve_item(spend, rates, wire.now_us())
    draft.live_us = max(LIVE_MIN_US, item.ttl_us)
    item.approval = draft
    return item


def approval_message(row: Approval) -> pb.Approval:
    """An approval as the contract has it."""
    message = pb.Approval(
        name=row.name,
        subject=row.subject,
        state=row.state.value,  # type: ignore[arg-type]
        justification=row.justification,
        urgency=row.urgency.value,  # type: ignore[arg-type]
        requested_by=row.requested_by,
        decided_by=row.decided_by,
        reason=row.reason,
        told=row.told,
        reminders=row.reminders,
        escalations=row.escalations,
        outcome=row.outcome,
    )
    _set_kind(message, row)
    for target, at_us in (
        (message.create_time, row.created_us),
        (message.expire_time, row.expires_us),
        (message.decide_time, row.decided_us),
    ):
        if at_us:
            wire.set_time(target, at_us)
    if row.state is ApprovalState.PENDING and (step := row.step()) is not None:
        wire.set_time(message.next_step_time, step[1])
    return message


def _set_kind(message: pb.Approval, row: Approval) -> None:
    if row.kind is Kind.OPERATION:
        message.operation.operation = row.operation
        message.operation.cost.currency_code = row.currency
        message.operation.cost.amount_nanos = row.amount
        message.operation.provider, message.operation.model = row.provider, row.model
        message.operation.reservation = f"{row.subject}/reservations/{row.id}"
        message.operation.hold_trouble = row.trouble
        if row.hold_us:
            wire.set_time(message.operation.hold_expire_time, row.hold_us)
    elif row.kind is Kind.BUDGET_RAISE:
        message.budget_raise.budget, message.budget_raise.amount = row.target, row.amount
        wire.set_time(message.budget_raise.end_time, row.until_us)
    else:
        message.recharges.wallet, message.recharges.extra_count = row.target, row.extra_count
        if row.currency:
            message.recharges.extra_amount.currency_code = row.currency
            message.recharges.extra_amount.amount_nanos = row.amount
        if row.until_us:
            wire.set_time(message.recharges.until_time, row.until_us)


def policy_draft(message: pb.ApprovalPolicy) -> PolicyDraft:
    """A policy as a caller wrote it."""
    return PolicyDraft(
        tuple((one.currency_code, one.amount_nanos) for one in message.approval_above),
        tuple((one.currency_code, one.amount_nanos) for one in message.held_max),
        tuple((int(one.urgency), _times_of(one)) for one in message.times),
        message.etag,
    )


def _times_of(message: pb.ApprovalTimes) -> Times:
    return Times(_span_us(message.remind_after), _span_us(message.escalate_after), _span_us(message.expire_after))


def _span_us(span: Any) -> int:
    us: int = span.seconds * _US + span.nanos // 1000
    return us


def policy_message(policy: ApprovalPolicy) -> pb.ApprovalPolicy:
    """A policy as the contract has it."""
    message = pb.ApprovalPolicy(subject=policy.subject, etag=policy.etag, updated_by=policy.updated_by)
    for target, amounts in ((message.approval_above, policy.above), (message.held_max, policy.held)):
        for currency, nanos in sorted(amounts.items()):
            target.add(currency_code=currency, amount_nanos=nanos)
    for urgency, times in sorted(policy.times.items()):
        one = message.times.add(urgency=urgency.value)
        for span, us in zip((one.remind_after, one.escalate_after, one.expire_after), times, strict=True):
            span.FromMicroseconds(us)
    if policy.updated_us:
        wire.set_time(message.update_time, policy.updated_us)
    return message
