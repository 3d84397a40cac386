"""Settled calls into one hot wallet, from ApplyUsage to the posted ledger."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from embedded.suite import Suite
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.kit.channel import channel

_BATCH: Final = 1_000
_IN_FLIGHT: Final = 4
COST_NANOS: Final = 25_000
"""What a call costs."""
_GRANT_NANOS: Final = 10**15
_DRAIN_S: Final = 120.0
_LOOK_S: Final = 0.1
_TRIES: Final = 100


async def hot_wallet(suite: Suite, *, calls: int) -> float:
    """Settled calls a second, from the first ApplyUsage until the ledger has posted the last of them."""
    run = f"hot-{uuid.uuid4().hex[:8]}"
    async with (
        channel(suite.address("budget"), suite.mint("orgs/-", ["admin", "service"])) as to_budget,
        channel(suite.address("wallet"), suite.mint("orgs/-", ["admin"])) as to_wallet,
    ):
        budgets: Any = budget_pb2_grpc.BudgetServiceStub(to_budget)
        wallets: Any = wallet_pb2_grpc.WalletServiceStub(to_wallet)
        await open_wallet(wallets, f"orgs/{run}")
        await settle(budgets, [f"orgs/{run}"], f"{run}-first")
        await _until_posted(wallets, [f"orgs/{run}"], 1)
        batches = max(1, calls // _BATCH)
        turns = iter(range(batches))

        async def sender() -> None:
            for turn in turns:
                await settle(budgets, [f"orgs/{run}"] * _BATCH, f"{run}-{turn}")

        began_s = time.perf_counter()
        await asyncio.gather(*(sender() for _ in range(_IN_FLIGHT)))
        await _until_posted(wallets, [f"orgs/{run}"], 1 + batches * _BATCH)
        return batches * _BATCH / (time.perf_counter() - began_s)


async def open_wallet(wallets: Any, org: str) -> None:
    """A wallet of an organisation with more money than will be spent."""
    await wallets.CreateWallet(
        wallet_pb2.CreateWalletRequest(
            parent=org, wallet_id="main", wallet=wallet_pb2.Wallet(currency_code="USD"), request_id="w"
        )
    )
    amount = type_pb2.Money(currency_code="USD", amount_nanos=_GRANT_NANOS)
    grant = wallet_pb2.Grant(kind=wallet_pb2.GRANT_KIND_PAID, amount=amount)
    await wallets.CreateGrant(wallet_pb2.CreateGrantRequest(wallet=f"{org}/wallets/main", grant=grant, request_id="g"))


async def settle(budgets: Any, orgs: Sequence[str], prefix: str) -> None:
    """One call of each of these organisations.

    Raises:
        RuntimeError: Some were not settled on a wallet.
    """
    request = budget_pb2.ApplyUsageRequest(relay="bench")
    for number, org in enumerate(orgs):
        item = request.items.add(subject=f"{org}/agents/a", source="bench", id=f"{prefix}-{number}", final=True)
        item.call.provider, item.call.model = "anthropic", "claude-sonnet-4-5"
        item.cost.currency_code, item.cost.amount_nanos = "USD", COST_NANOS
        item.occurred_at.FromMicroseconds(time.time_ns() // 1000)
    # Wallets that are new to budget are looked up first: what is refused until then is sent again.
    for _ in range(_TRIES):
        results = (await budgets.ApplyUsage(request, timeout=60)).results
        if not any(r.WhichOneof("result") == "error" for r in results):
            break
        await asyncio.sleep(_LOOK_S)
    failed = [r for r in results if r.WhichOneof("result") == "error" or r.applied.unfunded]
    if failed:
        raise RuntimeError(f"{len(failed)} calls were not settled on a wallet, the first: {failed[0]}")


async def _until_posted(wallets: Any, orgs: list[str], calls: int) -> None:
    """Returns once the organisations' wallets have posted so many calls each."""
    wanted = len(orgs) * calls * COST_NANOS
    names = set(orgs)
    deadline_s = time.perf_counter() + _DRAIN_S
    while True:
        only = orgs[0] if len(orgs) == 1 else ""
        sums = (await wallets.TrialBalance(wallet_pb2.TrialBalanceRequest(org=only), timeout=30)).accounts
        spent = sum(x.credits_nanos - x.debits_nanos for x in sums if x.account_kind == "spent" and x.org in names)
        if spent == wanted:
            return
        if spent > wanted or time.perf_counter() > deadline_s:
            raise RuntimeError(f"{spent} nanos are posted, not {wanted}, after {_DRAIN_S:.0f} s at most")
        await asyncio.sleep(_LOOK_S)
