"""What passes between the notify workflow and its activity. Standard library only."""

from dataclasses import dataclass

WORKFLOW = "Notify"
TASK_QUEUE = "notify"
WAKE = "wake"
STATUS = "status"

DELIVER = "deliver"

SUBSCRIPTION_UNKNOWN = "SUBSCRIPTION_UNKNOWN"
"""The type of the error that ends a workflow: there is nobody to tell any more."""


@dataclass(frozen=True)
class NotifyInput:
    """What a workflow is started with.

    Attributes:
        subscription: `{subject}/subscriptions/{id}`.
        channel: `webhook` or `mail`.
        delivered: Carried over where a long history was cut: how many were taken so far.
        dead: How many were given up so far.
    """

    subscription: str
    channel: str
    delivered: int = 0
    dead: int = 0


@dataclass(frozen=True)
class Ask:
    """Which channel of which subscription to send for."""

    subscription: str
    channel: str


@dataclass(frozen=True)
class Progress:
    """What an activity did, and what is next.

    Attributes:
        delivered: How many the receiver took.
        failed: How many tries failed.
        refused: How many can never be sent.
        waiting: How many wait.
        rest_s: When to look again, in seconds; below 0: nothing waits.
        reason: Why something waits.
    """

    delivered: int = 0
    failed: int = 0
    refused: int = 0
    waiting: int = 0
    rest_s: float = -1.0
    reason: str = ""
