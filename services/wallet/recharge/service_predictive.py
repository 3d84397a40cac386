"""The gRPC face of recharges by forecast: translate, call, answer. Mixed into the wallet's servicer."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.wallet.v1 import predictive_pb2 as pb
from services.kit import prediction
from services.kit.database import transact
from services.kit.errors import conflict, invalid, not_found
from services.wallet import convert
from services.wallet.recharge.convert import asked_forecast, settings_message
from services.wallet.recharge.domain import policy as rules
from services.wallet.recharge.domain.policy import Blocked, Forecast
from services.wallet.recharge.observe import Clock
from services.wallet.recharge.store import policies, predictive
from services.wallet.store import wallets as wallets_store

Context = grpc.aio.ServicerContext[Any, Any]
SHARDS_MAX: Final = 1_024
"""Into how many parts wallets may be divided."""
DELAYS_WITHIN: Final = timedelta(days=90)
"""How far back recharges tell how long one takes."""
_EVERYWHERE: Final = "all"
_SKEW: Final = timedelta(minutes=1)


class PredictiveMethods:
    """The methods on recharges by forecast of `pursestrings.wallet.v1.WalletService`."""

    _pool: asyncpg.Pool
    _clock: Clock
    _wake: Callable[[], None]

    async def StartPredictiveRecharge(
        self, request: pb.StartPredictiveRechargeRequest, _context: Context
    ) -> pb.StartPredictiveRechargeResponse:
        """Starts a recharge because of a forecast, unless the policy or the balance of now says otherwise."""
        org = convert.wallet_key(request.wallet, "wallet")[0]
        forecast = asked_forecast(request.forecast)
        said = request.forecast
        history_hours = said.history_hours if said.HasField("history_hours") else prediction.WEEK_HOURS
        decided = await transact(
            self._pool, lambda connection: self._start(connection, org, request.wallet, forecast, history_hours)
        )
        if isinstance(decided, Blocked):
            recheck = convert.timestamp(decided.recheck_at) if decided.recheck_at else None
            return pb.StartPredictiveRechargeResponse(blocked=decided.why.value, recheck_time=recheck)
        self._wake()
        return pb.StartPredictiveRechargeResponse(recharge=decided)

    async def _start(
        self, connection: asyncpg.Connection, org: str, name: str, forecast: Forecast, history_hours: int
    ) -> str | Blocked:
        await wallets_store.lock_wallet(connection, org, name)
        now = await self._clock(connection)
        known = (await policies.facts(connection, org, [name], now))[0]
        if known.policy is None:
            raise not_found(f"a recharge policy of {name}", "POLICY_UNKNOWN", wallet=name)
        settings = known.policy.predictive
        if settings is None:
            raise conflict(
                "POLICY_NOT_PREDICTIVE", f"{name} recharges by threshold; set its policy's mode to PREDICTIVE first"
            )
        if forecast.quantile_percent != settings.quantile_percent:
            raise invalid("forecast.quantile_percent", f"the policy goes by p{settings.quantile_percent}")
        if forecast.hours_ahead > settings.hours_ahead:
            raise invalid("forecast.hours_ahead", f"the policy looks at most {settings.hours_ahead} ahead")
        if not now - rules.FORECAST_LIFE <= forecast.as_of <= now + _SKEW:
            raise invalid("forecast.as_of_time", "must be within the last hour; forecast again", "FORECAST_TOO_OLD")
        charge_nanos = known.policy.charge_nanos(0, known.currency)
        leave_nanos = prediction.to_leave(known.policy.threshold_nanos, charge_nanos, history_hours)
        forecast = replace(forecast, balance_nanos=known.balance_nanos, floor_nanos=leave_nanos)
        return await policies.start_by_forecast(connection, org, known, forecast, now)

    async def ListPredictiveWallets(
        self, request: pb.ListPredictiveWalletsRequest, _context: Context
    ) -> pb.ListPredictiveWalletsResponse:
        """Wallets that a forecast is to be asked about."""
        org = convert.optional_org(request.org)
        size = convert.page_size(request.page_size)
        shards = request.shards or 1
        if not 1 <= shards <= SHARDS_MAX:
            raise invalid("shards", f"is {shards}; wallets are divided into 1 to {SHARDS_MAX} parts")
        if not 0 <= request.shard < shards:
            raise invalid("shard", f"is {request.shard}; of {shards} parts say 0 to {shards - 1}")
        scope = f"{request.org or _EVERYWHERE} {request.shard}/{shards}"
        after = convert.from_page_token(request.page_token, scope)
        async with self._pool.acquire() as connection:
            now = await self._clock(connection)
            found = await predictive.page(
                connection, org, after, size + 1, shard=request.shard, shards=shards, since=now - DELAYS_WITHIN
            )
        token = convert.to_page_token(scope, found[size - 1].wallet) if len(found) > size else ""
        return pb.ListPredictiveWalletsResponse(
            wallets=[
                pb.PredictiveWallet(
                    wallet=row.wallet,
                    currency_code=row.currency,
                    time_zone=row.time_zone,
                    balance_nanos=row.balance_nanos,
                    settings=settings_message(row.policy, row.currency),
                    recharge_delay_p99_s=prediction.delay_s(row.delays, row.delay_p99_s),
                    charge_nanos=row.policy.charge_nanos(0, row.currency),
                    excluded_subjects=row.excluded,
                )
                for row in found[:size]
            ],
            next_page_token=token,
        )
