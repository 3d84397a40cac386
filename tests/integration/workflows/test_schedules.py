"""Schedules on a real Temporal: made once, raised by newer workers only, and otherwise left to people."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    ScheduleActionStartWorkflow,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from workflows import schedules
from workflows.part import Part, Schedule


@dataclasses.dataclass
class Argument:
    shard: int


HOURLY = Schedule(
    name="count",
    workflow="Count",
    argument=Argument(3),
    about="Counts the sheep",
    every=timedelta(hours=1),
    offset=timedelta(minutes=7),
    jitter=timedelta(minutes=5),
    timeout=timedelta(hours=2),
)
DAILY = dataclasses.replace(HOURLY, name="shear", every=timedelta(days=1))


def declared(*wanted: Schedule) -> list[Part]:
    return [Part(task_queue="schedules", workflows=[], activities=[], schedules=wanted)]


@pytest.fixture
async def client(temporal: Client) -> AsyncIterator[Client]:
    await _clear(temporal)
    yield temporal
    await _clear(temporal)


async def _clear(client: Client) -> None:
    for one in await _ids(client):
        await client.get_schedule_handle(one).delete()
    await until_listed(client, set())


async def _ids(client: Client) -> set[str]:
    return {one.id async for one in await client.list_schedules() if one.id.startswith(schedules.PREFIX)}


async def until_listed(client: Client, wanted: set[str]) -> None:
    """Temporal's list follows what is true a little later."""
    async with asyncio.timeout(20):
        while await _ids(client) != wanted:
            await asyncio.sleep(0.02)


async def described(client: Client, name: str = "count") -> ScheduleDescription:
    return await client.get_schedule_handle(f"purse.{name}").describe()


async def is_gone(client: Client, name: str) -> bool:
    try:
        await described(client, name)
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    return False


def interval(found: ScheduleDescription) -> tuple[timedelta, timedelta | None]:
    (one,) = found.schedule.spec.intervals
    return one.every, one.offset


async def edit(client: Client, every: timedelta) -> None:
    def change(given: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = given.description.schedule
        schedule.spec.intervals = [ScheduleIntervalSpec(every=every)]
        return ScheduleUpdate(schedule)

    await client.get_schedule_handle("purse.count").update(change)


async def test_a_revision_that_nobody_can_read_keeps_no_schedule_from_being_made(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY))

    def change(given: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = given.description.schedule
        assert isinstance(schedule.action, ScheduleActionStartWorkflow)
        schedule.action.memo = {"revision": Payload(metadata={"encoding": b"binary/strange"}, data=b"?")}
        schedule.spec.intervals = [ScheduleIntervalSpec(every=timedelta(days=2))]
        return ScheduleUpdate(schedule)

    await client.get_schedule_handle("purse.count").update(change)
    await schedules.ensure(client, declared(HOURLY, DAILY))
    assert interval(await described(client)) == (timedelta(hours=1), timedelta(minutes=7))
    assert interval(await described(client, "shear"))[0] == timedelta(days=1)


async def test_a_schedule_is_created_as_declared_and_only_once(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY))
    found = await described(client)
    assert interval(found) == (timedelta(hours=1), timedelta(minutes=7))
    assert found.schedule.spec.jitter == timedelta(minutes=5)
    assert found.schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert found.schedule.policy.catchup_window == timedelta(minutes=10)
    told = found.raw_description.schedule.action.start_workflow.user_metadata
    assert b"Counts the sheep" in told.summary.data
    assert b"purse.count" in told.details.data
    assert await found.memo() == {"revision": schedules.REVISION, "about": "Counts the sheep"}

    with capture_logs() as logs:
        await schedules.ensure(client, declared(HOURLY))
    assert logs == []
    assert (await described(client)).info.created_at == found.info.created_at


async def test_a_newer_worker_raises_and_deletes(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY, DAILY), revision=1)
    await until_listed(client, {"purse.count", "purse.shear"})
    changed = dataclasses.replace(HOURLY, every=timedelta(minutes=30), argument=Argument(4))
    await schedules.ensure(client, declared(changed), revision=2)
    found = await described(client)
    assert interval(found)[0] == timedelta(minutes=30)
    assert b'"shard":4' in found.raw_description.schedule.action.start_workflow.input.payloads[0].data
    assert await is_gone(client, "shear")


