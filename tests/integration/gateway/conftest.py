"""The wallet service that the gateway stands before."""

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.conftest import TwinServer
from tests.support.databases import Database
from tests.support.recharging import Rig, running_rig


@pytest.fixture
async def rig(database: Callable[[str], Database], twin: TwinServer, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_rig(database("wallet"), twin.url, tmp_path, org=f"g-{uuid.uuid4().hex[:8]}") as running:
        yield running
