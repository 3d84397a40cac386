"""Metering is killed while it records and relays: what was acknowledged is there once, here and at the receiver."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from embedded.ports import free_ports
from tests.support.databases import Database
from tests.support.metering import FakeBudget, running_budget
from tests.support.metering_process import MeteringProcesses, Sending
from tests.support.waiting import until

KILLS = 3


async def test_what_was_acknowledged_is_there_once(database: Callable[[str], Database], tmp_path: Path) -> None:
    made = database("metering")
    port, metrics_port = free_ports(2)
    budget = FakeBudget()
    sending = Sending(60)
    async with running_budget(budget) as budget_address:
        processes = MeteringProcesses.make(made, tmp_path, budget_address, PURSE_RELAY_BATCH_MAX="7")
        task = asyncio.create_task(sending.run(f"127.0.0.1:{port}", processes.token))
        for kill in range(1, KILLS + 1):
            async with processes.start(port, metrics_port) as pid:
                mark = kill * sending.events // (KILLS + 1)
                await until(lambda: len(sending.acknowledged) >= mark or task.done(), what="progress")  # noqa: B023 - awaited here
                budget.lose_answers = 1
                os.kill(pid, signal.SIGKILL)
        async with processes.start(port, metrics_port):
            await task
            await until(lambda: len(budget.applied) == sending.events, what="delivery")
    await sending.check(made)
    assert {id_ for _, id_ in budget.applied} == sending.acknowledged
