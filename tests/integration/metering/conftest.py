"""A running metering for a test."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from tests.support.databases import Database
from tests.support.metering import Metering, running_metering


@pytest.fixture
def metering_database(database: Callable[[str], Database]) -> Database:
    """A fresh database of metering."""
    return database("metering")


@pytest.fixture
async def metering(metering_database: Database, tmp_path: Path) -> AsyncIterator[Metering]:
    """Metering on the fresh database, with a budget service that can be told to fail."""
    async with running_metering(metering_database, tmp_path) as running:
        yield running


@pytest.fixture
async def books(metering_database: Database) -> AsyncIterator[asyncpg.Connection]:
    """The same database as its owner sees it."""
    connection = await asyncpg.connect(metering_database.owner_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def service_books(metering_database: Database) -> AsyncIterator[asyncpg.Connection]:
    """The same database as the service may use it."""
    connection = await asyncpg.connect(metering_database.service_dsn)
    yield connection
    await connection.close()
