"""Later words on usage through the real three services: the same total in all of them, to the nano, up and down."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pursestrings import AsyncClient
from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.asking import run_audit
from pursestrings.cli.connection import Suite
from pursestrings.metering.v1 import corrections_pb2, metering_pb2, rates_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2
from services.budget.main import serving as serving_budget
from services.metering.main import serving as serving_metering
from tests.support.budget import NANOS, ORG, WALLET, ask, budget_of
from tests.support.budget import settings_for as budget_settings_for
from tests.support.databases import Database
from tests.support.metering import EVERYONE, Keys, usage_event
from tests.support.metering import settings_for as metering_settings_for
from tests.support.wallets import make_keys, serving_wallet

GRANTED = 100 * NANOS
BUDGET = f"{ORG}/budgets/b"
SUBJECT = f"{ORG}/agents/bot"


@dataclass(frozen=True, slots=True)
class Three:
    """The three services, as an administrator calls them."""

    client: AsyncClient

    async def record(self, event: metering_pb2.UsageEvent) -> None:
        await self.client.metering.RecordUsage(metering_pb2.RecordUsageRequest(event=event))

    async def correct(self, request_id: str, id_: str, nanos: int) -> int:
        """Says what an event cost; returns the difference."""
        request = corrections_pb2.CorrectUsageRequest(
            org=ORG, source="test", id=id_, reason="invoice", cost=usd(nanos), request_id=request_id
        )
        answer = await self.client.metering.CorrectUsage(request)
        return answer.usage.cost_difference.amount_nanos

    async def totals(self) -> tuple[int, int, int]:
        """What was used by metering's, budget's and the wallet's books."""
        month = (await self.client.metering.GetUsage(metering_pb2.GetUsageRequest(subject=ORG))).month
        status = (await self.client.budget.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=BUDGET))).status
        balance = await self.client.wallet.GetBalance(wallet_pb2.GetBalanceRequest(name=WALLET))
        assert balance.spent_nanos == GRANTED - balance.balance_nanos
        return sum(cost.amount_nanos for cost in month.costs), status.use.spent_amount, balance.spent_nanos

    async def come_to(self, metering: int, budget: int, wallet: int) -> None:
        """Returns once the books say this, and nobody's books are broken."""
        await eventually(self.totals, (metering, budget, wallet))
        checks = await run_audit(Suite(self.client, 20.0), ORG)
        assert [f"{check.name}: {check.detail}" for check in checks if not check.ok] == []


async def eventually(read: Callable[[], Awaitable[Any]], expected: object, timeout_s: float = 20.0) -> None:
    """Returns once what is read is what is expected."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while (found := await read()) != expected:
        assert asyncio.get_running_loop().time() < deadline_s, f"{found} instead of {expected}"
        await asyncio.sleep(0.05)


def usd(nanos: int) -> type_pb2.Money:
    return type_pb2.Money(currency_code="USD", amount_nanos=nanos)


@contextlib.asynccontextmanager
async def three(database: Callable[[str], Database], directory: Path) -> AsyncIterator[Three]:
    """Metering, budget and wallet, with one wallet and one budget."""
    keys = make_keys(directory)
    tokens = Keys(keys.private, keys.public_file)
    async with contextlib.AsyncExitStack() as stack:
        wallet_address = await stack.enter_async_context(serving_wallet(database("wallet").service_dsn, keys))
        budget_settings = budget_settings_for(
            database("budget"), tokens, use_wallets=True, wallet_address=wallet_address
        )
        budget = await stack.enter_async_context(serving_budget(budget_settings))
        metering_settings = metering_settings_for(
            database("metering"),
            tokens,
            f"127.0.0.1:{budget.port}",
            service_token_file=budget_settings.service_token_file,
            cards_interval_s=0.1,
            rerate_interval_s=0.1,
        )
        metering = await stack.enter_async_context(serving_metering(metering_settings))
        client = await stack.enter_async_context(
            AsyncClient(
                metering=f"127.0.0.1:{metering.port}",
                budget=f"127.0.0.1:{budget.port}",
                wallet=wallet_address,
                token=keys.token(EVERYONE, "admin", "operator"),
            )
        )
        wallet = wallet_pb2.Wallet(currency_code="USD")
        await client.wallet.CreateWallet(
            wallet_pb2.CreateWalletRequest(parent=ORG, wallet_id="main", wallet=wallet, request_id="w")
        )
        grant = wallet_pb2.Grant(kind=wallet_pb2.GRANT_KIND_PAID, amount=usd(GRANTED))
        await client.wallet.CreateGrant(wallet_pb2.CreateGrantRequest(wallet=WALLET, grant=grant, request_id="g"))
        await client.budget.CreateBudget(
            budget_pb2.CreateBudgetRequest(parent=ORG, budget_id="b", budget=budget_of(limit_amount=GRANTED))
        )
        yield Three(client)


async def test_corrections_reach_the_wallet(database: Callable[[str], Database], tmp_path: Path) -> None:
    async with three(database, tmp_path) as suite:
        await suite.record(usage_event("e1", subject=SUBJECT, cost=usd(9 * NANOS)))
        await suite.come_to(9 * NANOS, 9 * NANOS, 9 * NANOS)

        assert await suite.correct("up", "e1", 12 * NANOS) == 3 * NANOS
        assert await suite.correct("up", "e1", 12 * NANOS) == 3 * NANOS
        await suite.come_to(12 * NANOS, 12 * NANOS, 12 * NANOS)

        assert await suite.correct("down", "e1", 4 * NANOS + 1) == -8 * NANOS + 1
        await suite.come_to(4 * NANOS + 1, 4 * NANOS + 1, 4 * NANOS + 1)

        assert await suite.correct("none", "e1", 0) == -4 * NANOS - 1
        await suite.come_to(0, 0, 0)


async def test_a_price_that_comes_later_takes_the_place_of_the_estimate(
    database: Callable[[str], Database], tmp_path: Path
) -> None:
    async with three(database, tmp_path) as suite:
        decision = (await suite.client.budget.Reserve(ask(subject=SUBJECT, cost=5 * NANOS))).decision
        assert decision.outcome == budget_pb2.OUTCOME_ALLOW
        held = {"subject": SUBJECT, "provider": "acme-ai", "model": "next-1"}
        await suite.record(usage_event("held", reservation=decision.reservation, **held))
        await suite.record(usage_event("alone", **held))
        # The wallet pays the estimate of the one that had any.
        await eventually(lambda: _spent(suite), 5 * NANOS)
        checks = await run_audit(Suite(suite.client, 20.0), ORG)
        assert [check.name for check in checks if not check.ok] == []

        # 1,000 in at $2 a million, 100 out at $4.
        price = rates_pb2.ModelPrice(
            provider="acme-ai", model="next-1", prices={"input_tokens": 2 * NANOS, "output_tokens": 4 * NANOS}
        )
        await suite.client.metering.PublishRateCard(
            rates_pb2.PublishRateCardRequest(org=ORG, prices=[price], request_id="p")
        )
        each = 2_400_000
        await suite.come_to(2 * each, 2 * each, 2 * each)

        assert await suite.correct("later", "held", 3 * NANOS) == 3 * NANOS - each
        await suite.come_to(3 * NANOS + each, 3 * NANOS + each, 3 * NANOS + each)


async def _spent(suite: Three) -> int:
    return (await suite.totals())[2]
