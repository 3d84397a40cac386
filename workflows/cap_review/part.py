"""Reviews of caps, as the worker runs them."""

from workflows.cap_review import types
from workflows.cap_review.activities import CapReviewActivities
from workflows.cap_review.workflow import RechargeCapReview
from workflows.part import Part
from workflows.services import Services


def part(services: Services) -> Part:
    """The workflow and its activities, bound to the wallet and the budget service."""
    activities = CapReviewActivities(services.wallet, services.budget)
    return Part(
        task_queue=types.TASK_QUEUE,
        workflows=[RechargeCapReview],
        activities=[activities.look, activities.tell, activities.decide],
    )
