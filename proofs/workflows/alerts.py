"""A storm of alerts: how long from a crossing that is committed to the webhook that has it, and whether each came once.

    python -m proofs.workflows.alerts [--seconds 60] [--rate 100]

Budgets with sixteen thresholds are used up step by step, every step by one event through ApplyUsage, so that each event
crosses exactly one threshold. Organisations have one webhook each, on a receiver in this process. What the last line
says: `alert_p95_s` from the answer of ApplyUsage, when the crossing is on disk, to the whole POST read; `alerts_lost`,
crossings that no webhook told of; `alerts_doubled`, POSTs beyond the first.
"""

import argparse
import asyncio
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from temporalio.client import Client

from embedded.suite import Suite
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc, subscriptions_pb2
from pursestrings.type.v1 import type_pb2
from services.kit.channel import channel

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub

ORGS: Final = 10
"""How many organisations, each with one webhook."""
THRESHOLDS: Final = tuple(range(5, 85, 5))
"""Sixteen steps of 5 %."""
_LIMIT_NANOS: Final = 20_000_000_000
_STEP_NANOS: Final = 1_000_000_000
_TICK_S: Final = 0.1
_DRAIN_S: Final = 120.0
_SERVICES: Final = ("budget", "metering", "temporal", "worker", "wallet", "twin")
_OK: Final = b"HTTP/1.1 204 No Content\r\n\r\n"

Crossing = tuple[str, int]
"""The budget's name and the threshold."""


@dataclass(slots=True)
class Receiver:
    """Answers POSTs with 204 and notes when each crossing came.

    Attributes:
        came_s: When a crossing was first read in whole.
        again: How many POSTs told of one that had come.
    """

    came_s: dict[Crossing, float] = field(default_factory=dict)
    again: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads POSTs off one connection until it ends."""
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line[:16] == b"content-length: ")
                body = json.loads(await reader.readexactly(size))
                crossing = (body["budget_id"], body["data"]["threshold_percent"])
                if crossing in self.came_s:
                    self.again += 1
                else:
                    self.came_s[crossing] = time.monotonic()
                writer.write(_OK)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a free port of this machine."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


async def storm(
    budget: "BudgetServiceAsyncStub",
    *,
    seconds: float,
    rate: int,
    orgs: int = ORGS,
    name: str = "storm",
    settle_s: float = 2.0,
) -> dict[str, float | int]:
    """Crosses `rate` thresholds a second for so long, and tells what came of it.

    Args:
        budget: A budget service that allows webhooks to this machine, called as an administrator; workers run.
        seconds: How long.
        rate: Crossings a second, over all organisations.
        orgs: How many organisations.
        name: What their names begin with.
        settle_s: How long nothing more may come before the storm is over, in seconds.
    """
    total = round(seconds * rate)
    names = [f"orgs/{name}-{number}" for number in range(orgs)]
    async with receiving() as receiver:
        for org in names:
            await budget.CreateSubscription(
                subscriptions_pb2.CreateSubscriptionRequest(
                    parent=org,
                    subscription_id="ops",
                    subscription=subscriptions_pb2.Subscription(webhook_url=f"http://127.0.0.1:{receiver.port}/"),
                )
            )
        budgets = [await _budget(budget, names[n % orgs], n) for n in range(math.ceil(total / len(THRESHOLDS)))]
        # Round the budgets step by step, so that neighbours in time are of different organisations.
        plan = [(one, step) for step in THRESHOLDS for one in budgets][:total]
        committed_s = await _cross(budget, plan, rate)
        await _drained(receiver, len(plan), settle_s)
        delays_s = sorted(max(0.0, at_s - committed_s[one]) for one, at_s in receiver.came_s.items())
        return {
            "alerts": len(plan),
            "alert_p50_s": round(_quantile(delays_s, 0.5), 3),
            "alert_p95_s": round(_quantile(delays_s, 0.95), 3),
            "alert_max_s": round(_quantile(delays_s, 1.0), 3),
            "alerts_lost": len(set(committed_s) - set(receiver.came_s)),
            "alerts_doubled": receiver.again,
        }


async def run(seconds: float = 60, rate: int = 100) -> dict[str, float | int]:
    """The storm on a whole suite of its own, with Temporal's dev server; adds how few workflows it took."""
    with tempfile.TemporaryDirectory(prefix="purse-prove-") as directory:
        environ = {"PURSE_LOOPBACK_WEBHOOKS": "true", "PURSE_LOG_LEVEL": "warning"}
        suite = Suite(Path(directory), free_ports=True, only=_SERVICES, environ=environ)
        async with suite, channel(suite.address("budget"), suite.mint("orgs/-", ["admin"])) as wire:
            found = await storm(budget_pb2_grpc.BudgetServiceStub(wire), seconds=seconds, rate=rate)
            client = await Client.connect(suite.address("temporal"))
            count = (await client.count_workflows("WorkflowType = 'Notify'")).count
    return found | {"notify_workflows": count}


