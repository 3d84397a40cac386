"""The whole way of a recharge: wallet service, gateway, worker, Temporal and the twin."""

import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.conftest import TwinServer
from tests.support.databases import Database
from tests.support.recharging import Rig, running_rig
from workflows import deciding
from workflows.namespace import connected
from workflows.settings import WorkerSettings


@pytest.fixture
def org() -> str:
    return f"w-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def temporal(temporal_address: str) -> Client:
    return await connected(WorkerSettings(temporal_address=temporal_address))


@pytest.fixture
async def rig(
    database: Callable[[str], Database], twin: TwinServer, tmp_path: Path, org: str, temporal_address: str
) -> AsyncIterator[Rig]:
    async with running_rig(
        database("wallet"), twin.url, tmp_path, org=org, temporal_address=temporal_address
    ) as running:
        yield running


@pytest.fixture
def deaths_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies while it carries a decision is missed after moments; as many tries as ever."""
    moment = timedelta(milliseconds=50)
    monkeypatch.setattr(deciding, "HEARTBEAT_TIMEOUT", 4 * moment)
    policy = dataclasses.replace(deciding.RETRY, initial_interval=moment, maximum_interval=moment)
    monkeypatch.setattr(deciding, "RETRY", policy)
