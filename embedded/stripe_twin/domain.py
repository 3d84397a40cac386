"""The rules: payment state machine, what a charge comes to, idempotency, webhook retries. No I/O.

Stripe objects are plain dicts in Stripe's JSON shape; every function here returns a new one.
Times are seconds of the twin's clock, amounts are in the currency's minor unit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from embedded.stripe_twin.cards import AUTHENTICATION_REQUIRED, Authentication, Card, Decline
from embedded.stripe_twin.errors import DOCS, ApiError, idempotency_in_use, idempotency_mismatch, invalid

Json = dict[str, Any]

IDEMPOTENCY_KEPT_S = 24 * 3600
IDEMPOTENCY_KEY_LENGTH = 255

EVENTS_KEPT_S = 30 * 24 * 3600

RETRIED_FOR_S = 3 * 24 * 3600
RETRY_FIRST_S = 1
RETRY_LONGEST_S = 3600

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
# Stripe cancels a processing payment "in rare cases"; the twin never does, so that callers must cope.
CANCELABLE = ("requires_payment_method", "requires_capture", "requires_confirmation", "requires_action")
CANCELLATION_REASONS = ("duplicate", "fraudulent", "requested_by_customer", "abandoned")


# --- what a charge comes to ---------------------------------------------------------------------------


class Verdict(Enum):
    """What becomes of an attempt to charge or save a card."""

    SUCCEED = "succeed"
    DECLINE = "decline"
    AUTHENTICATE = "authenticate"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to charge a card.

    `set_up`: the cardholder has authenticated it for off-session use. `authenticated`: the cardholder
    has just done so for this payment. `forced` and `hold` come from faults.
    """

    card: Card
    off_session: bool
    set_up: bool = False
    authenticated: bool = False
    forced: Decline | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict; `decline` says why when it is DECLINE."""

    verdict: Verdict
    decline: Decline | None = None


def judge_charge(attempt: Attempt) -> Judgement:
    """What the bank answers. Authentication is asked for before money: its absence is not a decline of funds."""
    if attempt.forced is not None:
        return Judgement(Verdict.DECLINE, attempt.forced)
    if not attempt.authenticated and _must_authenticate(attempt):
        if attempt.off_session:
            return Judgement(Verdict.DECLINE, AUTHENTICATION_REQUIRED)
        return Judgement(Verdict.AUTHENTICATE)
    if attempt.card.decline is not None:
        return Judgement(Verdict.DECLINE, attempt.card.decline)
    return Judgement(Verdict.HOLD if attempt.hold else Verdict.SUCCEED)


def _must_authenticate(attempt: Attempt) -> bool:
    match attempt.card.authentication:
        case Authentication.NEVER:
            return False
        case Authentication.ALWAYS:
            return True
        case Authentication.ON_SESSION:
            return not attempt.off_session
        case Authentication.UNLESS_SET_UP:
            return not attempt.set_up


def judge_setup(card: Card, *, authenticated: bool, forced: Decline | None = None) -> Judgement:
    """What the bank answers when a card is saved through a SetupIntent."""
    if forced is not None:
        return Judgement(Verdict.DECLINE, forced)
    if card.declines_on_attach:
        return Judgement(Verdict.DECLINE, card.decline)
    asks = card.authentication in (Authentication.ALWAYS, Authentication.UNLESS_SET_UP)
    return Judgement(Verdict.AUTHENTICATE if asks and not authenticated else Verdict.SUCCEED)


def card_error(decline: Decline, **members: Any) -> Json:
    """The `error` object of a decline, as answers and `last_payment_error` carry it."""
    error: Json = {
        "code": decline.code,
        "decline_code": decline.decline_code,
        "doc_url": DOCS + decline.code.replace("_", "-"),
        "message": decline.message,
        "type": "card_error",
        **members,
    }
    if decline.advice_code is not None:
        error["advice_code"] = decline.advice_code
    if decline.param is not None:
        error["param"] = decline.param
    return error


AUTHENTICATION_FAILURE_MESSAGE = (
    "We are unable to authenticate your payment method. Please choose a different payment method and try again."
)


def authentication_failure(code: str, payment_method: Json) -> Json:
    """The error of an intent whose cardholder did not authenticate."""
    return {
        "code": code,
        "doc_url": DOCS + code.replace("_", "-"),
        "message": AUTHENTICATION_FAILURE_MESSAGE,
        "payment_method": payment_method,
        "type": "invalid_request_error",
    }


# --- the PaymentIntent's states -----------------------------------------------------------------------


def initial_status(payment_method: str | None) -> str:
    """The state of an intent that has not been confirmed."""
    return "requires_payment_method" if payment_method is None else "requires_confirmation"


def check_confirmable(intent: Json) -> None:
    """Raises ApiError unless `intent` (Payment or Setup) may be confirmed now."""
    if intent["status"] in CONFIRMABLE:
        return
    if intent["status"] == "succeeded":
        reason = "it has already succeeded after being previously confirmed"
    else:
        reason = (
            f"it has a status of {intent['status']}. Only a {_noun(intent)} with one of the following statuses "
            f"may be confirmed: {', '.join(CONFIRMABLE)}"
        )
    raise unexpected_state(intent, f"You cannot confirm this {_noun(intent)} because {reason}.")


def check_cancelable(intent: Json) -> None:
    """Raises ApiError unless `intent` may be canceled now."""
    if intent["status"] not in CANCELABLE:
        raise unexpected_state(
            intent,
            f"You cannot cancel this {_noun(intent)} because it has a status of {intent['status']}. Only a "
            f"{_noun(intent)} with one of the following statuses may be canceled: {', '.join(CANCELABLE)}.",
        )


def missing_payment_method(intent: Json) -> ApiError:
    """A confirmation of an intent that has no payment method and is given none."""
    noun = _noun(intent)
    return unexpected_state(
        intent,
        f"You cannot confirm this {noun} because it's missing a payment method. You can either update the {noun} "
        "with a payment method and then confirm it again, or confirm it again directly with a payment method or "
        "ConfirmationToken.",
    )


def unexpected_state(intent: Json, message: str) -> ApiError:
    """A request that the intent's state does not allow; the intent comes with the error."""
    kind = intent["object"]
    error = invalid(message, code=f"{kind}_unexpected_state")
    error.error[kind] = intent
    return error


