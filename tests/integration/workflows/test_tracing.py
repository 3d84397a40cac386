"""A recharge's trace reaches the collector: from the outbox's start, over the workflow, to its activities."""

import asyncio
import http.server
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.server import GrpcServer
from services.kit.tracing import traced
from services.wallet.main import serving as serving_wallet
from services.wallet.settings import WalletSettings
from tests.conftest import TwinServer
from tests.support.databases import CHECKOUT, Database
from tests.support.recharging import API_KEY, Rig, running_rig, webhooks


class _Collector(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, bytes]] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        self.server.spans += [
            (span.name, span.trace_id)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def collector() -> Iterator[_Collector]:
    server = _Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def traced_wallet(settings: WalletSettings, endpoint: str) -> AsyncIterator[GrpcServer]:
    told = settings.model_copy(update={"otlp_endpoint": endpoint})
    with traced(told, "wallet"):
        async with serving_wallet(told) as server:
            yield server


async def test_one_trace_from_the_start_over_the_workflow_to_its_activities(
    database: Callable[[str], Database], twin: TwinServer, tmp_path: Path, org: str, temporal_address: str
) -> None:
    with collector() as traces:
        endpoint = f"http://127.0.0.1:{traces.server_address[1]}"
        async with (
            running_rig(
                database("wallet"),
                twin.url,
                tmp_path,
                org=org,
                temporal_address=temporal_address,
                serving=lambda settings: traced_wallet(settings, endpoint),
            ) as rig,
            webhooks(rig),
            worker(rig, temporal_address, endpoint, tmp_path),
        ):
            wallet = await rig.create_wallet("w")
            await rig.card("pm_card_visa", wallet)
            await rig.policy(wallet)
            (one,) = await rig.recharges(wallet)
            await rig.until_state(one.name, pb.RECHARGE_STATE_SUCCEEDED, timeout_s=40)
    of = {name: {trace for other, trace in traces.spans if other == name} for name, _ in traces.spans}
    wanted = ("StartWorkflow:Recharge", "RunWorkflow:Recharge", "StartActivity:authorize_attempt")
    assert of.keys() >= {*wanted, "RunActivity:authorize_attempt"}
    for name in wanted:
        assert of[name] == of["RunActivity:authorize_attempt"]


@asynccontextmanager
async def worker(rig: Rig, temporal_address: str, endpoint: str, directory: Path) -> AsyncIterator[None]:
    environ = {
        "PATH": os.defpath,
        "PURSE_METRICS_BIND": "127.0.0.1:0",
        "PURSE_STRIPE_API_KEY": API_KEY,
        "PURSE_STRIPE_BASE_URL": rig.twin.url,
        "PURSE_WALLET_ADDRESS": rig.address,
        "PURSE_SERVICE_TOKEN_FILE": str(rig.token_file),
        "PURSE_TEMPORAL_ADDRESS": temporal_address,
        "PURSE_OTLP_ENDPOINT": endpoint,
    }
    with (directory / "worker.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workflows.worker", cwd=CHECKOUT, env=environ, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.terminate()
            assert await process.wait() == 0
