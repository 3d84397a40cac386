"""One of several client processes that ask for more than there is; see `proofs.budget.oversell`.

Reads its orders as JSON from standard input and writes one line of JSON: what was allowed, given back and used.
"""

import asyncio
import json
import random
import sys
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from services.kit.channel import channel

TIMEOUT_S = 120.0
ITEM_MAX = 4_000
"""The most that one spend asks for, in nanos."""


@dataclass
class Tally:
    """What one client did, and nanos that it holds or has used, by agent."""

    decisions: int = 0
    allowed: int = 0
    denied: int = 0
    released: int = 0
    settled: int = 0
    nanos: dict[str, int] = field(default_factory=dict)


@dataclass
class Client:
    """One client: batches in flight on two servers.

    Attributes:
        agents: Who spends.
        left: How many more spends to ask for before the small ones.
        full: Agents that were denied a single nano.
    """

    stubs: list[Any]
    agents: list[str]
    left: int
    dice: random.Random
    tally: Tally = field(default_factory=Tally)
    full: set[str] = field(default_factory=set)
    turn: int = 0

    async def run(self, in_flight: int) -> Tally:
        """Asks until its share is done, then for less and less until every agent is denied a single nano."""
        await asyncio.gather(*(self._ask_share() for _ in range(in_flight)))
        await asyncio.gather(*(self._fill(agent) for agent in self.agents))
        return self.tally

    async def _ask_share(self) -> None:
        while self.left > 0:
            size = min(self.left, self.dice.choice((1, 20, 100)))
            self.left -= size
            asked = [(self.dice.choice(self.agents), self.dice.randint(1, ITEM_MAX)) for _ in range(size)]
            held = await self._reserve(asked)
            # Some are given back and some used in full, while others still ask: not in the last third.
            if self.left > size:
                await self._end(held)

    async def _fill(self, agent: str) -> None:
        cost = ITEM_MAX
        while cost:
            if not await self._reserve([(agent, cost)] * 4):
                cost //= 2

    async def _reserve(self, asked: list[tuple[str, int]]) -> list[tuple[str, str, int]]:
        """The reservations that were made: name, agent, nanos."""
        request = budget_pb2.BatchReserveRequest()
        for agent, cost in asked:
            item = request.requests.add(subject=agent, request_id=str(uuid.UUID(int=self.dice.getrandbits(128))))
            item.estimate.cost.currency_code = "USD"
            item.estimate.cost.amount_nanos = cost
            item.ttl.seconds = 86_400
        response = await self._send("BatchReserve", request)
        held = []
        for (agent, cost), result in zip(asked, response.results, strict=True):
            if result.WhichOneof("result") != "decision":
                raise RuntimeError(f"a spend was not decided: {result.error}")
            self.tally.decisions += 1
            if result.decision.outcome == budget_pb2.OUTCOME_ALLOW:
                self.tally.allowed += 1
                self.tally.nanos[agent] = self.tally.nanos.get(agent, 0) + cost
                held.append((result.decision.reservation, agent, cost))
            else:
                self.tally.denied += 1
        return held

    async def _end(self, held: list[tuple[str, str, int]]) -> None:
        dice = self.dice
        used = budget_pb2.ApplyUsageRequest(relay="oversell")
        for name, agent, cost in held:
            chance = dice.random()
            if chance < 0.1:
                await self._send("Release", budget_pb2.ReleaseRequest(name=name))
                self.tally.released += 1
                self.tally.nanos[agent] -= cost
            elif chance < 0.5:
                item = used.items.add(subject=agent, source="oversell", id=name[-60:], reservation=name, final=True)
                item.cost.currency_code = "USD"
                item.cost.amount_nanos = cost
                item.occurred_at.GetCurrentTime()
        if used.items:
            # Twice: an event sent again must count once.
            for _ in range(2):
                response = await self._send("ApplyUsage", used)
                assert all(result.HasField("applied") for result in response.results)
            self.tally.settled += len(used.items)

    async def _send(self, method: str, request: Any) -> Any:
        """Sends to the servers in turn; what a busy one refuses is sent again with the same ids."""
        for _ in range(50):
            self.turn += 1
            stub = self.stubs[self.turn % len(self.stubs)]
            try:
                return await getattr(stub, method)(request, timeout=30)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
                await asyncio.sleep(0.1)
        raise RuntimeError(f"{method} was refused again and again")


async def _main() -> None:
    orders = json.loads(sys.stdin.read())
    async with asyncio.timeout(orders["timeout_s"]):
        channels = [channel(address, orders["token"]) for address in orders["addresses"]]
        stubs = [budget_pb2_grpc.BudgetServiceStub(one) for one in channels]
        client = Client(stubs, orders["agents"], orders["spends"], random.Random(orders["seed"]))
        tally = await client.run(orders["in_flight"])
        for one in channels:
            await one.close()
    print(json.dumps(asdict(tally)))


if __name__ == "__main__":
    asyncio.run(_main())
