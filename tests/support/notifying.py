"""A budget service, a worker and a receiver of webhooks, wired for a test of deliveries."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from pursestrings.budget.v1 import budget_pb2, deliveries_pb2, subscriptions_pb2
from tests.support.budget import NANOS, Budgets, rows, running_budget, usage
from tests.support.databases import Database
from tests.support.waiting import until
from workflows.namespace import connected
from workflows.services import reaching
from workflows.settings import WorkerSettings
from workflows.worker import working

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class Request:
    """A POST that was received."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def verify(self, secret: str) -> Any:
        """What a receiver does: raises where the signature is not of this secret."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass(slots=True)
class Receiver:
    """Answers POSTs on a free port of this machine, and keeps them.

    Attributes:
        answers: What to answer next; then 200. A function answers by itself.
    """

    requests: list[Request] = field(default_factory=list)
    answers: list[bytes | Callable[[asyncio.StreamWriter], Any]] = field(default_factory=list)
    port: int = 0
    serving: set["asyncio.Task[Any] | None"] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def seen(self) -> list[int]:
        """The thresholds that were told, in order."""
        return [request.json["data"]["threshold_percent"] for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self.serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                at_s = asyncio.get_running_loop().time()
                self.requests.append(Request(head[0].split(" ")[1], headers, body, at_s))
                said = self.answers.pop(0) if self.answers else OK
                if callable(said):
                    await said(writer)
                else:
                    writer.write(said)
                await writer.drain()
        except (OSError, EOFError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.serving.discard(task)


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver, until the block ends."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        # A caller may keep its connection: closed by nobody, it would be found in some later test.
        tasks = [task for task in receiver.serving if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Rig:
    """What a test drives.

    Attributes:
        org: Of this test alone, since Temporal is shared by the session.
    """

    org: str
    budget: Budgets

    async def subscribe(self, id_: str = "ops", subject: str = "", **fields: Any) -> tuple[str, str]:
        """A subscription's name and secret."""
        made = await self.budget.admin.CreateSubscription(
            subscriptions_pb2.CreateSubscriptionRequest(
                parent=subject or self.org, subscription_id=id_, subscription=subscriptions_pb2.Subscription(**fields)
            )
        )
        return made.subscription.name, made.secret

    async def change(self, name: str, **fields: Any) -> subscriptions_pb2.UpdateSubscriptionResponse:
        """Changes these fields of a subscription."""
        answer_: subscriptions_pb2.UpdateSubscriptionResponse = await self.budget.admin.UpdateSubscription(
            subscriptions_pb2.UpdateSubscriptionRequest(
                subscription=subscriptions_pb2.Subscription(name=name, **fields),
                update_mask=FieldMask(paths=list(fields)),
            )
        )
        return answer_

    async def limit(self, *thresholds: int) -> budget_pb2.Budget:
        """A budget of 10 USD for the organisation."""
        return await self.budget.create(self.org, limit_amount=10 * NANOS, thresholds_percent=thresholds)

    async def spend(self, percent: int) -> None:
        """Spends so much of the budget of 10 USD."""
        await self.budget.apply(usage(subject=self.org, cost=percent * NANOS // 10))

    async def deliveries(self, name: str, **fields: Any) -> Sequence[deliveries_pb2.Delivery]:
        """A subscription's deliveries, the newest first."""
        page = await self.budget.admin.ListDeliveries(deliveries_pb2.ListDeliveriesRequest(parent=name, **fields))
        found: Sequence[deliveries_pb2.Delivery] = page.deliveries
        return found

    async def settled(self, name: str, state: "deliveries_pb2.DeliveryState.ValueType", count: int) -> Any:
        """Waits until so many deliveries are in a state, and gives them."""
        async with asyncio.timeout(20):
            while True:
                found = await self.deliveries(name, state=state)
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.03)

    async def matched(self) -> None:
        """Waits until every event is in the lanes of those who want it."""
        async with asyncio.timeout(20):
            while await rows(self.budget.database, "SELECT FROM outbox WHERE topic = 'alerts'"):
                await asyncio.sleep(0.03)

    async def received(self, receiver: Receiver, count: int) -> None:
        """Waits until so many POSTs have come."""
        await until(lambda: len(receiver.requests) >= count, what=f"{count} POSTs")


@contextlib.asynccontextmanager
async def running_rig(
    database: Database,
    directory: Path,
    *,
    org: str,
    temporal_address: str,
    budget: dict[str, Any] | None = None,
    **worker: Any,
) -> AsyncIterator[Rig]:
    """Budget and a worker in this process; `worker` are settings of it."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            running_budget(
                database,
                directory,
                use_temporal=True,
                temporal_address=temporal_address,
                loopback_webhooks=True,
                **(budget or {}),
            )
        )
        await stack.enter_async_context(delivering(running, temporal_address, **worker))
        yield Rig(f"orgs/{org}", running)


@contextlib.asynccontextmanager
async def delivering(budget: Budgets, temporal_address: str, **more: Any) -> AsyncIterator[WorkerSettings]:
    """A worker beside a budget service, until the block ends."""
    values: dict[str, Any] = {
        "temporal_address": temporal_address,
        "budget_address": budget.address,
        "metering_address": "127.0.0.1:1",
        "wallet_address": "127.0.0.1:1",
        "service_token_file": budget.settings.service_token_file,
        "stripe_api_key": SecretStr("sk_test_none"),
        "loopback_webhooks": True,
        "shutdown_grace_s": 2.0,
    }
    settings = WorkerSettings(**(values | more))
    client = await connected(settings)
    async with reaching(settings) as services, working(client, services, settings):
        yield settings
