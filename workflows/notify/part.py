"""Deliveries, as the worker runs them."""

from workflows.notify import types
from workflows.notify.activities import NotifyActivities
from workflows.notify.mails import Mails
from workflows.notify.outlook import Outlooks
from workflows.notify.webhooks import Webhooks
from workflows.notify.workflow import Notify
from workflows.part import Part
from workflows.services import Services


def part(services: Services) -> Part:
    """The workflow and its activity, bound to the budget service and to the way out."""
    outlooks = Outlooks(services.metering)
    activities = NotifyActivities(
        services.budget, Webhooks(services.poster, outlooks), Mails(services.settings, outlooks)
    )
    return Part(task_queue=types.TASK_QUEUE, workflows=[Notify], activities=[activities.deliver])
