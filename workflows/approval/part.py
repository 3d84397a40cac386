"""Approvals, as the worker runs them."""

from workflows.approval import types
from workflows.approval.activities import ApprovalActivities
from workflows.approval.workflow import Approval
from workflows.part import Part
from workflows.services import Services


def part(services: Services) -> Part:
    """The workflow and its activities, bound to the budget and the wallet service."""
    activities = ApprovalActivities(services.budget, services.wallet)
    return Part(
        task_queue=types.TASK_QUEUE,
        workflows=[Approval],
        activities=[activities.advance, activities.settle, activities.cancel, activities.allow],
    )
