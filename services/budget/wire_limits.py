"""Between the contract's messages and the domain's values: allocations, overrides and statuses of many."""

import base64
import binascii
from typing import Final

from pursestrings.budget.v1 import budget_pb2, limits_pb2
from services.budget import wire, wire_budgets
from services.budget.allocations import Allocated
from services.budget.domain.allocation import Share
from services.budget.domain.budgets import AMOUNT_MAX, countable
from services.budget.domain.totals import Totals
from services.budget.overrides import Grant, Shown
from services.kit.auth import Identity
from services.kit.errors import invalid

_REASON_CHARS_MAX: Final = 500
_WHO_CHARS_MAX: Final = 128
_APPROVAL_CHARS_MAX: Final = 256


def shares_of(request: budget_pb2.AllocateRequest) -> list[Share]:
    """What each budget is to have.

    Raises:
        PurseError: The field at fault.
    """
    return [
        Share(*wire.resource_of(f"{one.subject}/budgets/{one.budget_id}", "budgets", "allocations.subject"), one.amount)
        for one in request.allocations
    ]


def allocate_response(done: Allocated) -> budget_pb2.AllocateResponse:
    """What was allocated."""
    return budget_pb2.AllocateResponse(
        budget=wire_budgets.budget_message(done.parent),
        allocated=[wire_budgets.budget_message(child) for child in done.children],
        allocated_amount=countable(done.total),
        unallocated_amount=countable(done.parent.limit - done.total),
    )


def grant_of(request: budget_pb2.GrantOverrideRequest, who: Identity) -> Grant:
    """What is asked for.

    Raises:
        PurseError: The field at fault.
    """
    if not request.validate_only:
        wire.check_request_id(request.request_id)
    for field, text, most in (
        ("reason", request.reason, _REASON_CHARS_MAX),
        ("granted_by", request.granted_by, _WHO_CHARS_MAX),
        ("approval", request.approval, _APPROVAL_CHARS_MAX),
    ):
        if len(text) > most or (field != "approval" and not text.strip()):
            raise invalid(field, f"must be {'at most' if field == 'approval' else '1 to'} {most} characters")
        wire.check_text(text, field)
    if not request.HasField("end_time"):
        raise invalid("end_time", "is required; an override ends by itself")
    return Grant(
        request.request_id,
        request.amount,
        wire.time_us(request.end_time),
        request.reason,
        request.granted_by,
        request.approval,
        f"{who.subject} {who.token_id}",
        wire.digest(request),
    )


def override_message(shown: Shown) -> limits_pb2.Override:
    """A raise as the contract has it."""
    override, left, active = shown
    message = limits_pb2.Override(
        name=f"{override.subject}/overrides/{override.id}" if override.id else "",
        budget=f"{override.subject}/budgets/{override.budget_id}",
        amount=override.amount,
        reason=override.reason,
        granted_by=override.granted_by,
        approval=override.approval,
        remaining_amount=left,
        active=active,
    )
    wire.set_time(message.start_time, override.from_us)
    wire.set_time(message.end_time, override.until_us)
    return message


def before_of(token: str) -> tuple[int, str]:
    """The instant and id that a page of overrides comes behind."""
    if not token:
        return AMOUNT_MAX, ""
    try:
        at_us, _, id_ = base64.urlsafe_b64decode(token.encode()).decode("ascii").partition(" ")
        return int(at_us) % AMOUNT_MAX, id_.replace("\0", "")
    except (binascii.Error, ValueError):
        raise invalid("page_token", "is none of this method's; give back `next_page_token` as it was") from None


def before_token(before: tuple[int, str] | None) -> str:
    """The next page's token; empty: there is none."""
    return base64.urlsafe_b64encode(f"{before[0]} {before[1]}".encode()).decode() if before is not None else ""


def totals_messages(totals: Totals) -> list[budget_pb2.BudgetTotals]:
    """Sums by kind, those of the most budgets first."""
    messages = []
    for (dimension, currency, window, selector), one in totals.largest():
        message = budget_pb2.BudgetTotals(
            dimension=dimension.value,  # type: ignore[arg-type]
            currency_code=currency,
            window=wire_budgets.window_message(window),
            budgets=one.budgets,
            exhausted_budgets=one.exhausted,
            counted_budgets=one.counted,
            limit_amount=countable(one.limit),
            spent_amount=countable(one.spent),
            reserved_amount=countable(one.reserved),
            remaining_amount=countable(one.limit - one.spent - one.reserved),
            allocated_amount=countable(one.allocated),
        )
        if selector is not None:
            message.selector.CopyFrom(wire_budgets.selector_message(selector))
        messages.append(message)
    return messages
