"""Temporal's Schedules, as the parts declare them: made and raised when a worker starts, by whichever worker is first.

Every schedule remembers the revision of the suite that wrote it. A worker raises what is older, leaves what is of its
own revision as people have left it, and touches nothing once a newer worker has been here.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Memo, Payload, WorkflowType
from temporalio.api.enums.v1 import ScheduleOverlapPolicy
from temporalio.api.schedule.v1 import IntervalSpec, ScheduleAction, SchedulePolicies, ScheduleSpec
from temporalio.api.schedule.v1 import Schedule as ScheduleProto
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import NewWorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    CreateScheduleRequest,
    DeleteScheduleRequest,
    DescribeScheduleRequest,
    ListSchedulesRequest,
    UpdateScheduleRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from services.kit.telemetry import get_logger
from services.kit.temporal import RPC_TIMEOUT
from workflows.part import Part, Schedule

REVISION: Final = 1
"""Raised by one with a release in which any schedule differs from the release before."""

PREFIX: Final = "purse."
"""Schedules whose id begins so are ours, and go when nothing declares them any more."""

_REVISION_KEY: Final = "revision"
_ABOUT_KEY: Final = "about"
_TRIES: Final = 10
_PAGE: Final = 1000
_REST_S: Final = 1.0
_REST_MAX_S: Final = 60.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    schedule: ScheduleProto
    conflict_token: bytes
    revision: int


async def keep(client: Client, parts: Sequence[Part]) -> None:
    """Makes Temporal's schedules what the parts declare; tries again until Temporal has answered.

    A namespace that lets this worker make none, or a server that knows none, is told of and left.
    """
    rest_s = _REST_S
    while True:
        try:
            await ensure(client, parts)
        except RPCError as error:
            if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED):
                _log.warning("schedules must be made by an operator", error=str(error)[:200])
                return
            _log.warning("schedules are tried again", error=str(error)[:200], after_s=rest_s)
            await asyncio.sleep(rest_s)
            rest_s = min(2 * rest_s, _REST_MAX_S)
        else:
            return


async def ensure(client: Client, parts: Sequence[Part], revision: int = REVISION) -> None:
    """Creates what is missing, raises what is of an older revision, and deletes what nothing declares any more.

    Raises:
        RPCError: Temporal is out of reach, or refuses.
    """
    wanted = {PREFIX + one.name: (part.task_queue, one) for part in parts for one in part.schedules}
    found = {}
    for schedule_id in {*wanted, *[one async for one in _listed(client)]}:
        if one := await _describe(client, schedule_id):
            found[schedule_id] = one
    newest = max((one.revision for one in found.values()), default=0)
    if newest > revision:
        _log.warning("a newer worker made the schedules; they are left as they are", theirs=newest, ours=revision)
        return
    for schedule_id, (task_queue, schedule) in wanted.items():
        await _settle(
            client, schedule_id, await _proto(client, task_queue, schedule, revision), schedule.about, revision
        )
    for schedule_id in sorted(found.keys() - wanted.keys()):
        # Asked again: a newer worker may have taken it over meanwhile.
        one = await _describe(client, schedule_id)
        if one is not None and one.revision < revision:
            await _delete(client, schedule_id)
        elif one is not None and one.revision == revision:
            _log.warning("nothing declares this schedule; it is left until the revision rises", schedule=schedule_id)


def facts(schedule: ScheduleProto) -> Mapping[str, str]:
    """What a schedule does, by name, in words that compare."""
    spec, policies, action = schedule.spec, schedule.policies, schedule.action.start_workflow
    other = [*spec.structured_calendar, *spec.calendar, *spec.cron_string, *spec.exclude_structured_calendar]
    return {
        "intervals": ", ".join(f"{one.interval.ToTimedelta()} + {one.phase.ToTimedelta()}" for one in spec.interval),
        "calendars": " ".join(str(one) for one in other),
        "jitter": str(spec.jitter.ToTimedelta()),
        "overlap": ScheduleOverlapPolicy.Name(policies.overlap_policy),
        "catch_up": str(policies.catchup_window.ToTimedelta()),
        "workflow": action.workflow_type.name,
        "task_queue": action.task_queue.name,
        "input": " ".join(one.data.decode(errors="replace") for one in action.input.payloads),
        "timeout": str(action.workflow_execution_timeout.ToTimedelta()),
        "summary": action.user_metadata.summary.data.decode(errors="replace"),
    }


async def _settle(client: Client, schedule_id: str, wanted: ScheduleProto, about: str, revision: int) -> None:
    """One schedule. What is written is read again: Temporal takes an update and drops it where another was faster."""
    wrote = ""
    for _ in range(_TRIES):
        found = await _describe(client, schedule_id)
        if found is None:
            await _create(client, schedule_id, wanted, about)
            wrote = "created a schedule"
        elif found.revision < revision:
            await _update(client, schedule_id, found, wanted)
            wrote = "raised a schedule"
        else:
            _tell(schedule_id, found, wanted, revision, wrote)
            return
    raise RPCError(f"{schedule_id} was changed by others {_TRIES} times", RPCStatusCode.ABORTED, b"")


def _tell(schedule_id: str, found: _Found, wanted: ScheduleProto, revision: int, wrote: str) -> None:
    if wrote:
        _log.info(wrote, schedule=schedule_id, revision=found.revision)
    theirs = facts(found.schedule)
    differs = {
        name: f"{theirs[name]} instead of {value}" for name, value in facts(wanted).items() if theirs[name] != value
    }
    if found.revision == revision and differs:
        _log.warning(
            "a schedule was edited by hand; it is left until the revision rises", schedule=schedule_id, **differs
        )


async def _proto(client: Client, task_queue: str, schedule: Schedule, revision: int) -> ScheduleProto:
    values = [schedule.argument, schedule.about, _details(schedule), revision]
    argument, summary, details, number = await client.data_converter.encode(values)
    start = NewWorkflowExecutionInfo(
        workflow_id=schedule.name,
        workflow_type=WorkflowType(name=schedule.workflow),
        task_queue=TaskQueue(name=task_queue),
        workflow_execution_timeout=_duration(schedule.timeout),
        memo=Memo(fields={_REVISION_KEY: number}),
        user_metadata=UserMetadata(summary=summary, details=details),
    )
    start.input.payloads.append(argument)
    return ScheduleProto(
        spec=ScheduleSpec(
            interval=[IntervalSpec(interval=_duration(schedule.every), phase=_duration(schedule.offset))],
            jitter=_duration(schedule.jitter),
        ),
        action=ScheduleAction(start_workflow=start),
        policies=SchedulePolicies(
            overlap_policy=ScheduleOverlapPolicy.SCHEDULE_OVERLAP_POLICY_SKIP,
            catchup_window=_duration(schedule.catch_up),
        ),
    )


def _details(schedule: Schedule) -> str:
    return (
        f"{schedule.about}.\n\nStarted by the schedule `{PREFIX}{schedule.name}`, every {schedule.every}, and at any "
        "time by hand: a run more, less or late harms nothing. What it cannot do is left to the next one."
    )


def _duration(value: timedelta) -> Duration:
    made = Duration()
    made.FromTimedelta(value)
    return made


async def _describe(client: Client, schedule_id: str) -> _Found | None:
    request = DescribeScheduleRequest(namespace=client.namespace, schedule_id=schedule_id)
    try:
        # Tried again: a schedule answers few at once, and workers start together.
        answer = await client.workflow_service.describe_schedule(request, retry=True, timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    # An edit by the command line leaves the action without its memo; then the schedule's own tells who created it.
    ours = answer.schedule.action.start_workflow.memo.fields.get(_REVISION_KEY) or answer.memo.fields.get(_REVISION_KEY)
    return _Found(answer.schedule, answer.conflict_token, await _number(client, ours))


async def _number(client: Client, payload: Payload | None) -> int:
    if payload is None:
        return 0
    try:
        (value,) = await client.data_converter.decode([payload])
    except (LookupError, RuntimeError, ValueError):
        # Whatever wrote this, it was no worker: as if it were not there.
        return 0
    return value if isinstance(value, int) else 0


async def _create(client: Client, schedule_id: str, wanted: ScheduleProto, about: str) -> None:
    words = (await client.data_converter.encode([about]))[0]
    memo = Memo(fields={**wanted.action.start_workflow.memo.fields, _ABOUT_KEY: words})
    request = CreateScheduleRequest(
        namespace=client.namespace,
        schedule_id=schedule_id,
        schedule=wanted,
        memo=memo,
        identity=client.identity,
        request_id=str(uuid.uuid4()),
    )
    try:
        await client.workflow_service.create_schedule(request, timeout=RPC_TIMEOUT)
    except RPCError as error:
        # Another worker was faster.
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise


async def _update(client: Client, schedule_id: str, found: _Found, wanted: ScheduleProto) -> None:
    """Spec, policies and action become ours; what people set (paused, the note, actions left) stays."""
    schedule = ScheduleProto()
    schedule.CopyFrom(wanted)
    schedule.state.CopyFrom(found.schedule.state)
    request = UpdateScheduleRequest(
        namespace=client.namespace,
        schedule_id=schedule_id,
        schedule=schedule,
        conflict_token=found.conflict_token,
        identity=client.identity,
        request_id=str(uuid.uuid4()),
    )
    await client.workflow_service.update_schedule(request, timeout=RPC_TIMEOUT)


async def _delete(client: Client, schedule_id: str) -> None:
    request = DeleteScheduleRequest(namespace=client.namespace, schedule_id=schedule_id, identity=client.identity)
    try:
        await client.workflow_service.delete_schedule(request, timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    _log.info("deleted a schedule that nothing declares any more", schedule=schedule_id)


async def _listed(client: Client) -> AsyncIterator[str]:
    token = b""
    while True:
        answer = await client.workflow_service.list_schedules(
            ListSchedulesRequest(namespace=client.namespace, maximum_page_size=_PAGE, next_page_token=token),
            timeout=RPC_TIMEOUT,
        )
        for one in answer.schedules:
            if one.schedule_id.startswith(PREFIX):
                yield one.schedule_id
        token = answer.next_page_token
        if not token:
            return
