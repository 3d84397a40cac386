"""The sweep's activity: a page of wallets, their forecasts, and the recharges that are due. It may run twice."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import grpc
from temporalio import activity

from pursestrings.metering.v1 import analysis_pb2
from pursestrings.wallet.v1 import predictive_pb2
from services.kit.errors import Code
from services.kit.status import from_rpc_error
from services.kit.telemetry import get_logger
from workflows.predictive import types
from workflows.predictive.rule import Found, depletion_question, question
from workflows.predictive.types import Page, SweptPage, Tally
from workflows.working import working

if TYPE_CHECKING:
    from pursestrings.metering.v1.metering_pb2_grpc import MeteringServiceAsyncStub
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

PAGE_SIZE: Final = 50
"""Wallets a page: forecasts of so many take metering less than a second, and fit into a message with all exclusions."""
_RPC_TIMEOUT_S: Final = 25.0
_RPC_TIMEOUT_MIN_S: Final = 5.0
_HALVES_S: Final = 75.0
"""How long a page is taken apart that metering does not answer as a whole; with the rest it fits into an activity."""
_AT_ONCE_MAX: Final = 8

_log = get_logger(__name__)


class PredictiveActivities:
    """Bound to one wallet service and one metering service.

    Args:
        wallet: The wallet service, called as role `service`.
        metering: Metering, likewise.
    """

    def __init__(self, wallet: "WalletServiceAsyncStub", metering: "MeteringServiceAsyncStub") -> None:
        self._wallet = wallet
        self._metering = metering

    @activity.defn(name=types.SWEEP_PAGE)
    async def sweep_page(self, page: Page) -> SweptPage:
        """Looks at one page of wallets. One that fails by itself holds back no other."""
        async with working():
            listed = await self._wallet.ListPredictiveWallets(
                predictive_pb2.ListPredictiveWalletsRequest(
                    shard=page.shard, shards=page.shards, page_size=PAGE_SIZE, page_token=page.page_token
                ),
                timeout=_RPC_TIMEOUT_S,
            )
            found, tally = await self._forecast(listed.wallets, time.monotonic() + _HALVES_S)
            due = [one for one in found if one.is_due()]
            at_once = asyncio.Semaphore(_AT_ONCE_MAX)
            for started in await asyncio.gather(*(self._start(one, at_once) for one in due)):
                tally = tally.plus(started)
        return SweptPage(tally, listed.next_page_token)

    async def _forecast(
        self, wallets: Sequence[predictive_pb2.PredictiveWallet], until_s: float
    ) -> tuple[list[Found], Tally]:
        """What metering says. Where it answers, but not to all at once, it is asked about halves until `until_s`."""
        if not wallets:
            return [], Tally()
        try:
            answer = await self._metering.BatchForecast(
                analysis_pb2.BatchForecastRequest(requests=[question(wallet) for wallet in wallets]),
                timeout=max(_RPC_TIMEOUT_MIN_S, _RPC_TIMEOUT_S * len(wallets) / PAGE_SIZE),
            )
        except grpc.aio.AioRpcError as error:
            refused = from_rpc_error(error)
            if refused.code is Code.UNAVAILABLE:
                raise
            middle = len(wallets) // 2
            if not middle or time.monotonic() > until_s:
                tally = Tally(looked=len(wallets))
                for one in wallets:
                    tally = tally.plus(_failed(one.wallet, f"{refused.reason}: {refused.message}"))
                return [], tally
            (left, first), (right, second) = [
                await self._forecast(half, until_s) for half in (wallets[:middle], wallets[middle:])
            ]
            return left + right, first.plus(second)
        found, tally = [], Tally(looked=len(wallets))
        for wallet, result in zip(wallets, answer.results, strict=True):
            if result.WhichOneof("result") == "forecast":
                found.append(Found(wallet, result.forecast))
            else:
                tally = tally.plus(_failed(wallet.wallet, result.error.message))
        return found, tally

    async def _start(self, due: Found, at_once: asyncio.Semaphore) -> Tally:
        """Asks the wallet to recharge."""
        wallet = due.wallet.wallet
        async with at_once:
            try:
                # Of the few that are due alone, since it takes metering long.
                dated = await self._metering.Forecast(depletion_question(due.wallet), timeout=_RPC_TIMEOUT_S)
                answer = await self._wallet.StartPredictiveRecharge(
                    predictive_pb2.StartPredictiveRechargeRequest(wallet=wallet, forecast=due.reason(dated.depletion)),
                    timeout=_RPC_TIMEOUT_S,
                )
            except grpc.aio.AioRpcError as error:
                # Also where a service is away: the next sweep asks again.
                refused = from_rpc_error(error)
                return _failed(wallet, f"{refused.reason}: {refused.message}")
        if answer.recharge:
            return Tally(started=1, names=[answer.recharge])
        return Tally(blocked={answer.blocked: 1})


def _failed(wallet: str, why: str) -> Tally:
    _log.warning("a wallet could not be looked at", wallet=wallet, error=why[:200])
    return Tally(failed=1, failure=f"{wallet}: {why}"[:500])
