"""Keys, modes and events, without a connection."""

import json

import pytest
import stripe as sdk
from pydantic import SecretStr

from services.kit.errors import PurseError
from services.wallet.recharge.settings import ALLOW_LIVE, StripeSettings
from services.wallet.recharge.stripe import PAYLOAD_BYTES_MAX, Stripe

SECRET = "whsec_test"


def settings(key: str = "sk_test_1", **more: str) -> StripeSettings:
    return StripeSettings.model_validate(
        {"stripe_api_key": SecretStr(key), "stripe_webhook_secret": SecretStr(SECRET), **more}
    )


def event(**changes: object) -> bytes:
    about = {"org": "acme", "recharge": "orgs/acme/recharges/main-2026-11-1"}
    thing = {"object": "payment_intent", "id": "pi_1", "metadata": about}
    body = {"id": "evt_1", "type": "payment_intent.succeeded", "livemode": False, "data": {"object": thing}}
    return json.dumps({**body, "pending_webhooks": 1, **changes}).encode()


def sign(payload: bytes, secret: str = SECRET) -> str:
    return str(sdk.WebhookSignature.generate_signature_header(payload.decode(), secret))


@pytest.mark.parametrize("key", ["", "sk_live_1", "rk_live_1", "pk_test_1", "nonsense"])
def test_only_test_keys_are_taken(key: str) -> None:
    with pytest.raises(SystemExit) as refused:
        Stripe(settings(key))
    assert not key or key not in str(refused.value)


def test_a_live_key_needs_words_and_goes_to_stripe_alone() -> None:
    assert Stripe(settings("sk_live_1", stripe_allow_live=ALLOW_LIVE)).livemode
    with pytest.raises(SystemExit):
        Stripe(settings("sk_live_1", stripe_allow_live="yes"))
    with pytest.raises(SystemExit):
        Stripe(settings("sk_live_1", stripe_allow_live=ALLOW_LIVE, stripe_base_url="http://127.0.0.1:7408"))


def test_secrets_are_not_shown() -> None:
    assert "sk_test_1" not in repr(settings())
    assert SECRET not in repr(settings())


def test_a_signed_event_is_read() -> None:
    payload = event()
    seen = Stripe(settings()).verify_event(payload, sign(payload))
    assert (seen.id, seen.org, seen.recharge, seen.payment_intent) == (
        "evt_1",
        "acme",
        "orgs/acme/recharges/main-2026-11-1",
        "pi_1",
    )


def test_a_charge_names_its_payment_intent() -> None:
    payload = event(data={"object": {"object": "charge", "id": "ch_1", "payment_intent": "pi_9", "metadata": {}}})
    assert Stripe(settings()).verify_event(payload, sign(payload)).payment_intent == "pi_9"


def test_deliveries_of_one_event_have_one_content() -> None:
    first, second = event(), event(pending_webhooks=0)
    provider = Stripe(settings())
    contents = [provider.verify_event(payload, sign(payload)).content for payload in (first, second)]
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("payload", "signature", "reason"),
    [
        (event(), "", "BAD_SIGNATURE"),
        (event(), "t=1,v1=00", "BAD_SIGNATURE"),
        (event(), sign(event(), "whsec_other"), "BAD_SIGNATURE"),
        (event() + b" ", sign(event()), "BAD_SIGNATURE"),
        (b"\xff", "t=1,v1=00", "BAD_SIGNATURE"),
        (b"[]", sign(b"[]"), "MALFORMED_EVENT"),
        (b"{}", sign(b"{}"), "MALFORMED_EVENT"),
        (b"nonsense", sign(b"nonsense"), "MALFORMED_EVENT"),
        (event(account="acct_other"), sign(event(account="acct_other")), "OTHER_ACCOUNT"),
        (b"x" * (PAYLOAD_BYTES_MAX + 1), "t=1", "INVALID_ARGUMENT"),
    ],
    # Signatures tell the time, which differs from one worker's collection to the next.
    ids=("empty", "wrong", "other secret", "other body", "no text", "list", "nothing", "nonsense", "account", "large"),
)
def test_what_is_not_signed_or_no_event_is_refused(payload: bytes, signature: str, reason: str) -> None:
    with pytest.raises(PurseError) as refused:
        Stripe(settings()).verify_event(payload, signature)
    assert refused.value.reason == reason


def test_an_old_signature_is_refused() -> None:
    payload = event()
    old = sdk.WebhookSignature.generate_signature_header(payload.decode(), SECRET, timestamp=1_000_000)
    with pytest.raises(PurseError):
        Stripe(settings()).verify_event(payload, str(old))
