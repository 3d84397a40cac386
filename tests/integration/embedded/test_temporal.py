"""The embedded Temporal for real: workflows and search attributes survive a kill."""

from pathlib import Path

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from embedded.suite import Suite
from embedded.temporal import NAMESPACE, SEARCH_ATTRIBUTES


async def test_workflows_survive_a_kill_and_a_restart(tmp_path: Path) -> None:
    async with Suite(tmp_path, free_ports=True, only=["temporal"]) as suite:
        client = await Client.connect(suite.address("temporal"), namespace=NAMESPACE)
        # Started, not run: no worker is needed to see that the server keeps it.
        wallet = SearchAttributeKey.for_keyword("Wallet")
        await client.start_workflow(
            "Recharge",
            id="recharge-1",
            task_queue="nobody",
            search_attributes=TypedSearchAttributes([SearchAttributePair(wallet, "orgs/acme/wallets/main")]),
        )
        killed = suite.kill("temporal")
        assert await suite.wait_ready("temporal", other_than=killed) != killed
        assert await started_at_wallet(suite) == ["orgs/acme/wallets/main"]
    async with Suite(tmp_path, free_ports=True, only=["temporal"]) as suite:
        assert await started_at_wallet(suite) == ["orgs/acme/wallets/main"]
        client = await Client.connect(suite.address("temporal"), namespace=NAMESPACE)
        request = ListSearchAttributesRequest(namespace=NAMESPACE)
        listed = await client.operator_service.list_search_attributes(request)
        assert set(SEARCH_ATTRIBUTES) <= set(listed.custom_attributes)


async def started_at_wallet(suite: Suite) -> list[str | None]:
    client = await Client.connect(suite.address("temporal"), namespace=NAMESPACE)
    description = await client.get_workflow_handle("recharge-1").describe()
    return [description.typed_search_attributes.get(SearchAttributeKey.for_keyword("Wallet"))]
