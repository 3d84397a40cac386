"""Stripe's objects, in the shape the API answers with. Ids and times come from the caller. No I/O."""

from __future__ import annotations

import hashlib
from typing import Any

from embedded.stripe_twin.cards import Authentication, Card

Json = dict[str, Any]

API_VERSION = "2026-10-28.endive"
ACCOUNT_ID = "acct_1Pursestrings"


def customer(object_id: str, now: int, params: Json) -> Json:
    """A customer; `params` are validated create parameters."""
    settings = params.get("invoice_settings", {})
    return {
        "id": object_id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": now,
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": params.get("description") or None,
        "discount": None,
        "email": params.get("email") or None,
        "invoice_prefix": hashlib.sha256(object_id.encode()).hexdigest()[:8].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": settings.get("default_payment_method") or None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": params.get("metadata") or {},
        "name": params.get("name") or None,
        "next_invoice_sequence": 1,
        "phone": params.get("phone") or None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def billing_details(given: Json | None) -> Json:
    """Billing details with every member present."""
    given = given or {}
    address = given.get("address") or {}
    lines = ("city", "country", "line1", "line2", "postal_code", "state")
    return {
        "address": {line: address.get(line) for line in lines},
        "email": given.get("email") or None,
        "name": given.get("name") or None,
        "phone": given.get("phone") or None,
        "tax_id": None,
    }


def card_facts(card: Card, exp_month: int, exp_year: int) -> Json:
    """What a PaymentMethod and a charge both say of a card."""
    return {
        "brand": card.brand,
        "country": "US",
        "exp_month": exp_month,
        "exp_year": exp_year,
        "fingerprint": hashlib.sha256(card.number.encode()).hexdigest()[:16],
        "funding": card.funding,
        "last4": card.last4,
        "wallet": None,
    }


def payment_method(object_id: str, now: int, card: Card, *, exp_month: int, exp_year: int, params: Json) -> Json:
    """A card PaymentMethod that belongs to nobody yet."""
    return {
        "id": object_id,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": billing_details(params.get("billing_details")),
        "card": {
            **card_facts(card, exp_month, exp_year),
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "display_brand": card.brand,
            "generated_from": None,
            "networks": {"available": [card.brand], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": card.authentication is not Authentication.NEVER},
        },
        "created": now,
        "customer": None,
        "customer_account": None,
        "livemode": False,
        "metadata": params.get("metadata") or {},
        "type": "card",
    }


def setup_intent(object_id: str, now: int, secret: str, params: Json) -> Json:
    """A SetupIntent that waits for a payment method or a confirmation."""
    return {
        "id": object_id,
        "object": "setup_intent",
        "application": None,
        "attach_to_self": False,
        "allowed_payment_method_types": params.get("allowed_payment_method_types"),
        "automatic_payment_methods": automatic_payment_methods(params),
        "cancellation_reason": None,
        "client_secret": f"{object_id}_secret_{secret}",
        "created": now,
        "customer": params.get("customer"),
        "customer_account": None,
        "description": params.get("description") or None,
        "flow_directions": None,
        "last_setup_error": None,
        "latest_attempt": None,
        "livemode": False,
        "mandate": None,
        "metadata": params.get("metadata") or {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "single_use_mandate": None,
        "status": "requires_payment_method",
        "usage": params.get("usage", "off_session"),
    }


def payment_intent(object_id: str, now: int, secret: str, params: Json) -> Json:
    """A PaymentIntent that waits for a payment method or a confirmation."""
    return {
        "id": object_id,
        "object": "payment_intent",
        "amount": params["amount"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "allowed_payment_method_types": params.get("allowed_payment_method_types"),
        "automatic_payment_methods": automatic_payment_methods(params),
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": params.get("capture_method", "automatic_async"),
        "client_secret": f"{object_id}_secret_{secret}",
        "confirmation_method": params.get("confirmation_method", "automatic"),
        "created": now,
        "currency": params["currency"],
        "customer": params.get("customer"),
        "customer_account": None,
        "description": params.get("description") or None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": params.get("metadata") or {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": params.get("receipt_email") or None,
        "review": None,
        "setup_future_usage": params.get("setup_future_usage"),
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": params.get("statement_descriptor_suffix") or None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": params.get("transfer_group") or None,
    }


def automatic_payment_methods(params: Json) -> Json | None:
    """The setting as answered: on unless the caller named the types or turned it off."""
    given = params.get("automatic_payment_methods")
    if given is not None:
        if given.get("enabled") != "true":
            return None
        return {"enabled": True, "allow_redirects": given.get("allow_redirects", "always")}
    if params.get("allowed_payment_method_types"):
        return None
    return {"enabled": True, "allow_redirects": "always"}


def charge(object_id: str, now: int, intent: Json, method: Json, *, status: str, error: Json | None) -> Json:
    """The charge of one attempt: `status` succeeded, pending or failed; `error` says why it failed."""
    succeeded = status == "succeeded"
    outcome = {
        "advice_code": error.get("advice_code") if error else None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "approved_by_network" if error is None else "declined_by_network",
        "reason": error["decline_code"] if error else None,
        "risk_level": "normal",
        "risk_score": 1,
        "seller_message": "Payment complete." if error is None else "The bank declined the payment.",
        "type": "authorized" if error is None else "issuer_declined",
    }
    return {
        "id": object_id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"] if succeeded else 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "PURSESTRINGS",
        "captured": succeeded,
        "created": now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": error["code"] if error else None,
        "failure_message": error["message"] if error else None,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "on_behalf_of": None,
        "outcome": outcome,
        "paid": succeeded,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {"card": charged_card(method["card"], intent["amount"]), "type": "card"},
        "radar_options": {},
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": intent["statement_descriptor_suffix"],
        "status": status,
        "transfer_data": None,
        "transfer_group": intent["transfer_group"],
    }


def charged_card(card: Json, amount: int) -> Json:
    """A charge's view of the card it was made on."""
    shared = ("brand", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4", "wallet")
    return {
        **{name: card[name] for name in shared},
        "amount_authorized": amount,
        "checks": card["checks"],
        "installments": None,
        "mandate": None,
        "network": card["brand"],
        "three_d_secure": None,
    }


def next_action(page_url: str, return_url: str | None) -> Json:
    """Where the cardholder authenticates: a redirect when the caller gave a `return_url`."""
    if return_url:
        return {"type": "redirect_to_url", "redirect_to_url": {"url": page_url, "return_url": return_url}}
    return {
        "type": "use_stripe_sdk",
        "use_stripe_sdk": {"type": "three_d_secure_redirect", "stripe_js": page_url},
    }


def event(
    object_id: str,
    now: int,
    event_type: str,
    payload: Json,
    *,
    request_id: str | None,
    idempotency_key: str | None,
    endpoints: int,
) -> Json:
    """An event with the object as it is now; `endpoints` is how many webhooks it is owed to."""
    return {
        "id": object_id,
        "object": "event",
        "api_version": API_VERSION,
        "created": now,
        "data": {"object": payload},
        "livemode": False,
        "pending_webhooks": endpoints,
        "request": {"id": request_id, "idempotency_key": idempotency_key},
        "type": event_type,
    }


def page(url: str, items: list[Json], *, has_more: bool) -> Json:
    """One page of a list."""
    return {"object": "list", "data": items, "has_more": has_more, "url": url}


def account() -> Json:
    """The account that every key belongs to."""
    return {
        "id": ACCOUNT_ID,
        "object": "account",
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": None,
        "payouts_enabled": False,
        "settings": {"dashboard": {"display_name": "Stripe twin", "timezone": "Etc/UTC"}},
        "type": "standard",
    }


def checkout_session(object_id: str, now: int, params: Json, expires_at: int, url: str) -> Json:
    """A Checkout session whose page waits for the customer; `params` are checked, with `items` in payment mode."""
    items = params.get("items")
    total = sum(item["amount"] for item in items) if items else None
    return {
        "id": object_id,
        "object": "checkout.session",
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "client_secret": None,
        "created": now,
        "currency": items[0]["currency"] if items else params.get("currency"),
        "custom_fields": [],
        "custom_text": {"after_submit": None, "shipping_address": None, "submit": None},
        "customer": params.get("customer"),
        "customer_account": None,
        "customer_creation": None,
        "customer_details": None,
        "customer_email": None,
        "expires_at": expires_at,
        "invoice": None,
        "livemode": False,
        "locale": None,
        "metadata": params.get("metadata") or {},
        "mode": params["mode"],
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "if_required",
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": "unpaid" if items else "no_payment_required",
        "setup_intent": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "success_url": params["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0} if items else None,
        "ui_mode": "hosted_page",
        "url": url,
    }
