"""Metering as processes of their own, to be killed."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from embedded.ports import free_ports
from tests.support.databases import CHECKOUT, Database
from tests.support.metering import EVERYONE, Keys
from tests.support.processes import running, serves

SERVICE = "pursestrings.metering.v1.MeteringService"


@dataclass(frozen=True, slots=True)
class MeteringProcesses:
    """How to start metering, again and again.

    Attributes:
        token: A service's token for everything.
        environ: The settings, without ports.
        directory: Where its log goes.
        keys: What signs its tokens.
    """

    token: str
    environ: dict[str, str]
    directory: Path
    keys: Keys

    @classmethod
    def make(cls, database: Database, directory: Path, budget_address: str, **more: str) -> "MeteringProcesses":
        """Processes on one database that relay to one budget service; further settings by their variables' names."""
        keys = Keys.make(directory)
        token = keys.token(EVERYONE, "service")
        (directory / "token").write_text(token)
        environ = {
            "PATH": os.defpath,
            "PURSE_METERING_DSN": database.service_dsn,
            "PURSE_AUTH_PUBLIC_KEY_FILE": str(keys.public_file),
            "PURSE_SERVICE_TOKEN_FILE": str(directory / "token"),
            "PURSE_BUDGET_ADDRESS": budget_address,
        }
        return cls(token, environ | more, directory, keys)

    @contextlib.asynccontextmanager
    async def start(self, port: int, metrics_port: int) -> AsyncIterator[int]:
        """Metering on a port; gives its pid."""
        binds = {"PURSE_BIND": f"127.0.0.1:{port}", "PURSE_METRICS_BIND": f"127.0.0.1:{metrics_port}"}
        context = running(
            (sys.executable, "-m", "services.metering.main"),
            environ=self.environ | binds,
            cwd=CHECKOUT,
            log=self.directory / f"metering-{port}.log",
            is_ready=lambda _pid: serves(port, SERVICE),
        )
        # In a thread: the budget service of this very loop must go on answering while metering starts and stops.
        pid = await asyncio.to_thread(context.__enter__)
        try:
            yield pid
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)

    @contextlib.asynccontextmanager
    async def start_anywhere(self) -> AsyncIterator[tuple[str, int]]:
        """Metering on free ports; gives its address and pid."""
        port, metrics_port = free_ports(2)
        async with self.start(port, metrics_port) as pid:
            yield f"127.0.0.1:{port}", pid
