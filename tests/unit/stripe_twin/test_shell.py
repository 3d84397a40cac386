"""The small parts around the rules: keys, routes, signature, clock, addresses."""

from __future__ import annotations

import base64
import time

import pytest
import stripe

from embedded.stripe_twin.admin import check_url
from embedded.stripe_twin.app import check_key
from embedded.stripe_twin.clock import Clock
from embedded.stripe_twin.errors import ApiError
from embedded.stripe_twin.routes import resolve
from embedded.stripe_twin.webhooks import signature


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:".encode()).decode()


@pytest.mark.parametrize("header", ["Bearer sk_test_1", "bearer rk_test_1", basic("sk_test_1")])
def test_test_keys(header: str) -> None:
    check_key(header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sk_test_1",
        "Bearer",
        "Bearer sk_live_1",
        "Bearer pk_test_1",
        "Bearer sk_test_",
        "Basic %%",
        basic("x"),
    ],
)
def test_other_keys_are_refused(header: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        check_key(header)
    assert refused.value.status == 401


def test_a_live_key_is_not_repeated_in_the_answer() -> None:
    with pytest.raises(ApiError) as refused:
        check_key("Bearer sk_live_4eC39HqLyjWDarjtT1zdp7dc")
    assert "4eC39" not in str(refused.value)


def test_the_sdk_verifies_the_signature() -> None:
    body, now = '{"id": "evt_1", "name": "é"}', int(time.time())
    header = signature(body, "whsec_1", now)
    assert header == stripe.WebhookSignature.generate_signature_header(body, "whsec_1", now)
    assert stripe.WebhookSignature.verify_header(body, header, "whsec_1", tolerance=300)


def test_paths_carry_ids() -> None:
    operation, ids = resolve("POST", "/v1/payment_intents/pi_1/confirm")
    assert (operation.path, ids) == ("/v1/payment_intents/{id}/confirm", {"id": "pi_1"})


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/subscriptions"), ("DELETE", "/v1/customers/cus_1"), ("GET", "/v1/customers/a%2Fb"), ("GET", "/v2/x")],
)
def test_other_paths_are_not_served(method: str, path: str) -> None:
    with pytest.raises(ApiError) as refused:
        resolve(method, path)
    assert refused.value.status == 404


def test_the_clock_only_goes_forward() -> None:
    clock = Clock(100.0, wall=lambda: 1000.0)
    clock.advance(50)
    assert (clock.now(), clock.wall(), clock.offset_s) == (1150.0, 1000.0, 150.0)
    for wrong in (-1.0, 1e12, float("nan")):
        with pytest.raises(ValueError, match="advance_s must be from 0"):
            clock.advance(wrong)
    assert clock.offset_s == 150.0


@pytest.mark.parametrize("url", ["http://127.0.0.1:7400/webhooks/stripe", "https://example.com/"])
def test_addresses_for_webhooks(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "http://", "http://a b/\n", "http://x/" + "y" * 2000])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http or https"):
        check_url(url)
