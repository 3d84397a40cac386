"""Deliveries, as the worker runs them."""

from workflows.notify import types
from workflows.notify.activities import NotifyActivities
from workflows.notify.outlook import Outlooks
from workflows.notify.webhooks import Webhooks
from workflows.notify.workflow import Notify
from workflows.part import Part
from workflows.services import Services


def part(services: Services) -> Part:
    """The workflow and its activity, bound to the budget service and to the way out."""
    activities = NotifyActivities(services.budget, Webhooks(services.poster, Outlooks(services.metering)))
    return Part(task_queue=types.TASK_QUEUE, workflows=[Notify], activities=[activities.deliver])
