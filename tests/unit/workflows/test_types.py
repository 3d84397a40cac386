"""What the services start is what the worker runs."""

from services.budget.approvals import temporal as approvals
from services.budget.months.domain import TOLD_MAX
from services.budget.notify import temporal as notify
from services.kit import temporal as kit
from services.wallet.recharge import temporal
from workflows import namespace
from workflows.approval import types as approval
from workflows.cap_review import types as cap_review
from workflows.month_close import types as months
from workflows.notify import types as carrying
from workflows.recharge import types


def test_both_sides_use_the_same_words() -> None:
    assert (temporal.WORKFLOW, temporal.TASK_QUEUE, kit.WAKE) == (types.WORKFLOW, types.TASK_QUEUE, types.WAKE)
    started = (temporal.REVIEW_WORKFLOW, temporal.REVIEW_TASK_QUEUE, kit.WAKE)
    assert started == (cap_review.WORKFLOW, cap_review.TASK_QUEUE, cap_review.WAKE)
    asked = (approvals.WORKFLOW, approvals.TASK_QUEUE, kit.WAKE)
    assert asked == (approval.WORKFLOW, approval.TASK_QUEUE, approval.WAKE)
    carried = (notify.WORKFLOW, notify.TASK_QUEUE, kit.WAKE)
    assert carried == (carrying.WORKFLOW, carrying.TASK_QUEUE, carrying.WAKE)


def test_every_search_attribute_is_registered() -> None:
    used = {key.name for key in (kit.ORG, kit.SUBJECT, kit.WALLET, kit.STATE, kit.DEADLINE)}
    assert used == set(namespace.SEARCH_ATTRIBUTES)


def test_a_month_close_keeps_as_many_names_as_an_event_lists() -> None:
    assert months.NAMED_MAX == TOLD_MAX
