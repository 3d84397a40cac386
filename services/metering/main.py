"""Starts metering: the only place that wires its parts."""

import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import asyncpg

from pursestrings.budget.v1 import budget_pb2_grpc
from pursestrings.metering.v1 import metering_pb2_grpc
from services.kit.channel import service_channel
from services.kit.database import create_pool, is_reachable
from services.kit.events import events_relay
from services.kit.loops import Loop, Loops
from services.kit.rate_source import load_rate_table
from services.kit.rating import RateTable
from services.kit.server import GrpcServer, run
from services.kit.settings import secret
from services.kit.telemetry import configure_logging, get_logger
from services.metering import telling
from services.metering.access import ACCESS
from services.metering.desk import Desk
from services.metering.domain.usage import KEYS_KEPT
from services.metering.prices import Prices
from services.metering.recorder import make_recorder
from services.metering.recorders import Forked, Recorders, fork, join
from services.metering.relay import UsageRelay
from services.metering.rerating import Rerating
from services.metering.service import MeteringService
from services.metering.settings import MeteringSettings
from services.metering.store import folding, retention, sealing, upkeep
from services.metering.store.recording import ALERT_TOPIC

NAME: Final = "pursestrings.metering.v1.MeteringService"
_PARTITIONS_AHEAD: Final = timedelta(days=62)
_PARTITIONS_INTERVAL_S: Final = 3_600.0
_FORGET_INTERVAL_S: Final = 600.0
_FOLD_INTERVAL_S: Final = 5.0
_RETENTION_INTERVAL_S: Final = 600.0

_log = get_logger(__name__)


def clock() -> datetime:
    """The time."""
    return datetime.now(UTC)


@asynccontextmanager
async def serving(
    settings: MeteringSettings, table: RateTable | None = None, recorders: Recorders | None = None
) -> AsyncIterator[GrpcServer]:
    """Metering, wired and started; ends when the block does, after what was accepted is committed.

    Args:
        settings: Its settings.
        table: The price list that it begins with; without, the one it was built with.
        recorders: The processes that record batches; without, it records them itself.
    """
    dsn = secret(settings.metering_dsn, "PURSE_METERING_DSN")
    pool = await create_pool(dsn, application_name="metering", size_max=settings.connections_max)
    # Questions have connections of their own: however many are asked, recording goes on.
    readers = await create_pool(dsn, application_name="metering questions", size_max=settings.readers_max)
    budget_channel = service_channel(settings, settings.budget_address)
    async with pool, readers, budget_channel:
        prices = Prices(pool, settings.cards_interval_s)
        await prices.publish(table or load_rate_table())
        await _make_partitions(pool)
        relay = UsageRelay(
            pool,
            budget_pb2_grpc.BudgetServiceStub(budget_channel),
            name=await upkeep.relay_name(pool),
            batch_max=settings.relay_batch_max,
            tries_max=settings.relay_tries_max,
            timeout_s=settings.relay_timeout_s,
            report_interval_s=settings.report_interval_s,
        )
        alerts = events_relay(
            pool, ALERT_TOPIC, budget_pb2_grpc.BudgetServiceStub(budget_channel), "metering", telling.to_event
        )
        recorder = make_recorder(pool, settings)
        desk = Desk(recorder, prices, clock)
        service = MeteringService(readers, desk, recorders or desk, prices, recorded=relay.wake, clock=clock)
        others = None if recorders is None else recorders.metrics
        server = GrpcServer(settings, access=ACCESS, ready=lambda: is_reachable(pool), others=others)
        server.add(metering_pb2_grpc.add_MeteringServiceServicer_to_server, service, NAME)
        cards = Loop("rate cards", prices.refresh, settings.cards_interval_s)
        rerating = Rerating(pool, prices, recorded=relay.wake, clock=clock)
        later = Loop("rate usage later", rerating.step, settings.rerate_interval_s)
        async with Loops([*relay.loops, alerts.loop, *_housekeeping(pool, settings), cards, later]):
            await server.start()
            try:
                yield server
            finally:
                await server.stop()
                await recorder.close()


async def main(settings: MeteringSettings, table: RateTable, forked: Sequence[Forked]) -> None:
    """Serves until SIGTERM or SIGINT."""
    try:
        async with AsyncExitStack() as stack:
            recorders = None
            if forked:
                connections = [one.connection for one in forked]
                recorders = await stack.enter_async_context(Recorders(connections, settings.queue_items_max))
            server = await stack.enter_async_context(serving(settings, table, recorders))
            if recorders is not None:
                recorders.when_lost(server.end)
            # What was loaded stays: looking through the price list again and again would hold up calls by tens of
            # milliseconds at a time.
            gc.collect()
            gc.freeze()
            await server.wait_stopped()
            if recorders is not None and recorders.lost:
                raise SystemExit("a recording process has ended by itself; what it was given is to be sent again")
    finally:
        await join(forked)


def start() -> None:
    """Runs the process."""
    settings = MeteringSettings.load()
    configure_logging(settings.log_level, "metering")
    table = load_rate_table()
    run(partial(main, settings, table, fork(settings, table, clock)))


async def _make_partitions(pool: asyncpg.Pool) -> None:
    now = clock()
    await upkeep.ensure_partitions(pool, now - KEYS_KEPT, now + _PARTITIONS_AHEAD)


def _housekeeping(pool: asyncpg.Pool, settings: MeteringSettings) -> list[Loop]:
    async def partitions() -> bool:
        await _make_partitions(pool)
        return False

    async def forget() -> bool:
        return await upkeep.forget_keys(pool, clock())

    async def fold() -> bool:
        return await folding.fold(pool)

    async def seal() -> bool:
        return await sealing.seal(pool)

    async def drop() -> bool:
        dropped = await retention.drop_month(pool, timedelta(days=settings.events_kept_days))
        if dropped.outcome == "DROPPED":
            _log.info("a month of events was dropped by age", month=dropped.month)
        elif dropped.outcome not in {"NONE_DUE", "BUSY"}:
            _log.warning("a month of events is old and must stay", month=dropped.month, why=dropped.outcome)
        return dropped.outcome == "DROPPED"

    return [
        Loop("fold usage", fold, _FOLD_INTERVAL_S),
        Loop("seal usage", seal, _FOLD_INTERVAL_S),
        Loop("drop old usage", drop, _RETENTION_INTERVAL_S),
        Loop("usage partitions", partitions, _PARTITIONS_INTERVAL_S),
        Loop("forget usage keys", forget, _FORGET_INTERVAL_S),
    ]


if __name__ == "__main__":
    start()
