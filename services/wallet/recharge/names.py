"""Names of recharges and the idempotency keys that are made of them.

Two installations may share a Stripe account and have recharges of the same name, so every key begins with whose it is.
"""

import hashlib
from typing import Final

_KEY_NAME_CHARS_MAX: Final = 180


def recharge_name(wallet: str, month: str, number: int) -> str:
    """`{subject}/recharges/{wallet id}-{YYYY-MM}-{number}`."""
    return _of_month(wallet, "recharges", month, number)


def extra_name(wallet: str, month: str, number: int) -> str:
    """`{subject}/rechargeExtras/{wallet id}-{YYYY-MM}-{number}`."""
    return _of_month(wallet, "rechargeExtras", month, number)


def review_name(wallet: str, month: str, number: int) -> str:
    """`{subject}/rechargeReviews/{wallet id}-{YYYY-MM}-{number}`."""
    return _of_month(wallet, "rechargeReviews", month, number)


def create_key(installation: str, recharge: str, intent: int) -> str:
    """What a recharge's PaymentIntent number `intent` is created with: Stripe makes it once."""
    return f"recharge/{installation}/{_short(recharge)}/pi{intent}"


def confirm_key(installation: str, recharge: str, intent: int, attempt: int) -> str:
    """What attempt number `attempt` confirms it with: a new attempt is a new key, a time-out keeps the old one."""
    return f"{create_key(installation, recharge, intent)}/{attempt}"


def customer_key(installation: str, wallet: str) -> str:
    """What a wallet's customer is created with."""
    return f"customer/{installation}/{_short(wallet)}"


def attach_key(installation: str, wallet: str, request_id: str, payment_method: str) -> str:
    """What a payment method is put on file with."""
    return f"attach/{installation}/{_digest(f'{wallet} {request_id} {payment_method}')}"


def asked_id(org: str, method: str, request_id: str) -> str:
    """What a top-up or a card setup is called: the same request is the same one, for ever."""
    return _digest(f"{org} {method} {request_id}")[:32]


def top_up_key(installation: str, top_up: str, step: str) -> str:
    """What a step of a top-up is done under: `page`, `create` or `confirm`."""
    return f"top-up/{installation}/{_short(top_up)}/{step}"


def card_setup_key(installation: str, card_setup: str) -> str:
    """What a page to enter a card on is created with."""
    return f"card-setup/{installation}/{_short(card_setup)}"


def grant_ids(recharge: str) -> tuple[str, str]:
    """What the grant of a recharge or a top-up is called: as that itself, or by a digest where the name is taken."""
    return recharge.rpartition("/")[2], f"recharge-{_digest(recharge)[:40]}"


def _of_month(wallet: str, collection: str, month: str, number: int) -> str:
    subject, _, wallet_id = wallet.rpartition("/wallets/")
    return f"{subject}/{collection}/{wallet_id}-{month}-{number}"


def _short(name: str) -> str:
    """The name itself, or a digest where it does not fit into a key, which Stripe limits to 255 characters."""
    return name if len(name) <= _KEY_NAME_CHARS_MAX else f"sha256:{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
