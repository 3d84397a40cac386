"""The wallet's settings."""

from typing import ClassVar

from pydantic import Field, SecretStr

from services.wallet.domain import sizing
from services.wallet.recharge.settings import StripeSettings


class WalletSettings(StripeSettings):
    """What the wallet needs beside what every service does, Stripe's settings among it."""

    required: ClassVar[tuple[str, ...]] = (
        "wallet_dsn",
        "auth_public_key_file",
        "stripe_api_key",
        "stripe_webhook_secret",
    )

    bind: str = Field(default="127.0.0.1:7403", description="host:port to answer on; port 0 takes a free one")
    metrics_bind: str = Field(default="127.0.0.1:7413", description="host:port of /metrics and /health")
    wallet_dsn: SecretStr | None = Field(default=None, description="the database, as the role wallet_service")
    ledger_batch_max: int = Field(default=500, ge=1, le=5_000, description="commands a transaction")
    lease_floor_nanos: int = Field(
        default=sizing.FLOOR_NANOS, ge=0, le=10**15, description="what a lease without history may hold, in nano-units"
    )
    expiry_interval_s: float = Field(
        default=1.0, gt=0, le=3_600, description="how often grants that have expired are looked for"
    )
    expiry_wallets_max: int = Field(
        default=100, ge=1, le=1_000, description="wallets whose grants expire in one transaction"
    )
