"""The client against the real suite."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pursestrings import AsyncClient, Client, Denied, Money, Rejected
from pursestrings._money import NANOS
from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2
from pursestrings.wallet.v1 import wallet_pb2
from tests.e2e.conftest import RunningSuite

MODEL = "gpt-4o-mini"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}
PRICE_NANOS = 210_000
"""1,000 tokens in at 0.15 and 100 out at 0.60 dollars a million."""


@pytest.fixture
def org() -> str:
    return f"orgs/c-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def client(suite: RunningSuite) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(**suite.client(), timeout_s=30) as opened:
        yield opened


async def eventually(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def make_budget(client: AsyncClient, org: str, limit: int, **fields: object) -> str:
    budget = budget_pb2.Budget(
        dimension=budget_pb2.DIMENSION_COST,
        currency_code="USD",
        limit_amount=limit,
        window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH),
    )
    for name, value in fields.items():
        setattr(budget, name, value)
    request = budget_pb2.CreateBudgetRequest(parent=org, budget_id="b", budget=budget)
    return (await client.budget.CreateBudget(request)).budget.name


async def make_wallet(client: AsyncClient, org: str, amount_nanos: int) -> str:
    request = wallet_pb2.CreateWalletRequest(
        parent=org, wallet_id="main", wallet=wallet_pb2.Wallet(currency_code="USD"), request_id="w"
    )
    name = (await client.wallet.CreateWallet(request)).wallet.name
    grant = wallet_pb2.Grant(kind=wallet_pb2.GRANT_KIND_PAID, amount=Money(amount_nanos).to_proto())
    await client.wallet.CreateGrant(wallet_pb2.CreateGrantRequest(wallet=name, grant=grant, request_id="g"))
    return name


async def use_of(client: AsyncClient, budget: str) -> budget_pb2.BudgetUse:
    answer = await client.budget.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=budget))
    return answer.status.use


async def state_of(client: AsyncClient, reservation: str) -> budget_pb2.Reservation:
    request = budget_pb2.GetReservationRequest(name=reservation)
    return (await client.budget.GetReservation(request)).reservation


async def test_a_dollar_travels_the_whole_way(client: AsyncClient, org: str) -> None:
    wallet, budget = await make_wallet(client, org, NANOS), await make_budget(client, org, NANOS)
    bot = f"{org}/teams/support/agents/bot"
    async with client.reserve(bot, model=MODEL, input_tokens=1000, max_output_tokens=500) as call:
        held = await use_of(client, budget)
        assert (0, 450_000) == (held.spent_amount, held.reserved_amount)
        call.record(USAGE)
    assert [Money(PRICE_NANOS)] == call.costs

    async def captured() -> bool:
        balance = await client.wallet.GetBalance(wallet_pb2.GetBalanceRequest(name=wallet))
        return balance.spent_nanos == PRICE_NANOS

    await eventually(captured)
    used = await use_of(client, budget)
    assert (PRICE_NANOS, 0) == (used.spent_amount, used.reserved_amount)
    reservation = await state_of(client, call.reservation)
    assert (budget_pb2.RESERVATION_STATE_SETTLED, PRICE_NANOS) == (reservation.state, reservation.settled_nanos)


async def test_a_release_gives_everything_back(client: AsyncClient, org: str) -> None:
    budget = await make_budget(client, org, NANOS)
    with pytest.raises(ZeroDivisionError):
        async with client.reserve(f"{org}/agents/bot", cost="0.40") as call:
            raise ZeroDivisionError
    used = await use_of(client, budget)
    assert (0, 0, NANOS) == (used.spent_amount, used.reserved_amount, used.remaining_amount)
    assert budget_pb2.RESERVATION_STATE_RELEASED == (await state_of(client, call.reservation)).state


async def test_a_denial_says_which_budget_and_what_is_left(client: AsyncClient, org: str) -> None:
    budget = await make_budget(client, org, NANOS)
    with pytest.raises(Denied) as denied:
        async with client.reserve(f"{org}/agents/bot", cost="1.50"):
            pytest.fail("the body ran")
    assert "BUDGET_EXCEEDED" == denied.value.reason
    assert f"budget {budget} has 1.00 USD left of 1.00 USD, asked 1.50 USD" in str(denied.value)
    assert 0 == (await use_of(client, budget)).reserved_amount


async def test_an_empty_wallet_denies(client: AsyncClient, org: str) -> None:
    await make_wallet(client, org, NANOS // 100)
    with pytest.raises(Denied) as denied:
        async with client.reserve(f"{org}/agents/bot", cost="0.02"):
            pytest.fail("the body ran")
    assert "INSUFFICIENT_FUNDS" == denied.value.reason


async def test_many_at_once_never_oversell(client: AsyncClient, org: str) -> None:
    budget = await make_budget(client, org, 100 * PRICE_NANOS)
    bots = [f"{org}/teams/t/agents/bot-{number}" for number in range(7)]

    async def one(number: int) -> bool:
        try:
            async with client.reserve(bots[number % 7], model=MODEL, input_tokens=1000, max_output_tokens=100) as call:
                call.record(USAGE)
        except Denied:
            return False
        return True

    allowed = sum(await asyncio.gather(*(one(number) for number in range(400))))
    assert 100 == allowed

    async def applied() -> bool:
        return (await use_of(client, budget)).spent_amount == 100 * PRICE_NANOS

    await eventually(applied)
    assert 0 == (await use_of(client, budget)).remaining_amount


async def test_a_stream_settles_in_parts(client: AsyncClient, org: str) -> None:
    budget = await make_budget(client, org, NANOS)
    async with client.reserve(f"{org}/agents/bot", model=MODEL, input_tokens=1000, max_output_tokens=900) as call:
        call.record(input_tokens=1000, output_tokens=50, final=False)
        call.record(output_tokens=50)
    assert [Money(PRICE_NANOS)] == call.costs

    async def settled() -> bool:
        return (await state_of(client, call.reservation)).state == budget_pb2.RESERVATION_STATE_SETTLED

    await eventually(settled)

    async def applied() -> bool:
        used = await use_of(client, budget)
        return (used.spent_amount, used.reserved_amount) == (PRICE_NANOS, 0)

    await eventually(applied)


async def test_the_same_events_again_change_nothing(client: AsyncClient, org: str) -> None:
    event = metering_pb2.UsageEvent(subject=org, source="test", id="1")
    event.call.model = MODEL
    event.tokens.input_tokens = 1000
    [first] = await client.record_events([event])
    [again] = await client.record_events([event])
    assert (False, True) == (first.duplicate, again.duplicate)
    event.tokens.input_tokens = 1001
    with pytest.raises(Rejected) as rejected:
        await client.record_events([event])
    assert rejected.value.reason


async def test_an_agents_token_reaches_its_own_subtree_only(suite: RunningSuite, org: str) -> None:
    arguments = {**suite.client(), "token_file": None, "token": suite.mint(f"{org}/teams/a", "agent")}
    async with AsyncClient(**arguments) as agent:

        async def one(subject: str) -> str:
            async with agent.reserve(subject, cost="0.01"):
                return subject

        answers = await asyncio.gather(
            one(f"{org}/teams/a/agents/x"), one(f"{org}/teams/b"), one(f"{org}/teams/a"), return_exceptions=True
        )
    assert isinstance(answers[1], Rejected)
    assert "PERMISSION_DENIED" == answers[1].code
    assert [f"{org}/teams/a/agents/x", f"{org}/teams/a"] == [answers[0], answers[2]]


async def test_an_agent_does_not_set_its_own_price(suite: RunningSuite, org: str) -> None:
    arguments = {**suite.client(), "token_file": None, "token": suite.mint(org, "agent")}
    async with AsyncClient(**arguments) as agent:
        with pytest.raises(Rejected):
            await agent.record(org, model=MODEL, input_tokens=5, cost="0.00")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"subject": "acme"}, "subject"),
        ({"subject": "orgs/acme", "model": "no-such-model", "input_tokens": 5}, "model"),
        ({"subject": "orgs/acme", "cost": Money(-1)}, "cost"),
        ({"subject": "orgs/acme", "cost": "1", "ttl_s": 90_000.0}, "ttl"),
    ],
)
async def test_a_wrong_request_names_its_field(client: AsyncClient, arguments: dict[str, object], field: str) -> None:
    with pytest.raises(Rejected) as rejected:
        async with client.reserve(**arguments):  # type: ignore[arg-type]
            pytest.fail("the body ran")
    assert "INVALID_ARGUMENT" == rejected.value.code
    assert field in (rejected.value.field or "")


async def test_a_killed_budget_service_costs_time_and_nothing_else(
    client: AsyncClient, suite: RunningSuite, org: str
) -> None:
    budget = await make_budget(client, org, NANOS)

    async def one() -> None:
        async with client.reserve(f"{org}/agents/bot", model=MODEL, input_tokens=1000, max_output_tokens=100) as call:
            call.record(USAGE)

    await one()
    os.kill(suite.pid("budget"), signal.SIGKILL)
    await asyncio.gather(*(one() for _ in range(50)))

    async def applied() -> bool:
        return (await use_of(client, budget)).spent_amount == 51 * PRICE_NANOS

    await eventually(applied, timeout_s=30)


def test_the_synchronous_client(suite: RunningSuite, org: str) -> None:
    with Client(**suite.client(), timeout_s=30) as client:
        with client.reserve(f"{org}/agents/bot", model=MODEL, input_tokens=1000, max_output_tokens=100) as call:
            call.record(USAGE)
        assert [Money(PRICE_NANOS)] == call.costs
        assert budget_pb2.OUTCOME_ALLOW == client.check(org, cost="1").outcome
