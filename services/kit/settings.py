"""Settings that every service reads, from environment variables that begin with PURSE_."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What every service needs to be told. Each service adds its own in its `settings.py`."""

    model_config = SettingsConfigDict(env_prefix="PURSE_", extra="ignore", frozen=True)

    required: ClassVar[tuple[str, ...]] = ()
    """Fields without which the process cannot work and which have no default."""

    bind: str = Field(default="127.0.0.1:0", description="host:port to answer on; port 0 takes a free one")
    metrics_bind: str = Field(default="127.0.0.1:0", description="host:port of /metrics and /health")
    health_bind: str = Field(
        default="", description="host:port that answers gRPC health checks alone, without TLS, for probes; empty: none"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    auth_public_key_file: Path | None = Field(default=None, description="PEM of the Ed25519 key that verifies tokens")
    service_token_file: Path | None = Field(default=None, description="file of this service's own token")
    metering_address: str = "127.0.0.1:7401"
    budget_address: str = "127.0.0.1:7402"
    wallet_address: str = "127.0.0.1:7403"
    temporal_address: str = "127.0.0.1:7406"
    temporal_namespace: str = "default"
    temporal_tls: bool = Field(default=False, description="speak TLS to Temporal")
    temporal_tls_ca_file: Path | None = Field(default=None, description="PEM roots; without, the system's")
    temporal_tls_certificate_file: Path | None = Field(default=None, description="PEM chain to be known by")
    temporal_tls_key_file: Path | None = None
    temporal_api_key: SecretStr | None = Field(default=None, description="for a managed Temporal that asks for one")
    otlp_endpoint: str = Field(
        default="", description="https://host:port of a collector that takes traces by OTLP over HTTP; empty: no traces"
    )
    traces_sampled: float = Field(default=1.0, ge=0, le=1, description="the share of traces that is kept")
    allow_plaintext: bool = Field(
        default=False,
        description="speak without TLS to other machines; only inside a network that encrypts by itself",
    )
    tls_certificate_file: Path | None = Field(default=None, description="PEM chain to serve with, off loopback")
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = Field(default=None, description="PEM roots to verify other services with")
    shutdown_grace_s: float = Field(default=10.0, ge=0, le=300, description="how long running calls may finish")
    rpc_in_flight_max: int = Field(default=2000, ge=1, le=100_000, description="calls at once; more are refused")
    rpc_timeout_max_s: float = Field(default=30.0, gt=0, le=300, description="the longest a call may take")
    queue_items_max: int = Field(default=20_000, ge=1, le=1_000_000, description="items that may wait their turn")
    connections_max: int = Field(default=8, ge=2, le=100, description="database connections")

    @classmethod
    def load(cls) -> Self:
        """The settings from the environment.

        Raises:
            SystemExit: Values are wrong or missing; the message names every variable concerned.
        """
        try:
            settings = cls()
        except ValidationError as error:
            wrong = (f"{cls.variable(str(one['loc'][0]))}: {one['msg']}" for one in error.errors())
            raise SystemExit("\n".join(wrong)) from None
        missing = [cls.variable(name) for name in cls.required if not getattr(settings, name)]
        if missing:
            raise SystemExit(f"set {' and '.join(missing)}: required, and without a default")
        return settings

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable that sets a field, or what the name of one stands for already."""
        return f"PURSE_{field.upper()}" if field in cls.model_fields else field

    def service_token(self) -> str | None:
        """This service's own token; None where no file is set."""
        return None if self.service_token_file is None else self.service_token_file.read_text().strip()


def secret(value: SecretStr | None, name: str) -> str:
    """The value of a setting that must be there.

    Raises:
        SystemExit: It is not; the message names the variable.
    """
    if value is None or not value.get_secret_value():
        raise SystemExit(f"set {name}: it is required and has no default")
    return value.get_secret_value()
