"""Approvals in tests: asked for, decided and listed at a running budget service."""

from typing import Any
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2
from pursestrings.type.v1 import type_pb2
from tests.support.budget import BOT, NANOS, Budgets, ask

APPROVE, DENY = pb.APPROVAL_VERDICT_APPROVE, pb.APPROVAL_VERDICT_DENY


def usd(amount: float) -> type_pb2.Money:
    return type_pb2.Money(currency_code="USD", amount_nanos=int(amount * NANOS))


def request_of(spend: budget_pb2.ReserveRequest | None = None, **fields: Any) -> budget_pb2.RequestApprovalRequest:
    """A request of an operation of 5 USD by the bot."""
    if "budget_raise" not in fields and "recharges" not in fields:
        spend = spend or ask(cost=5 * NANOS)
        fields["operation"] = budget_pb2.OperationRequest(operation=fields.pop("operation", "nightly run"), spend=spend)
        fields.setdefault("subject", spend.subject)
        fields.setdefault("request_id", spend.request_id)
    return budget_pb2.RequestApprovalRequest(
        **({"request_id": str(uuid4()), "justification": "the customer waits"} | fields)
    )


class Approving:
    """Callers of one running budget service, each with a token of their own.

    Args:
        budget: The service.
    """

    def __init__(self, budget: Budgets) -> None:
        self.budget = budget
        self.agent = budget.stub_for(BOT, "agent")
        self.operator = budget.stub_for("orgs/acme", "operator")
        self.approver = budget.stub_for("orgs/acme", "approver")
        self.service = budget.stub_for("orgs/-", "service")

    async def policy(self, subject: str = "orgs/acme", **fields: Any) -> pb.ApprovalPolicy:
        policy = pb.ApprovalPolicy(subject=subject, **fields)
        made: pb.ApprovalPolicy = (
            await self.operator.SetApprovalPolicy(pb.SetApprovalPolicyRequest(policy=policy))
        ).policy
        return made

    async def request(
        self, spend: budget_pb2.ReserveRequest | None = None, **fields: Any
    ) -> budget_pb2.RequestApprovalResponse:
        answer: budget_pb2.RequestApprovalResponse = await self.agent.RequestApproval(request_of(spend, **fields))
        return answer

    async def decide(
        self, name: str, verdict: Any = APPROVE, *, by: Any = None, request_id: str = "", **fields: Any
    ) -> pb.Approval:
        request = pb.DecideApprovalRequest(
            name=name, verdict=verdict, request_id=request_id or str(uuid4()), **({"reason": "as planned"} | fields)
        )
        decided: pb.Approval = (await (by or self.approver).DecideApproval(request)).approval
        return decided

    async def get(self, name: str) -> pb.Approval:
        found: pb.Approval = (await self.approver.GetApproval(pb.GetApprovalRequest(name=name))).approval
        return found

    async def advance(self, name: str) -> pb.AdvanceApprovalResponse:
        answer: pb.AdvanceApprovalResponse = await self.service.AdvanceApproval(pb.AdvanceApprovalRequest(name=name))
        return answer

    async def reserve(self, request: budget_pb2.ReserveRequest) -> budget_pb2.Decision:
        decision: budget_pb2.Decision = (await self.agent.Reserve(request)).decision
        return decision


def times(remind_s: int, escalate_s: int, expire_s: int, urgency: Any = pb.URGENCY_MEDIUM) -> pb.ApprovalTimes:
    return pb.ApprovalTimes(
        urgency=urgency,
        remind_after=Duration(seconds=remind_s),
        escalate_after=Duration(seconds=escalate_s),
        expire_after=Duration(seconds=expire_s),
    )
