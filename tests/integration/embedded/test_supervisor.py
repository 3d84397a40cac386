"""The supervisor with real processes: order, readiness, restarts, stopping, logs."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from embedded import probes, process
from embedded.child import ChildSpec, LogFile
from embedded.ports import LOOPBACK, PortTakenError, free_ports
from embedded.supervisor import FIRST_START_ATTEMPTS_MAX, StartError, Status, Supervisor, TaskSpec
from tests.support.waiting import until

# Listens, tells what happens to it, and leaves a grandchild that would outlive it.
SERVER = """
import os, signal, socket, subprocess, sys, time
def stop(*_):
    print("stopped", sys.argv[2], time.monotonic_ns(), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop if sys.argv[3] == "obeys" else signal.SIG_IGN)
grandchild = subprocess.Popen(["/bin/sleep", "600"])
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.listen()
print("started", sys.argv[2], grandchild.pid, flush=True)
while True:
    signal.pause()
"""


def server(
    name: str, port: int, *, after: tuple[str, ...] = (), uses: tuple[str, ...] = (), manners: str = "obeys"
) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=(sys.executable, "-c", SERVER, str(port), name, manners),
        environ={"PATH": os.defpath},
        ready=probes.tcp(LOOPBACK, port),
        after=after,
        uses=uses,
        ports={"TCP": port},
        cwd=Path("/"),
        stop_timeout_s=0.5 if manners != "obeys" else 15.0,
    )


def failing(name: str, script: str, *, ready_timeout_s: float = 60.0) -> ChildSpec:
    async def never(_pid: int) -> bool:
        return False

    return ChildSpec(
        name=name,
        argv=(sys.executable, "-c", script),
        environ={"PATH": os.defpath},
        ready=never,
        ports={},
        cwd=Path("/"),
        ready_timeout_s=ready_timeout_s,
    )


@asynccontextmanager
async def supervised(*specs: ChildSpec | TaskSpec, log_dir: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(specs, log_dir=log_dir)
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


def grandchildren(log_dir: Path, name: str) -> list[int]:
    lines = (log_dir / f"{name}.log").read_text().splitlines()
    return [int(line.split()[2]) for line in lines if line.startswith("started")]


async def test_a_start_waits_for_what_it_needs_and_a_stop_goes_the_other_way(tmp_path: Path) -> None:
    first, second, third = free_ports(3)
    seen: list[dict[str, Status]] = []

    async def look() -> None:
        seen.append({state.name: state.status for state in supervisor.states()})

    specs = (
        server("database", first),
        TaskSpec(name="migrate", run=look, after=("database",)),
        server("service", second, after=("migrate",)),
        # Starts at once, but calls the service: it stops before.
        server("gateway", third, uses=("service",)),
    )
    supervisor = Supervisor(specs, log_dir=tmp_path)
    await supervisor.start()
    assert seen[0]["database"] is Status.READY
    assert seen[0]["service"] is Status.WAITING
    assert {state.status for state in supervisor.states()} == {Status.READY}
    await supervisor.stop()
    assert {state.status for state in supervisor.states()} == {Status.STOPPED}

    def stopped_at(name: str) -> int:
        return int((tmp_path / f"{name}.log").read_text().splitlines()[-1].split()[2])

    assert stopped_at("gateway") < stopped_at("service") < stopped_at("database")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_a_child_that_ends_unasked_is_started_again(tmp_path: Path, number: signal.Signals) -> None:
    async with supervised(server("service", free_ports(1)[0]), log_dir=tmp_path) as supervisor:
        for round_ in (1, 2):
            ended = supervisor.kill("service", number)
            assert await supervisor.wait_ready("service", other_than=ended) != ended
            assert supervisor.states()[0].restarts == round_
        last_exit = supervisor.states()[0].last_exit
        assert last_exit is not None
        # SIGTERM is a clean end for this program, and yet nobody asked for it.
        assert ("exited with code 0" if number is signal.SIGTERM else f"was ended by {number.name}") == last_exit


async def test_what_a_child_leaves_of_its_group_ends_with_it(tmp_path: Path) -> None:
    async with supervised(server("service", free_ports(1)[0]), log_dir=tmp_path) as supervisor:
        ended = supervisor.kill("service")
        await supervisor.wait_ready("service", other_than=ended)
        before, now = grandchildren(tmp_path, "service")
        await until(lambda: not process.is_alive(before), what="the end of the killed child's own child")
        assert process.is_alive(now)
    await until(lambda: not process.is_alive(now), what="the end of the stopped child's own child")


async def test_restart_down_and_up(tmp_path: Path) -> None:
    async with supervised(server("service", free_ports(1)[0]), log_dir=tmp_path) as supervisor:
        first = supervisor.pid("service")
        second = await supervisor.restart("service")
        assert second != first
        await supervisor.down("service")
        await until(lambda: supervisor.states()[0].status is Status.DOWN, what="the child being down")
        assert supervisor.pid("service") is None
        with pytest.raises(ProcessLookupError, match="service is not running"):
            supervisor.kill("service")
        third = await supervisor.up("service")
        assert third not in (first, second)


async def test_a_child_that_does_not_obey_is_killed(tmp_path: Path) -> None:
    async with supervised(server("stubborn", free_ports(1)[0], manners="ignores"), log_dir=tmp_path) as supervisor:
        pid = supervisor.pid("stubborn")
        assert pid is not None
    assert not process.is_alive(pid)


async def test_kill_all_does_not_wait_for_manners(tmp_path: Path) -> None:
    async with supervised(server("service", free_ports(1)[0]), log_dir=tmp_path) as supervisor:
        pid = supervisor.pid("service")
        assert pid is not None
        stopping = asyncio.create_task(supervisor.stop())
        await supervisor.kill_all()
        await stopping
        assert not process.is_alive(pid)


async def test_a_child_that_keeps_failing_at_first_ends_the_start_with_its_last_words(tmp_path: Path) -> None:
    good = server("good", free_ports(1)[0])
    bad = failing("bad", "import sys; sys.exit('no such setting: PURSE_X')")
    supervisor = Supervisor([good, bad], log_dir=tmp_path)
    with pytest.raises(StartError, match=r"(?s)bad exited with code 1 before it was ready.*no such setting: PURSE_X"):
        await supervisor.start()
    assert (tmp_path / "bad.log").read_text().count("no such setting") == FIRST_START_ATTEMPTS_MAX
    assert supervisor.pid("good") is None


async def test_a_child_that_hangs_at_first_ends_the_start(tmp_path: Path) -> None:
    hanging = failing("hanging", "import time; time.sleep(600)", ready_timeout_s=0.2)
    supervisor = Supervisor([hanging], log_dir=tmp_path)
    with pytest.raises(StartError, match=r"hanging was not ready after 0\.2 s"):
        await supervisor.start()
    assert supervisor.pid("hanging") is None


async def test_a_task_that_fails_ends_the_start_and_nothing_that_needs_it_begins(tmp_path: Path) -> None:
    async def run() -> None:
        raise ValueError("syntax error in 0001_init.sql")

    specs = (TaskSpec(name="migrate", run=run), server("service", free_ports(1)[0], after=("migrate",)))
    supervisor = Supervisor(specs, log_dir=tmp_path)
    with pytest.raises(StartError, match=r"migrate failed: syntax error in 0001_init\.sql"):
        await supervisor.start()
    assert not (tmp_path / "service.log").exists()


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    specs = (server("service", free_ports(1)[0]), failing("never", "import time; time.sleep(600)"))
    supervisor = Supervisor(specs, log_dir=tmp_path)
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: len(supervisor.states()) == 2 and supervisor.states()[0].status is Status.READY)
    await until(lambda: supervisor.pid("never"))
    pids = [supervisor.pid("service"), supervisor.pid("never")]
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not [pid for pid in pids if pid is not None and process.is_alive(pid)]


async def test_a_port_in_use_is_noticed_before_anything_starts(tmp_path: Path) -> None:
    taken, free = free_ports(2)
    async with supervised(server("holder", taken), log_dir=tmp_path) as holding:
        second = Supervisor([server("early", free), server("late", taken)], log_dir=tmp_path)
        expected = rf"port {taken} for late \(TCP\) is held by pid {holding.pid('holder')} \(.*--free-ports"
        with pytest.raises(PortTakenError, match=expected):
            await second.start()
    assert not (tmp_path / "early.log").exists()


async def test_an_unknown_child_is_named_with_those_there_are(tmp_path: Path) -> None:
    async with supervised(server("service", free_ports(1)[0]), log_dir=tmp_path) as supervisor:
        with pytest.raises(KeyError, match="no child process 'sevrice' here; there are: service"):
            supervisor.pid("sevrice")


def test_a_log_is_kept_small_while_it_is_written(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "service.log", bytes_max=1000)
    with log.path.open("ab", buffering=0) as output:
        for number in range(300):
            output.write(f"line {number}\n".encode())
            log.bound()
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(files) == {"service.log", "service.log.1"}
    assert max(files.values()) <= 1000 + len(b"line 299\n")
    assert log.tail(lines_max=2) == "line 298\nline 299"


def test_a_log_that_is_not_there_has_no_tail(tmp_path: Path) -> None:
    assert LogFile(tmp_path / "none.log").tail() == ""
