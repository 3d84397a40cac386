"""The approval workflow's activities: the budget and the wallet service by gRPC. All may run twice."""

import hashlib
from typing import TYPE_CHECKING, Final

import grpc
from temporalio import activity

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.wallet.v1 import caps_pb2
from services.kit.status import from_rpc_error
from workflows.approval import types
from workflows.approval.types import Cancel, Progress, Settle, Snapshot
from workflows.working import REFUSALS, working

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

_RPC_TIMEOUT_S: Final = 15.0
_REASON_CHARS_MAX: Final = 256
"""What the wallet service keeps of a reason, of a name and of who decided."""
_OUTCOME_CHARS_MAX: Final = 500
_VERDICTS: Final = {
    types.APPROVE: pb.APPROVAL_VERDICT_APPROVE,
    types.DENY: pb.APPROVAL_VERDICT_DENY,
}


class ApprovalActivities:
    """Bound to one budget and one wallet service, called as role `service`."""

    def __init__(self, budget: "BudgetServiceAsyncStub", wallet: "WalletServiceAsyncStub") -> None:
        self._budget = budget
        self._wallet = wallet

    @activity.defn(name=types.ADVANCE)
    async def advance(self, approval: str) -> Progress:
        """Lets the budget service do what is due; a second call finds it done."""
        async with working():
            answer = await self._budget.AdvanceApproval(
                pb.AdvanceApprovalRequest(name=approval), timeout=_RPC_TIMEOUT_S
            )
        next_at_s = answer.advance_time.ToMicroseconds() / 1e6 if answer.HasField("advance_time") else 0.0
        return Progress(_snapshot(answer.approval), next_at_s, answer.must_allow_recharges)

    @activity.defn(name=types.SETTLE)
    async def settle(self, ask: Settle) -> Snapshot:
        """Decides on behalf of a person; the same request id decides once."""
        async with working(REFUSALS):
            answer = await self._budget.DecideApproval(
                pb.DecideApprovalRequest(
                    name=ask.approval,
                    verdict=_VERDICTS[ask.verdict],
                    reason=ask.reason,
                    request_id=_request_id(ask.request_id),
                    decided_by=ask.decided_by,
                ),
                timeout=_RPC_TIMEOUT_S,
            )
        return _snapshot(answer.approval)

    @activity.defn(name=types.CANCEL)
    async def cancel(self, ask: Cancel) -> Snapshot:
        """Gives an approval up, and back what it holds."""
        async with working():
            answer = await self._budget.CancelApproval(
                pb.CancelApprovalRequest(name=ask.approval, reason=ask.reason), timeout=_RPC_TIMEOUT_S
            )
        return _snapshot(answer.approval)

    @activity.defn(name=types.ALLOW)
    async def allow(self, name: str) -> str:
        """Asks the wallet for more recharges and notes what came of it; a refusal is an outcome, too."""
        async with working():
            found = await self._budget.GetApproval(pb.GetApprovalRequest(name=name), timeout=_RPC_TIMEOUT_S)
            outcome = await self._ask_wallet(found.approval)
            answer = await self._budget.CompleteApproval(
                pb.CompleteApprovalRequest(name=name, outcome=outcome[:_OUTCOME_CHARS_MAX]), timeout=_RPC_TIMEOUT_S
            )
        return answer.approval.outcome

    async def _ask_wallet(self, approval: pb.Approval) -> str:
        asked = approval.recharges
        request = caps_pb2.AllowRechargesRequest(
            wallet=asked.wallet,
            extra_count=asked.extra_count,
            reason=approval.reason[:_REASON_CHARS_MAX],
            approval=approval.name[:_REASON_CHARS_MAX],
            request_id=approval.name.rpartition("/")[2],
            on_behalf_of=approval.decided_by[:_REASON_CHARS_MAX],
        )
        if asked.HasField("extra_amount"):
            request.extra_amount.CopyFrom(asked.extra_amount)
        if asked.HasField("until_time"):
            request.until_time.CopyFrom(asked.until_time)
        try:
            allowed = await self._wallet.AllowRecharges(request, timeout=_RPC_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            if refusal.code not in REFUSALS:
                raise
            return f"the wallet service refused: {refusal.message}"
        return allowed.extra.name


def _request_id(update_id: str) -> str:
    """An update's id may be any text, a request's may not."""
    return f"update-{hashlib.blake2b(update_id.encode(), digest_size=16).hexdigest()}"


def _snapshot(approval: pb.Approval) -> Snapshot:
    return Snapshot(
        approval=approval.name,
        state=pb.ApprovalState.Name(approval.state).removeprefix("APPROVAL_STATE_"),
        requested_by=approval.requested_by,
        justification=approval.justification,
        urgency=pb.Urgency.Name(approval.urgency).removeprefix("URGENCY_"),
        decided_by=approval.decided_by,
        reason=approval.reason,
        told=approval.told,
        reminders=approval.reminders,
        escalations=approval.escalations,
        trouble=approval.operation.hold_trouble,
        outcome=approval.outcome,
    )
