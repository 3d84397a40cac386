"""A wallet service with the twin as its Stripe, on a fresh database."""

import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.conftest import TwinServer
from tests.support.databases import Database
from tests.support.recharging import Rig, running_rig

_numbers = itertools.count(1)


@pytest.fixture
def org() -> str:
    return f"t{next(_numbers)}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def rig(database: Callable[[str], Database], twin: TwinServer, tmp_path: Path, org: str) -> AsyncIterator[Rig]:
    """Temporal is out of reach here: the test plays the workflow."""
    async with running_rig(database("wallet"), twin.url, tmp_path, org=org) as running:
        yield running
