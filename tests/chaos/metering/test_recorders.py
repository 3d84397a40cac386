"""Batches recorded by processes of their own: the answers are the same, and whoever is killed, nothing is lost."""

import asyncio
import os
import re
import signal
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from embedded.ports import free_ports
from pursestrings.metering.v1 import metering_pb2, metering_pb2_grpc
from pursestrings.type.v1 import type_pb2
from services.kit.channel import channel
from services.kit.status import from_rpc_error
from tests.support.databases import Database
from tests.support.metering import FakeBudget, running_budget, usage_event
from tests.support.metering_process import MeteringProcesses, Sending
from tests.support.waiting import until

RECORDERS = 2


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def commits(metrics_port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(r'^purse_group_commit_items_count\{group="record usage"\} (.*)$', text, re.M)))


async def test_a_killed_recorder_ends_its_service_and_loses_nothing(
    database: Callable[[str], Database], tmp_path: Path
) -> None:
    made = database("metering")
    port, metrics_port = free_ports(2)
    budget = FakeBudget()
    sending = Sending(40)
    async with running_budget(budget) as budget_address:
        processes = MeteringProcesses.make(made, tmp_path, budget_address, PURSE_RECORD_PROCESSES=str(RECORDERS))
        task = asyncio.create_task(sending.run(f"127.0.0.1:{port}", processes.token))
        for kill, victim in enumerate(("recorder", "service"), 1):
            async with processes.start(port, metrics_port) as pid:
                recorders = children_of(pid)
                assert len(recorders) == RECORDERS
                mark = kill * sending.events // 3
                await until(lambda: len(sending.acknowledged) >= mark or task.done(), what="progress")  # noqa: B023 - awaited here
                os.kill(recorders[0] if victim == "recorder" else pid, signal.SIGKILL)
                await until(lambda: not any(map(is_alive, (pid, *recorders))), what=f"the end of all by a {victim}'s")  # noqa: B023
        async with processes.start(port, metrics_port):
            await task
            await until(lambda: len(budget.applied) == sending.events, what="delivery")
    await sending.check(made)


async def test_recorders_answer_as_the_service_does(database: Callable[[str], Database], tmp_path: Path) -> None:
    port, metrics_port = free_ports(2)
    async with running_budget(FakeBudget()) as budget_address:
        processes = MeteringProcesses.make(database("metering"), tmp_path, budget_address, PURSE_RECORD_PROCESSES="1")
        async with processes.start(port, metrics_port) as pid, channel(f"127.0.0.1:{port}", processes.token) as opened:
            stub = metering_pb2_grpc.MeteringServiceStub(opened)
            events = [usage_event("a"), usage_event("b", subject="nonsense"), usage_event("a")]

            whole = await stub.BatchRecordUsage(metering_pb2.BatchRecordUsageRequest(events=events), timeout=10)
            again = metering_pb2.BatchRecordUsageRequest(events=events, errors_only=True)
            short = await stub.BatchRecordUsage(again, timeout=10)
            stream = stub.StreamUsage()
            await stream.write(metering_pb2.StreamUsageRequest(events=events))
            acknowledged = await anext(aiter(stream))
            stream.cancel()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.BatchRecordUsage(metering_pb2.BatchRecordUsageRequest(), timeout=10)
            # Who asks goes with what is asked: an agent neither says what a call cost nor records for others.
            agent = processes.keys.token("orgs/acme/agents/a", "agent")
            own, others = "orgs/acme/agents/a", "orgs/acme/agents/b"
            told = [
                usage_event("c", subject=own),
                usage_event("d", subject=others),
                usage_event("e", subject=own, cost=type_pb2.Money(currency_code="USD", amount_nanos=1)),
            ]
            async with channel(f"127.0.0.1:{port}", agent) as of_agent:
                agents = await metering_pb2_grpc.MeteringServiceStub(of_agent).BatchRecordUsage(
                    metering_pb2.BatchRecordUsageRequest(events=told, errors_only=True), timeout=10
                )

            assert [one.WhichOneof("result") for one in whole.results] == ["usage", "error", "usage"]
            assert [whole.results[0].usage.duplicate, whole.results[2].usage.duplicate] == [False, True]
            assert whole.results[0].usage.cost.amount_nanos > 0
            assert (acknowledged.recorded, acknowledged.duplicates) == (short.recorded, short.duplicates) == (2, 2)
            assert [(one.index, one.error) for one in short.errors] == [(1, whole.results[1].error)]
            assert list(acknowledged.errors) == list(short.errors)
            assert not short.results
            assert agents.recorded == 1
            assert [(one.index, one.error.code) for one in agents.errors] == [(1, 7), (2, 7)]
            assert from_rpc_error(refused.value).reason == "BATCH_TOO_LARGE"
            # All of it was one process's, and its figures are among the service's.
            assert commits(metrics_port) == 4
            recorders = children_of(pid)
        await until(lambda: not any(map(is_alive, recorders)), what="the end of the recorder")
