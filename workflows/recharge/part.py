"""Recharges, as the worker runs them."""

from workflows.part import Part
from workflows.recharge import types
from workflows.recharge.activities import RechargeActivities
from workflows.recharge.workflow import Recharge
from workflows.services import Services


def part(services: Services) -> Part:
    """The workflow and its activities, bound to the wallet service and Stripe."""
    activities = RechargeActivities(services.wallet, services.stripe)
    return Part(
        task_queue=types.TASK_QUEUE,
        workflows=[Recharge],
        activities=[
            activities.authorize,
            activities.create,
            activities.confirm,
            activities.report,
            activities.give_up,
        ],
    )
