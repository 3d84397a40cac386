"""The recharge workflow's activities: the wallet service by gRPC, Stripe by its SDK. All may run twice."""

from typing import TYPE_CHECKING, Final

from temporalio import activity

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit import money
from services.kit.errors import PurseError
from services.wallet.recharge.stripe import REFUSED, NewIntent, Stripe
from workflows.recharge import types
from workflows.recharge.types import Confirm, Created, Decision, GiveUp, Report, Snapshot, Verdict
from workflows.working import working

if TYPE_CHECKING:
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

_RPC_TIMEOUT_S: Final = 25.0
_VERDICTS: Final = {
    pb.ATTEMPT_VERDICT_CHARGE: Verdict.CHARGE,
    pb.ATTEMPT_VERDICT_OBSERVE: Verdict.OBSERVE,
    pb.ATTEMPT_VERDICT_WAIT: Verdict.WAIT,
    pb.ATTEMPT_VERDICT_GIVE_UP: Verdict.GIVE_UP,
    pb.ATTEMPT_VERDICT_ENDED: Verdict.ENDED,
}
_STATE_PREFIX: Final = "RECHARGE_STATE_"


class RechargeActivities:
    """Bound to one wallet service and one Stripe account.

    Args:
        wallet: The wallet service, called as role `service`.
        stripe: Where PaymentIntents are made and confirmed.
    """

    def __init__(self, wallet: "WalletServiceAsyncStub", stripe: Stripe) -> None:
        self._wallet = wallet
        self._stripe = stripe

    @activity.defn(name=types.AUTHORIZE)
    async def authorize(self, recharge: str) -> Decision:
        """Asks whether to charge now. A charge is stored before the answer, and asked for again it is the same one."""
        async with working():
            answer = await self._wallet.AuthorizeAttempt(
                pb.AuthorizeAttemptRequest(recharge=recharge), timeout=_RPC_TIMEOUT_S
            )
        return _decision(answer)

    @activity.defn(name=types.CREATE)
    async def create(self, decision: Decision) -> Created:
        """Makes the PaymentIntent, unconfirmed; the same key gives the same one."""
        recharge = decision.snapshot.recharge
        new = NewIntent(
            installation=decision.installation,
            org=recharge.split("/", 2)[1],
            wallet=decision.snapshot.wallet,
            recharge=recharge,
            number=decision.payment_intent_number,
            customer=decision.customer,
            amount_minor=decision.amount_minor,
            currency=decision.currency,
        )
        async with working():
            try:
                intent = await self._stripe.create_intent(new, decision.create_key)
            except PurseError as error:
                if error.reason != REFUSED:
                    raise
                return Created(error_code=error.metadata.get("code") or "refused")
        return Created(intent.payment_intent)

    @activity.defn(name=types.CONFIRM)
    async def confirm(self, ask: Confirm) -> str:
        """Charges off-session; returns the code of a refusal, empty where there was none."""
        async with working():
            answer = await self._stripe.confirm(ask.payment_intent, ask.payment_method, ask.key)
        return answer.code

    @activity.defn(name=types.REPORT)
    async def report(self, report: Report) -> Snapshot:
        """Tells the wallet what an attempt made; the wallet asks Stripe itself."""
        async with working():
            answer = await self._wallet.ReportAttempt(
                pb.ReportAttemptRequest(
                    recharge=report.recharge,
                    attempt=report.attempt,
                    payment_intent=report.payment_intent,
                    answered=report.answered,
                    error_code=report.error_code,
                ),
                timeout=_RPC_TIMEOUT_S,
            )
        return _snapshot(answer.recharge)

    @activity.defn(name=types.GIVE_UP)
    async def give_up(self, ask: GiveUp) -> Snapshot:
        """Lets the wallet cancel at Stripe and fail the recharge."""
        async with working():
            answer = await self._wallet.FailRecharge(
                pb.FailRechargeRequest(recharge=ask.recharge, reason=ask.reason, advised=ask.advised),
                timeout=_RPC_TIMEOUT_S,
            )
        return _snapshot(answer.recharge)


def _decision(answer: pb.AuthorizeAttemptResponse) -> Decision:
    return Decision(
        verdict=_VERDICTS[answer.verdict],
        reason=answer.reason,
        snapshot=_snapshot(answer.recharge),
        retry_after_s=answer.retry_after.ToTimedelta().total_seconds(),
        attempt=answer.attempt,
        payment_intent_number=answer.payment_intent_number,
        create_key=answer.create_key,
        confirm_key=answer.confirm_key,
        payment_intent=answer.payment_intent,
        customer=answer.customer,
        payment_method=answer.payment_method,
        amount_minor=answer.amount_minor,
        currency=answer.currency,
        installation=answer.installation,
        needs_person=answer.needs_person,
    )


def _snapshot(recharge: pb.Recharge) -> Snapshot:
    return Snapshot(
        recharge=recharge.name,
        wallet=recharge.wallet,
        state=pb.RechargeState.Name(recharge.state).removeprefix(_STATE_PREFIX),
        amount=money.format_nanos(recharge.amount.amount_nanos, recharge.amount.currency_code),
        attempts=recharge.attempts,
        payment_intent=recharge.payment_intent,
        payment_intent_status=recharge.payment_intent_status,
        decline_code=recharge.decline_code,
        reason=recharge.reason,
        failure_reason=recharge.failure_reason,
        grant=recharge.grant,
    )
