"""The Notify workflow. It sends nothing itself and remembers nothing: it lets the activity send, rests, and is woken.

All that it needs is the subscription's name and the channel, so a history that is lost loses nothing.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from workflows.notify import types
    from workflows.notify.types import Ask, NotifyInput, Progress
    from workflows.shown import Shown

_ACTIVITY_TIMEOUT = timedelta(minutes=5)
# Activities beat every second; one whose worker was killed is given to another soon.
_HEARTBEAT_TIMEOUT = timedelta(seconds=8)
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(minutes=1),
    non_retryable_error_types=[types.SUBSCRIPTION_UNKNOWN],
)


@workflow.defn(name=types.WORKFLOW)
class Notify:
    """One channel of one subscription, until nothing waits."""

    @workflow.init
    def __init__(self, given: NotifyInput) -> None:
        self._subscription = given.subscription
        self._channel = given.channel
        self._delivered = given.delivered
        self._dead = given.dead
        self._woken = False
        self._shown = Shown("Asking the budget service what waits.")

    @workflow.run
    async def run(self, given: NotifyInput) -> str:  # noqa: ARG002 - read by __init__, before any signal
        """Delivers until nothing waits; returns what was done, in words."""
        while True:
            # What was signalled before the activity asks is seen by it.
            self._woken = False
            progress = await self._deliver()
            if progress is None:
                self._show("ENDED", "The subscription is gone.")
                return self._shown.text
            self._delivered += progress.delivered
            self._dead += progress.refused
            if progress.rest_s < 0 and not self._woken:
                self._show("ENDED", f"Nothing waits. {progress.reason}")
                return self._shown.text
            await self._rest(progress)
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(NotifyInput(self._subscription, self._channel, self._delivered, self._dead))

    @workflow.signal(name=types.WAKE)
    def wake(self, why: str) -> None:  # noqa: ARG002 - for people who read the history
        """Something waits: look again at once."""
        self._woken = True

    @workflow.query(name=types.STATUS)
    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._shown.status()

    async def _deliver(self) -> Progress | None:
        self._show("DELIVERING", f"Sending what waits by {self._channel}.")
        try:
            progress: Progress = await workflow.execute_activity(
                types.DELIVER,
                Ask(self._subscription, self._channel),
                result_type=Progress,
                start_to_close_timeout=_ACTIVITY_TIMEOUT,
                heartbeat_timeout=_HEARTBEAT_TIMEOUT,
                retry_policy=_RETRY,
                summary=f"Send what waits by {self._channel}, in order",
            )
        except ActivityError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == types.SUBSCRIPTION_UNKNOWN:
                return None
            raise
        return progress

    async def _rest(self, progress: Progress) -> None:
        """Waits for a signal, at most until the next try."""
        if progress.rest_s <= 0 or self._woken:
            return
        again = workflow.now() + timedelta(seconds=progress.rest_s)
        self._show(
            "WAITING",
            f"{progress.waiting} wait: {progress.reason}. Next try at {again:%Y-%m-%d %H:%M:%S} UTC, or when woken.",
        )
        try:
            await workflow.wait_condition(
                lambda: self._woken,
                timeout=timedelta(seconds=progress.rest_s),
                timeout_summary="Until the next try",
            )
        except TimeoutError:
            return

    def _show(self, state: str, text: str) -> None:
        """Keeps what a person sees in Temporal's UI true."""
        facts = [
            f"Subscription: {self._subscription}",
            f"Channel: {self._channel}",
            f"Taken by the receiver so far: {self._delivered}",
            f"Could not be sent: {self._dead}",
        ]
        self._shown.show(state, "\n".join([f"**{state}** · {text.strip()}", "", *(f"- {fact}" for fact in facts)]))
