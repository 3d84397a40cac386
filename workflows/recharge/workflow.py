"""The Recharge workflow. It decides nothing about money: it asks the wallet service what to do, does it, and waits.

All that it needs is the recharge's name, so a history that is lost, or started twice, loses and repeats nothing.
"""

import asyncio
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from workflows.recharge import types
    from workflows.recharge.types import (
        Confirm,
        Created,
        Decision,
        GiveUp,
        RechargeInput,
        Report,
        Snapshot,
        Verdict,
    )
    from workflows.shown import Shown, back_off_s, facts

T = TypeVar("T")

_ACTIVITY_TIMEOUT = timedelta(seconds=90)
_ACTIVITY_PATIENCE = timedelta(minutes=5)
# Activities beat every second; one whose worker was killed is given to another soon.
_HEARTBEAT_TIMEOUT = timedelta(seconds=8)
# Few: after a failure it is better to ask the wallet what is true than to repeat the same request to Stripe.
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=30),
    maximum_attempts=3,
)
_REST_AFTER_FAILURE_S = 2.0
_REST_AFTER_FAILURE_MAX_S = 300.0
_REST_MIN_S = 1.0
_REASON_CHARS_MAX = 256


@workflow.defn(name=types.WORKFLOW)
class Recharge:
    """One recharge, from its first attempt until it has succeeded or failed."""

    @workflow.init
    def __init__(self, given: RechargeInput) -> None:
        self._recharge = given.recharge
        self._cancel_reason = given.cancel_reason
        self._woken = False
        self._failures = 0
        self._charged = 0
        self._repeats = 0
        self._shown = Shown("Asking the wallet service what to do.")
        self._snapshot: Snapshot | None = None

    @workflow.run
    async def run(self, given: RechargeInput) -> Snapshot:  # noqa: ARG002 - read by __init__, before any signal
        """Moves the recharge until it has ended; returns what became of it."""
        drive = asyncio.create_task(self._drive())
        while True:
            try:
                return await asyncio.shield(drive)
            except asyncio.CancelledError:
                # Cancel in Temporal's UI means the same as the signal: give the recharge up in good order.
                self.cancel("canceled in Temporal")

    @workflow.signal(name=types.WAKE)
    def wake(self, why: str) -> None:  # noqa: ARG002 - for people who read the history
        """Something has changed: look again at once."""
        self._woken = True

    @workflow.signal(name=types.CANCEL)
    def cancel(self, reason: str) -> None:
        """Give the recharge up, unless it has succeeded."""
        self._cancel_reason = reason[:_REASON_CHARS_MAX] or "canceled"
        self._woken = True

    @workflow.query(name=types.STATUS)
    def status(self) -> dict[str, str]:
        """Where it stands, for people and tests."""
        return self._shown.status()

    async def _drive(self) -> Snapshot:
        while True:
            self._woken = False
            try:
                snapshot, rest_s = await self._step()
                self._failures = 0
            except ActivityError as error:
                rest_s = self._after_failure(error)
                snapshot = None
            if snapshot is not None and snapshot.state != "PENDING":
                self._show_end(snapshot)
                return snapshot
            await self._rest(rest_s)
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(RechargeInput(self._recharge, self._cancel_reason))

    async def _step(self) -> tuple[Snapshot, float]:
        """One move; returns the recharge after it and how long to rest."""
        if self._cancel_reason:
            return await self._give_up(self._cancel_reason, advised=False), 0.0
        decision = await self._do(types.AUTHORIZE, self._recharge, Decision, "May it be charged now?")
        self._snapshot = decision.snapshot
        match decision.verdict:
            case Verdict.CHARGE:
                self._show("CHARGING", f"Attempt {decision.attempt} is under way.")
                # An attempt that had no outcome comes back; it is not hurried.
                self._repeats = self._repeats + 1 if decision.attempt == self._charged else 0
                self._charged = decision.attempt
                return await self._charge(decision), _back_off_s(self._repeats) if self._repeats else 0.0
            case Verdict.GIVE_UP:
                return await self._give_up(decision.reason, advised=True), 0.0
            case Verdict.OBSERVE:
                self._show("PROCESSING", f"Stripe is at work: {decision.reason}.", decision.retry_after_s)
            case Verdict.WAIT:
                state = "NEEDS_PERSON" if decision.needs_person else "WAITING"
                self._show(state, f"Waiting: {decision.reason}.", decision.retry_after_s)
            case Verdict.ENDED:
                pass
        return decision.snapshot, decision.retry_after_s

    async def _charge(self, decision: Decision) -> Snapshot:
        """Creates the PaymentIntent where it is not known, lets the wallet know it, and only then confirms it."""
        payment_intent = decision.payment_intent
        if not payment_intent:
            created = await self._do(types.CREATE, decision, Created, "Make the PaymentIntent, unconfirmed")
            snapshot = await self._report(
                decision, created.payment_intent, answered=bool(created.error_code), error_code=created.error_code
            )
            payment_intent = created.payment_intent
            if snapshot.state != "PENDING" or not payment_intent or snapshot.payment_intent != payment_intent:
                return snapshot
        confirm = Confirm(payment_intent, decision.payment_method, decision.confirm_key)
        error_code = await self._do(types.CONFIRM, confirm, str, "Charge the payment method")
        return await self._report(decision, payment_intent, answered=True, error_code=error_code)

    async def _report(self, decision: Decision, payment_intent: str, *, answered: bool, error_code: str) -> Snapshot:
        report = Report(self._recharge, decision.attempt, payment_intent, answered, error_code)
        return await self._do(types.REPORT, report, Snapshot, "Let the wallet ask Stripe what is true")

    async def _give_up(self, reason: str, *, advised: bool) -> Snapshot:
        self._show("GIVING_UP", f"Giving it up: {reason}.")
        ask = GiveUp(self._recharge, reason[:_REASON_CHARS_MAX], advised)
        return await self._do(types.GIVE_UP, ask, Snapshot, "Cancel at Stripe, then fail")

    async def _do(self, name: str, argument: object, kind: type[T], summary: str) -> T:
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

    async def _rest(self, rest_s: float) -> None:
        """Waits for a signal, at most so long."""
        if rest_s <= 0 or self._woken:
            return
        try:
            await workflow.wait_condition(
                lambda: self._woken,
                timeout=timedelta(seconds=max(_REST_MIN_S, rest_s)),
                timeout_summary="Look again",
            )
        except TimeoutError:
            return

    def _after_failure(self, error: ActivityError) -> float:
        cause = error.cause
        if isinstance(cause, ApplicationError) and cause.type == types.RECHARGE_UNKNOWN:
            raise ApplicationError(
                f"{self._recharge} is unknown to the wallet service", type=cause.type, non_retryable=True
            ) from error
        rest_s = _back_off_s(self._failures)
        self._failures += 1
        self._show("WAITING", f"{error.activity_type} did not work: {cause or error}. It is tried again.", rest_s)
        return rest_s

    def _show(self, state: str, text: str, rest_s: float = 0.0) -> None:
        """Keeps what a person sees in Temporal's UI true."""
        if rest_s > 0:
            again = workflow.now() + timedelta(seconds=rest_s)
            text = f"{text} Next look at {again:%Y-%m-%d %H:%M:%S} UTC, or at once when something happens."
        lines = [f"**{state}** · {text}"]
        snapshot = self._snapshot
        if snapshot is not None:
            lines.append(_facts(snapshot))
        self._shown.show(state, "\n\n".join(lines))

    def _show_end(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        if snapshot.state == "SUCCEEDED":
            self._show("SUCCEEDED", f"{snapshot.amount} were charged and became {snapshot.grant}.")
        else:
            self._show("FAILED", f"Nothing was charged: {snapshot.failure_reason}.")


def _back_off_s(times: int) -> float:
    return back_off_s(times, _REST_AFTER_FAILURE_S, _REST_AFTER_FAILURE_MAX_S)


def _facts(snapshot: Snapshot) -> str:
    rows: list[tuple[str, object]] = [
        ("Recharge", snapshot.recharge),
        ("Wallet", snapshot.wallet),
        ("Amount", snapshot.amount),
        ("Why", snapshot.reason),
        ("Attempts", snapshot.attempts),
        ("PaymentIntent", snapshot.payment_intent),
        ("Stripe says", snapshot.payment_intent_status),
        ("Last refusal", snapshot.decline_code),
    ]
    return facts(rows)
