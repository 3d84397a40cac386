"""Starts children in order of dependency, keeps them running, stops them in reverse.

Each node has one task of its own. A child that ends unasked is started again after a pause that doubles
from 0.1 s to 10 s and starts over once the child has been ready for 30 s. During the very first start a
child may fail three times before the whole start is given up. Nothing here outlives the supervisor: see
`guard.py`.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from embedded import ports
from embedded.child import Child, ChildSpec, LogFile

FIRST_START_ATTEMPTS_MAX = 3
PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 10.0
HEALTHY_AFTER_S = 30.0
_LOG_CHECK_INTERVAL_S = 5.0


class StartError(Exception):
    """The first start did not succeed; everything that had started is stopped again."""


class Status(StrEnum):
    """Where a node stands."""

    WAITING = "waiting"  # for its dependencies
    STARTING = "starting"
    READY = "ready"  # for a task: done
    PAUSING = "pausing"  # between a crash and the next start
    DOWN = "down"  # held down on request
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """Something to do once, in process, after others are ready and before those that wait for it."""

    name: str
    run: Callable[[], Awaitable[None]]
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeState:
    """What is known of a node, for people and for the state file."""

    name: str
    status: Status
    pid: int | None
    start_ticks: int | None
    restarts: int
    log: str | None
    last_exit: str | None


@dataclass(slots=True)
class _Node:
    spec: ChildSpec | TaskSpec
    child: Child | None
    status: Status = Status.WAITING
    settled: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    allowed: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    asked_to_end: bool = False  # the next end of the process is no crash
    restarts: int = 0
    last_exit: str | None = None


class Supervisor:
    """Runs nodes; each may depend only on nodes earlier in the list. Use it from one event loop."""

    def __init__(
        self,
        specs: Sequence[ChildSpec | TaskSpec],
        *,
        log_dir: Path,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        _check_order(specs)
        self._specs = list(specs)
        self._log_dir = log_dir
        self._on_change = on_change
        self._nodes: dict[str, _Node] = {}
        self._pulse: asyncio.Event | None = None
        self._log_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when every node is ready; raises StartError or PortTakenError with all stopped again."""
        children = [spec for spec in self._specs if isinstance(spec, ChildSpec)]
        ports.require_free(
            (f"{spec.name} ({purpose})", port) for spec in children for purpose, port in spec.ports.items()
        )
        self._pulse = asyncio.Event()
        for spec in self._specs:
            log = LogFile(self._log_dir / f"{spec.name}.log")
            node = _Node(spec, Child(spec, log) if isinstance(spec, ChildSpec) else None)
            node.allowed.set()
            self._nodes[spec.name] = node
        for node in self._nodes.values():
            node.task = asyncio.create_task(self._run(node), name=f"supervise {node.spec.name}")
        self._log_task = asyncio.create_task(self._bound_logs(), name="bound logs")
        try:
            settled = [node.settled for node in self._nodes.values()]
            await asyncio.wait(settled, return_when=asyncio.FIRST_EXCEPTION)
        except BaseException:
            await self.stop()
            raise
        # Asking each one also tells asyncio that no failure was overlooked.
        failures = [future.exception() for future in settled if future.done()]
        for failure in filter(None, failures):
            await self.stop()
            raise failure

    async def stop(self) -> None:
        """Stop everything, each node once those that depend on it have stopped; returns when nothing runs."""
        if self._log_task is not None:
            self._log_task.cancel()
            await asyncio.gather(self._log_task, return_exceptions=True)
        await asyncio.gather(*(self._stop_node(node) for node in self._nodes.values()))

    async def kill_all(self) -> None:
        """End every child at once with SIGKILL: for those who do not wait for `stop`."""
        children = [node.child for node in self._nodes.values() if node.child is not None]
        await asyncio.gather(*(child.kill_now() for child in children))

    async def restart(self, name: str) -> int:
        """Stop a child in good order and start it again; returns the new pid once it is ready."""
        node, child = self._child(name)
        before = child.pid
        node.asked_to_end = before is not None
        node.hurry.set()
        await child.stop()
        return await self.wait_ready(name, other_than=before)

    async def down(self, name: str) -> None:
        """Stop a child and keep it down until `up`."""
        node, child = self._child(name)
        node.allowed.clear()
        node.asked_to_end = child.pid is not None
        await child.stop()

    async def up(self, name: str) -> int:
        """Let a child that is down run again; returns its pid once it is ready."""
        node, _ = self._child(name)
        node.allowed.set()
        return await self.wait_ready(name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a child and return the pid that got it; a child that dies of it is restarted."""
        _, child = self._child(name)
        return child.send_signal(number)

    def pid(self, name: str) -> int | None:
        """The pid of a child, None while it does not run."""
        return self._child(name)[1].pid

    async def wait_ready(self, name: str, *, other_than: int | None = None, timeout_s: float = 60.0) -> int:
        """Wait until a child is ready under a pid that is not `other_than`; returns the pid.

        Raises TimeoutError. After a kill, pass the pid that was killed: until its end is noticed it counts
        as ready.
        """
        node, child = self._child(name)
        async with asyncio.timeout(timeout_s):
            while True:
                pulse = self._pulse
                pid = child.pid
                if node.status is Status.READY and pid is not None and pid != other_than:
                    return pid
                assert pulse is not None, "start() comes first"
                await pulse.wait()

    def states(self) -> list[NodeState]:
        """Every node, in the order of the list."""
        found = []
        for node in self._nodes.values():
            child = node.child
            pid = None if child is None else child.pid
            found.append(
                NodeState(
                    name=node.spec.name,
                    status=node.status,
                    pid=pid,
                    start_ticks=None if child is None or pid is None else child.ticks,
                    restarts=node.restarts,
                    log=None if child is None else str(child.log.path),
                    last_exit=node.last_exit,
                )
            )
        return found

    async def _run(self, node: _Node) -> None:
        try:
            for name in node.spec.after:
                await asyncio.shield(self._nodes[name].settled)
            if isinstance(node.spec, TaskSpec):
                self._set(node, Status.STARTING)
                await node.spec.run()
                self._set(node, Status.READY)
                self._settle(node)
            else:
                await self._keep_running(node)
        except asyncio.CancelledError:
            raise
        except StartError:
            # Of a dependency, which reports it itself.
            return
        except Exception as error:
            self._fail(node, StartError(f"{node.spec.name} failed: {error}"), error)

    async def _keep_running(self, node: _Node) -> None:
        child = node.child
        assert child is not None, "a task has no process"
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            if not node.allowed.is_set():
                self._set(node, Status.DOWN)
                await node.allowed.wait()
            node.hurry.clear()
            ready_at, problem = None, None
            try:
                self._set(node, Status.STARTING)
                await child.launch()
                self._set(node, Status.STARTING)
                await child.wait_ready()
                ready_at = clock()
                self._set(node, Status.READY)
                self._settle(node)
                await child.wait()
            except Exception as error:
                problem = str(error)
                await child.kill_now()
                if not node.settled.done() and failures + 1 >= FIRST_START_ATTEMPTS_MAX:
                    self._fail(node, StartError(str(error)), error)
                    return
            node.last_exit = problem or child.exit_text()
            node.restarts += 1
            if node.asked_to_end:
                node.asked_to_end = False
                failures = 0
                continue
            was_healthy = ready_at is not None and clock() - ready_at >= HEALTHY_AFTER_S
            failures = 1 if was_healthy else failures + 1
            self._set(node, Status.PAUSING)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s(failures)):
                    await node.hurry.wait()

    async def _stop_node(self, node: _Node) -> None:
        for other in self._nodes.values():
            if node.spec.name in _needs(other.spec):
                await other.stopped.wait()
        if node.task is not None:
            # First the task that would start the child again, then the child.
            node.task.cancel()
            await asyncio.gather(node.task, return_exceptions=True)
        if node.child is not None:
            await node.child.stop()
        if not node.settled.done():
            node.settled.cancel()
        self._set(node, Status.STOPPED)
        node.stopped.set()

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_INTERVAL_S)
            for node in self._nodes.values():
                if node.child is not None:
                    await asyncio.to_thread(node.child.log.bound)

    def _child(self, name: str) -> tuple[_Node, Child]:
        node = self._nodes.get(name)
        if node is None or node.child is None:
            known = ", ".join(other.spec.name for other in self._nodes.values() if other.child is not None)
            raise KeyError(f"no child process {name!r} here; there are: {known or 'none'}")
        return node, node.child

    def _set(self, node: _Node, status: Status) -> None:
        node.status = status
        pulse, self._pulse = self._pulse, asyncio.Event()
        if pulse is not None:
            pulse.set()
        self._on_change()

    @staticmethod
    def _settle(node: _Node) -> None:
        if not node.settled.done():
            node.settled.set_result(None)

    @staticmethod
    def _fail(node: _Node, failure: StartError, cause: Exception) -> None:
        if not node.settled.done():
            failure.__cause__ = cause
            node.settled.set_exception(failure)


def pause_s(failures: int) -> float:
    """How long to wait before the next start after this many failures in a row (at least one)."""
    # The exponent is capped before the power is taken, which would grow without limit.
    return min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(failures - 1, 16))


def _needs(spec: ChildSpec | TaskSpec) -> tuple[str, ...]:
    return spec.after + spec.uses if isinstance(spec, ChildSpec) else spec.after


def _check_order(specs: Sequence[ChildSpec | TaskSpec]) -> None:
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ValueError(f"two nodes are named {spec.name!r}")
        if missing := [name for name in _needs(spec) if name not in seen]:
            raise ValueError(f"{spec.name!r} needs {missing}, which must come before it in the list")
        seen.add(spec.name)
