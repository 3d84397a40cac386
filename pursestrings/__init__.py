"""Financial autonomy with guardrails for AI agents: ask before a spend, record after it, to the nano.

    from pursestrings import AsyncClient, Denied

    async with AsyncClient() as client:
        async with client.reserve("orgs/acme/agents/bot", model="gpt-4o-mini", input_tokens=900) as call:
            response = await model(...)
            call.record(response.usage)

The names are imported when they are first used, so that `import pursestrings` costs next to nothing.
The contracts are in `pursestrings.{type,metering,budget,wallet}.v1`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pursestrings._answers import Answer, Chunks
    from pursestrings._call import AsyncCall
    from pursestrings._client import AsyncClient
    from pursestrings._errors import Denied, Error, Rejected, Unavailable, Unrecorded
    from pursestrings._money import Money
    from pursestrings._sync import Call, Client

__all__ = [
    "Answer",
    "AsyncCall",
    "AsyncClient",
    "Call",
    "Chunks",
    "Client",
    "Denied",
    "Error",
    "Money",
    "Rejected",
    "Unavailable",
    "Unrecorded",
]
__version__ = "0.1.0"

_HOMES = {
    "Answer": "_answers",
    "AsyncCall": "_call",
    "AsyncClient": "_client",
    "Call": "_sync",
    "Chunks": "_answers",
    "Client": "_sync",
    "Denied": "_errors",
    "Error": "_errors",
    "Money": "_money",
    "Rejected": "_errors",
    "Unavailable": "_errors",
    "Unrecorded": "_errors",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
