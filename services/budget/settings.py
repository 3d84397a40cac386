"""Budget's settings."""

from typing import ClassVar

from pydantic import Field, SecretStr

from services.kit.settings import ServiceSettings


class BudgetSettings(ServiceSettings):
    """What budget needs beside what every service does."""

    required: ClassVar[tuple[str, ...]] = ("budget_dsn", "auth_public_key_file", "service_token_file")

    bind: str = Field(default="127.0.0.1:7402", description="host:port to answer on; port 0 takes a free one")
    metrics_bind: str = Field(default="127.0.0.1:7412", description="host:port of /metrics and /health")
    budget_dsn: SecretStr | None = Field(default=None, description="the database, as the role budget_service")
    batch_max: int = Field(default=1_000, ge=1, le=5_000, description="decisions a transaction")
    use_wallets: bool = Field(default=True, description="false: no spend is funded, budgets alone decide")
    use_temporal: bool = Field(
        default=True, description="false: nobody is told or reminded of anything; events stay in the outbox"
    )
    wallet_timeout_s: float = Field(default=2.0, gt=0, le=30, description="how long one call to the wallet may take")
    sync_interval_s: float = Field(
        default=2.0, gt=0, le=5, description="how often the wallet service is asked what has changed"
    )
    capture_interval_s: float = Field(
        default=0.5, gt=0, le=1, description="how soon what was drawn is posted to the wallet"
    )
    lease_calls_max: int = Field(default=3, ge=1, le=50, description="calls with lease operations at once")
    idle_return_s: float = Field(
        default=600.0, ge=1, le=86_400, description="after which time without use a lease's free part goes back"
    )
    empty_memory_s: float = Field(
        default=1.0, ge=0, le=1, description="for how long a wallet that gave too little is not asked again"
    )
    funding_wait_s: float = Field(
        default=5.0, gt=0, le=30, description="how long a spend may wait for its wallet, within its own deadline"
    )
    expiry_grace_s: float = Field(
        default=10.0, ge=0, le=3_600, description="how long after its time a hold waits for late usage"
    )
    expiry_wait_max_s: float = Field(
        default=3_600.0,
        ge=1,
        le=604_800,
        description="how long an expired hold waits for metering to say that all usage is delivered",
    )
    sweep_interval_s: float = Field(default=1.0, gt=0, le=60, description="how often expired holds are looked for")
    usage_kept_days: int = Field(
        default=91, ge=91, le=3_650, description="how long applied events are kept singly; their sums stay"
    )
    reservations_kept_days: int = Field(
        default=30, ge=8, le=3_650, description="how long reservations are kept after they were closed"
    )
    loopback_webhooks: bool = Field(
        default=False, description="whether webhooks may go to this machine, over http too: for trying things out"
    )
    rates_interval_s: float = Field(default=20.0, gt=0, le=3_600, description="how often metering is asked for rates")