def _noun(intent: Json) -> str:
    return "SetupIntent" if intent["object"] == "setup_intent" else "PaymentIntent"


def after_success(intent: Json, charge: str) -> Json:
    """The intent when its charge went through."""
    return _settled(intent, "succeeded") | {"latest_charge": charge, "amount_received": intent["amount"]}


def after_authorization(intent: Json, charge: str) -> Json:
    """The intent while its money is reserved on the card and waits to be captured."""
    return _settled(intent, "requires_capture") | {"latest_charge": charge, "amount_capturable": intent["amount"]}


def after_hold(intent: Json, charge: str) -> Json:
    """The intent while its charge is pending at the bank."""
    return _settled(intent, "processing") | {"latest_charge": charge}


def after_decline(intent: Json, error: Json, charge: str | None) -> Json:
    """The intent after a refusal: open again, without a payment method, the refusal recorded."""
    declined = _settled(intent, "requires_payment_method") | {"last_payment_error": error, "payment_method": None}
    return declined if charge is None else declined | {"latest_charge": charge}


def after_challenge(intent: Json, next_action: Json) -> Json:
    """The intent while the cardholder is asked to authenticate."""
    return _settled(intent, "requires_action") | {"next_action": next_action}


def after_cancel(intent: Json, now: int, reason: str | None) -> Json:
    """The intent when canceled; nothing can happen to it any more."""
    return {
        **intent,
        "status": "canceled",
        "canceled_at": now,
        "cancellation_reason": reason,
        "next_action": None,
        **({"amount_capturable": 0} if intent["object"] == "payment_intent" else {}),
    }


def _settled(intent: Json, status: str) -> Json:
    return {**intent, "status": status, "next_action": None, "last_payment_error": None}


# --- idempotency --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer kept under an idempotency key, and which request it belongs to."""

    endpoint: str
    fingerprint: str
    status: int
    body: str
    request_id: str
    created: int


def fingerprint(params: Mapping[str, Any]) -> str:
    """A digest that two requests share exactly when their parameters are the same."""
    canonical = json.dumps(params, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def replay_for(
    key: str, stored: StoredAnswer | None, *, endpoint: str, digest: str, now: int, in_flight: bool
) -> StoredAnswer | None:
    """The answer to replay under `key`, or None to execute the request.

    Raises ApiError: 409 while the key's first request is under way, 400 when the key came with another
    request. A key is forgotten after 24 h.
    """
    if in_flight:
        raise idempotency_in_use(key)
    if stored is None or now >= stored.created + IDEMPOTENCY_KEPT_S:
        return None
    if stored.endpoint != endpoint:
        raise idempotency_mismatch(
            "Keys for idempotent requests can only be used for the same endpoint they were first used for "
            f"('{endpoint}' vs '{stored.endpoint}'). Try using a key other than '{key}' if you meant to execute "
            "a different request."
        )
    if stored.fingerprint != digest:
        raise idempotency_mismatch(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. "
            f"Try using a key other than '{key}' if you meant to execute a different request."
        )
    return stored


# --- webhook retries ----------------------------------------------------------------------------------


def retry_at(*, created: float, now: float, attempts: int) -> float | None:
    """When to send again after `attempts` failures: 1 s, 2 s, 4 s … 1 h apart; None once 3 days have passed."""
    at = now + min(RETRY_FIRST_S * 2.0 ** min(attempts - 1, 30), RETRY_LONGEST_S)
    return at if at <= created + RETRIED_FOR_S else None


def wants(enabled_events: list[str], event_type: str) -> bool:
    """Whether an endpoint with these `enabled_events` receives events of this type."""
    return "*" in enabled_events or event_type in enabled_events