async def _budget(stub: "BudgetServiceAsyncStub", org: str, number: int) -> budget_pb2.Budget:
    answer = await stub.CreateBudget(
        budget_pb2.CreateBudgetRequest(
            parent=f"{org}/agents/a{number}",
            budget_id="b",
            budget=budget_pb2.Budget(
                dimension=budget_pb2.DIMENSION_COST,
                currency_code="USD",
                limit_amount=_LIMIT_NANOS,
                window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_LIFETIME),
                thresholds_percent=THRESHOLDS,
            ),
        )
    )
    made: budget_pb2.Budget = answer.budget
    return made


async def _cross(
    stub: "BudgetServiceAsyncStub", plan: Sequence[tuple[budget_pb2.Budget, int]], rate: int
) -> dict[Crossing, float]:
    """Crosses what is planned at an even rate; gives when each crossing was committed."""
    committed_s: dict[Crossing, float] = {}
    each = max(1, round(rate * _TICK_S))
    began_s = time.monotonic()
    for tick, first in enumerate(range(0, len(plan), each)):
        await asyncio.sleep(max(0.0, began_s + tick * each / rate - time.monotonic()))
        part = plan[first : first + each]
        answer = await stub.ApplyUsage(
            budget_pb2.ApplyUsageRequest(items=[_usage(one) for one, _ in part], relay="storm"), timeout=30
        )
        if any(result.HasField("error") for result in answer.results):
            raise RuntimeError("usage was refused")
        committed_s |= {(one.name, step): time.monotonic() for one, step in part}
    return committed_s


def _usage(one: budget_pb2.Budget) -> budget_pb2.UsageItem:
    item = budget_pb2.UsageItem(
        subject=one.name.partition("/budgets/")[0],
        source="storm",
        id=str(uuid4()),
        call=type_pb2.CallAttributes(provider="p", model="m"),
        cost=type_pb2.Money(currency_code="USD", amount_nanos=_STEP_NANOS),
        final=True,
    )
    item.occurred_at.GetCurrentTime()
    return item


async def _drained(receiver: Receiver, count: int, settle_s: float) -> None:
    """Waits until all have come, and a moment more for what comes twice; gives up on what does not come."""
    ends_s = time.monotonic() + _DRAIN_S
    while len(receiver.came_s) < count and time.monotonic() < ends_s:
        await asyncio.sleep(_TICK_S)
    seen = -1
    while seen != len(receiver.came_s) + receiver.again:
        seen = len(receiver.came_s) + receiver.again
        await asyncio.sleep(settle_s)


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)] if ordered else math.inf


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as one line of JSON; 0 where nothing was lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m proofs.workflows.alerts", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the storm lasts (default 60)")
    parser.add_argument("--rate", type=int, default=100, help="alerts a second (default 100)")
    options = parser.parse_args(argv)
    figures = asyncio.run(run(options.seconds, options.rate))
    print(json.dumps(figures))
    return int(bool(figures["alerts_lost"] or figures["alerts_doubled"]))


if __name__ == "__main__":
    sys.exit(main())
