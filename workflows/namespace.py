"""The namespace of Temporal that the suite works in: waited for, and given the search attributes it needs."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from services.kit.telemetry import get_logger
from services.kit.temporal import connect
from workflows.settings import WorkerSettings

SEARCH_ATTRIBUTES: Final[Mapping[str, "IndexedValueType.ValueType"]] = {
    "Org": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Subject": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Wallet": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "State": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Deadline": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
}
"""What workflows are found by in Temporal's UI."""

_CONNECT_REST_S: Final = 0.5
_RPC_TIMEOUT: Final = timedelta(seconds=10)

_log = get_logger(__name__)


async def connected(settings: WorkerSettings) -> Client:
    """A client, once Temporal answers for the namespace and knows the search attributes."""
    said = False
    while True:
        try:
            client = await connect(settings)
            await register_search_attributes(client)
        except (RuntimeError, RPCError) as error:
            if not said:
                _log.warning("waiting for Temporal", address=settings.temporal_address, error=str(error)[:200])
                said = True
            await asyncio.sleep(_CONNECT_REST_S)
        else:
            return client


async def register_search_attributes(client: Client) -> None:
    """Makes the search attributes that the namespace does not have yet, where this client may.

    Raises:
        RPCError: Temporal is out of reach.
    """
    known: set[str] = set()
    try:
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace), timeout=_RPC_TIMEOUT
        )
        known.update(answer.custom_attributes)
    except RPCError as error:
        if error.status is not RPCStatusCode.UNIMPLEMENTED:
            raise
    missing = {name: kind for name, kind in SEARCH_ATTRIBUTES.items() if name not in known}
    if not missing:
        return
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing), timeout=_RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.PERMISSION_DENIED:
            _log.warning("search attributes are missing and must be made by an operator", names=sorted(missing))
        # Otherwise another worker was faster.
        elif error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise
