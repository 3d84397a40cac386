"""What the outbox starts for a recharge, and for a review of caps."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from services.kit.outbox import OutboxMessage
from services.kit.temporal import NewWorkflow
from services.wallet.recharge.domain.attempts import MAX_AGE

WORKFLOW: Final = "Recharge"
TASK_QUEUE: Final = "recharge"
REVIEW_WORKFLOW: Final = "RechargeCapReview"
REVIEW_TASK_QUEUE: Final = "approvals"
CAP_WORDS: Final = {"COUNT_CAP": "cap on the number of recharges", "AMOUNT_CAP": "cap on the money recharged"}
"""A cap as people are told of it."""


def recharge(message: OutboxMessage, about: Mapping[str, Any]) -> NewWorkflow:
    """The workflow of a recharge."""
    name, wallet, amount = message.key, about["wallet"], about["amount"]
    deadline = datetime.fromisoformat(about["created_at"]) + MAX_AGE
    return NewWorkflow(
        workflow=WORKFLOW,
        task_queue=TASK_QUEUE,
        given={"recharge": name},
        subject=name.partition("/recharges/")[0],
        wallet=wallet,
        state="PENDING",
        deadline=deadline,
        summary=f"Recharge of {amount} for {wallet}",
        details=(
            f"**{amount}** for `{wallet}`, because {about['reason']}.\n\n"
            f"It is given up on {deadline:%Y-%m-%d %H:%M} UTC unless the charge succeeds before. "
            f"The truth is kept by the wallet service: `{name}`."
        ),
    )


def review(message: OutboxMessage, about: Mapping[str, Any]) -> NewWorkflow:
    """The workflow of a review of caps."""
    name, wallet, month = message.key, about["wallet"], about["month"]
    cap, deadline = CAP_WORDS[about["cap"]], datetime.fromisoformat(about["month_end"])
    return NewWorkflow(
        workflow=REVIEW_WORKFLOW,
        task_queue=REVIEW_TASK_QUEUE,
        given={"review": name},
        subject=name.partition("/rechargeReviews/")[0],
        wallet=wallet,
        state="WAITING",
        deadline=deadline,
        summary=f"{wallet} has reached its {cap} of {month}: allow more recharges?",
        details=(
            f"The {cap} of {month} has stopped a recharge of **{about['charge']}** for `{wallet}`. Nothing is charged "
            f"by itself until somebody allows more, or the month ends on {deadline:%Y-%m-%d %H:%M} UTC.\n\n"
            f"Send the Update `decide`, or run `purse wallet reviews decide {name}`. "
            f"The truth is kept by the wallet service: `{name}`."
        ),
    )
