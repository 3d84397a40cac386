"""How a command finds the suite and what it calls it with.

First what the command line says, then PURSE_* variables, then the running suite's own state file,
`.purse/suite.json` of the current folder (or of `--data`).
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pursestrings._client import AsyncClient
from pursestrings._rpc import Rpc, invoke
from pursestrings.cli.failures import CliError

DEFAULT_DATA: Final = Path(".purse")
TIMEOUT_S: Final = 10.0
PAGE_SIZE: Final = 1000
T = TypeVar("T")
Response = TypeVar("Response")
Item = TypeVar("Item")


@dataclass(slots=True)
class Where:
    """What the command line says about the suite; None where it says nothing."""

    data: Path = DEFAULT_DATA
    budget: str | None = None
    metering: str | None = None
    wallet: str | None = None
    token_file: Path | None = None
    timeout_s: float = TIMEOUT_S


def read_suite(data: Path) -> dict[str, Any] | None:
    """The state file of a suite, None where there is none.

    Raises:
        CliError: It is there and cannot be read as one.
    """
    path = data / "suite.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("endpoints"), dict):
        raise CliError(f"{path} is no state file of a suite", "stop the suite and start it again with `purse up`")
    return content


def settings(where: Where) -> dict[str, Any]:
    """The client's arguments."""
    suite = read_suite(where.data) or {}
    endpoints = suite.get("endpoints", {})
    token_file = where.token_file
    if token_file is None and not (os.environ.get("PURSE_TOKEN") or os.environ.get("PURSE_TOKEN_FILE")):
        named = suite.get("files", {}).get("token")
        token_file = Path(named) if named else None
    found: dict[str, Any] = {"token_file": token_file, "timeout_s": where.timeout_s}
    for name in ("budget", "metering", "wallet"):
        said = getattr(where, name) or os.environ.get(f"PURSE_{name.upper()}_ADDRESS")
        found[name] = said or endpoints.get(name, {}).get("address")
    return found


class Suite:
    """The three services, as a command calls them: each call is tried again until its time is up."""

    def __init__(self, client: AsyncClient, timeout_s: float) -> None:
        self.client = client
        self.timeout_s = timeout_s

    async def budget(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the budget service."""
        return await self._call(getattr(self.client.budget, method), request, "the budget service", answer_s)

    async def metering(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the metering service."""
        return await self._call(getattr(self.client.metering, method), request, "the metering service", answer_s)

    async def wallet(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the wallet service."""
        return await self._call(getattr(self.client.wallet, method), request, "the wallet service", answer_s)

    async def _call(self, rpc: Rpc[Any, Response], request: object, what: str, answer_s: float | None) -> Response:
        return await invoke(rpc, request, timeout_s=self.timeout_s, what=what, answer_s=answer_s)


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Suite]:
    """An open connection to the suite.

    Raises:
        CliError: An address that cannot be.
    """
    try:
        client = AsyncClient(**settings(where))
        async with client:
            yield Suite(client, where.timeout_s)
    except ValueError as error:
        raise CliError(str(error)) from error


def with_suite(where: Where, work: Callable[[Suite], Coroutine[Any, Any, T]]) -> T:
    """Runs a command's work on an open connection."""

    async def run() -> T:
        async with connected(where) as suite:
            return await work(suite)

    return asyncio.run(run())


async def pages(
    call: Callable[[Any], Coroutine[Any, Any, Any]], request: Any, items: Callable[[Any], Any], limit: int
) -> list[Any]:
    """All items of a paged list, at most `limit`."""
    found: list[Any] = []
    request.page_size = min(PAGE_SIZE, limit)
    while True:
        page = await call(request)
        found.extend(items(page))
        if not page.next_page_token or len(found) >= limit:
            return found[:limit]
        request.page_token = page.next_page_token
