"""What the code says of itself: its processes, their settings and the names they serve."""

import asyncio
import functools
import importlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.gateway.service import create_app
from services.kit.channel import channel
from services.kit.migrate import SERVICES, variable
from services.kit.server import LIVE
from services.kit.settings import ServiceSettings

CHECKOUT: Final = Path(__file__).resolve().parents[2]
_MIGRATE: Final = "services.kit.migrate"
_ADDRESS: Final = re.compile(r"settings\.(metering|budget|wallet)_address\b")
_EDGE: Final = re.compile(r'--\s*"[^"]*"\s*-->|---|-->')


class UnknownCommandError(Exception):
    """A manifest's command is none of the code's; the text says why."""


@dataclass(frozen=True, slots=True)
class Process:
    """One command of the image.

    Attributes:
        settings: The class that reads its environment; None for the migrations, which read `variables` alone.
        variables: Every environment variable that it reads, and the settings' field of each.
        required: Those it cannot do without.
        health_names: What its gRPC health service answers for; empty where it has none.
    """

    settings: type[ServiceSettings] | None
    variables: Mapping[str, str]
    required: frozenset[str]
    health_names: frozenset[str]


def process(command: list[str]) -> Process:
    """The process that a container's command starts.

    Raises:
        UnknownCommandError: No such command is in the image.
    """
    if command[:2] != ["python", "-m"] or len(command) < 3:
        raise UnknownCommandError(f"{command} is not python -m MODULE")
    module = command[2]
    file = CHECKOUT / f"{module.replace('.', '/')}.py"
    if not file.is_file() or '__name__ == "__main__"' not in file.read_text():
        raise UnknownCommandError(f"{module} is no module that runs")
    if module == _MIGRATE:
        return _migration(command[3:])
    settings = _settings(module)
    variables = {name: field for field in settings.model_fields for name in _names(settings, field)}
    served = getattr(importlib.import_module(module), "NAME", None)
    return Process(
        settings,
        variables,
        frozenset(_names(settings, field)[0] for field in settings.required),
        frozenset((LIVE, "", served)) if served else frozenset(),
    )


def _migration(arguments: list[str]) -> Process:
    wait = "--wait" in arguments
    services = [one for one in arguments if one != "--wait"]
    if len(services) != 1 or services[0] not in (*SERVICES, "all"):
        raise UnknownCommandError(f"{_MIGRATE} takes one of {', '.join(SERVICES)} or all, not {services}")
    names = SERVICES if services == ["all"] else services
    needed = frozenset(variable(service, wait=wait) for service in names)
    return Process(None, {name: name for name in needed}, needed, frozenset())


def _settings(module: str) -> type[ServiceSettings]:
    package = importlib.import_module(f"{module.rpartition('.')[0]}.settings")
    (found,) = (
        one
        for one in vars(package).values()
        if isinstance(one, type) and issubclass(one, ServiceSettings) and one.__module__ == package.__name__
    )
    return found


def _names(settings: type[ServiceSettings], field: str) -> list[str]:
    alias = settings.model_fields[field].validation_alias
    choices = getattr(alias, "choices", None)
    return [str(choice) for choice in choices] if choices else [settings.variable(field)]


@functools.cache
def routes() -> frozenset[str]:
    """The paths that the gateway answers."""

    async def read() -> frozenset[str]:
        # A channel wants a loop, even one that is never used.
        app = create_app(channel("127.0.0.1:1", None), timeout_s=1, requests_max=1)
        return frozenset(getattr(route, "path", "") for route in app.routes)

    return asyncio.run(read())


def arrows() -> frozenset[tuple[str, str]]:
    """Who calls whom, as the picture in docs/architecture.md has it; `---` is drawn from the caller."""
    text = (CHECKOUT / "docs/architecture.md").read_text()
    picture = text.partition("```mermaid")[2].partition("```")[0]
    found = set()
    for line in picture.splitlines():
        nodes = [re.sub(r"[\[(].*", "", part).strip() for part in _EDGE.split(line)]
        if len(nodes) > 1 and all(node.isidentifier() for node in nodes):
            found |= set(itertools.pairwise(nodes))
    return frozenset(found)


def calls() -> frozenset[tuple[str, str]]:
    """Who calls which service, by the addresses that each process's own code reads."""
    places = {
        **{name: f"services/{name}" for name in ("metering", "budget", "wallet", "gateway")},
        "worker": "workflows",
    }
    return frozenset(
        (name, called)
        for name, place in places.items()
        for file in (CHECKOUT / place).rglob("*.py")
        for called in _ADDRESS.findall(file.read_text())
    )
