"""The worker process killed with SIGKILL again and again: does each recharge, and each approval, end exactly once?

    python -m proofs.workflows.kills [--kills 50] [--recharges 500] [--approvals 200]

The whole suite runs. A fifth of what Stripe is asked, or tells, goes wrong, as in `proofs.wallet.workflows`, with the
same person beside it. Wallets and approvals begin as the kills go on, so that every kill finds some under way; half of
the approvals are decided by an update of their workflow, half by the service. A recharge has ended once if it
succeeded, Stripe has charged once for it and it became one grant; an approval if it is what was decided, by whom it was
decided, and its only workflow says so too.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError

from embedded.suite import Suite
from proofs.wallet.recharges import ORG, Place, arm, compare, put_card, set_policy, settle
from proofs.wallet.workflows import attend, reaching
from pursestrings.budget.v1 import approvals_pb2, budget_pb2, budget_pb2_grpc
from pursestrings.type.v1 import type_pb2
from services.kit.channel import channel
from workflows.approval import types
from workflows.approval.types import Decide, Snapshot

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub

TIMEOUT_S: Final = 2_400.0
WALLETS: Final = 20
# Of another organisation, so that nothing of the wallets' money is leased.
_DECIDED_ORG: Final = "orgs/decided"
_AGENT: Final = f"{_DECIDED_ORG}/agents/bot"
_BUDGET: Final = f"{_AGENT}/budgets/b"
_COST_NANOS: Final = 1_000_000_000
_LIFE_MAX_S: Final = 3.0
_UPDATE_S: Final = 20.0
_UPDATES_MAX: Final = 5
_REST_S: Final = 0.3

_STATES: Final = {
    types.APPROVE: approvals_pb2.APPROVAL_STATE_APPROVED,
    types.DENY: approvals_pb2.APPROVAL_STATE_DENIED,
}


@dataclass(frozen=True, slots=True)
class People:
    """Who asks and who decides.

    Attributes:
        agent: Asks.
        approver: Decides at the service.
        temporal: Decides at workflows.
    """

    agent: "BudgetServiceAsyncStub"
    approver: "BudgetServiceAsyncStub"
    temporal: Client


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided of an approval, and by whom; empty: whoever the service says."""

    name: str
    verdict: str
    by: str


