"""Stripe's test cards: what each one is, and what happens when it is saved or charged."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Authentication(Enum):
    """When the bank asks the cardholder to authenticate (SCA, 3-D Secure)."""

    NEVER = "never"
    UNLESS_SET_UP = "unless set up for off-session use"
    ON_SESSION = "on session only"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Decline:
    """Why a charge is refused, in Stripe's words."""

    code: str
    decline_code: str
    message: str
    advice_code: str | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One test card. `key` names it in the stored state; its number is never stored.

    `dispute_reason`: a charge that succeeds is disputed for it at once; `inquiry`: the bank only asks at first.
    `refund_pends`: a refund is `pending` first; `refund_ends`: what becomes of it by itself.
    """

    key: str
    number: str
    brand: str = "visa"
    funding: str = "credit"
    authentication: Authentication = Authentication.NEVER
    decline: Decline | None = None
    declines_on_attach: bool = False
    dispute_reason: str = ""
    inquiry: bool = False
    refund_pends: bool = False
    refund_ends: str = ""

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self.number[-4:]


DECLINED = "Your card was declined."

DECLINES = {
    decline.decline_code: decline
    for decline in (
        Decline("card_declined", "generic_decline", DECLINED, "try_again_later"),
        Decline("card_declined", "insufficient_funds", "Your card has insufficient funds.", "try_again_later"),
        Decline("card_declined", "lost_card", DECLINED, "do_not_try_again"),
        Decline("card_declined", "stolen_card", DECLINED, "do_not_try_again"),
        Decline("card_declined", "fraudulent", DECLINED),
        Decline("card_declined", "do_not_honor", DECLINED, "try_again_later"),
        Decline(
            "card_declined",
            "card_velocity_exceeded",
            "Your card was declined for making repeated attempts too frequently or exceeding its amount limit.",
            "try_again_later",
        ),
        Decline("expired_card", "expired_card", "Your card has expired.", "confirm_card_data", "exp_month"),
        Decline(
            "incorrect_cvc",
            "incorrect_cvc",
            "Your card's security code is incorrect.",
            "confirm_card_data",
            "cvc",
        ),
        Decline(
            "processing_error",
            "processing_error",
            "An error occurred while processing your card. Try again in a little bit.",
            "try_again_later",
        ),
        Decline(
            "authentication_required",
            "authentication_required",
            "Your card was declined. This transaction requires authentication.",
        ),
    )
}

AUTHENTICATION_REQUIRED = DECLINES["authentication_required"]


def decline_for(decline_code: str) -> Decline:
    """The decline with this `decline_code`; one that the table does not know is a plain `card_declined`."""
    return DECLINES.get(decline_code) or Decline("card_declined", decline_code, DECLINED)


def _refused(key: str, number: str, decline_code: str) -> Card:
    return Card(key, number, decline=DECLINES[decline_code], declines_on_attach=True)


_CARDS = (
    Card("visa", "4242424242424242"),
    Card("visa_debit", "4000056655665556", funding="debit"),
    Card("mastercard", "5555555555554444", brand="mastercard"),
    Card("mastercard_debit", "5200828282828210", brand="mastercard", funding="debit"),
    Card("mastercard_prepaid", "5105105105105100", brand="mastercard", funding="prepaid"),
    Card("amex", "378282246310005", brand="amex"),
    Card("discover", "6011111111111117", brand="discover"),
    Card("diners", "3056930009020004", brand="diners"),
    Card("jcb", "3566002020360505", brand="jcb"),
    Card("unionpay", "6200000000000005", brand="unionpay"),
    _refused("chargeDeclined", "4000000000000002", "generic_decline"),
    _refused("chargeDeclinedInsufficientFunds", "4000000000009995", "insufficient_funds"),
    _refused("chargeDeclinedLostCard", "4000000000009987", "lost_card"),
    _refused("chargeDeclinedStolenCard", "4000000000009979", "stolen_card"),
    _refused("chargeDeclinedExpiredCard", "4000000000000069", "expired_card"),
    _refused("chargeDeclinedIncorrectCvc", "4000000000000127", "incorrect_cvc"),
    _refused("chargeDeclinedProcessingError", "4000000000000119", "processing_error"),
    _refused("chargeDeclinedVelocityLimitExceeded", "4000000000006975", "card_velocity_exceeded"),
    _refused("chargeDeclinedFraudulent", "4100000000000019", "fraudulent"),
    # Saved without complaint, declined at every charge.
    Card("chargeCustomerFail", "4000000000000341", decline=DECLINES["generic_decline"]),
    Card("authenticationRequired", "4000002760003184", authentication=Authentication.ALWAYS),
    Card("authenticationRequiredOnSetup", "4000002500003155", authentication=Authentication.UNLESS_SET_UP),
    Card(
        "authenticationRequiredSetupForOffSession",
        "4000003800000446",
        authentication=Authentication.ON_SESSION,
    ),
    Card(
        "authenticationRequiredChargeDeclinedInsufficientFunds",
        "4000008260003178",
        authentication=Authentication.ALWAYS,
        decline=DECLINES["insufficient_funds"],
    ),
    Card("createDispute", "4000000000000259", dispute_reason="fraudulent"),
    Card("createDisputeProductNotReceived", "4000000000002685", dispute_reason="product_not_received"),
    Card("createDisputeInquiry", "4000000000001976", dispute_reason="fraudulent", inquiry=True),
    Card("pendingRefund", "4000000000007726", refund_pends=True, refund_ends="succeeded"),
    Card("refundFail", "4000000000005126", refund_ends="failed"),
    Card("threeDSecure2Required", "4000000000003220", authentication=Authentication.ALWAYS),
)

BY_KEY = {card.key: card for card in _CARDS}
BY_NUMBER = {card.number: card for card in _CARDS}

# Stripe writes some of these with `visa_` in front and some without; both are understood.
_VISA = tuple(card for card in _CARDS if card.declines_on_attach)
_TEST_NAMES = {card.key: card for card in _CARDS} | {f"visa_{card.key}": card for card in _VISA}


def by_test_id(payment_method: str) -> Card | None:
    """The card behind a well-known id such as `pm_card_visa`, else None."""
    return _TEST_NAMES.get(payment_method.removeprefix("pm_card_")) if is_test_id(payment_method) else None


def by_token(token: str) -> Card | None:
    """The card behind a well-known token such as `tok_visa`, else None."""
    return _TEST_NAMES.get(token.removeprefix("tok_")) if token.startswith("tok_") else None


def is_test_id(payment_method: str) -> bool:
    """True for ids of the form `pm_card_…`, which every use turns into a new PaymentMethod."""
    return payment_method.startswith("pm_card_")
