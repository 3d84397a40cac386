"""A running metering for a test."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.databases import Database
from tests.support.metering import Metering, running_metering


@pytest.fixture
async def metering(database: Callable[[str], Database], tmp_path: Path) -> AsyncIterator[Metering]:
    """Metering on a fresh database, with a budget service that can be told to fail."""
    async with running_metering(database("metering"), tmp_path) as running:
        yield running
