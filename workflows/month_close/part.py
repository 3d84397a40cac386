"""Month closes, as the worker runs them."""

from datetime import timedelta

from workflows.month_close import types
from workflows.month_close.activities import MonthCloseActivities
from workflows.month_close.workflow import MonthClose, MonthCloseInput
from workflows.part import Part, Schedule
from workflows.services import Services


def part(services: Services) -> Part:
    """The workflow, its activities and its schedule."""
    activities = MonthCloseActivities(services.budget, services.wallet)
    return Part(
        task_queue=types.TASK_QUEUE,
        workflows=[MonthClose],
        activities=[activities.list_months, activities.close],
        schedules=[
            Schedule(
                name="month-close",
                workflow=types.WORKFLOW,
                argument=MonthCloseInput(),
                about="Tells people of months that are over: statements, what was carried, who may spend again",
                every=timedelta(hours=1),
                offset=timedelta(minutes=5),
                jitter=timedelta(minutes=10),
                timeout=timedelta(hours=6),
            )
        ],
    )
