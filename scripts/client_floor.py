"""Imports every module of the client and makes calls with it, on whatever grpcio and protobuf are installed.

Prints one line with the versions; ends with an error where something does not run.
"""

import asyncio
import importlib
import pkgutil
from importlib.metadata import version

import pursestrings
from pursestrings import AsyncClient, Client, Denied
from tests.unit.client.servicer import Book, serve

BOT = "orgs/acme/agents/bot"


def import_all() -> int:
    """Imports all but the command line, which has dependencies of its own; returns how many modules."""
    names = [
        module.name
        for module in pkgutil.walk_packages(pursestrings.__path__, "pursestrings.")
        if not module.name.startswith("pursestrings.cli")
    ]
    for name in names:
        importlib.import_module(name)
    return len(names)


def call_synchronously(address: str, book: Book) -> None:
    """One settled call and one denied one."""
    with Client(budget=address, metering=address) as client:
        with client.reserve(BOT, model="gpt-4o-mini", input_tokens=5) as call:
            call.record({"prompt_tokens": 5, "completion_tokens": 1})
        assert call.costs[0].amount_nanos == 5
        book.limit = 0
        denial = None
        try:
            with client.reserve(BOT):
                pass
        except Denied as denied:
            denial = str(denied)
        assert denial is not None, "a denial was let through"
        assert "orgs/acme/budgets/tight" in denial


async def call_asynchronously(address: str, book: Book) -> None:
    """A hundred calls at once, and a release."""
    async with AsyncClient(budget=address, metering=address) as client:

        async def one() -> None:
            async with client.reserve(BOT, cost="0.01") as call:
                call.record(input_tokens=1, final=False)

        await asyncio.gather(*(one() for _ in range(100)))
    assert len(book.recorded) == len(book.released) == 100


async def main() -> None:
    """Imports, calls, and says so."""
    count = import_all()
    async with serve() as served:
        await call_asynchronously(served.address, served.book)
    async with serve() as served:
        await asyncio.to_thread(call_synchronously, served.address, served.book)
    print(f"{count} modules run on grpcio {version('grpcio')}, protobuf {version('protobuf')}")


if __name__ == "__main__":
    asyncio.run(main())
