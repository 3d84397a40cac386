"""The gRPC face of approvals: translate, call, answer. Mixed into the servicer."""

from typing import Any

import grpc

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2
from services.kit.errors import Code, PurseError

Context = grpc.aio.ServicerContext[Any, Any]


def _to_come() -> PurseError:
    return PurseError(Code.UNIMPLEMENTED, "UNIMPLEMENTED", "this method is not served by this version; update it")


class ApprovalMethods:
    """The methods on approvals."""

    async def RequestApproval(
        self, _request: budget_pb2.RequestApprovalRequest, _context: Context
    ) -> budget_pb2.RequestApprovalResponse:
        """Asks a person."""
        raise _to_come()

    async def GetApproval(self, _request: pb.GetApprovalRequest, _context: Context) -> pb.GetApprovalResponse:
        """An approval as it stands."""
        raise _to_come()

    async def ListApprovals(self, _request: pb.ListApprovalsRequest, _context: Context) -> pb.ListApprovalsResponse:
        """A page of approvals."""
        raise _to_come()

    async def DecideApproval(self, _request: pb.DecideApprovalRequest, _context: Context) -> pb.DecideApprovalResponse:
        """Approves or denies."""
        raise _to_come()

    async def CancelApproval(self, _request: pb.CancelApprovalRequest, _context: Context) -> pb.CancelApprovalResponse:
        """Gives a request up."""
        raise _to_come()

    async def AdvanceApproval(
        self, _request: pb.AdvanceApprovalRequest, _context: Context
    ) -> pb.AdvanceApprovalResponse:
        """Does what is due."""
        raise _to_come()

    async def CompleteApproval(
        self, _request: pb.CompleteApprovalRequest, _context: Context
    ) -> pb.CompleteApprovalResponse:
        """Notes what came of recharges."""
        raise _to_come()

    async def GetApprovalPolicy(
        self, _request: pb.GetApprovalPolicyRequest, _context: Context
    ) -> pb.GetApprovalPolicyResponse:
        """When a subject must ask."""
        raise _to_come()

    async def SetApprovalPolicy(
        self, _request: pb.SetApprovalPolicyRequest, _context: Context
    ) -> pb.SetApprovalPolicyResponse:
        """Sets when a subject must ask."""
        raise _to_come()
