"""What the parts declare fits together."""

from typing import Any, cast

from pydantic import SecretStr

from workflows import worker
from workflows.services import reaching
from workflows.settings import WorkerSettings


async def test_every_schedule_starts_a_workflow_of_its_own_part() -> None:
    async with reaching(WorkerSettings(stripe_api_key=SecretStr("sk_test_nobody"))) as services:
        parts = worker.parts(services)
    names = []
    for part in parts:
        known = {one.__temporal_workflow_definition.name for one in cast("list[Any]", part.workflows)}
        for schedule in part.schedules:
            assert schedule.workflow in known
            assert schedule.jitter < schedule.every
            assert schedule.timeout.total_seconds() > 0
            names.append(schedule.name)
    assert len(names) == len(set(names))
    assert {"month-close", "reconcile", "report-expiries", "report-leases", "report-recharges"} <= set(names)
