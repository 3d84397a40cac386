"""One real suite, started as people start it, for all end-to-end tests."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pursestrings import Client, Error

PURSE = Path(sys.executable).with_name("purse")
CHECKOUT = Path(__file__).parents[2]
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 40.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class RunningSuite:
    """A suite under `purse up`.

    Attributes:
        data: Its data folder.
    """

    data: Path

    @property
    def state(self) -> dict[str, Any]:
        """What its state file says now."""
        content: dict[str, Any] = json.loads((self.data / "suite.json").read_text())
        return content

    @property
    def token_file(self) -> Path:
        """The development token."""
        return Path(self.state["files"]["token"])

    def client(self) -> dict[str, Any]:
        """A client's arguments."""
        addresses = {name: self.state["endpoints"][name]["address"] for name in ("budget", "metering", "wallet")}
        return {**addresses, "token_file": self.token_file}

    def pid(self, part: str) -> int:
        """The pid of a part."""
        pid: int = next(child["pid"] for child in self.state["children"] if child["name"] == part)
        return pid

    def mint(self, subject: str, *roles: str) -> str:
        """A token."""
        from embedded.credentials import Credentials

        return Credentials(self.data / "keys").mint(subject, roles, 3600)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    """A suite of the session, ready to decide."""
    data = tmp_path_factory.mktemp("suite")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PURSE_", "STRIPE_"))}
    log = data / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PURSE, "up", "--data", data, "--free-ports"],
            cwd=CHECKOUT,
            env={**environ, "PURSE_FOLLOW_PARENT": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        running = RunningSuite(data)
        _wait_ready(process, running, log)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert 0 == code, log.read_text()
    assert not (data / "suite.json").exists()


def _wait_ready(process: subprocess.Popen[bytes], running: RunningSuite, log: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        with contextlib.suppress(FileNotFoundError):
            if running.state["status"] == "ready":
                break
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise AssertionError(f"the suite did not start: {log.read_text()}")
        time.sleep(_POLL_S)
    # Prices are learned in the background of the start.
    with Client(**running.client(), timeout_s=_START_TIMEOUT_S) as client:
        try:
            client.check("orgs/start", model="gpt-4o-mini", input_tokens=1, max_output_tokens=1)
        except Error as error:
            raise AssertionError(f"the suite does not decide: {error}") from error
