"""The worker process: runs the suite's workflows and their activities.

    python -m workflows.worker

It waits for Temporal, registers the search attributes that are missing, makes the schedules, and ends in good order
on SIGTERM.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.worker import Worker

import workflows.approval.part
import workflows.cap_review.part
import workflows.month_close.part
import workflows.notify.part
import workflows.predictive.part
import workflows.recharge.part
import workflows.reconcile.part
from services.kit.telemetry import MetricsServer, configure_logging, get_logger
from services.kit.tracing import traced
from workflows import schedules
from workflows.namespace import connected
from workflows.part import Part, by_queue
from workflows.services import Services, reaching
from workflows.settings import WorkerSettings

PARTS: Final = (
    workflows.approval.part.part,
    workflows.cap_review.part.part,
    workflows.month_close.part.part,
    workflows.notify.part.part,
    workflows.predictive.part.part,
    workflows.recharge.part.part,
    workflows.reconcile.part.part,
)
"""What the worker runs."""

_log = get_logger(__name__)


def parts(services: Services) -> list[Part]:
    """What the worker runs, a part for each task queue, bound to what it reaches."""
    return by_queue([make(services) for make in PARTS])


@contextlib.asynccontextmanager
async def working(client: Client, services: Services, settings: WorkerSettings) -> AsyncIterator[list[Worker]]:
    """Workers of everything that the suite runs on Temporal, until the block ends; then they drain."""
    workers = [
        Worker(
            client,
            task_queue=part.task_queue,
            workflows=part.workflows,
            activities=part.activities,
            max_concurrent_activities=settings.worker_activities_max,
            graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_grace_s),
        )
        for part in parts(services)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        try:
            yield workers
        finally:
            # Together, so that the grace is one worker's and not the sum of all.
            await asyncio.gather(*(worker.shutdown() for worker in workers))


async def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    settings = WorkerSettings.load()
    configure_logging(settings.log_level, "worker")
    running = asyncio.Event()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    async def healthy() -> bool:
        return running.is_set()

    metrics = MetricsServer(settings.metrics_bind, healthy)
    await metrics.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(traced(settings, "worker"))
        services = await stack.enter_async_context(reaching(settings))
        work = asyncio.create_task(_work(settings, services, running, stopped))
        stop = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.is_set() and not running.is_set():
                work.cancel()
            await asyncio.gather(work, return_exceptions=stopped.is_set())
        finally:
            stop.cancel()
            await metrics.stop()


async def _work(settings: WorkerSettings, services: Services, running: asyncio.Event, stopped: asyncio.Event) -> None:
    client = await connected(settings)
    async with working(client, services, settings) as workers:
        running.set()
        queues = [worker.task_queue for worker in workers]
        _log.info("working", task_queues=queues, temporal=settings.temporal_address)
        # Beside the work: whoever may not make schedules can still work.
        scheduling = asyncio.create_task(schedules.keep(client, parts(services)))
        try:
            await stopped.wait()
        finally:
            scheduling.cancel()


def run() -> None:
    """The process: ends without the interpreter's own shutdown, in which Temporal's core may crash."""
    code = 0
    try:
        asyncio.run(main())
    except SystemExit as error:
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
        code = error.code if isinstance(error.code, int) else 1
    except Exception as error:
        _log.error("the worker ended", exc_info=error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
