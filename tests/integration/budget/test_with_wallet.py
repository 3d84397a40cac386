"""Budget and the real wallet service: money is in one place at a time, and both sides' books agree at the same n."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pursestrings.budget.v1 import budget_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2
from tests.support.budget import NANOS, ORG, WALLET, ask, refusals, running_budget, usage
from tests.support.metering import EVERYONE
from tests.support.wallets import Caller, make_keys, serving_wallet


@contextlib.asynccontextmanager
async def both(database: Any, tmp_path: Path, money: int) -> AsyncIterator[tuple[Any, Caller]]:
    """A budget and a wallet service with one wallet in it."""
    keys = make_keys(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving_wallet(database("wallet").service_dsn, keys))
        wallet = Caller(address, keys.token(EVERYONE, "admin"))
        stack.push_async_callback(wallet.close)
        await wallet(
            "CreateWallet",
            wallet_pb2.CreateWalletRequest(
                parent=ORG, wallet_id="main", wallet=wallet_pb2.Wallet(currency_code="USD"), request_id="w"
            ),
        )
        await grant(wallet, money, "g")
        token_file = tmp_path / "wallet-token"
        token_file.write_text(keys.token(EVERYONE, "service"))
        (tmp_path / "budget").mkdir()
        budget = await stack.enter_async_context(
            running_budget(
                database("budget"),
                tmp_path / "budget",
                use_wallets=True,
                wallet_address=address,
                service_token_file=token_file,
            )
        )
        yield budget, wallet


async def grant(wallet: Caller, money: int, id_: str) -> None:
    amount = type_pb2.Money(currency_code="USD", amount_nanos=money)
    one = wallet_pb2.Grant(kind=wallet_pb2.GRANT_KIND_PAID, amount=amount)
    await wallet("CreateGrant", wallet_pb2.CreateGrantRequest(wallet=WALLET, grant=one, request_id=id_))


async def balance(wallet: Caller) -> Any:
    return await wallet("GetBalance", wallet_pb2.GetBalanceRequest(name=WALLET))


async def eventually(check: Any) -> None:
    """Returns once the asynchronous check holds."""
    deadline = asyncio.get_running_loop().time() + 15
    while not await check():
        assert asyncio.get_running_loop().time() < deadline


async def agree(budget: Any, wallet: Caller) -> None:
    """Both audits hold, and the lease's totals are the same at the same n once its answer has come back."""
    await budget.audit()

    async def same() -> bool:
        theirs = await wallet("Audit", wallet_pb2.AuditRequest())
        assert [check.detail for check in theirs.checks if not check.ok] == []
        points = [budget_pb2.LeasePoint(wallet=x.wallet, epoch=x.epoch, n=x.n) for x in theirs.leases]
        mine = await budget.admin.Audit(budget_pb2.AuditRequest(lease_points=points))
        return bool(theirs.leases) and list(mine.leases) == list(theirs.leases)

    await eventually(same)


async def test_a_wallet_is_spent_to_the_last_nano_and_refilled(database: Any, tmp_path: Path) -> None:
    async with both(database, tmp_path, 100 * NANOS) as (budget, wallet):
        allowed = []
        while True:
            requests = [ask(cost=3 * NANOS) for _ in range(10)]
            response = await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests))
            held = [r.decision.reservation for r in response.results if r.decision.reservation]
            allowed += held
            if len(held) < 10:
                break
        assert refusals(response.results) == [""] * 10
        assert len(allowed) == 33
        denied = await budget.reserve(cost=2 * NANOS)
        assert denied.denied_reason == budget_pb2.DENIED_REASON_INSUFFICIENT_FUNDS
        await budget.apply(*(usage(cost=3 * NANOS, reservation=name) for name in allowed))

        async def spent() -> bool:
            return bool((await balance(wallet)).spent_nanos == 99 * NANOS)

        await eventually(spent)
        await grant(wallet, 5 * NANOS, "more")

        async def refilled() -> bool:
            return bool((await budget.reserve(cost=2 * NANOS)).outcome == budget_pb2.OUTCOME_ALLOW)

        await eventually(refilled)
        await agree(budget, wallet)


async def test_a_freeze_takes_the_rest_back_and_overage_becomes_debt(database: Any, tmp_path: Path) -> None:
    async with both(database, tmp_path, 50 * NANOS) as (budget, wallet):
        held = await budget.reserve(cost=5 * NANOS)
        await budget.reserve(cost=2 * NANOS)
        await budget.apply(usage(cost=5 * NANOS, reservation=held.reservation))
        state = wallet_pb2.WALLET_STATE_FROZEN
        await wallet("SetWalletState", wallet_pb2.SetWalletStateRequest(name=WALLET, state=state, reason="dispute"))

        async def returned() -> bool:
            found = await balance(wallet)
            return bool((found.escrow_nanos, found.available_nanos) == (2 * NANOS, 43 * NANOS))

        await eventually(returned)
        frozen = await budget.reserve(cost=1)
        assert frozen.denied_reason == budget_pb2.DENIED_REASON_WALLET_FROZEN
        await budget.apply(usage(cost=60 * NANOS))

        async def indebted() -> bool:
            return bool((await balance(wallet)).balance_nanos == -15 * NANOS)

        await eventually(indebted)
        await agree(budget, wallet)


async def test_a_correction_gives_captured_money_back(database: Any, tmp_path: Path) -> None:
    async with both(database, tmp_path, 50 * NANOS) as (budget, wallet):
        await budget.apply(usage(cost=9 * NANOS))
        await budget.apply(usage(cost=-4 * NANOS))

        async def corrected() -> bool:
            return bool((await balance(wallet)).balance_nanos == 45 * NANOS)

        await eventually(corrected)
        await agree(budget, wallet)


async def test_a_dry_run_is_answered_by_the_balance_and_an_absurd_spend_alone_is_denied(
    database: Any, tmp_path: Path
) -> None:
    async with both(database, tmp_path, 10 * NANOS) as (budget, wallet):
        dry = [ask(cost=cost, validate_only=True, request_id="") for cost in (10 * NANOS, 10 * NANOS + 1)]
        response = await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=dry))
        assert refusals(response.results) == ["", ""]
        outcomes = [result.decision.outcome for result in response.results]
        assert outcomes == [budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY]
        untouched = await balance(wallet)
        assert (untouched.available_nanos, untouched.escrow_nanos) == (10 * NANOS, 0)
        absurd = [ask(cost=cost) for cost in (2**63 - 1, 2**63 - 1, 5)]
        response = await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=absurd))
        assert refusals(response.results) == ["", "", ""]
        outcomes = [result.decision.outcome for result in response.results]
        assert outcomes == [budget_pb2.OUTCOME_DENY, budget_pb2.OUTCOME_DENY, budget_pb2.OUTCOME_ALLOW]
        await agree(budget, wallet)
