"""One child process: how it is started, when it is ready, how it is stopped, where its output goes."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedded import process
from embedded.probes import Probe

LOG_BYTES_MAX = 16 * 1024 * 1024  # of the current file; one older file of about this size is kept beside it
_POLL_S = 0.03
_KILLED_TIMEOUT_S = 5.0  # after SIGKILL only the kernel is waited for


class ChildFailedError(Exception):
    """A child did not become ready; the text says why and shows the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run and how.

    `after` names what must be ready before this one starts, `uses` what it calls while it runs: both must
    outlive it when everything stops. `before_start` and `after_start` block and run in a thread, at each
    start: the first before the process, the second once the probe says ready and before others are told so.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    ready: Probe
    after: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    ports: Mapping[str, int]  # purpose → port that it binds
    before_start: Callable[[], None] | None = None
    after_start: Callable[[], None] | None = None
    cwd: Path
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    identity: str = "same"
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 15.0


class LogFile:
    """A child's output: appended to by the child itself, kept small by whoever calls `bound` now and then."""

    def __init__(self, path: Path, *, bytes_max: int = LOG_BYTES_MAX) -> None:
        self.path = path
        self._bytes_max = bytes_max

    def bound(self) -> None:
        """Move the content to `NAME.log.1` when it is too long.

        Copy and truncate, since the child keeps the file open: what it writes between the two is lost. In
        return the supervisor stands in nobody's way, and a child's last words survive the supervisor. On a full disk
        the file stays as it is.
        """
        with contextlib.suppress(OSError):
            if self.path.stat().st_size > self._bytes_max:
                shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
                os.truncate(self.path, 0)

    def tail(self, *, lines_max: int = 15, bytes_max: int = 4096) -> str:
        """The last lines, for an error message."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - bytes_max))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines_max:])
        return ""


class Child:
    """The process of a spec: at most one at a time, which cannot outlive this process."""

    def __init__(self, spec: ChildSpec, log: LogFile) -> None:
        self.spec = spec
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
        self._group: int | None = None  # the process group, until it has been ended
        self.ticks: int | None = None

    @property
    def pid(self) -> int | None:
        """The pid of the running process, None when none runs."""
        running = self._process
        return running.pid if running is not None and running.returncode is None else None

    async def launch(self) -> None:
        """Start the process, in a session of its own so that a terminal's Ctrl-C reaches the parent alone."""
        if self.pid is not None:
            raise RuntimeError(f"{self.spec.name} already runs as pid {self.pid}")
        if self.spec.before_start is not None:
            await asyncio.to_thread(self.spec.before_start)
        self.log.bound()
        argv = process.guarded(self.spec.argv, death_signal=self.spec.death_signal, identity=self.spec.identity)
        with self.log.path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.spec.environ),
                cwd=self.spec.cwd,
                start_new_session=True,
            )
        self._group = self._process.pid
        self.ticks = process.start_ticks(self._process.pid)

    async def wait_ready(self) -> None:
        """Return once the probe says ready and `after_start` is done; raises ChildFailedError if never."""
        name, timeout_s = self.spec.name, self.spec.ready_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if (pid := self.pid) is None:
                        raise ChildFailedError(self._with_log(f"{name} {self.exit_text()} before it was ready"))
                    if await self.spec.ready(pid):
                        break
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ChildFailedError(self._with_log(f"{name} was not ready after {timeout_s:g} s")) from None
        if self.spec.after_start is not None:
            await asyncio.to_thread(self.spec.after_start)

    async def wait(self) -> None:
        """Return when the process has ended; what it left of its process group is ended too."""
        if self._process is not None:
            await self._process.wait()
            self._end_group()

    async def stop(self) -> None:
        """Ask with the stop signal, wait, insist with SIGKILL; no error when nothing runs."""
        running = self._process
        if running is not None and running.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # To the process, not its group: what it started is its own to stop in order.
                running.send_signal(self.spec.stop_signal)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.spec.stop_timeout_s):
                    await running.wait()
        await self.kill_now()

    async def kill_now(self) -> None:
        """End the process, and whatever is left of its group, with SIGKILL."""
        self._end_group()
        if self._process is not None:
            # One that even the kernel cannot end now, stuck in a device, still counts as running.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILLED_TIMEOUT_S):
                    await self._process.wait()

    def send_signal(self, number: signal.Signals) -> int:
        """Send a signal to the process and return its pid; raises ProcessLookupError when none runs."""
        if (pid := self.pid) is None:
            raise ProcessLookupError(f"{self.spec.name} is not running")
        os.kill(pid, number)
        return pid

    def exit_text(self) -> str:
        """How the last process ended, in words."""
        code = None if self._process is None else self._process.returncode
        if code is None:
            return "did not end"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    def _with_log(self, text: str) -> str:
        tail = self.log.tail()
        return f"{text}; its log is {self.log.path}" + (f", which ends:\n{tail}" if tail else " and is empty")

    def _end_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
