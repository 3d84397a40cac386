"""What the client raises."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from pursestrings._money import format_nanos
from pursestrings.budget.v1 import budget_pb2

if TYPE_CHECKING:
    from pursestrings.metering.v1 import metering_pb2

_DETAILS_KEY: Final = "grpc-status-details-bin"
# The last three mean that the service failed, not that the request is wrong: a service that is killed ends
# its calls with any of them. Everything that is sent carries an id, so sending it again is safe.
_RETRYABLE: Final = frozenset(
    {
        code_pb2.UNAVAILABLE,
        code_pb2.DEADLINE_EXCEEDED,
        code_pb2.RESOURCE_EXHAUSTED,
        code_pb2.ABORTED,
        code_pb2.CANCELLED,
        code_pb2.INTERNAL,
        code_pb2.UNKNOWN,
    }
)


class Error(Exception):
    """The root of all that the client raises on purpose."""


class Denied(Error):  # noqa: N818 - a denial is an answer; the name reads as one
    """The spend was refused, and nothing was held.

    Attributes:
        decision: The whole answer.
        reason: Why in one word, for example `BUDGET_EXCEEDED` or `INSUFFICIENT_FUNDS`.
    """

    def __init__(self, decision: budget_pb2.Decision) -> None:
        super().__init__(_explain_denial(decision))
        self.decision = decision
        self.reason = (
            "APPROVAL_REQUIRED"
            if decision.outcome == budget_pb2.OUTCOME_APPROVAL_REQUIRED
            else budget_pb2.DeniedReason.Name(decision.denied_reason).removeprefix("DENIED_REASON_")
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.decision,)


class Rejected(Error):  # noqa: N818 - named for what happened to the request
    """A service refused the request itself; the same request never succeeds, and nothing changed.

    Attributes:
        code: The kind of failure, for example `INVALID_ARGUMENT`.
        reason: Stable, for programs, for example `UNKNOWN_MODEL`.
        message: What was wrong and what to do.
        field: The field at fault as a dotted path, if one is.
        metadata: Facts for programs.
        retry_after_s: Set where the service asks to come back later; only a retryable refusal has it.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{message} ({reason})" if reason and reason != code else message or code)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        details = (self.field, self.metadata, self.retry_after_s)
        return _rejected, (self.code, self.reason, self.message, *details)


class Unavailable(Error):  # noqa: N818 - named for the state of the service
    """A service could not be reached in time; without its answer nothing may be spent."""


class Unrecorded(Unavailable):
    """Usage was not recorded in time. Send it again: `client.record_events(error.events)`; ids make it once.

    Attributes:
        events: What is not known to be recorded.
    """

    def __init__(self, message: str, events: Sequence["metering_pb2.UsageEvent"]) -> None:
        super().__init__(message)
        self.events = list(events)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.events)


def _rejected(
    code: str,
    reason: str,
    message: str,
    *details: object,
) -> Rejected:
    """What pickle makes a `Rejected` with; it knows no keywords."""
    field, metadata, retry_after_s = details
    return Rejected(code, reason, message, field=field, metadata=metadata, retry_after_s=retry_after_s)  # type: ignore[arg-type]


def is_retryable(error: Rejected) -> bool:
    """Whether the same request with the same ids may succeed later."""
    return code_pb2.Code.Value(error.code) in _RETRYABLE


def from_status(status: status_pb2.Status) -> Rejected:
    """The refusal of one item of a batch, or of a call."""
    known = status.code in code_pb2.Code.values()
    code = code_pb2.Code.Name(status.code) if known else "UNKNOWN"
    reason, field, metadata, retry_after_s = code, None, {}, None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return Rejected(code, reason, status.message, field=field, metadata=metadata, retry_after_s=retry_after_s)


def from_rpc_error(error: grpc.aio.AioRpcError) -> Rejected:
    """The refusal of a whole call, with the details that the service attached."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    number = error.code().value[0]
    return from_status(status_pb2.Status(code=number, message=error.details() or error.code().name))


def _explain_denial(decision: budget_pb2.Decision) -> str:
    if decision.outcome == budget_pb2.OUTCOME_APPROVAL_REQUIRED:
        if decision.approval.approval:
            return f"a person must approve this spend first: {decision.approval.approval} waits"
        return (
            "a person must approve this spend first; ask with request_approval, "
            f"as the policy of {decision.approval.policy_subject} says"
        )
    wallet = decision.wallet or "that pays"
    others = {
        budget_pb2.DENIED_REASON_INSUFFICIENT_FUNDS: (
            f"the wallet {wallet} has too little money: add a grant or a recharge policy"
        ),
        budget_pb2.DENIED_REASON_PAUSED: "the subject or one of its ancestors is paused: a person must resume it",
        budget_pb2.DENIED_REASON_WALLET_FROZEN: f"the wallet {wallet} is frozen: open it to go on",
        budget_pb2.DENIED_REASON_APPROVAL_DENIED: (
            f"{decision.approval.approval} was not approved: {decision.approval.reason or 'no reason given'}"
        ),
        budget_pb2.DENIED_REASON_APPROVALS_HELD: (
            f"too much waits for approval already, as the policy of {decision.approval.policy_subject} says"
        ),
        budget_pb2.DENIED_REASON_NO_WALLET: (
            "the organisation requires a wallet and none is on the way to the root: create one"
        ),
    }
    if not decision.violations:
        return others.get(decision.denied_reason, "denied without a reason")
    text = _explain_use(min(decision.violations, key=_room))
    if decision.fitting_output_tokens:
        text += f"; at most {decision.fitting_output_tokens:,} output tokens would fit"
    more = len(decision.violations) - 1
    return f"{text}; {more} more budgets have no room either" if more else text


def _room(use: budget_pb2.BudgetUse) -> tuple[float, str]:
    return (use.remaining_amount / use.limit_amount if use.limit_amount else float("-inf"), use.budget)


def _explain_use(use: budget_pb2.BudgetUse) -> str:
    ends = "never ends"
    if use.HasField("window_end_time"):
        end = datetime.fromtimestamp(use.window_end_time.seconds, UTC)
        ends = f"ends {end:%Y-%m-%d %H:%M} UTC"
    return (
        f"budget {use.budget} has {amount_of(use, use.remaining_amount)} left of {amount_of(use, use.limit_amount)}, "
        f"asked {amount_of(use, use.asked_amount)}; its window {ends}"
    )


def amount_of(use: budget_pb2.BudgetUse, amount: int) -> str:
    """An amount in the unit of what the budget counts."""
    if use.dimension == budget_pb2.DIMENSION_COST:
        return f"{format_nanos(amount)} {use.currency_code}"
    unit = budget_pb2.Dimension.Name(use.dimension).removeprefix("DIMENSION_").replace("_", " ").lower()
    return f"{amount:,} {unit}"
