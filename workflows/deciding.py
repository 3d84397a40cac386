"""How a person's decision is carried by an update: the service is asked until it answers, so that the person learns.

A worker that is killed while it carries a decision says nothing of what became of it. Since the same request decides
the same once, asking again is harmless, and the only way to know. For workflows: standard library and Temporal alone.
"""

from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

T = TypeVar("T")

DECISION_UNKNOWN = "DECISION_UNKNOWN"
"""The type of the error where nobody answered in time: the decision may have been taken, or not."""
PATIENCE = timedelta(minutes=10)
"""How long the service is asked before the person is told DECISION_UNKNOWN."""
HEARTBEAT_TIMEOUT = timedelta(seconds=8)
"""Activities beat every second; one whose worker was killed is given to another after this."""
RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=10)
)
"""As often as `PATIENCE` allows; what the service refuses is not asked again."""


async def carried(name: str, ask: object, kind: type[T], *, attempt_timeout: timedelta, summary: str) -> T:
    """What the service answers to a decision.

    Args:
        name: The activity, which decides the same once however often it runs.
        ask: Its argument, with the request's id.
        kind: Of its result.
        attempt_timeout: Of one try.
        summary: For people.

    Raises:
        ApplicationError: The service refuses it, and the type is its reason; or DECISION_UNKNOWN.
    """
    try:
        result: T = await workflow.execute_activity(
            name,
            ask,
            result_type=kind,
            start_to_close_timeout=attempt_timeout,
            schedule_to_close_timeout=PATIENCE,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RETRY,
            summary=summary,
        )
    except ActivityError as error:
        cause = error.cause
        if isinstance(cause, ApplicationError) and cause.non_retryable:
            raise ApplicationError(cause.message, type=cause.type, non_retryable=True) from error
        raise ApplicationError(
            f"no answer came in {PATIENCE // timedelta(minutes=1)} minutes, so whether it was decided is not known "
            f"({cause or error}); look at it, and decide again if it still waits",
            type=DECISION_UNKNOWN,
            non_retryable=True,
        ) from error
    return result
