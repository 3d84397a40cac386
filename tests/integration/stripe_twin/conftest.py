"""Fixtures: a twin, the real SDK talking to it, a webhook receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import stripe

from tests.integration.stripe_twin.harness import Receiver, TwinProcess, stripe_client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinProcess]:
    """One twin a module, without webhooks; tests keep to customers of their own."""
    process = TwinProcess(tmp_path_factory.mktemp("twin")).start()
    yield process
    process.close()


@pytest.fixture
def notifying_twin(tmp_path: Path, receiver: Receiver) -> Iterator[TwinProcess]:
    """A twin of the test's own that sends its events to `receiver`."""
    process = TwinProcess(tmp_path / "twin", webhook_url=receiver.url).start()
    yield process
    process.close()


@pytest.fixture
async def client(twin: TwinProcess) -> AsyncIterator[stripe.StripeClient]:
    made = stripe_client(twin.url)
    yield made
    await made._requestor._client.close_async()  # type: ignore[union-attr]


@pytest.fixture
async def notifying_client(notifying_twin: TwinProcess) -> AsyncIterator[stripe.StripeClient]:
    made = stripe_client(notifying_twin.url)
    yield made
    await made._requestor._client.close_async()  # type: ignore[union-attr]
