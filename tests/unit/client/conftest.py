"""A served book and a client of it."""

from collections.abc import AsyncIterator

import pytest

from pursestrings import AsyncClient
from tests.unit.client.servicer import Book, Served, serve


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


@pytest.fixture
def book(served: Served) -> Book:
    return served.book


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(budget=served.address, metering=served.address, token="a-token", timeout_s=5.0) as opened:
        yield opened
