"""The Approval workflow. It decides nothing: it asks the budget service what is due, waits, and carries decisions.

All that it needs is the approval's name, so a history that is lost, or started twice, loses and repeats nothing.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from services.kit import approvals
    from workflows.approval import types
    from workflows.approval.types import ApprovalInput, Cancel, Decide, Progress, Settle, Snapshot
    from workflows.deciding import carried
    from workflows.shown import Shown, back_off_s, facts

T = TypeVar("T")

_ACTIVITY_TIMEOUT = timedelta(seconds=30)
_ACTIVITY_PATIENCE = timedelta(minutes=2)
_HEARTBEAT_TIMEOUT = timedelta(seconds=8)
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=10),
    maximum_attempts=5,
)
_REST_AFTER_FAILURE_S = 2.0
_REST_AFTER_FAILURE_MAX_S = 300.0
_REST_MIN_S = 1.0


@workflow.defn(name=types.WORKFLOW)
class Approval:
    """One approval, from its request until it is decided, has expired or is canceled."""

    @workflow.init
    def __init__(self, given: ApprovalInput) -> None:
        self._given = given
        self._cancel_reason = given.cancel_reason
        self._woken = False
        self._failures = 0
        self._decided = approvals.PENDING
        self._shown = Shown("Asking the budget service what is due.")
        self._snapshot: Snapshot | None = None

    @workflow.run
    async def run(self, given: ApprovalInput) -> Snapshot:  # noqa: ARG002 - read by __init__, before any update
        """Moves the approval until it has ended; returns what became of it."""
        drive = asyncio.create_task(self._drive())
        while True:
            try:
                return await asyncio.shield(drive)
            except asyncio.CancelledError:
                # Cancel in Temporal's UI means that nobody wants it any more.
                self._cancel_reason = "canceled in Temporal"
                self._woken = True

    @workflow.signal(name=types.WAKE)
    def wake(self, why: str) -> None:  # noqa: ARG002 - for people who read the history
        """Something has changed: look again at once."""
        self._woken = True

    @workflow.query(name=types.STATUS)
    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._shown.status()

    @workflow.update(name=types.DECIDE)
    async def decide(self, given: Decide) -> Snapshot:
        """Approves or denies, on behalf of a person; returns what became of it.

        Raises:
            ApplicationError: The budget service refuses it; the type is its reason, such as PAUSED. Or
                DECISION_UNKNOWN.
        """
        update = workflow.current_update_info()
        ask = Settle(
            self._given.approval, given.verdict, given.decided_by.strip(), given.reason, update.id if update else ""
        )
        snapshot = await carried(
            types.SETTLE,
            ask,
            Snapshot,
            attempt_timeout=_ACTIVITY_TIMEOUT,
            summary=approvals.summary(f"{given.decided_by} says {given.verdict}: decide in budget"),
        )
        self._decided = snapshot.state
        self._woken = True
        return snapshot

    @decide.validator
    def check_decision(self, given: Decide) -> None:
        """Refuses what cannot be decided so, before anything of it is written."""
        refusal = approvals.refuse(
            self._decided, self._given.requested_by, given.decided_by.strip(), [given.role.lower()]
        )
        if refusal is not None:
            raise ApplicationError(refusal.message, type=refusal.reason, non_retryable=True)
        if given.verdict not in types.VERDICTS:
            raise ApplicationError("verdict: is APPROVE or DENY", type="INVALID_ARGUMENT", non_retryable=True)
        if not 0 < len(given.reason.strip()) <= approvals.REASON_CHARS_MAX:
            raise ApplicationError(
                f"reason: must be 1 to {approvals.REASON_CHARS_MAX} characters; whoever asked reads it",
                type="INVALID_ARGUMENT",
                non_retryable=True,
            )

    async def _drive(self) -> Snapshot:
        while True:
            self._woken = False
            try:
                progress = await self._step()
                self._failures = 0
            except ActivityError as error:
                await self._rest(self._after_failure(error))
                continue
            if progress.must_allow:
                continue
            self._decided = progress.snapshot.state
            if progress.snapshot.state != approvals.PENDING:
                self._show_end(progress.snapshot)
                await workflow.wait_condition(workflow.all_handlers_finished)
                return progress.snapshot
            rest_s = progress.next_at_s - workflow.now().timestamp()
            self._show_waiting(progress)
            await self._rest(max(_REST_MIN_S, rest_s))
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                given = self._given
                workflow.continue_as_new(
                    ApprovalInput(given.approval, given.requested_by, given.what, given.expires_at, self._cancel_reason)
                )

    async def _step(self) -> Progress:
        """One move; returns the approval after it and what is due next."""
        approval = self._given.approval
        if self._cancel_reason:
            ask = Cancel(approval, self._cancel_reason)
            return Progress(await self._do(types.CANCEL, ask, Snapshot, "Cancel it, and give back what it holds"))
        progress = await self._do(
            types.ADVANCE, approval, Progress, "Do what is due: keep the hold, remind, escalate, expire"
        )
        self._snapshot = progress.snapshot
        if progress.must_allow:
            self._show("ALLOWING", f"{progress.snapshot.decided_by} approved; the wallet is asked.")
            await self._do(types.ALLOW, approval, str, "Ask the wallet for more recharges, and note the outcome")
        return progress

    async def _do(self, name: str, argument: object, kind: type[T], summary: str) -> T:
        result: T = await workflow.execute_activity(
            name,
            argument,
            result_type=kind,
            start_to_close_timeout=_ACTIVITY_TIMEOUT,
            schedule_to_close_timeout=_ACTIVITY_PATIENCE,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT,
            retry_policy=_RETRY,
            summary=approvals.summary(summary),
        )
        return result

    async def _rest(self, rest_s: float) -> None:
        """Waits for a signal or a decision, at most so long."""
        if self._woken:
            return
        try:
            await workflow.wait_condition(
                lambda: self._woken, timeout=timedelta(seconds=rest_s), timeout_summary="Until something is due"
            )
        except TimeoutError:
            return

    def _after_failure(self, error: ActivityError) -> float:
        cause = error.cause
        if isinstance(cause, ApplicationError) and cause.type == types.APPROVAL_UNKNOWN:
            raise ApplicationError(
                f"{self._given.approval} is unknown to the budget service", type=cause.type, non_retryable=True
            ) from error
        if isinstance(cause, ApplicationError) and cause.type == "APPROVAL_DECIDED":
            # A wish to cancel came too late.
            self._cancel_reason = ""
        rest_s = back_off_s(self._failures, _REST_AFTER_FAILURE_S, _REST_AFTER_FAILURE_MAX_S)
        self._failures += 1
        self._show("WAITING", f"{error.activity_type} did not work: {cause or error}. It is tried again.")
        return rest_s

    def _show_waiting(self, progress: Progress) -> None:
        snapshot = progress.snapshot
        self._snapshot = snapshot
        state = "ESCALATED" if snapshot.escalations else "REMINDED" if snapshot.reminders else "PENDING"
        at = datetime.fromtimestamp(progress.next_at_s, UTC)
        self._show(state, f"Waits for somebody to decide. Next look at {at:%Y-%m-%d %H:%M:%S} UTC.")

    def _show_end(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        who = f" by {snapshot.decided_by}" if snapshot.decided_by else ""
        self._show(snapshot.state, f"{snapshot.state.capitalize()}{who}: {snapshot.reason or 'no reason given'}.")

    def _show(self, state: str, text: str) -> None:
        """Keeps what a person sees in Temporal's UI true."""
        lines = [f"**{state}** · {self._given.what or self._given.approval}", text]
        if self._snapshot is not None:
            lines.append(_facts(self._snapshot, self._given.expires_at))
        self._shown.show(state, "\n\n".join(lines))


def _facts(snapshot: Snapshot, expires_at: str) -> str:
    rows: list[tuple[str, object]] = [
        ("Approval", snapshot.approval),
        ("Asked by", snapshot.requested_by),
        ("Why", snapshot.justification),
        ("Urgency", snapshot.urgency),
        ("Expires", expires_at if snapshot.state == approvals.PENDING else ""),
        ("Told last", f"subscribers of {snapshot.told}" if snapshot.told else ""),
        ("Reminders", snapshot.reminders),
        ("Escalations", snapshot.escalations),
        ("Trouble", snapshot.trouble),
        ("Outcome", snapshot.outcome),
    ]
    return facts(rows)
