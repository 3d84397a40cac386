"""A process that records batches for the service that began it, until that closes the socket between them."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial

import asyncpg
from prometheus_client import generate_latest

from pursestrings.metering.v1 import metering_pb2
from services.kit import server
from services.kit.database import create_pool
from services.kit.groupcommit import GroupCommit
from services.kit.loops import Loop, Loops
from services.kit.rating import RateTable
from services.kit.settings import secret
from services.metering import frames
from services.metering.desk import Batches, Desk
from services.metering.failures import status_of
from services.metering.frames import Frame, Kind
from services.metering.prices import Prices
from services.metering.settings import MeteringSettings
from services.metering.store.recording import Recorded, Recording, SessionsKnown, record


def make_recorder(pool: asyncpg.Pool, settings: MeteringSettings) -> GroupCommit[Recording, Recorded]:
    """What records in shared transactions."""
    sessions = SessionsKnown()
    return GroupCommit(
        pool,
        partial(record, known=sessions),
        org_of=lambda item: item.usage.org,
        name="record usage",
        batch_max=settings.record_batch_max,
        queue_max=settings.queue_items_max,
        workers=settings.record_workers,
        committed=sessions.committed,
    )


def run(connection: socket.socket, settings: MeteringSettings, table: RateTable, clock: Callable[[], datetime]) -> None:
    """Records what comes over a socket until it is closed; the body of a process that was forked for it."""
    # Who began it ends it, when all that it was given is answered; a signal to the group of both is not for it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server.run(partial(_record, connection, settings, table, clock))


async def _record(
    connection: socket.socket, settings: MeteringSettings, table: RateTable, clock: Callable[[], datetime]
) -> None:
    dsn = secret(settings.metering_dsn, "PURSE_METERING_DSN")
    async with await create_pool(
        dsn, application_name="metering recorder", size_max=settings.record_workers + 2
    ) as pool:
        prices = Prices(pool, settings.cards_interval_s)
        await prices.publish(table)
        recorder = make_recorder(pool, settings)
        cards = Loop("rate cards", prices.refresh, settings.cards_interval_s)
        async with Loops([cards]):
            gc.collect()
            gc.freeze()  # as the service does
            await serve(connection, Desk(recorder, prices, clock))
            await recorder.close()


async def serve(connection: socket.socket, batches: Batches) -> None:
    """Answers frames side by side until the other end of the socket is closed.

    Args:
        connection: One of a pair; closed in the end.
        batches: What records.
    """
    reader, writer = await asyncio.open_connection(sock=connection)
    running: set[asyncio.Task[None]] = set()
    try:
        while (frame := await frames.read(reader)) is not None:
            task = asyncio.create_task(_answer(writer, batches, frame))
            running.add(task)
            task.add_done_callback(running.discard)
        # Nobody waits for these any more, but what is half done is not left so, whatever becomes of one of them.
        if running:
            await asyncio.wait(running)
    finally:
        writer.close()


async def _answer(writer: asyncio.StreamWriter, batches: Batches, asked: Frame) -> None:
    kind, body = Kind.METRICS, b""
    if asked.kind == Kind.METRICS:
        body = generate_latest()
    else:
        try:
            who, request = frames.unpack(asked.body)
            response = await batches.record_batch(metering_pb2.BatchRecordUsageRequest.FromString(request), who)
            kind, body = Kind.RECORDED, response.SerializeToString()
        except Exception as error:
            kind, body = Kind.REFUSED, status_of(error).SerializeToString()
    with suppress(ConnectionError):
        await frames.write(writer, Frame(asked.number, kind, body))