async def test_an_older_worker_changes_creates_and_deletes_nothing(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY), revision=2)
    older = dataclasses.replace(HOURLY, every=timedelta(minutes=30))
    with capture_logs() as logs:
        await schedules.ensure(client, declared(older, DAILY), revision=1)
    assert [one["event"] for one in logs] == ["a newer worker made the schedules; they are left as they are"]
    assert interval(await described(client))[0] == timedelta(hours=1)
    assert await is_gone(client, "shear")


async def test_an_edit_by_hand_is_told_and_stays_until_the_revision_rises(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY), revision=1)
    await edit(client, timedelta(hours=6))
    with capture_logs() as logs:
        await schedules.ensure(client, declared(HOURLY), revision=1)
    (said,) = logs
    assert said["event"].startswith("a schedule was edited by hand")
    assert said["intervals"] == "6:00:00 + 0:00:00 instead of 1:00:00 + 0:07:00"
    assert interval(await described(client))[0] == timedelta(hours=6)

    await schedules.ensure(client, declared(HOURLY), revision=2)
    assert interval(await described(client))[0] == timedelta(hours=1)


async def test_an_edit_that_lost_the_revision_is_one_of_the_revision_that_made_the_schedule(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY), revision=1)

    def change(given: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = given.description.schedule
        assert isinstance(schedule.action, ScheduleActionStartWorkflow)
        schedule.action.memo = None
        schedule.spec.intervals = [ScheduleIntervalSpec(every=timedelta(hours=6))]
        return ScheduleUpdate(schedule)

    await client.get_schedule_handle("purse.count").update(change)
    await schedules.ensure(client, declared(HOURLY), revision=1)
    assert interval(await described(client))[0] == timedelta(hours=6)
    await schedules.ensure(client, declared(HOURLY), revision=2)
    assert interval(await described(client))[0] == timedelta(hours=1)


async def test_a_worker_that_read_before_a_newer_one_wrote_changes_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await schedules.ensure(client, declared(HOURLY), revision=1)
    update = schedules._update

    async def slow(*arguments: Any) -> None:
        monkeypatch.setattr(schedules, "_update", update)
        await schedules.ensure(client, declared(dataclasses.replace(HOURLY, every=timedelta(hours=3))), revision=3)
        await update(*arguments)

    monkeypatch.setattr(schedules, "_update", slow)
    await schedules.ensure(client, declared(dataclasses.replace(HOURLY, every=timedelta(hours=2))), revision=2)
    assert interval(await described(client))[0] == timedelta(hours=3)


async def test_what_a_person_paused_stays_paused_with_its_note(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY), revision=1)
    await client.get_schedule_handle("purse.count").pause(note="the auditors are here")
    await schedules.ensure(client, declared(HOURLY), revision=1)
    await schedules.ensure(client, declared(dataclasses.replace(HOURLY, every=timedelta(days=1))), revision=2)
    found = await described(client)
    assert interval(found)[0] == timedelta(days=1)
    assert found.schedule.state.paused
    assert found.schedule.state.note == "the auditors are here"


async def test_a_schedule_that_was_deleted_by_hand_comes_back(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY))
    await client.get_schedule_handle("purse.count").delete()
    await schedules.ensure(client, declared(HOURLY))
    assert interval(await described(client))[0] == timedelta(hours=1)


async def test_what_this_revision_does_not_declare_is_left(client: Client) -> None:
    await schedules.ensure(client, declared(HOURLY, DAILY), revision=1)
    await until_listed(client, {"purse.count", "purse.shear"})
    await schedules.ensure(client, declared(HOURLY), revision=1)
    assert not await is_gone(client, "shear")


@pytest.mark.parametrize("there", [False, True])
async def test_of_workers_that_start_at_once_the_newest_wins(client: Client, there: bool) -> None:
    if there:
        await schedules.ensure(client, declared(HOURLY), revision=1)
    versions = [
        (revision, dataclasses.replace(HOURLY, every=timedelta(hours=revision))) for revision in (2, 4, 3, 4, 2)
    ]
    await asyncio.gather(*(schedules.ensure(client, declared(one), revision=revision) for revision, one in versions))
    assert interval(await described(client))[0] == timedelta(hours=4)
