"""What the worker needs to be told."""

from typing import ClassVar

from pydantic import Field

from services.wallet.recharge.settings import StripeSettings


class WorkerSettings(StripeSettings):
    """From PURSE_… variables."""

    required: ClassVar[tuple[str, ...]] = ("service_token_file", "stripe_api_key")

    metrics_bind: str = Field(default="127.0.0.1:7414", description="host:port of /metrics and /health")
    worker_activities_max: int = Field(default=50, ge=1, le=1000, description="activities at once in one worker")
    webhook_timeout_s: float = Field(default=15.0, gt=0, le=30, description="how long a webhook may take to answer")
    loopback_webhooks: bool = Field(
        default=False, description="whether webhooks may go to this machine, over http too: for trying things out"
    )
