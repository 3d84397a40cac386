"""Where a cardholder is sent to authenticate, and back."""

from __future__ import annotations

from embedded.stripe_twin.errors import invalid
from embedded.stripe_twin.work import Json


def page_url(base_url: str, intent: Json) -> str:
    """The page on which the cardholder of `intent` completes or fails the authentication."""
    return f"{base_url}/_twin/authenticate/{intent['id']}?client_secret={intent['client_secret']}"


def check_return_url(intent: Json, return_url: str | None) -> None:
    """Raises ApiError when the intent may redirect but has nowhere to come back to.

    Stripe asks for this unless the caller names `allowed_payment_method_types` or forbids redirects, and code that
    was only ever run against a more lenient twin would meet it there for the first time.
    """
    automatic = intent["automatic_payment_methods"]
    if return_url is None and automatic is not None and automatic["allow_redirects"] != "never":
        noun = "PaymentIntent" if intent["object"] == "payment_intent" else "SetupIntent"
        raise invalid(
            f"This {noun} is configured to accept payment methods enabled in your Dashboard. Because some of these "
            "payment methods might redirect your customer off of your page, you must provide a `return_url`. If you "
            "don't want to accept redirect-based payment methods, set `automatic_payment_methods[enabled]` to `true` "
            "and `automatic_payment_methods[allow_redirects]` to `never` when creating Setup Intents and Payment "
            "Intents."
        )
