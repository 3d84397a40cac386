"""Asking a person for a spend, and waiting for the answer."""

import asyncio
import random
from typing import TYPE_CHECKING, Final, Literal

from pursestrings._errors import Denied, Unavailable
from pursestrings._rpc import invoke
from pursestrings.budget.v1 import approvals_pb2, budget_pb2

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub

Urgency = Literal["low", "medium", "high"]

_WHAT: Final = "the budget service"
_FIRST_S: Final = 0.5
_LONGEST_S: Final = 30.0


async def request(
    stub: "BudgetServiceAsyncStub",
    spend: budget_pb2.ReserveRequest,
    operation: str,
    justification: str,
    *,
    urgency: Urgency,
    expires_s: float | None,
    timeout_s: float,
) -> approvals_pb2.Approval:
    """The approval of a spend, as it stands after it was asked for; the same spend again asks for nothing new."""
    numbers = {
        "low": approvals_pb2.URGENCY_LOW,
        "medium": approvals_pb2.URGENCY_MEDIUM,
        "high": approvals_pb2.URGENCY_HIGH,
    }
    if urgency not in numbers:
        raise ValueError(f"urgency is 'low', 'medium' or 'high', not {urgency!r}")
    ask = budget_pb2.RequestApprovalRequest(
        subject=spend.subject,
        request_id=spend.request_id,
        operation=budget_pb2.OperationRequest(operation=operation, spend=spend),
        justification=justification,
        urgency=numbers[urgency],
    )
    if expires_s is not None:
        ask.ttl.FromNanoseconds(int(expires_s * 1e9))
    answer = await invoke(stub.RequestApproval, ask, timeout_s=timeout_s, what=_WHAT)
    if not answer.HasField("approval"):
        raise Denied(answer.decision)
    return answer.approval


async def wait(stub: "BudgetServiceAsyncStub", name: str, *, wait_s: float, timeout_s: float) -> approvals_pb2.Approval:
    """The approval once it has ended, or as it stands when the time is up.

    It looks after half a second and then ever more rarely, at least every 30 s. A service that is away for a while is
    asked again; Unavailable where it is away when the time is up.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    pause_s = _FIRST_S
    ask = approvals_pb2.GetApprovalRequest(name=name)
    while True:
        left_s = deadline_s - loop.time()
        try:
            answer = await invoke(stub.GetApproval, ask, timeout_s=timeout_s, what=_WHAT)
        except Unavailable:
            if left_s <= 0:
                raise
        else:
            if answer.approval.state != approvals_pb2.APPROVAL_STATE_PENDING or left_s <= 0:
                return answer.approval
        await asyncio.sleep(max(0.0, min(pause_s * random.uniform(0.8, 1.2), left_s)))  # noqa: S311 - jitter
        pause_s = min(_LONGEST_S, pause_s * 1.5)
