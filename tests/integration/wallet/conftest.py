"""A wallet database, its books, and the service over gRPC."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from services.kit.database import create_pool
from tests.support.databases import Database
from tests.support.wallets import Books, Caller, Keys, make_keys, serving_wallet


@pytest.fixture
def fresh(database: Callable[[str], Database]) -> Database:
    """An empty wallet database."""
    return database("wallet")


@pytest.fixture
async def pool(fresh: Database) -> AsyncIterator[asyncpg.Pool]:
    """Connections as the service has them."""
    async with await create_pool(fresh.service_dsn, application_name="test", lock_timeout_s=5) as made:
        yield made


@pytest.fixture
async def books(pool: asyncpg.Pool) -> Books:
    """The ledger on the database."""
    return Books(pool)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """The suite's keys."""
    return make_keys(tmp_path)


@pytest.fixture
async def call(fresh: Database, keys: Keys) -> AsyncIterator[Caller]:
    """The service, called with every right."""
    async with serving_wallet(fresh.service_dsn, keys) as address:
        caller = Caller(address, keys.token("orgs/-", "admin", "service"))
        yield caller
        await caller.close()
