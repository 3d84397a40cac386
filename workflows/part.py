"""What a folder of workflows gives the worker to run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """Workflows and activities that share a task queue.

    Attributes:
        task_queue: A queue of their own, so that a storm in one part keeps no other part waiting.
        workflows: Workflow classes.
        activities: Activity functions, bound to what they reach.
    """

    task_queue: str
    workflows: Sequence[type]
    activities: Sequence[Callable[..., Any]]
