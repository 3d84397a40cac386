"""What a folder of workflows gives the worker to run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """Workflows and activities that share a task queue.

    Attributes:
        task_queue: Where they are put. Parts that share one share a worker; a storm in one keeps no other waiting.
        workflows: Workflow classes.
        activities: Activity functions, bound to what they reach.
    """

    task_queue: str
    workflows: Sequence[type]
    activities: Sequence[Callable[..., Any]]


def by_queue(parts: Iterable[Part]) -> list[Part]:
    """One part a task queue, since whatever polls a queue must know all that is put on it."""
    together: dict[str, Part] = {}
    for part in parts:
        known = together.get(part.task_queue, Part(part.task_queue, (), ()))
        together[part.task_queue] = Part(
            part.task_queue, [*known.workflows, *part.workflows], [*known.activities, *part.activities]
        )
    return list(together.values())
