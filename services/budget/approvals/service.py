"""The gRPC face of approvals: translate, call, answer. Mixed into the servicer."""

from typing import Any, Final

import grpc

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2
from services.budget import wire
from services.budget.approvals import wire as wire_approvals
from services.budget.approvals.requests import Approvals, Settling
from services.budget.domain.approvals import Approval, Verdict
from services.budget.rates import Rates
from services.budget.wire_alerts import caller
from services.kit import approvals as rules
from services.kit.auth import ANY_ORG, Identity, identity
from services.kit.errors import Code, PurseError, conflict, denied, invalid

Context = grpc.aio.ServicerContext[Any, Any]

_VERDICTS: Final = {
    pb.APPROVAL_VERDICT_APPROVE: Verdict.APPROVE,
    pb.APPROVAL_VERDICT_DENY: Verdict.DENY,
}
_OUTCOME_CHARS_MAX: Final = 500


class ApprovalMethods:
    """The methods on approvals."""

    _approvals: Approvals
    _rates: Rates

    def _wait_s(self, context: Context) -> float:
        """How long a call may wait for a wallet."""
        raise NotImplementedError

    async def RequestApproval(
        self, request: budget_pb2.RequestApprovalRequest, context: Context
    ) -> budget_pb2.RequestApprovalResponse:
        """Asks a person."""
        subject = wire_approvals.subject_of(request)
        draft = wire_approvals.draft_of(request, subject, identity().principal)
        draft = await self._approvals.times_of(subject, draft, wire_approvals.ttl_us_of(request))
        response = budget_pb2.RequestApprovalResponse()
        if not request.HasField("operation"):
            row: Approval | None = await self._approvals.request(subject, draft)
        else:
            item = wire_approvals.spend_of(request, draft, self._rates)
            row, decision = await self._approvals.request_operation(item, self._wait_s(context))
            wire.set_decision(response.decision, decision)
        if row is not None:
            response.approval.CopyFrom(wire_approvals.approval_message(row))
        return response

    async def GetApproval(self, request: pb.GetApprovalRequest, context: Context) -> pb.GetApprovalResponse:
        """An approval as it stands."""
        row = await self._approvals.get(*wire.resource_of(request.name, "approvals"))
        return pb.GetApprovalResponse(approval=wire_approvals.approval_message(row))

    async def ListApprovals(self, request: pb.ListApprovalsRequest, context: Context) -> pb.ListApprovalsResponse:
        """A page of approvals."""
        if request.state not in pb.ApprovalState.values():
            raise invalid("state", "is PENDING, APPROVED, DENIED, EXPIRED or CANCELED, or not said for all")
        found, token = await self._approvals.list_page(
            wire.subject_of(request.parent, "parent"), request.state, request.page_size, request.page_token
        )
        return pb.ListApprovalsResponse(
            approvals=[wire_approvals.approval_message(row) for row in found], next_page_token=token
        )

    async def DecideApproval(self, request: pb.DecideApprovalRequest, context: Context) -> pb.DecideApprovalResponse:
        """Approves or denies."""
        subject, id_ = wire.resource_of(request.name, "approvals")
        verdict = _VERDICTS.get(request.verdict)
        if verdict is None:
            raise invalid("verdict", "is APPROVE or DENY")
        wire.check_request_id(request.request_id)
        reason = wire_approvals.reason_of(request.reason)
        by, roles = _decider(request.decided_by, identity())
        row = await self._approvals.get(subject, id_)
        # Whether it is decided already is found out under its lock, where the same decision sent again is told apart.
        refusal = rules.refuse(rules.PENDING, row.requested_by, by, roles)
        if refusal is not None:
            if refusal.reason == "ROLE_MISSING":
                raise denied(refusal.message, refusal.reason)
            raise conflict(refusal.reason, refusal.message, field="decided_by")
        how = Settling(verdict, by, reason, request.request_id, caller())
        return pb.DecideApprovalResponse(
            approval=wire_approvals.approval_message(await self._approvals.settle(subject, id_, how))
        )

    async def CancelApproval(self, request: pb.CancelApprovalRequest, context: Context) -> pb.CancelApprovalResponse:
        """Gives a request up."""
        subject, id_ = wire.resource_of(request.name, "approvals")
        who = identity()
        row = await self._approvals.get(subject, id_)
        # The workflow does so where somebody cancels it in Temporal.
        if row.requested_by != who.principal and not who.has("operator", "service"):
            raise denied(f"only {row.requested_by}, who asked, and operators may cancel it", "NOT_YOUR_REQUEST")
        how = Settling(
            Verdict.CANCEL, who.principal, wire_approvals.reason_of(request.reason, least=0), credential=caller()
        )
        return pb.CancelApprovalResponse(
            approval=wire_approvals.approval_message(await self._approvals.settle(subject, id_, how))
        )

    async def AdvanceApproval(self, request: pb.AdvanceApprovalRequest, context: Context) -> pb.AdvanceApprovalResponse:
        """Does what is due."""
        row, next_us = await self._approvals.advance(*wire.resource_of(request.name, "approvals"))
        response = pb.AdvanceApprovalResponse(
            approval=wire_approvals.approval_message(row), must_allow_recharges=row.must_allow
        )
        if next_us is not None and not row.must_allow:
            wire.set_time(response.advance_time, next_us)
        return response

    async def CompleteApproval(
        self, request: pb.CompleteApprovalRequest, context: Context
    ) -> pb.CompleteApprovalResponse:
        """Notes what came of recharges."""
        subject, id_ = wire.resource_of(request.name, "approvals")
        outcome = wire_approvals.text_of(request.outcome, "outcome", _OUTCOME_CHARS_MAX)
        row = await self._approvals.complete(subject, id_, outcome)
        return pb.CompleteApprovalResponse(approval=wire_approvals.approval_message(row))

    async def GetApprovalPolicy(
        self, request: pb.GetApprovalPolicyRequest, context: Context
    ) -> pb.GetApprovalPolicyResponse:
        """When a subject must ask."""
        own, in_force = await self._approvals.policy(wire.subject_of(request.subject))
        return pb.GetApprovalPolicyResponse(
            policy=wire_approvals.policy_message(own), in_force=wire_approvals.policy_message(in_force)
        )

    async def SetApprovalPolicy(
        self, request: pb.SetApprovalPolicyRequest, context: Context
    ) -> pb.SetApprovalPolicyResponse:
        """Sets when a subject must ask."""
        made = await self._approvals.set_policy(
            wire.subject_of(request.policy.subject, "policy.subject"),
            wire_approvals.policy_draft(request.policy),
            by=identity().principal,
            validate_only=request.validate_only,
        )
        return pb.SetApprovalPolicyResponse(policy=wire_approvals.policy_message(made))


def _decider(named: str, who: Identity) -> tuple[str, frozenset[str]]:
    """Who decides, and with which roles: the caller, or the person that a service names."""
    if named:
        # Such a credential of one subject may be a customer's own service, which asks for itself.
        if not (who.has("service") and who.subject == ANY_ORG):
            raise denied(
                f"only role service of {ANY_ORG}, which the suite has, may say who decides; leave decided_by empty",
                "ROLE_MISSING",
            )
        return wire_approvals.decider_of(named), frozenset(rules.DECIDERS)
    if not who.has(*rules.DECIDERS):
        raise PurseError(
            Code.INVALID_ARGUMENT, "DECIDER_MISSING", "decided_by: a service says for whom it asks", field="decided_by"
        )
    return who.principal, who.roles
