"""The worker process: runs the suite's workflows and their activities.

    python -m workflows.worker

It waits for Temporal, registers the search attributes that are missing, and ends in good order on SIGTERM.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.kit.channel import service_channel
from services.kit.telemetry import MetricsServer, configure_logging, get_logger
from services.kit.temporal import connect
from services.wallet.recharge.stripe import Stripe
from workflows.recharge import types
from workflows.recharge.activities import RechargeActivities
from workflows.recharge.workflow import Recharge
from workflows.settings import WorkerSettings

if TYPE_CHECKING:
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

SEARCH_ATTRIBUTES: Final[Mapping[str, "IndexedValueType.ValueType"]] = {
    "Org": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Subject": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Wallet": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "State": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Deadline": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
}
"""What workflows are found by in Temporal's UI."""

_CONNECT_REST_S: Final = 0.5
_RPC_TIMEOUT: Final = timedelta(seconds=10)

_log = get_logger(__name__)


async def connected(settings: WorkerSettings) -> Client:
    """A client, once Temporal answers for the namespace and knows the search attributes."""
    said = False
    while True:
        try:
            client = await connect(settings)
            await register_search_attributes(client)
        except (RuntimeError, RPCError) as error:
            if not said:
                _log.warning("waiting for Temporal", address=settings.temporal_address, error=str(error)[:200])
                said = True
            await asyncio.sleep(_CONNECT_REST_S)
        else:
            return client


async def register_search_attributes(client: Client) -> None:
    """Makes the search attributes that the namespace does not have yet, where this client may.

    Raises:
        RPCError: Temporal is out of reach.
    """
    known: set[str] = set()
    try:
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace), timeout=_RPC_TIMEOUT
        )
        known.update(answer.custom_attributes)
    except RPCError as error:
        if error.status is not RPCStatusCode.UNIMPLEMENTED:
            raise
    missing = {name: kind for name, kind in SEARCH_ATTRIBUTES.items() if name not in known}
    if not missing:
        return
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing), timeout=_RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.PERMISSION_DENIED:
            _log.warning("search attributes are missing and must be made by an operator", names=sorted(missing))
        # Otherwise another worker was faster.
        elif error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise


def build(client: Client, activities: RechargeActivities, settings: WorkerSettings) -> Worker:
    """A worker of everything that the suite runs on Temporal."""
    return Worker(
        client,
        task_queue=types.TASK_QUEUE,
        workflows=[Recharge],
        activities=[
            activities.authorize,
            activities.create,
            activities.confirm,
            activities.report,
            activities.give_up,
        ],
        max_concurrent_activities=settings.worker_activities_max,
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_grace_s),
    )


async def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    settings = WorkerSettings.load()
    configure_logging(settings.log_level, "worker")
    stripe = Stripe(settings)
    running = asyncio.Event()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    async def healthy() -> bool:
        return running.is_set()

    metrics = MetricsServer(settings.metrics_bind, healthy)
    await metrics.start()
    wallet = service_channel(settings, settings.wallet_address)
    stub: WalletServiceAsyncStub = wallet_pb2_grpc.WalletServiceStub(wallet)
    work = asyncio.create_task(_work(settings, RechargeActivities(stub, stripe), running, stopped))
    stop = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.is_set() and not running.is_set():
            work.cancel()
        await asyncio.gather(work, return_exceptions=stopped.is_set())
    finally:
        stop.cancel()
        await metrics.stop()
        await wallet.close()
        await stripe.close()


async def _work(
    settings: WorkerSettings, activities: RechargeActivities, running: asyncio.Event, stopped: asyncio.Event
) -> None:
    client = await connected(settings)
    async with build(client, activities, settings):
        running.set()
        _log.info("working", task_queue=types.TASK_QUEUE, temporal=settings.temporal_address)
        await stopped.wait()


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
