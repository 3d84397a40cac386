"""The session's fixtures themselves: fresh databases, a Temporal that knows our search attributes, a twin."""

from collections.abc import Callable

import asyncpg
import httpx
import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from embedded.temporal import NAMESPACE, SEARCH_ATTRIBUTES
from tests.conftest import TwinServer
from tests.support.databases import Database, Databases

DatabaseFactory = Callable[[str], Database]


@pytest.mark.parametrize("service", ["metering", "budget", "wallet"])
async def test_a_database_is_of_its_service_alone(database: DatabaseFactory, service: str) -> None:
    mine = database(service)
    connection = await asyncpg.connect(mine.service_dsn)
    try:
        assert f"{service}_service" == await connection.fetchval("SELECT current_user")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE of_the_service (id int)")
    finally:
        await connection.close()
    # The same login, another service's database.
    other = database("wallet" if service != "wallet" else "budget")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(mine.service_dsn.replace(mine.name, other.name))


async def test_databases_share_nothing_and_are_dropped(databases: Databases) -> None:
    first, second = databases.create("budget"), databases.create("budget")
    connection = await asyncpg.connect(first.owner_dsn)
    await connection.execute("CREATE TABLE only_in_the_first (id int)")
    other = await asyncpg.connect(second.owner_dsn)
    assert await other.fetchval("SELECT to_regclass('only_in_the_first')") is None
    await other.close()
    # With a session still open: a test that forgot one must not stop the next.
    databases.drop(first)
    databases.drop(second)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(first.owner_dsn)
    connection.terminate()


async def test_temporal_knows_our_search_attributes(temporal_address: str) -> None:
    client = await Client.connect(temporal_address, namespace=NAMESPACE)
    listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=NAMESPACE))
    assert set(SEARCH_ATTRIBUTES) <= set(listed.custom_attributes)


async def test_the_twin_answers(twin: TwinServer) -> None:
    async with httpx.AsyncClient(base_url=twin.url) as client:
        answer = await client.get("/v1/payment_methods/pm_unknown", headers={"Authorization": "Bearer sk_test_twin"})
    assert answer.status_code == 404
