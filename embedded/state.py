"""The state file of a running suite: what `purse status` reads, and what the next start cleans up after.

`suite.json` in the data directory, written whole at every change, removed when the suite stops in good order:

    version      1 status       starting | ready | stopping pid, start_ticks    the supervisor: both must
    match a live process, else the file was left by a crash started_at   RFC 3339;  ready_after_s
    seconds, null until ready data_dir     absolute path endpoints    name → {"kind": "http" | "grpc" |
    "postgres", "address": "host:port", "url": only where it is one} files        name → absolute path of
    the development token and the public key children     [{"name", "status", "pid", "start_ticks",
    "restarts", "log", "last_exit"}]

It holds no secret.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from embedded import files, process
from embedded.supervisor import NodeState

VERSION = 1
FILE_NAME = "suite.json"


class StateFile:
    """Writes the state of one run."""

    def __init__(
        self, data_dir: Path, *, started_at: datetime, endpoints: Mapping[str, Any], named_files: Mapping[str, Path]
    ) -> None:
        self.path = data_dir / FILE_NAME
        self._fixed = {
            "version": VERSION,
            "pid": os.getpid(),
            "start_ticks": process.start_ticks(os.getpid()),
            "started_at": started_at.isoformat(),
            "data_dir": str(data_dir),
            "endpoints": dict(endpoints),
            "files": {name: str(path) for name, path in named_files.items()},
        }

    def write(self, status: str, ready_after_s: float | None, children: Sequence[NodeState]) -> None:
        """Replace the file."""
        content = {
            **self._fixed,
            "status": status,
            "ready_after_s": ready_after_s,
            "children": [dataclasses.asdict(child) for child in children if child.log is not None],
        }
        files.write_private(self.path, json.dumps(content, indent=1).encode(), durable=False)

    def remove(self) -> None:
        """The run is over."""
        self.path.unlink(missing_ok=True)


def read(data_dir: Path) -> dict[str, Any] | None:
    """The state file's content, or None where there is none or it cannot be read."""
    try:
        content = json.loads((data_dir / FILE_NAME).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("version") == VERSION else None


def is_running(content: Mapping[str, Any]) -> bool:
    """Whether the supervisor that wrote this lives."""
    return process.is_alive(content["pid"], content["start_ticks"])


def end_leftovers(data_dir: Path, *, but: frozenset[str]) -> list[int]:
    """End the children that a killed supervisor's state file names and that live on; returns their pids.

    The kernel ends them with their parent, so there are none but on a machine where that failed. `but` names
    children that clean up after themselves. Call it only while holding the data directory's lock.
    """
    content = read(data_dir)
    if content is None:
        return []
    return process.end_leftovers(
        [
            (child["pid"], child["start_ticks"])
            for child in content["children"]
            if child["pid"] is not None and child["start_ticks"] is not None and child["name"] not in but
        ]
    )
