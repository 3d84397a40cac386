"""The contract, on the twin always and on Stripe's test mode when STRIPE_API_KEY holds a test key."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import stripe

from tests.integration.stripe_twin.contract import CONTRACT, Check
from tests.integration.stripe_twin.contract_checkout import CHECKOUT
from tests.integration.stripe_twin.contract_reversals import REVERSALS
from tests.integration.stripe_twin.harness import TwinProcess, stripe_client


@pytest.fixture(params=["twin", "stripe"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[stripe.StripeClient]:
    if request.param == "twin":
        process: TwinProcess = request.getfixturevalue("twin")
        made = stripe_client(process.url)
    else:
        key = os.environ.get("STRIPE_API_KEY", "")
        if not key.startswith("sk_test_"):
            pytest.skip("STRIPE_API_KEY holds no sk_test_ key")
        made = stripe_client(None, key, timeout_s=60)
    yield made
    await made._requestor._client.close_async()  # type: ignore[union-attr]


@pytest.mark.parametrize("check", CONTRACT + REVERSALS + CHECKOUT, ids=lambda check: check.__name__)
async def test_contract(either: stripe.StripeClient, check: Check) -> None:
    await check(either)
