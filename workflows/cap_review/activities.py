"""The activities of a review of caps: the wallet service and budget's events, by gRPC. All may run twice."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from temporalio import activity

from pursestrings.budget.v1 import deliveries_pb2, subscriptions_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import caps_pb2 as pb
from services.kit import money
from services.kit.errors import invalid
from services.kit.status import from_rpc_status
from services.wallet.recharge.temporal import CAP_WORDS
from workflows.cap_review import types
from workflows.cap_review.types import Decide, Snapshot, Tell
from workflows.working import REFUSALS, working

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

_RPC_TIMEOUT_S: Final = 25.0
_STATE_PREFIX: Final = "RECHARGE_REVIEW_STATE_"


class CapReviewActivities:
    """Bound to one wallet service and to whoever tells people.

    Args:
        wallet: The wallet service, called as role `service`.
        budget: The budget service, whose subscriptions are told.
    """

    def __init__(self, wallet: "WalletServiceAsyncStub", budget: "BudgetServiceAsyncStub") -> None:
        self._wallet = wallet
        self._budget = budget

    @activity.defn(name=types.LOOK)
    async def look(self, review: str) -> Snapshot:
        """The review as the wallet service has it, with what was recharged and spent so far."""
        async with working():
            answer = await self._wallet.GetRechargeReview(
                pb.GetRechargeReviewRequest(name=review), timeout=_RPC_TIMEOUT_S
            )
        return _snapshot(answer.review)

    @activity.defn(name=types.TELL)
    async def tell(self, ask: Tell) -> None:
        """Tells the subscriptions of the wallet's subject, once by the key."""
        event = deliveries_pb2.Event(
            key=ask.key,
            subject=ask.snapshot.wallet.rpartition("/wallets/")[0],
            event=subscriptions_pb2.EVENT_KIND_RECHARGE,
            type=ask.type,
            data=json.dumps(ask.snapshot.facts, sort_keys=True),
        )
        async with working():
            answer = await self._budget.PublishEvents(
                deliveries_pb2.PublishEventsRequest(events=[event]), timeout=_RPC_TIMEOUT_S
            )
            if answer.results[0].HasField("error"):
                raise from_rpc_status(answer.results[0].error)

    @activity.defn(name=types.DECISION)
    async def decide(self, ask: Decide) -> Snapshot:
        """Passes a person's decision on, in their name; the same request id decides once."""
        async with working(REFUSALS):
            answer = await self._wallet.DecideRechargeReview(await self._request(ask), timeout=_RPC_TIMEOUT_S)
            # With what was spent, which a decision does not say.
            seen = await self._wallet.GetRechargeReview(
                pb.GetRechargeReviewRequest(name=answer.review.name), timeout=_RPC_TIMEOUT_S
            )
        return _snapshot(seen.review)

    async def _request(self, ask: Decide) -> pb.DecideRechargeReviewRequest:
        decision = ask.decision
        request = pb.DecideRechargeReviewRequest(
            name=ask.review,
            keep_paused=decision.keep_paused,
            extra_count=decision.extra_count,
            reason=decision.reason,
            request_id=ask.request_id,
            on_behalf_of=decision.by,
        )
        if decision.extra_amount:
            currency = await self._currency(ask.review)
            request.extra_amount.CopyFrom(
                type_pb2.Money(currency_code=currency, amount_nanos=_amount(decision.extra_amount))
            )
        if decision.until:
            request.until_time.FromDatetime(_instant(decision.until))
        return request

    async def _currency(self, review: str) -> str:
        seen = await self._wallet.GetRechargeReview(pb.GetRechargeReviewRequest(name=review), timeout=_RPC_TIMEOUT_S)
        return seen.review.charge.currency_code


def _amount(text: str) -> int:
    try:
        return money.parse_decimal(text)
    except money.MoneyError as error:
        raise invalid("extra_amount", str(error)) from None


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise invalid("until", f"{text[:40]!r} is no time; write it as 2026-11-30T18:00:00+01:00") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _snapshot(review: pb.RechargeReview) -> Snapshot:
    caps = review.caps
    return Snapshot(
        review=review.name,
        wallet=review.wallet,
        state=pb.RechargeReviewState.Name(review.state).removeprefix(_STATE_PREFIX),
        month=review.month,
        cap=CAP_WORDS.get(review.cap, review.cap),
        charge=_text(review.charge),
        recharged=_recharged(caps),
        spent=_text(review.spent),
        balance=_text(review.balance),
        created_at=review.create_time.ToDatetime(tzinfo=UTC).isoformat(),
        month_end=review.month_end_time.ToDatetime(tzinfo=UTC).isoformat(),
        decided_by=review.decided_by,
        reason=review.reason,
        extra=review.extra,
        facts=_facts(review),
    )


def _recharged(caps: pb.RechargeCaps) -> str:
    count = f"{caps.count} of {caps.max_count + caps.extra_count} recharges"
    amount = _text(caps.amount)
    if caps.HasField("max_amount"):
        most = caps.max_amount.amount_nanos + caps.extra_amount.amount_nanos
        amount = f"{amount} of {money.format_nanos(most, caps.max_amount.currency_code)}"
    return f"{count}, {amount}"


def _facts(review: pb.RechargeReview) -> dict[str, str]:
    caps = review.caps
    facts = {
        "review": review.name,
        "wallet": review.wallet,
        "review_state": pb.RechargeReviewState.Name(review.state).removeprefix(_STATE_PREFIX),
        "month": review.month,
        "cap": review.cap,
        "currency_code": review.charge.currency_code,
        "charge_nanos": str(review.charge.amount_nanos),
        "count": str(caps.count),
        "max_count": str(caps.max_count),
        "extra_count": str(caps.extra_count),
        "amount_nanos": str(caps.amount.amount_nanos),
        "spent_nanos": str(review.spent.amount_nanos),
        "balance_nanos": str(review.balance.amount_nanos),
        "month_end_time": review.month_end_time.ToJsonString(),
        "decided_by": review.decided_by,
        "reason": review.reason,
        "extra": review.extra,
    }
    if caps.HasField("max_amount"):
        facts["max_amount_nanos"] = str(caps.max_amount.amount_nanos)
        facts["extra_amount_nanos"] = str(caps.extra_amount.amount_nanos)
    return facts


def _text(amount: type_pb2.Money) -> str:
    return money.format_nanos(amount.amount_nanos, amount.currency_code)
