"""The public API as a type checker sees it; checked, never run."""

from decimal import Decimal
from typing import assert_type

from pursestrings import AsyncCall, AsyncClient, Call, Client, Denied, Money, Rejected, Unavailable, Unrecorded
from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2


async def asynchronous(response: object) -> None:
    async with AsyncClient(budget="127.0.0.1:7402", token_file="token", timeout_s=5.0) as client:
        assert_type(client, AsyncClient)
        async with client.reserve(
            "orgs/acme/agents/bot",
            model="gpt-4o-mini",
            provider="openai",
            input_tokens=900,
            max_output_tokens=300,
            operation="chat",
            labels={"env": "prod"},
            ttl_s=60,
            on_unavailable="allow",
        ) as call:
            assert_type(call, AsyncCall)
            assert_type(call.decision, budget_pb2.Decision | None)
            call.record(response, final=False)
            call.record(input_tokens=3, output_tokens=4, error="429")
        assert_type(call.usage, list[metering_pb2.RecordedUsage])
        assert_type(call.costs, list[Money])
        assert_type(await client.check("orgs/acme", cost=Decimal("0.25")), budget_pb2.Decision)
        assert_type(await client.record("orgs/acme", response, cost="0.25 EUR"), metering_pb2.RecordedUsage)
        status = await client.budget.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name="orgs/acme/budgets/b"))
        assert_type(status, budget_pb2.GetBudgetStatusResponse)


def synchronous(response: object) -> None:
    with Client() as client:
        assert_type(client, Client)
        with client.reserve("orgs/acme", cost=Money(250_000_000)) as call:
            assert_type(call, Call)
            call.record(response)
        assert_type(client.check("orgs/acme"), budget_pb2.Decision)


def errors(error: Exception) -> None:
    match error:
        case Denied():
            assert_type(error.decision, budget_pb2.Decision)
        case Rejected():
            assert_type(error.retry_after_s, float | None)
        case Unrecorded():
            assert_type(error.events, list[metering_pb2.UsageEvent])
        case Unavailable():
            assert_type(str(error), str)


def refused(client: AsyncClient) -> None:
    client.reserve("orgs/acme", cost=0.25)  # type: ignore[arg-type]
    client.reserve("orgs/acme", on_unavailable="maybe")  # type: ignore[arg-type]
    client.reserve("orgs/acme", "gpt-4o")  # type: ignore[call-arg]
