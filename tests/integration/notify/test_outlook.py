"""What metering adds to a warning, and that nothing waits for it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from pursestrings.metering.v1 import analysis_pb2, metering_pb2, metering_pb2_grpc
from pursestrings.type.v1 import type_pb2
from services.kit.channel import channel
from tests.support.events import CROSSING
from workflows.notify.outlook import DRIVERS_MAX, Outlooks
from workflows.notify.payloads import NO_OUTLOOK, Driver

HOURS_S = 11_520


class Metering(metering_pb2_grpc.MeteringServiceServicer):
    """Answers two questions, or refuses them."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.refuses = False

    async def Forecast(self, request: Any, context: Any) -> Any:
        await self._note(request, context)
        answer = analysis_pb2.ForecastResponse()
        answer.as_of_time.FromSeconds(1_000)
        answer.depletion.p50_time.FromSeconds(1_000 + HOURS_S)
        return answer

    async def QueryUsage(self, request: Any, context: Any) -> Any:
        await self._note(request, context)
        groups = [
            metering_pb2.UsageGroup(
                keys=[f"p/m{number}"],
                totals=metering_pb2.UsageTotals(
                    costs=[
                        type_pb2.Money(currency_code="EUR", amount_nanos=10**12),
                        type_pb2.Money(currency_code="USD", amount_nanos=number),
                    ],
                    operations=10 * number,
                ),
            )
            for number in range(8)
        ]
        return metering_pb2.QueryUsageResponse(groups=groups)

    async def _note(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        if self.refuses:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[Metering, Outlooks]]:
    metering = Metering()
    server = grpc.aio.server()
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(metering, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with channel(f"127.0.0.1:{port}", None) as wire:
            yield metering, Outlooks(metering_pb2_grpc.MeteringServiceStub(wire))
    finally:
        await server.stop(None)


async def test_metering_says_how_long_it_lasts_and_what_costs_most() -> None:
    async with running() as (metering, outlooks):
        found = await outlooks.of(CROSSING)
        assert found.depleted_in_s == HOURS_S
        assert found.drivers is not None
        assert found.drivers[0] == Driver("p", "m7", 7, 70)
        assert [one.cost_nanos for one in found.drivers] == [7, 6, 5, 4, 3]
        assert len(found.drivers) == DRIVERS_MAX
        by_kind = {type(one).__name__: one for one in metering.asked}
        assert by_kind["ForecastRequest"].amount_nanos == int(CROSSING["remaining"])
        assert by_kind["QueryUsageRequest"].start_time.ToJsonString() == CROSSING["window_start"]
        assert (await outlooks.of(CROSSING | {"remaining": "-5"})).depleted_in_s == 0.0


async def test_without_metering_or_cost_nothing_is_added_and_nobody_waits() -> None:
    async with running() as (metering, outlooks):
        assert await outlooks.of(CROSSING | {"limit_type": "TOKENS"}) == NO_OUTLOOK
        assert await outlooks.of(CROSSING | {"type": "budget.paused"}) == NO_OUTLOOK
        assert metering.asked == []
        metering.refuses = True
        assert await outlooks.of(CROSSING) == NO_OUTLOOK
        asked = len(metering.asked)
        assert await outlooks.of(CROSSING) == NO_OUTLOOK
        assert len(metering.asked) == asked
