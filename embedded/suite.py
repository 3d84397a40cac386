"""The whole suite on one machine: `Suite` for tests and tools, `run_foreground` for `purse up`.

    async with Suite(data_dir, free_ports=True) as suite:
        suite.address("budget"), suite.mint("orgs/acme", ["agent"]), suite.kill("budget")

Data stays in `data_dir` and is found again. What it consists of and what each process is told: `specs.py`.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from embedded import files, process, specs, state
from embedded.files import DataDirectoryBusyError
from embedded.ports import PortTakenError
from embedded.postgres import PostgresError, Role
from embedded.specs import ConfigurationError, Ports
from embedded.supervisor import NodeState, StartError, Status, Supervisor
from embedded.temporal import TemporalError
from services.kit.migrate import MigrationError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# What a person can do something about: shown as a message, not as a traceback.
START_ERRORS = (
    ConfigurationError,
    DataDirectoryBusyError,
    MigrationError,
    PortTakenError,
    PostgresError,
    StartError,
    TemporalError,
)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FOLLOW_PARENT = "PURSE_FOLLOW_PARENT"


class Suite:
    """A running suite, or a part of it.

    Args:
        data_dir: Everything it keeps; created if missing, used by one suite at a time.
        free_ports: Take ports that are free instead of the fixed ones.
        only: Names of the parts to run, with what they must wait for; None means all. The names are those of
            `suite.json`: postgres, temporal, twin, wallet, budget, metering, gateway, worker.
        environ: Settings on top of this process's environment, for every process of the suite.

    Raises:
        One of START_ERRORS, when it starts; nothing is left running then.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        free_ports: bool = False,
        only: Collection[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.ports = Ports.free() if free_ports else Ports()
        self._only = None if only is None else frozenset(only)
        self._configuration = specs.Configuration(self.data_dir, self.ports, {**os.environ, **(environ or {})})
        self._supervisor: Supervisor | None = None
        self._state: state.StateFile | None = None
        self._status = "starting"
        self._lock = contextlib.ExitStack()
        self.ready_after_s: float | None = None

    async def start(self) -> None:
        """Return when every part is ready."""
        begun = time.monotonic()
        files.make_private_directory(self.data_dir)
        with contextlib.ExitStack() as lock:
            lock.enter_context(files.exclusive(self.data_dir / "suite.lock"))
            await asyncio.to_thread(state.end_leftovers, self.data_dir, but=frozenset({"postgres"}))
            log_dir = self.data_dir / "logs"
            files.make_private_directory(log_dir)
            nodes = specs.build(self._configuration)
            if self._only is not None:
                nodes = specs.only(nodes, self._only)
            self._state = state.StateFile(
                self.data_dir,
                started_at=datetime.now(UTC),
                endpoints=self.endpoints,
                named_files={"token": self.token_file, "public_key": self._configuration.credentials.public_key},
            )
            self._supervisor = Supervisor(nodes, log_dir=log_dir, on_change=self._write_state)
            try:
                await self._supervisor.start()
            except BaseException:
                self._state.remove()
                raise
            self._lock = lock.pop_all()
        self.ready_after_s = time.monotonic() - begun
        self._status = "ready"
        self._write_state()

    async def stop(self) -> None:
        """Stop every part in good order; no error when nothing runs."""
        self._status = "stopping"
        if self._supervisor is not None:
            await self._supervisor.stop()
        if self._state is not None:
            self._state.remove()
            self._state = None
        self._lock.close()

    async def kill_all(self) -> None:
        """End every part at once with SIGKILL; `stop` still comes after."""
        if self._supervisor is not None:
            await self._supervisor.kill_all()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    @property
    def endpoints(self) -> dict[str, dict[str, str]]:
        """Name → kind, address and, where it is one, URL; of the parts that were asked for."""
        found = specs.endpoints(self._configuration)
        if self._only is None:
            return found
        wanted = {spec.name for spec in specs.only(specs.build(self._configuration), self._only)}
        return {name: where for name, where in found.items() if name.partition("-")[0] in wanted}

    @property
    def token_file(self) -> Path:
        """The development token: every organisation, every role but `service`."""
        return self._configuration.credentials.dev_token

    @property
    def log_dir(self) -> Path:
        """One log per child, NAME.log."""
        return self.data_dir / "logs"

    def address(self, name: str) -> str:
        """`host:port` of an endpoint."""
        return self.endpoints[name]["address"]

    def dsn(self, database: str, role: Role) -> str:
        """The address of a database for its owner or its service, password included."""
        return self._configuration.dsn(database, role)

    def mint(self, subject: str, roles: Sequence[str], ttl_s: int = 3600) -> str:
        """A token for a subject and everything below it."""
        return self._configuration.credentials.mint(subject, roles, ttl_s)

    @property
    def webhook_secret(self) -> str:
        """What Stripe's webhooks to this suite are signed with."""
        return self._configuration.webhook_secret()

    def states(self) -> list[NodeState]:
        """Every part and every step of the start."""
        return [] if self._supervisor is None else self._supervisor.states()

    def pid(self, name: str) -> int | None:
        """The pid of a part, None while it does not run."""
        return self._running().pid(name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a part and return the pid that got it: `await wait_ready(name, other_than=pid)`."""
        return self._running().kill(name, number)

    async def restart(self, name: str) -> int:
        """Stop a part in good order and start it again; returns the new pid once it is ready."""
        return await self._running().restart(name)

    async def down(self, name: str) -> None:
        """Stop a part and keep it down until `up`."""
        await self._running().down(name)

    async def up(self, name: str) -> int:
        """Let a part that is down run again; returns its pid once it is ready."""
        return await self._running().up(name)

    async def wait_ready(self, name: str, *, other_than: int | None = None, timeout_s: float = 60.0) -> int:
        """Wait until a part is ready under a pid that is not `other_than`; returns it, or raises TimeoutError."""
        return await self._running().wait_ready(name, other_than=other_than, timeout_s=timeout_s)

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise RuntimeError("the suite is not running: start it first")
        return self._supervisor

    def _write_state(self) -> None:
        if self._state is not None and self._supervisor is not None:
            # Supervising goes on where the file cannot be written, as on a full disk.
            with contextlib.suppress(OSError):
                self._state.write(self._status, self.ready_after_s, self._supervisor.states())


def run_foreground(
    data_dir: Path,
    free_ports: bool = False,  # noqa: FBT001, FBT002 - a switch of the command line, handed through
    *,
    only: Collection[str] | None = None,
) -> int:
    """Run the suite until SIGINT, SIGTERM or SIGHUP, telling on standard output; a second signal kills at once.

    `only` runs some of its parts, as in `Suite`. Returns 0 after a stop that was asked for, 1 when the suite could
    not start, with the reason on standard error.

    With PURSE_FOLLOW_PARENT=1 the end of the process that started this one counts as SIGTERM too: for `make`.
    """
    if os.environ.get(_FOLLOW_PARENT) == "1":
        process.follow_parent(signal.SIGTERM)
    return asyncio.run(_foreground(data_dir, free_ports=free_ports, only=only))


async def _foreground(data_dir: Path, *, free_ports: bool, only: Collection[str] | None) -> int:
    from rich.console import Console

    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    asked_to_stop, asked_again = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (asked_again if asked_to_stop.is_set() else asked_to_stop).set()

    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        suite = Suite(data_dir, free_ports=free_ports, only=only)
        if not await _start_unless(asked_to_stop, suite, console):
            console.print("stopped before it was ready")
            return 0
    except START_ERRORS as error:
        errors.print(f"cannot start: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    console.print(_table(suite))
    console.print(f"ready in {suite.ready_after_s or 0:.1f} s; logs in {suite.log_dir}; Ctrl-C stops everything")
    watching = asyncio.create_task(_tell_restarts(suite, console))
    await asked_to_stop.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    console.print("stopping; once more kills at once")
    await _stop_or_kill(suite, asked_again)
    console.print("stopped")
    return 0


async def _start_unless(asked_to_stop: asyncio.Event, suite: Suite, console: "Console") -> bool:
    """Start the suite, showing what it waits for; False when it was asked to stop first, and has stopped."""
    starting = asyncio.create_task(suite.start())
    stopping = asyncio.create_task(asked_to_stop.wait())
    with console.status("starting") as line:
        while not starting.done() and not stopping.done():
            await asyncio.wait({starting, stopping}, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            open_parts = [part.name for part in suite.states() if part.status is not Status.READY]
            line.update("starting " + ", ".join(open_parts))
    stopping.cancel()
    if starting.done():
        await starting
        return True
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await suite.stop()
    return False


async def _stop_or_kill(suite: Suite, asked_again: asyncio.Event) -> None:
    stopping = asyncio.create_task(suite.stop())
    hurrying = asyncio.create_task(asked_again.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await suite.kill_all()
    hurrying.cancel()
    await stopping


async def _tell_restarts(suite: Suite, console: "Console") -> None:
    told = {part.name: part.restarts for part in suite.states()}
    while True:
        await asyncio.sleep(0.5)
        for part in suite.states():
            if part.restarts != told[part.name]:
                told[part.name] = part.restarts
                console.print(
                    f"{part.name} {part.last_exit}; starting it again; log: {part.log}",
                    style="yellow",
                    markup=False,
                    soft_wrap=True,
                )


def _table(suite: Suite) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("address", no_wrap=True)
    for name, where in suite.endpoints.items():
        table.add_row(name, where.get("url") or f"{where['address']} ({where['kind']})")
    table.add_row("token", str(suite.token_file))
    return table
