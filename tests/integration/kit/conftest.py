"""A database with an outbox and a small table whose rows are unique, for the kit's own tests."""

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from services.kit import database as kit_database
from tests.support.databases import Database

_TABLES = """
CREATE TABLE things (
    org text NOT NULL, id text NOT NULL, value bigint NOT NULL CHECK (value >= 0), PRIMARY KEY (org, id)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON things TO budget_service;
"""


@pytest.fixture
async def fresh(database: Callable[[str], Database]) -> Database:
    """The database, with the table."""
    made = database("budget")
    connection = await asyncpg.connect(made.owner_dsn)
    await connection.execute(_TABLES)
    await connection.close()
    return made


@pytest.fixture
async def pool(fresh: Database) -> AsyncIterator[asyncpg.Pool]:
    """Connections as the service has them."""
    async with await kit_database.create_pool(fresh.service_dsn, application_name="test", lock_timeout_s=0.3) as made:
        yield made
