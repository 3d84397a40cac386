"""Translates extras, caps and reviews between the contract and the store."""

from datetime import UTC, datetime
from typing import Final

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import caps_pb2 as pb
from services.kit import subject as subjects
from services.kit.errors import invalid
from services.kit.money import MAX_NANOS
from services.wallet.convert import from_page_token, timestamp, to_page_token
from services.wallet.domain.commands import RequestKey
from services.wallet.recharge.caps import Ask, Reviewed
from services.wallet.recharge.domain.extras import MAX_REASON_CHARS
from services.wallet.recharge.store.months import ExtraRow
from services.wallet.recharge.store.policies import Facts
from services.wallet.recharge.store.reviews import ReviewRow

_STATES: Final = {
    "OPEN": pb.RECHARGE_REVIEW_STATE_OPEN,
    "ALLOWED": pb.RECHARGE_REVIEW_STATE_ALLOWED,
    "KEPT_PAUSED": pb.RECHARGE_REVIEW_STATE_KEPT_PAUSED,
    "ENDED": pb.RECHARGE_REVIEW_STATE_ENDED,
}
_APPROVAL_CHARS_MAX: Final = 256


def review_key(name: str, field: str) -> str:
    """The bare id of the organisation that a review's name begins with."""
    try:
        return subjects.parse_resource(name, "rechargeReviews")[0].org
    except subjects.SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_NAME") from None


def asked(request: pb.AllowRechargesRequest | pb.DecideRechargeReviewRequest, key: RequestKey, by: str) -> Ask:
    """What a request allows."""
    if not 0 < len(request.reason) <= MAX_REASON_CHARS or "\0" in request.reason:
        raise invalid("reason", f"is required, at most {MAX_REASON_CHARS} characters: why more is allowed, or not")
    amount = None
    if request.HasField("extra_amount"):
        amount = (request.extra_amount.currency_code, request.extra_amount.amount_nanos)
        if not 0 < amount[1] <= MAX_NANOS:
            raise invalid("extra_amount", "must be above 0: money beyond the cap; leave it out for none", "BAD_EXTRA")
    try:
        until = request.until_time.ToDatetime(tzinfo=UTC) if request.HasField("until_time") else None
    except (ValueError, OverflowError):
        raise invalid("until_time", "must be a time between the years 1 and 9999", "BAD_EXTRA") from None
    approval = request.approval if isinstance(request, pb.AllowRechargesRequest) else ""
    if approval:
        if len(approval) > _APPROVAL_CHARS_MAX:
            raise invalid("approval", f"is at most {_APPROVAL_CHARS_MAX} characters")
        try:
            subjects.parse_resource(approval, "approvals")
        except subjects.SubjectError as error:
            raise invalid("approval", str(error), "MALFORMED_NAME") from None
    return Ask(key, request.extra_count, amount, until, request.reason, by, approval)


def extra_message(row: ExtraRow, currency: str) -> pb.RechargeExtra:
    """An extra for the wire."""
    return pb.RechargeExtra(
        name=row.name,
        wallet=row.wallet,
        month=row.month,
        extra_count=row.extra_count,
        extra_amount=_money(row.extra_nanos, currency) if row.extra_nanos else None,
        until_time=timestamp(row.until_at),
        reason=row.reason,
        approval=row.approval,
        allowed_by=row.allowed_by,
        create_time=timestamp(row.created_at),
    )


def caps_message(known: Facts) -> pb.RechargeCaps:
    """The caps of a month, for the wire."""
    policy, extras = known.policy, known.extras
    message = pb.RechargeCaps(
        month=known.month.key,
        month_end_time=timestamp(known.month.end),
        count=known.usage.count,
        amount=_money(known.usage.amount_nanos, known.currency),
        extra_count=extras.count,
    )
    if policy is not None:
        message.max_count = policy.max_count
        if policy.max_amount_nanos is not None:
            message.max_amount.CopyFrom(_money(policy.max_amount_nanos, known.currency))
    if extras.amount_nanos:
        message.extra_amount.CopyFrom(_money(extras.amount_nanos, known.currency))
    return message


def review_message(row: ReviewRow) -> pb.RechargeReview:
    """A review for the wire."""
    return pb.RechargeReview(
        name=row.name,
        wallet=row.wallet,
        state=_STATES[row.state],
        month=row.month,
        cap=row.cap,
        charge=_money(row.charge_nanos, row.currency),
        month_end_time=timestamp(row.month_end),
        create_time=timestamp(row.created_at),
        end_time=timestamp(row.ended_at) if row.ended_at else None,
        decided_by=row.decided_by,
        reason=row.reason,
        extra=row.extra or "",
    )


def reviewed_message(found: Reviewed) -> pb.RechargeReview:
    """A review with what a person decides by, for the wire."""
    message = review_message(found.row)
    message.caps.CopyFrom(caps_message(found.known))
    message.balance.CopyFrom(_money(found.known.balance_nanos, found.row.currency))
    if found.spent_nanos is not None:
        message.spent.CopyFrom(_money(found.spent_nanos, found.row.currency))
    return message


def page_after(token: str, scope: str) -> tuple[datetime, str] | None:
    """The (creation time, name) that a page of reviews follows; None for the first page."""
    after = from_page_token(token, scope)
    if not after:
        return None
    instant, _, name = after.partition(" ")
    try:
        return datetime.fromisoformat(instant).astimezone(UTC), name
    except ValueError:
        raise invalid("page_token", "is none of this method's; send the one of the page before") from None


def next_page(row: ReviewRow, scope: str) -> str:
    """The token of the page that follows a review."""
    return to_page_token(scope, f"{row.created_at.isoformat()} {row.name}")


def _money(nanos: int, currency: str) -> type_pb2.Money:
    return type_pb2.Money(currency_code=currency, amount_nanos=nanos)
