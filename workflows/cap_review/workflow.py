"""The RechargeCapReview workflow. It reminds people daily, and passes their decision on to the wallet.

It decides nothing: the wallet service keeps the review, whoever decides it and by which way. A workflow that is lost,
or started twice, loses and repeats nothing.
"""

from datetime import datetime, timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from workflows.cap_review import types
    from workflows.cap_review.types import Decide, Decision, ReviewInput, Snapshot, Tell
    from workflows.deciding import carried
    from workflows.shown import Shown, back_off_s, facts

T = TypeVar("T")

_ACTIVITY_TIMEOUT = timedelta(seconds=60)
_ACTIVITY_PATIENCE = timedelta(minutes=5)
# Activities beat every second; one whose worker was killed is given to another soon.
_HEARTBEAT_TIMEOUT = timedelta(seconds=8)
_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30), maximum_attempts=5)
_REMIND_EVERY = timedelta(days=1)
# The wallet ends a review whose month is over, and says so; should that be lost, this looks again.
_AFTER_THE_END = timedelta(minutes=5)
_REST_AFTER_FAILURE_S = 5.0
_REST_AFTER_FAILURE_MAX_S = 600.0
_SHOWN = {"OPEN": "WAITING"}


@workflow.defn(name=types.WORKFLOW)
class RechargeCapReview:
    """One review of caps, until it is decided or its month is over."""

    @workflow.init
    def __init__(self, given: ReviewInput) -> None:
        self._review = given.review
        self._told = given.told
        self._woken = False
        self._deciding = False
        self._failures = 0
        self._shown = Shown("Asking the wallet service what there is to decide.")
        self._snapshot: Snapshot | None = None

    @workflow.run
    async def run(self, given: ReviewInput) -> Snapshot:  # noqa: ARG002 - read by __init__, before any update
        """Waits until the review has ended; returns what became of it."""
        while True:
            self._woken = False
            try:
                snapshot = await self._look()
                rest = await self._tell(snapshot)
                self._failures = 0
            except ActivityError as error:
                snapshot, rest = None, self._after_failure(error)
            if snapshot is not None and snapshot.state != types.OPEN:
                await workflow.wait_condition(workflow.all_handlers_finished)
                return snapshot
            await self._rest(rest)
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(ReviewInput(self._review, self._told))

    @workflow.signal(name=types.WAKE)
    def wake(self, why: str) -> None:  # noqa: ARG002 - for people who read the history
        """Something has changed: look again at once."""
        self._woken = True

    @workflow.query(name=types.STATUS)
    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._shown.status()

    @workflow.update(name=types.DECIDE)
    async def decide(self, decision: Decision) -> Snapshot:
        """Decides the review; returns it as it is then.

        Raises:
            ApplicationError: The wallet service refuses it; the type is its reason, such as REVIEW_ENDED. Or
                DECISION_UNKNOWN.
        """
        self._deciding = True
        try:
            ask = Decide(self._review, str(workflow.uuid4()), decision)
            what = "Keep the caps as they are" if decision.keep_paused else "Allow more recharges"
            snapshot = await carried(types.DECISION, ask, Snapshot, attempt_timeout=_ACTIVITY_TIMEOUT, summary=what)
        finally:
            self._deciding = False
            self._woken = True
        self._show(snapshot)
        return snapshot

    @decide.validator
    def _may_decide(self, decision: Decision) -> None:
        """Refuses a decision that cannot be one, before it is in the history."""
        if self._snapshot is not None and self._snapshot.state != types.OPEN:
            raise _refused("REVIEW_ENDED", f"it is {self._snapshot.state} already: {self._snapshot.reason}")
        if self._deciding:
            raise _refused("DECISION_UNDER_WAY", "somebody's decision is on its way; look again in a moment")
        if decision.role not in types.ROLES:
            raise _refused("ROLE_MISSING", f"role must be one of {', '.join(types.ROLES)}, not {decision.role[:32]!r}")
        for field, text, most in (
            ("by", decision.by, types.BY_CHARS_MAX),
            ("reason", decision.reason, types.REASON_CHARS_MAX),
        ):
            if not 0 < len(text) <= most:
                raise _refused("INVALID_ARGUMENT", f"{field} is required, at most {most} characters")
        allows = bool(decision.extra_count or decision.extra_amount)
        if decision.keep_paused == allows:
            raise _refused("INVALID_ARGUMENT", "say either keep_paused, or extra_count and extra_amount")
        if not 0 <= decision.extra_count <= types.COUNT_MAX:
            raise _refused("INVALID_ARGUMENT", f"extra_count is at most {types.COUNT_MAX}")

    async def _look(self) -> Snapshot:
        snapshot = await self._do(types.LOOK, self._review, Snapshot, "How does the review stand?")
        self._show(snapshot)
        return snapshot

    async def _tell(self, snapshot: Snapshot) -> timedelta:
        """Tells people what they were not told yet; returns how long to rest."""
        now = workflow.now()
        if snapshot.state != types.OPEN:
            await self._publish(snapshot, "recharge.cap_review_ended", "ended")
            return timedelta(0)
        created = datetime.fromisoformat(snapshot.created_at)
        # By the day and not by a count, so that a workflow that is started again repeats nobody.
        day = max(0, (now - created) // _REMIND_EVERY)
        # The first day's word is the wallet's own, written with the review.
        if day and self._told < day:
            await self._publish(snapshot, "recharge.cap_reminder", f"day-{day}")
            self._told = day
        month_end = datetime.fromisoformat(snapshot.month_end)
        if now >= month_end:
            return _AFTER_THE_END
        return min(created + (day + 1) * _REMIND_EVERY, month_end + timedelta(seconds=1)) - now

    async def _publish(self, snapshot: Snapshot, kind: str, key: str) -> None:
        tell = Tell(snapshot, kind, f"{self._review}/{key}")
        try:
            await self._do(types.TELL, tell, None, f"Tell people: {kind}")
        except ActivityError as error:
            # What can never be told must not keep the review from going on.
            if not isinstance(error.cause, ApplicationError) or not error.cause.non_retryable:
                raise
            workflow.logger.warning("people could not be told of %s: %s", tell.key, error.cause)

    async def _do(self, name: str, argument: object, kind: type[T] | None, summary: str) -> T:
        result: T = await workflow.execute_activity(
            name,
            argument,
            result_type=kind,
            start_to_close_timeout=_ACTIVITY_TIMEOUT,
            schedule_to_close_timeout=_ACTIVITY_PATIENCE,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT,
            retry_policy=_RETRY,
            summary=summary,
        )
        return result

    async def _rest(self, rest: timedelta) -> None:
        """Waits for a signal or a decision, at most so long."""
        try:
            await workflow.wait_condition(
                lambda: self._woken, timeout=max(timedelta(seconds=1), rest), timeout_summary="Remind people"
            )
        except TimeoutError:
            return

    def _after_failure(self, error: ActivityError) -> timedelta:
        cause = error.cause
        if isinstance(cause, ApplicationError) and cause.type == types.REVIEW_UNKNOWN:
            raise ApplicationError(
                f"{self._review} is unknown to the wallet service", type=cause.type, non_retryable=True
            ) from error
        rest_s = back_off_s(self._failures, _REST_AFTER_FAILURE_S, _REST_AFTER_FAILURE_MAX_S)
        self._failures += 1
        self._shown.write(
            f"{self._shown.text}\n\n{error.activity_type} did not work: {cause or error}. It is tried again."
        )
        return timedelta(seconds=rest_s)

    def _show(self, snapshot: Snapshot) -> None:
        """Keeps what a person sees in Temporal's UI true."""
        self._snapshot = snapshot
        state = _SHOWN.get(snapshot.state, snapshot.state)
        self._shown.show(state, f"**{state}** · {_sentence(snapshot)}\n\n{_facts(snapshot)}")


def _refused(kind: str, message: str) -> ApplicationError:
    return ApplicationError(message, type=kind, non_retryable=True)


def _sentence(snapshot: Snapshot) -> str:
    match snapshot.state:
        case types.OPEN:
            return (
                f"The {snapshot.cap} of {snapshot.month} has stopped a recharge of {snapshot.charge}. "
                f"Nothing is charged by itself until somebody allows more, or the month ends on {snapshot.month_end}."
            )
        case "ALLOWED":
            return f"{snapshot.decided_by} allowed more: {snapshot.reason}."
        case "KEPT_PAUSED":
            return f"{snapshot.decided_by} kept the caps as they are: {snapshot.reason}."
    return f"Nobody needs to decide any more: {snapshot.reason}."


def _facts(snapshot: Snapshot) -> str:
    rows = [
        ("Wallet", snapshot.wallet),
        (f"Recharged in {snapshot.month}", snapshot.recharged),
        (f"Spent in {snapshot.month}", snapshot.spent),
        ("Balance", snapshot.balance),
        ("Allowed", snapshot.extra),
    ]
    return facts(rows)
