"""What a folder of workflows gives the worker to run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Schedule:
    """A workflow that Temporal starts again and again. A run is skipped while the one before is still going.

    Attributes:
        name: Lower case and hyphens. The schedule is `purse.{name}`, a run `{name}-{its time}`.
        workflow: The workflow's name; it is of the same part.
        argument: What each run is given, a dataclass.
        about: What a run does, in one line for people.
        every: From one run to the next, counted from 1970-01-01T00:00Z: a day is from midnight to midnight, UTC.
        timeout: The longest a run may take, so that one that hangs does not hold back those after it for ever.
        offset: So much later than `every` says.
        jitter: Up to so much later again, by chance, so that not everything begins at once.
        catch_up: A run that was missed, because Temporal was down, is made up for within this time, else left out.
    """

    name: str
    workflow: str
    argument: object
    about: str
    every: timedelta
    timeout: timedelta
    offset: timedelta = timedelta(0)
    jitter: timedelta = timedelta(0)
    catch_up: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Part:
    """Workflows and activities that share a task queue.

    Attributes:
        task_queue: Where they are put. Parts that share one share a worker; a storm in one keeps no other waiting.
        workflows: Workflow classes.
        activities: Activity functions, bound to what they reach.
        schedules: Which of the workflows Temporal starts by itself, and when.
    """

    task_queue: str
    workflows: Sequence[type]
    activities: Sequence[Callable[..., Any]]
    schedules: Sequence[Schedule] = ()


def by_queue(parts: Iterable[Part]) -> list[Part]:
    """One part a task queue, since whatever polls a queue must know all that is put on it."""
    together: dict[str, Part] = {}
    for part in parts:
        known = together.get(part.task_queue, Part(part.task_queue, (), ()))
        together[part.task_queue] = Part(
            part.task_queue,
            [*known.workflows, *part.workflows],
            [*known.activities, *part.activities],
            (*known.schedules, *part.schedules),
        )
    return list(together.values())
