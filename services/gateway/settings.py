"""The gateway's settings."""

from typing import ClassVar

from pydantic import Field

from services.kit.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """What the gateway needs beside what every service does."""

    required: ClassVar[tuple[str, ...]] = ("service_token_file",)

    bind: str = Field(default="127.0.0.1:7400", description="host:port to answer HTTP on; port 0 takes a free one")
    requests_max: int = Field(
        default=200, ge=1, le=10_000, description="events taken in at once; more are answered 503"
    )
    connections_max: int = Field(
        default=5_000, ge=10, le=50_000, description="connections; beyond, all is answered 503"
    )
    event_requests_max: int = Field(
        default=20, ge=1, le=1_000, description="requests with usage taken in at once; more are answered 503"
    )
    metering_timeout_s: float = Field(default=15.0, gt=0, le=60, description="how long the metering service may take")
    wallet_timeout_s: float = Field(default=10.0, gt=0, le=60, description="how long the wallet service may take")