async def run(
    kills: int = 50,
    recharges: int = 500,
    approvals: int = 200,
    *,
    seed: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, float | int]:
    """Kills so often, and counts what has ended once; `ended_once` should be `recharges` + `approvals`.

    Raises:
        TimeoutError: It did not end.
        RuntimeError: The wallet's or the budget service's own audit finds something.
    """
    dice = random.Random(seed)
    per_wallet = -(-recharges // WALLETS)
    wallets = [f"orgs/{ORG}/wallets/w{number}" for number in range(-(-recharges // per_wallet))]
    with tempfile.TemporaryDirectory(prefix="purse-prove-") as directory:
        environ = {"PURSE_LOG_LEVEL": "error"}
        async with (
            asyncio.timeout(TIMEOUT_S),
            Suite(Path(directory), free_ports=True, environ=environ) as suite,
            reaching(suite) as place,
            _people(suite) as people,
        ):
            for wallet in wallets:
                await put_card(place, wallet)
            await arm(place, seed)
            began_s = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as group:
                gate = _Gate(kills)
                group.create_task(_open(place, wallets, per_wallet, gate))
                decided = group.create_task(_decide_all(people, approvals, gate, dice))
                await _kill(suite, kills, gate, dice, say)
            say("  all has ended that was under way")
            faults = await settle(place)
            found = await compare(place, wallets, per_wallet, asyncio.get_running_loop().time() - began_s)
            paid = await _paid_once(place)
            ended = await _ended_once(people, decided.result())
            await _audit(people)
    return {
        "kills": kills,
        "recharges": found.recharges,
        "difference_nanos": found.difference_nanos,
        "faults": faults,
        "recharges_once": paid,
        "approvals_once": ended,
        "ended_once": paid + ended,
        "seconds": round(found.seconds),
    }


class _Gate:
    """Lets work begin as kills go on.

    Args:
        kills: How many there will be.
    """

    def __init__(self, kills: int) -> None:
        self._kills = max(1, kills)
        self._done = 0
        self._moved = asyncio.Condition()

    async def killed(self) -> None:
        """One more was made."""
        async with self._moved:
            self._done += 1
            self._moved.notify_all()

    async def part(self, number: int, count: int) -> None:
        """Returns once it is the turn of the piece of that number, of so many spread over the kills."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._done * count >= number * self._kills)


async def _kill(suite: Suite, kills: int, gate: _Gate, dice: random.Random, say: Callable[[str], None]) -> None:
    for number in range(kills):
        await asyncio.sleep(dice.uniform(0, _LIFE_MAX_S))
        suite.kill("worker")
        # At once, without the rest that one who dies so often is given.
        await suite.restart("worker")
        await gate.killed()
        if (number + 1) % 10 == 0:
            say(f"  killed {number + 1} times")


async def _open(place: Place, wallets: Sequence[str], per_wallet: int, gate: _Gate) -> None:
    """Lets wallets recharge, one after the other, and does what a person does until their months are full."""
    async with asyncio.TaskGroup() as group:
        for number, wallet in enumerate(wallets):
            await gate.part(number, len(wallets))
            await set_policy(place, wallet, per_wallet)
            group.create_task(attend(place, wallet, per_wallet))


async def _decide_all(people: People, approvals: int, gate: _Gate, dice: random.Random) -> list[Decided]:
    """Asks for approvals one after the other, and decides each a little later."""
    await people.approver.CreateBudget(
        budget_pb2.CreateBudgetRequest(
            parent=_AGENT,
            budget_id="b",
            budget=budget_pb2.Budget(
                dimension=budget_pb2.DIMENSION_COST,
                currency_code="USD",
                limit_amount=(approvals + 1) * _COST_NANOS,
                window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_LIFETIME),
            ),
        )
    )
    tasks = []
    async with asyncio.TaskGroup() as group:
        for number in range(approvals):
            await gate.part(number, approvals)
            verdict = dice.choice((types.APPROVE, types.DENY))
            tasks.append(group.create_task(_decide(people, number, verdict, dice.uniform(0, 2 * _LIFE_MAX_S))))
    return [task.result() for task in tasks]


async def _decide(people: People, number: int, verdict: str, after_s: float) -> Decided:
    spend = budget_pb2.ReserveRequest(
        subject=_AGENT,
        request_id=f"a{number}",
        estimate=budget_pb2.SpendEstimate(cost=type_pb2.Money(currency_code="USD", amount_nanos=_COST_NANOS)),
    )
    asked = await people.agent.RequestApproval(
        budget_pb2.RequestApprovalRequest(
            request_id=spend.request_id,
            operation=budget_pb2.OperationRequest(operation="nightly run", spend=spend),
            justification="the proof",
        )
    )
    name = asked.approval.name
    await asyncio.sleep(after_s)
    if number % 2:
        request = approvals_pb2.DecideApprovalRequest(
            name=name,
            verdict=approvals_pb2.ApprovalVerdict.Value(f"APPROVAL_VERDICT_{verdict}"),
            reason="as planned",
            request_id=f"d{number}",
        )
        await people.approver.DecideApproval(request)
        return Decided(name, verdict, "")
    await _update(people, name, Decide(verdict, f"ann-{number}", "approver", "as planned"))
    return Decided(name, verdict, f"ann-{number}")


async def _update(people: People, name: str, given: Decide) -> None:
    """Decides by the approval's workflow, as a person would: again where no answer came, or a failure did."""
    handle = people.temporal.get_workflow_handle(name)
    tries = 0
    while True:
        # The same id is the same update, whichever worker has it in the end.
        try:
            async with asyncio.timeout(_UPDATE_S):
                await handle.execute_update(types.DECIDE, given, id=f"{given.decided_by}-{tries}", result_type=Snapshot)
        except (TimeoutError, RPCError, WorkflowUpdateRPCTimeoutOrCancelledError):
            # Not started yet, or its worker is gone.
            await asyncio.sleep(_REST_S)
        except WorkflowUpdateFailedError as error:
            # One whose workers died too often for it fails; what became of it the service knows.
            found = (await people.approver.GetApproval(approvals_pb2.GetApprovalRequest(name=name))).approval
            if found.state == _STATES[given.verdict] and found.decided_by == given.decided_by:
                return
            if found.state != approvals_pb2.APPROVAL_STATE_PENDING or tries >= _UPDATES_MAX:
                raise RuntimeError(f"{given.decided_by} cannot decide {name}: {error.cause}") from error
            tries += 1
        else:
            return


async def _paid_once(place: Place) -> int:
    """Recharges that succeeded and became one grant, with one workflow's charge; `compare` knows Stripe's side."""
    count: int = await place.sql.fetchval(
        "SELECT count(*) FROM recharges r WHERE r.state = 'SUCCEEDED' AND 1 = "
        "(SELECT count(*) FROM grants g WHERE g.org = r.org AND g.recharge = r.name)"
    )
    return count


async def _ended_once(people: People, decided: Sequence[Decided]) -> int:
    """Approvals that are what was decided, at the service and by their only workflow; what was denied is given back."""
    once = 0
    for one in decided:
        found = (await people.approver.GetApproval(approvals_pb2.GetApprovalRequest(name=one.name))).approval
        result = await people.temporal.get_workflow_handle(one.name, result_type=Snapshot).result()
        runs = (await people.temporal.count_workflows(f"WorkflowId = '{one.name}'")).count
        fits = found.state == _STATES[one.verdict] and one.by in ("", found.decided_by)
        once += fits and result.state == _state_of(found) and result.decided_by == found.decided_by and runs == 1
    held = sum(_COST_NANOS for one in decided if one.verdict == types.APPROVE)
    status = await people.approver.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=_BUDGET))
    if status.status.use.reserved_amount != held:
        raise RuntimeError(f"{status.status.use.reserved_amount} nanos are held for {held} nanos that were approved")
    return once


def _state_of(approval: approvals_pb2.Approval) -> str:
    """As workflows say it."""
    return approvals_pb2.ApprovalState.Name(approval.state).removeprefix("APPROVAL_STATE_")


async def _audit(people: People) -> None:
    answer = await people.approver.Audit(budget_pb2.AuditRequest(org=_DECIDED_ORG), timeout=120)
    broken = [f"{check.name}: {check.detail}" for check in answer.checks if not check.ok]
    if broken:
        raise RuntimeError(f"the budget service's books do not hold: {broken}")


@contextlib.asynccontextmanager
async def _people(suite: Suite) -> AsyncIterator[People]:
    async with contextlib.AsyncExitStack() as stack:
        stubs = []
        for subject, role in ((_AGENT, "agent"), ("orgs/-", "admin")):
            wire = await stack.enter_async_context(channel(suite.address("budget"), suite.mint(subject, [role])))
            stubs.append(budget_pb2_grpc.BudgetServiceStub(wire))
        yield People(stubs[0], stubs[1], await Client.connect(suite.address("temporal")))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints progress to standard error and what came of it, one JSON object, to standard output."""
    parser = argparse.ArgumentParser(prog="python -m proofs.workflows.kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--recharges", type=int, default=500)
    parser.add_argument("--approvals", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    found = asyncio.run(run(options.kills, options.recharges, options.approvals, seed=options.seed, say=say))
    print(json.dumps(found))
    return int(found["ended_once"] < options.recharges + options.approvals)


if __name__ == "__main__":
    sys.exit(main())
