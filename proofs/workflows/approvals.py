"""Approvals in numbers: that those which wait cost spends nothing, and that each ends exactly once.

    python -m proofs.workflows.approvals [--pending 1000] [--rounds 300]

Two organisations alike on one budget service: in one a policy asks for approvals, and so many wait. Batches of spends
go to the one and the other in turn, so that whatever else the machine does meets both. What the last line says:
`approvals_pending_ratio`, the median time of a batch where approvals wait against the median where none do, and
`approvals_before_ratio`, the same before there was a policy, which is what noise alone makes of it.

`decided` makes approvals on a running suite and decides them, by RPC and by the workflows' update, through whatever
happens to the worker meanwhile; it is what a proof that kills workers calls.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import grpc
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError

from proofs.budget.servers import ground
from pursestrings.budget.v1 import approvals_pb2, budget_pb2, budget_pb2_grpc
from pursestrings.type.v1 import type_pb2
from services.kit.channel import channel
from workflows.approval import types
from workflows.approval.types import Decide

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub

BATCH: Final = 100
PENDING: Final = 1_000
ROUNDS: Final = 300
NANOS: Final = 1_000_000_000
_ASK_AT_ONCE: Final = 16
_ABOVE: Final = 2 * NANOS
_ASKED: Final = 5 * NANOS
_WARM_UP: Final = 20
_REST_S: Final = 0.2
_RPC_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of approvals that were made and decided.

    Attributes:
        asked: How many were made.
        ended_once: How many ended as they were decided, with their hold and their workflow.
        wrong: The first that did not, in words; empty: all did.
    """

    asked: int
    ended_once: int
    wrong: str


async def hot_path(directory: Path, *, pending: int, rounds: int) -> dict[str, float]:
    """How much longer a batch takes where approvals wait; see the module."""
    async with ground(directory) as place, place.server("budget") as address, channel(address, place.token) as wire:
        stub = budget_pb2_grpc.BudgetServiceStub(wire)
        calm, busy = "orgs/calm", "orgs/busy"
        for org in (calm, busy):
            for subject in (org, f"{org}/teams/t", f"{org}/teams/t/agents/a"):
                await stub.CreateBudget(_budget(subject))
        await _rounds(stub, calm, busy, _WARM_UP)
        before = await _rounds(stub, calm, busy, rounds)
        policy = approvals_pb2.ApprovalPolicy(subject=busy, approval_above=[_usd(_ABOVE)])
        await stub.SetApprovalPolicy(approvals_pb2.SetApprovalPolicyRequest(policy=policy))
        await _ask_many(stub, f"{busy}/teams/t/agents/a", pending)
        await place.settle()
        await _rounds(stub, calm, busy, _WARM_UP)
        after = await _rounds(stub, calm, busy, rounds)
    return {"approvals_pending": pending, "approvals_before_ratio": before, "approvals_pending_ratio": after}


async def _rounds(stub: "BudgetServiceAsyncStub", calm: str, busy: str, rounds: int) -> float:
    took: dict[str, list[float]] = {calm: [], busy: []}
    for number in range(rounds):
        for org in (calm, busy) if number % 2 else (busy, calm):
            took[org].append(await _batch_s(stub, f"{org}/teams/t/agents/a"))
    return round(statistics.median(took[busy]) / statistics.median(took[calm]), 3)


async def _batch_s(stub: "BudgetServiceAsyncStub", agent: str) -> float:
    prefix = uuid4().hex
    request = budget_pb2.BatchReserveRequest()
    for number in range(BATCH):
        item = request.requests.add(subject=agent, request_id=f"{prefix}-{number}")
        item.estimate.cost.CopyFrom(_usd(25_000))
    began_s = time.perf_counter()
    answer = await stub.BatchReserve(request, timeout=60)
    took_s = time.perf_counter() - began_s
    assert all(one.decision.outcome == budget_pb2.OUTCOME_ALLOW for one in answer.results), "every spend is allowed"
    return took_s


async def _ask_many(stub: "BudgetServiceAsyncStub", agent: str, count: int) -> list[str]:
    gate = asyncio.Semaphore(_ASK_AT_ONCE)

    async def one(number: int) -> str:
        async with gate:
            while True:
                try:
                    answer = await stub.RequestApproval(_request(agent, f"ask-{number}"), timeout=_RPC_S)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        raise
                    await asyncio.sleep(_REST_S)
                else:
                    assert answer.approval.state == approvals_pb2.APPROVAL_STATE_PENDING, "every one waits"
                    return answer.approval.name

    return await asyncio.gather(*map(one, range(count)))


def _request(agent: str, id_: str) -> budget_pb2.RequestApprovalRequest:
    spend = budget_pb2.ReserveRequest(subject=agent, request_id=id_)
    spend.estimate.cost.CopyFrom(_usd(_ASKED))
    return budget_pb2.RequestApprovalRequest(
        request_id=id_,
        operation=budget_pb2.OperationRequest(operation="nightly run", spend=spend),
        justification="a proof needs it",
    )


