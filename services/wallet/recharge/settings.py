"""What the wallet service and the worker need to be told about Stripe."""

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.kit.settings import ServiceSettings

ALLOW_LIVE = "charge real money"
"""What `stripe_allow_live` must say, word for word."""


class StripeSettings(ServiceSettings):
    """The settings of a process that talks to Stripe, from PURSE_STRIPE_… variables."""

    model_config = SettingsConfigDict(populate_by_name=True)

    stripe_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("PURSE_STRIPE_API_KEY", "STRIPE_API_KEY"),
        description="sk_test_… or rk_test_…; without it nothing can be charged",
    )
    stripe_base_url: str = Field(default="", description="where Stripe's API answers; empty means Stripe itself")
    stripe_webhook_secret: SecretStr | None = Field(default=None, description="whsec_…, verifies webhook events")
    stripe_allow_live: str = Field(default="", description=f'a live key is refused unless this says "{ALLOW_LIVE}"')
    payments_return_url: str = Field(
        default="http://127.0.0.1:7400/payments/done",
        pattern=r"^https?://",
        description="where Stripe's pages go on to unless a request says otherwise; the gateway serves this one",
    )
    stripe_timeout_s: float = Field(default=20.0, gt=0, le=80, description="how long one request to Stripe may take")
