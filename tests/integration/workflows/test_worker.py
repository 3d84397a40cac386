"""What the worker says when it is told wrong things, what it makes at its start, and how it ends."""

import asyncio
import os
import signal
import sys
import sysconfig
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from tests.conftest import TwinServer
from tests.support.databases import CHECKOUT, Database
from tests.support.recharging import running_rig
from workflows import worker
from workflows.part import Part
from workflows.settings import WorkerSettings


async def test_a_live_key_ends_the_worker_with_its_reason() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "workflows.worker",
        cwd=CHECKOUT,
        env={
            "PATH": os.defpath,
            "PURSE_STRIPE_API_KEY": "sk_live_nonsense",
            "PURSE_SERVICE_TOKEN_FILE": "/nowhere/service.token",
            "PURSE_METRICS_BIND": "127.0.0.1:0",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert "a live Stripe key is refused" in output.decode()
    assert "sk_live_nonsense" not in output.decode()


async def test_while_temporal_is_away_rows_wait_and_none_is_parked(
    database: Callable[[str], Database], twin: TwinServer, tmp_path: Path, org: str
) -> None:
    async with running_rig(database("wallet"), twin.url, tmp_path, org=org) as rig:
        await rig.card()
        await rig.policy()
        async with asyncio.timeout(20):
            while not await rig.sql.fetchval("SELECT last_error FROM outbox WHERE topic = 'recharge'"):
                await asyncio.sleep(0.02)
        row = await rig.sql.fetchrow("SELECT tries, parked_at, last_error FROM outbox WHERE topic = 'recharge'")
        assert (row["tries"], row["parked_at"]) == (0, None)
        assert "Temporal is out of reach" in row["last_error"]


async def test_the_process_makes_the_schedules_and_ends_in_order_on_sigterm(tmp_path: Path) -> None:
    # A server of its own: what these schedules start must not reach workers of other tests.
    program = Path(sysconfig.get_path("scripts")) / "temporal"
    token = tmp_path / "service.token"
    token.write_text("nobody asks for it")
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=str(program)) as temporal:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "workflows.worker"),
            cwd=CHECKOUT,
            env={
                "PATH": os.defpath,
                "PURSE_STRIPE_API_KEY": "sk_test_nobody",
                "PURSE_SERVICE_TOKEN_FILE": str(token),
                "PURSE_METRICS_BIND": "127.0.0.1:0",
                "PURSE_TEMPORAL_ADDRESS": str(temporal.client.service_client.config.target_host),
            },
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        wanted = {"purse.month-close", "purse.reconcile", "purse.report-expiries", "purse.report-leases"}
        try:
            async with asyncio.timeout(60):
                while not wanted <= {one.id async for one in await temporal.client.list_schedules()}:
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@activity.defn
async def work_until_told_to_stop(begun: str) -> str:
    """Takes the whole grace that it has, and says so."""
    _begun.add(begun)
    await activity.wait_for_worker_shutdown()
    return "finished"


_begun: set[str] = set()


@workflow.defn(sandboxed=False)
class Works:
    """One piece of work."""

    @workflow.run
    async def run(self, begun: str) -> str:
        return await workflow.execute_activity(
            work_until_told_to_stop, begun, start_to_close_timeout=timedelta(seconds=60)
        )


async def test_what_runs_on_any_queue_is_finished_before_the_worker_ends(
    temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = [f"drain-{uuid.uuid4()}" for _ in range(3)]

    def parts(_services: Any) -> list[Part]:
        return [Part(queue, [Works], [work_until_told_to_stop]) for queue in queues]

    monkeypatch.setattr(worker, "parts", parts)
    async with worker.working(temporal, None, WorkerSettings(shutdown_grace_s=20.0)):  # type: ignore[arg-type]
        handles = [await temporal.start_workflow(Works.run, queue, id=queue, task_queue=queue) for queue in queues]
        async with asyncio.timeout(20):
            while not _begun >= set(queues):
                await asyncio.sleep(0.02)
    for handle in handles:
        kinds = [event.WhichOneof("attributes") async for event in handle.fetch_history_events()]
        assert "activity_task_completed_event_attributes" in kinds
        await handle.terminate()
