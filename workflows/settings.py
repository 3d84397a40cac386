"""What the worker needs to be told."""

import re
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from services.wallet.recharge.settings import StripeSettings

_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[A-Za-z0-9.-]{1,253}").fullmatch


class WorkerSettings(StripeSettings):
    """From PURSE_… variables."""

    required: ClassVar[tuple[str, ...]] = ("service_token_file", "stripe_api_key")

    metrics_bind: str = Field(default="127.0.0.1:7414", description="host:port of /metrics and /health")
    worker_activities_max: int = Field(default=50, ge=1, le=1000, description="activities at once in one worker")
    webhook_timeout_s: float = Field(default=15.0, gt=0, le=30, description="how long a webhook may take to answer")
    loopback_webhooks: bool = Field(
        default=False, description="whether webhooks may go to this machine, over http too: for trying things out"
    )
    smtp_address: str = Field(default="", description="host:port of the mail server; empty: nothing is mailed")
    smtp_tls: Literal["starttls", "tls"] = Field(default="starttls", description="TLS to it, off loopback")
    smtp_user: str = Field(default="", description="how the mail server knows us; empty: it need not")
    smtp_password: SecretStr | None = None
    mail_from: str = Field(
        default="", validate_default=True, description="the address that mails are from; needed with a mail server"
    )

    @field_validator("smtp_address")
    @classmethod
    def _has_a_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if address and not (host and port.isdecimal()):
            raise ValueError("write host:port")
        return address

    @field_validator("mail_from")
    @classmethod
    def _is_an_address(cls, sender: str, info: ValidationInfo) -> str:
        if info.data.get("smtp_address") and not _ADDRESS(sender):
            raise ValueError("write a mail address, since PURSE_SMTP_ADDRESS is set")
        return sender
