"""What the outbox starts for an approval."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from services.kit.approvals import summary
from services.kit.outbox import OutboxMessage
from services.kit.temporal import NewWorkflow

WORKFLOW: Final = "Approval"
TASK_QUEUE: Final = "approvals"


def approval(message: OutboxMessage, about: Mapping[str, Any]) -> NewWorkflow:
    """The workflow of an approval that waits."""
    name, what, asked_by, urgency = message.key, about["what"], about["requested_by"], about["urgency"]
    deadline = datetime.fromisoformat(about["expires_at"])
    return NewWorkflow(
        workflow=WORKFLOW,
        task_queue=TASK_QUEUE,
        given={"approval": name, "requested_by": asked_by, "what": what, "expires_at": about["expires_at"]},
        subject=about["subject"],
        state=about["state"],
        deadline=deadline,
        summary=summary(f"{urgency}: {what}"),
        details=(
            f"**{what}**\n\n{asked_by} asks, {urgency}: {about['justification']}\n\n"
            f"It expires on {deadline:%Y-%m-%d %H:%M} UTC unless somebody decides before. "
            f"The truth is kept by the budget service: `{name}`."
        ),
    )
