"""What metering says of a budget that reached a threshold. It is an extra: nothing waits for it for long."""

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import grpc

from pursestrings.metering.v1 import analysis_pb2, metering_pb2
from workflows.notify.payloads import NO_OUTLOOK, THRESHOLD, Driver, Outlook

if TYPE_CHECKING:
    from pursestrings.metering.v1.metering_pb2_grpc import MeteringServiceAsyncStub

OUTLOOK_S: Final = 2.0
"""How long metering may take, in seconds; what it has not said by then is left out."""
AWAY_S: Final = 10.0
"""How long metering is not asked again after it did not answer, so that a storm of alerts does not wait for each."""
DRIVERS_MAX: Final = 5
_MODELS_MAX: Final = 1_000


class Outlooks:
    """Asks metering how long a budget lasts and what drives its cost.

    Args:
        metering: The metering service, called as role `service`.
    """

    def __init__(self, metering: "MeteringServiceAsyncStub") -> None:
        self._metering = metering
        self._away_until_s = 0.0

    async def of(self, facts: dict[str, Any]) -> Outlook:
        """What metering says of an event's subject; empty where the event is of no cost or metering does not answer."""
        if facts.get("type") != THRESHOLD or facts.get("limit_type") != "COST":
            return NO_OUTLOOK
        if time.monotonic() < self._away_until_s:
            return NO_OUTLOOK
        lasts, drivers = await asyncio.gather(self._lasts_s(facts), self._drivers(facts))
        return Outlook(lasts, drivers)

    async def _lasts_s(self, facts: dict[str, Any]) -> float | None:
        remaining = int(facts["remaining"])
        if remaining <= 0:
            return 0.0
        request = analysis_pb2.ForecastRequest(
            subject=facts["subject"],
            currency_code=facts["currency"],
            amount_nanos=remaining,
            time_zone=facts["time_zone"],
        )
        try:
            answer = await self._metering.Forecast(request, timeout=OUTLOOK_S)
        except grpc.aio.AioRpcError:
            self._away_until_s = time.monotonic() + AWAY_S
            return None
        if not answer.depletion.HasField("p50_time"):
            return None
        return max(0.0, (answer.depletion.p50_time.ToNanoseconds() - answer.as_of_time.ToNanoseconds()) / 1e9)

    async def _drivers(self, facts: dict[str, Any]) -> tuple[Driver, ...] | None:
        request = metering_pb2.QueryUsageRequest(
            subject=facts["subject"],
            group_by=[metering_pb2.USAGE_DIMENSION_MODEL],
            time_zone=facts["time_zone"],
            page_size=_MODELS_MAX,
        )
        if facts["window_start"]:
            request.start_time.FromDatetime(datetime.fromisoformat(facts["window_start"]).astimezone(UTC))
        try:
            answer = await self._metering.QueryUsage(request, timeout=OUTLOOK_S)
        except grpc.aio.AioRpcError:
            self._away_until_s = time.monotonic() + AWAY_S
            return None
        found = [
            Driver(*_model(group.keys[0]), cost.amount_nanos, group.totals.operations)
            for group in answer.groups
            for cost in group.totals.costs
            if cost.currency_code == facts["currency"] and cost.amount_nanos > 0
        ]
        return tuple(sorted(found, key=lambda one: (-one.cost_nanos, one.model))[:DRIVERS_MAX])


def _model(key: str) -> tuple[str, str]:
    """Provider and model of the key `provider/model`."""
    provider, _, model = key.partition("/")
    return provider, model
