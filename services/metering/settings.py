"""Metering's settings."""

from typing import ClassVar

from pydantic import Field, SecretStr

from services.kit.settings import ServiceSettings


class MeteringSettings(ServiceSettings):
    """What metering needs beside what every service does."""

    required: ClassVar[tuple[str, ...]] = ("metering_dsn", "auth_public_key_file", "service_token_file")

    bind: str = Field(default="127.0.0.1:7401", description="host:port to answer on; port 0 takes a free one")
    metrics_bind: str = Field(default="127.0.0.1:7411", description="host:port of /metrics and /health")
    metering_dsn: SecretStr | None = Field(default=None, description="the database, as the role metering_service")
    readers_max: int = Field(
        default=6, ge=1, le=100, description="connections for questions, apart from those that record"
    )
    record_batch_max: int = Field(default=2_000, ge=1, le=5_000, description="events a transaction")
    record_workers: int = Field(default=2, ge=1, le=4, description="transactions that record at once")
    record_processes: int = Field(
        default=0,
        ge=0,
        le=16,
        description="processes that record batches beside the one that answers; 0: that one records them itself",
    )
    relay_batch_max: int = Field(default=1_000, ge=1, le=1_000, description="events a delivery to the budget service")
    relay_tries_max: int = Field(default=10, ge=1, le=100, description="refusals after which an event is parked")
    relay_timeout_s: float = Field(default=15.0, gt=0, le=60, description="how long one delivery may take")
    report_interval_s: float = Field(
        default=1.0, gt=0, le=60, description="how often the budget service is told up to when all usage is delivered"
    )
    events_kept_days: int = Field(
        default=400,
        ge=120,
        le=36_500,
        description="how long events are kept after their month, in days; sums by 15 minutes stay",
    )
    rerate_interval_s: float = Field(
        default=5.0, gt=0, le=3600, description="how often usage without a price is looked at again"
    )
    cards_interval_s: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="how often rate cards are read; a new one is in force after three times that",
    )