async def decided(stub: "BudgetServiceAsyncStub", temporal: Client, *, count: int, timeout_s: float) -> Ended:
    """Makes approvals on a running suite, decides each by RPC or by its workflow's update, and looks what came of it.

    Args:
        stub: Its budget service, called as role admin and service.
        temporal: Its Temporal. Workers may be killed meanwhile, and must be started again.
        count: How many.
        timeout_s: After which it gives up.
    """
    org = f"orgs/approve-{uuid4().hex[:8]}"
    await stub.CreateBudget(_budget(org))
    async with asyncio.timeout(timeout_s):
        names = await _ask_many(stub, f"{org}/agents/a", count)
        await asyncio.gather(*(_decide(stub, temporal, name, number) for number, name in enumerate(names)))
        troubles = await asyncio.gather(*(_trouble(stub, temporal, name, n) for n, name in enumerate(names)))
        use = budget_pb2.GetBudgetStatusRequest(name=f"{org}/budgets/month")
        reserved = (await stub.GetBudgetStatus(use)).status.use.reserved_amount
    wrong = [trouble for trouble in troubles if trouble]
    expected = sum(_is_approved(number) for number in range(count)) * _ASKED
    if reserved != expected:
        wrong.append(f"{org} holds {reserved} and not {expected}")
    return Ended(count, count - sum(map(bool, troubles)), wrong[0] if wrong else "")


def _is_approved(number: int) -> bool:
    return number % 2 == 0


async def _decide(stub: "BudgetServiceAsyncStub", temporal: Client, name: str, number: int) -> None:
    """Half of them by RPC, half by update; each again under the same id until it is known to have been done."""
    by_rpc = number % 4 < 2
    verdict = approvals_pb2.APPROVAL_VERDICT_APPROVE if _is_approved(number) else approvals_pb2.APPROVAL_VERDICT_DENY
    word = types.APPROVE if _is_approved(number) else types.DENY
    while True:
        try:
            if by_rpc:
                request = approvals_pb2.DecideApprovalRequest(
                    name=name, verdict=verdict, reason="proven", request_id=f"d-{number}", decided_by="ann"
                )
                await stub.DecideApproval(request, timeout=_RPC_S)
            else:
                await temporal.get_workflow_handle(name).execute_update(
                    types.DECIDE, Decide(word, "ann", "approver", "proven"), id=f"u-{number}"
                )
        except (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError):
            # The workflow is not started yet, or has ended with the decision, whose answer was lost.
            found = await stub.GetApproval(approvals_pb2.GetApprovalRequest(name=name), timeout=_RPC_S)
            if found.approval.state != approvals_pb2.APPROVAL_STATE_PENDING:
                return
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
        else:
            return
        await asyncio.sleep(_REST_S)


async def _trouble(stub: "BudgetServiceAsyncStub", temporal: Client, name: str, number: int) -> str:
    """What is wrong with one, once its workflow has ended; empty: nothing."""
    wanted = "APPROVED" if _is_approved(number) else "DENIED"
    status = (await temporal.get_workflow_handle(name).describe()).status
    while status is WorkflowExecutionStatus.RUNNING:
        await asyncio.sleep(_REST_S)
        status = (await temporal.get_workflow_handle(name).describe()).status
    if status is not WorkflowExecutionStatus.COMPLETED:
        return f"{name}: its workflow ended as {status}"
    found = (await stub.GetApproval(approvals_pb2.GetApprovalRequest(name=name))).approval
    state = approvals_pb2.ApprovalState.Name(found.state).removeprefix("APPROVAL_STATE_")
    hold = budget_pb2.GetReservationRequest(name=found.operation.reservation)
    held = (await stub.GetReservation(hold)).reservation.state
    open_ = held == budget_pb2.RESERVATION_STATE_OPEN
    if (state, open_) != (wanted, _is_approved(number)):
        return f"{name} is {state}, its hold {budget_pb2.ReservationState.Name(held)}; it was {wanted}"
    return ""


def _budget(subject: str) -> budget_pb2.CreateBudgetRequest:
    return budget_pb2.CreateBudgetRequest(
        parent=subject,
        budget_id="month",
        budget=budget_pb2.Budget(
            dimension=budget_pb2.DIMENSION_COST,
            currency_code="USD",
            limit_amount=1_000_000 * NANOS,
            window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH),
            on_exceed=budget_pb2.ON_EXCEED_BLOCK,
        ),
    )


def _usd(nanos: int) -> type_pb2.Money:
    return type_pb2.Money(currency_code="USD", amount_nanos=nanos)


def main() -> int:
    """Measures, and prints one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m proofs.workflows.approvals", description=__doc__)
    parser.add_argument("--pending", type=int, default=PENDING, help="approvals that wait (default 1000)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="batches of each organisation (default 300)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="purse-approvals-") as directory:
        figures = asyncio.run(hot_path(Path(directory), pending=options.pending, rounds=options.rounds))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
