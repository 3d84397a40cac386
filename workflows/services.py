"""What the activities reach: the services, each by its contract, Stripe, and other people's webhooks."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pursestrings.budget.v1 import budget_pb2_grpc
from pursestrings.metering.v1 import metering_pb2_grpc
from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.kit.channel import service_channel
from services.wallet.recharge.stripe import Stripe
from workflows.notify.posting import Poster
from workflows.settings import WorkerSettings

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub
    from pursestrings.metering.v1.metering_pb2_grpc import MeteringServiceAsyncStub
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Services:
    """Every service, called as role `service`, and what is outside.

    Attributes:
        budget: May it spend; approvals; who is told of what.
        metering: What was used, and what will be.
        wallet: The money.
        stripe: Where PaymentIntents are made and confirmed.
        poster: The way out to webhooks.
        settings: What the worker was told.
    """

    budget: "BudgetServiceAsyncStub"
    metering: "MeteringServiceAsyncStub"
    wallet: "WalletServiceAsyncStub"
    stripe: Stripe
    poster: Poster
    settings: WorkerSettings


@contextlib.asynccontextmanager
async def reaching(settings: WorkerSettings) -> AsyncIterator[Services]:
    """The services at the settings' addresses, until the block ends. None needs to answer yet."""
    async with contextlib.AsyncExitStack() as stack:
        stripe = Stripe(settings)
        stack.push_async_callback(stripe.close)
        budget = await stack.enter_async_context(service_channel(settings, settings.budget_address))
        metering = await stack.enter_async_context(service_channel(settings, settings.metering_address))
        wallet = await stack.enter_async_context(service_channel(settings, settings.wallet_address))
        poster = await stack.enter_async_context(
            Poster(timeout_s=settings.webhook_timeout_s, loopback=settings.loopback_webhooks)
        )
        yield Services(
            budget=budget_pb2_grpc.BudgetServiceStub(budget),
            metering=metering_pb2_grpc.MeteringServiceStub(metering),
            wallet=wallet_pb2_grpc.WalletServiceStub(wallet),
            stripe=stripe,
            poster=poster,
            settings=settings,
        )
