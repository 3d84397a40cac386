"""A thousand wallets that each settle one call a second, whatever the second before took: does lag grow?

Arrivals are fixed beforehand. Each wallet has its own place in the second, so the load is even; what is late is sent
all the same, beside what is due next.
"""

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from embedded.suite import Suite
from proofs.wallet.captures import COST_NANOS, open_wallet, settle
from pursestrings.budget.v1 import budget_pb2_grpc
from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.kit.channel import channel

WALLETS: Final = 1_000
"""How many wallets post every second."""
_TICKS: Final = 20
"""Into how many arrivals a second is cut."""
_SET_UP_AT_ONCE: Final = 32
_LOOK_S: Final = 0.5
_WARM_UP_S: Final = 5
_DRAIN_S: Final = 120.0
_SPENT: Final = """
SELECT org, (credits_nanos - debits_nanos) / $2 FROM accounts WHERE kind = 'spent' AND starts_with(org, $1)
"""


@dataclass(frozen=True, slots=True)
class Posting:
    """A thousand wallets, each with one call a second.

    Attributes:
        wallets: How many.
        lag_first_s: The age of the oldest call that was due and is not posted, the median of the first half.
        lag_last_s: That of the second half: no higher where nothing piles up.
        lag_max_s: The highest that was seen.
    """

    wallets: int
    lag_first_s: float
    lag_last_s: float
    lag_max_s: float


async def prove(suite: Suite, *, seconds: int, wallets: int = WALLETS) -> Posting:
    """Lets the wallets' calls arrive for so many seconds, after some that are not counted.

    Raises:
        RuntimeError: Some calls were not settled, or are not posted long after the last one arrived.
    """
    run = f"many-{uuid.uuid4().hex[:8]}"
    orgs = [f"orgs/{run}-{number}" for number in range(wallets)]
    async with (
        channel(suite.address("budget"), suite.mint("orgs/-", ["admin", "service"])) as to_budget,
        channel(suite.address("wallet"), suite.mint("orgs/-", ["admin"])) as to_wallet,
        asyncpg.create_pool(suite.dsn("wallet", "owner"), min_size=1, max_size=1) as sql,
    ):
        budgets: Any = budget_pb2_grpc.BudgetServiceStub(to_budget)
        stub: Any = wallet_pb2_grpc.WalletServiceStub(to_wallet)
        gate = asyncio.Semaphore(_SET_UP_AT_ONCE)

        async def set_up(org: str) -> None:
            async with gate:
                await open_wallet(stub, org)

        await asyncio.gather(*map(set_up, orgs))
        await settle(budgets, orgs, f"{run}-first")
        await _posted(sql, run, wallets, 1)
        began_s = time.perf_counter()
        arriving = asyncio.create_task(_arrive(budgets, orgs, run, began_s, _WARM_UP_S + seconds))
        lags = []
        while not arriving.done():
            await asyncio.sleep(_LOOK_S)
            counts = await _counts(sql, run)
            if time.perf_counter() - began_s > _WARM_UP_S and not arriving.done():
                lags.append(_lag_s(counts, wallets, began_s))
        await arriving
        await _posted(sql, run, wallets, 1 + _WARM_UP_S + seconds)
    half = max(1, len(lags) // 2)
    return Posting(wallets, sorted(lags[:half])[half // 2], sorted(lags[-half:])[half // 2], max(lags))


async def _arrive(budgets: Any, orgs: list[str], run: str, began_s: float, seconds: int) -> None:
    async with asyncio.TaskGroup() as calls:
        for tick in range(seconds * _TICKS):
            await asyncio.sleep(max(0.0, began_s + tick / _TICKS - time.perf_counter()))
            calls.create_task(settle(budgets, orgs[tick % _TICKS :: _TICKS], f"{run}-{tick}"))


async def _counts(sql: asyncpg.Pool, run: str) -> dict[int, int]:
    """How many calls of each wallet are posted."""
    return {int(org.rpartition("-")[2]): count for org, count in await sql.fetch(_SPENT, run, COST_NANOS)}


def _lag_s(counts: dict[int, int], wallets: int, began_s: float) -> float:
    """The age of the oldest call that is not posted; the first one, of the preparations, does not count."""
    now_s = time.perf_counter()
    oldest_s = min(began_s + number % _TICKS / _TICKS + counts.get(number, 0) - 1 for number in range(wallets))
    return max(0.0, now_s - oldest_s)


async def _posted(sql: asyncpg.Pool, run: str, wallets: int, calls: int) -> None:
    """Returns once every wallet has posted so many calls."""
    deadline_s = time.perf_counter() + _DRAIN_S
    while (found := sum((await _counts(sql, run)).values())) != wallets * calls:
        if found > wallets * calls or time.perf_counter() > deadline_s:
            raise RuntimeError(f"{found} calls are posted, not {wallets * calls}, after {_DRAIN_S:.0f} s at most")
        await asyncio.sleep(_LOOK_S)
