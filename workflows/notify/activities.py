"""The notify workflow's activity: takes what waits from the budget service, sends it, reports. It may run twice."""

import asyncio
from typing import TYPE_CHECKING

from temporalio import activity

from pursestrings.budget.v1 import deliveries_pb2 as pb
from workflows.notify import types
from workflows.notify.carrier import LINGERING_MAX, Carrier
from workflows.notify.mails import Mails
from workflows.notify.types import Ask, Progress
from workflows.notify.webhooks import Webhooks
from workflows.working import working

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub


class NotifyActivities:
    """Bound to one budget service.

    Args:
        budget: The budget service, called as role `service`.
        webhooks: Sends by webhook.
        mails: Sends by mail.
    """

    def __init__(self, budget: "BudgetServiceAsyncStub", webhooks: Webhooks, mails: Mails) -> None:
        self._budget = budget
        self._ways: dict[str, tuple[pb.DeliveryChannel.ValueType, Webhooks | Mails]] = {
            "webhook": (pb.DELIVERY_CHANNEL_WEBHOOK, webhooks),
            "mail": (pb.DELIVERY_CHANNEL_MAIL, mails),
        }
        self._lingering = asyncio.Semaphore(LINGERING_MAX)

    @activity.defn(name=types.DELIVER)
    async def deliver(self, ask: Ask) -> Progress:
        """Sends what waits in one channel of a subscription, in order."""
        about = activity.info()
        channel, way = self._ways[ask.channel]
        carrier = Carrier(
            self._budget,
            ask.subscription,
            channel,
            f"{about.workflow_run_id}/{about.activity_id}/{about.attempt}",
            send_max_s=way.send_max_s,
            stopping=activity.is_worker_shutdown,
            lingering=self._lingering,
        )
        async with working():
            return await carrier.run(way.send)
