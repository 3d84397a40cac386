"""Operating-system facts about processes, read from /proc, and how children are started."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1


def guarded(argv: Sequence[str], *, death_signal: signal.Signals = signal.SIGKILL, identity: str = "same") -> list[str]:
    """The command line that runs `argv` bound to the life of the calling thread's process.

    `death_signal` is what the kernel sends when the caller dies, `identity` is described in `guard.py`. The
    kernel watches the *thread* that forks, so start children from a thread that lives as long as they should.
    """
    return [
        sys.executable,
        "-I",
        "-S",
        str(_GUARD),
        str(os.getpid()),
        str(int(death_signal)),
        identity,
        *argv,
    ]


def follow_parent(number: signal.Signals) -> None:
    """Ask the kernel for this signal when the process that started this one ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def run(
    argv: Sequence[str], *, environ: Mapping[str, str], stdin: str = "", timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with exactly this environment; raises subprocess.TimeoutExpired."""
    return subprocess.run(  # noqa: S603 - every command line is put together in this package
        argv,
        input=stdin,
        env=dict(environ),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none or it is a zombie.

    A pid together with this number names one process for as long as the machine is up: pids are reused.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    # The second field is the command in brackets and may hold anything; the last bracket ends it.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def is_alive(pid: int, ticks: int | None = None) -> bool:
    """Whether a live process has this pid and, when given, this start time."""
    found = start_ticks(pid)
    return found is not None and (ticks is None or found == ticks)


def working_in(directory: Path, program: str) -> list[int]:
    """Pids of live processes that run an executable named `program` and work in `directory`.

    How PostgreSQL's processes are told from strangers: each works in its data directory.
    """
    wanted = os.path.realpath(directory)
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            entry = _PROC / str(pid)
            if (
                str((entry / "cwd").readlink()) == wanted
                and (entry / "exe").readlink().name == program
                and is_alive(pid)
            ):
                found.append(pid)
    return found


def children_of(parent: int) -> list[int]:
    """Pids of the live processes whose parent is `parent`."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            stat = (_PROC / str(pid) / "stat").read_text()
            state, ppid = stat[stat.rindex(")") + 2 :].split()[:2]
            if int(ppid) == parent and state not in ("Z", "X"):
                found.append(pid)
    return found


def describe(pid: int) -> str:
    """The process for a person: `pid 123 (python -m services.budget.main)`; 80 characters of command."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return f"pid {pid}"
    command = " ".join(raw.replace(b"\0", b" ").decode(errors="replace").split())
    return f"pid {pid} ({command[:80]})" if command else f"pid {pid}"


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the group that `pid` leads, or to `pid` alone where it leads none; gone is fine."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def end_leftovers(pids: Sequence[tuple[int, int]], *, timeout_s: float = 5.0) -> list[int]:
    """End processes of a former run, named by (pid, start ticks); returns those that were alive.

    Asks with SIGTERM first and ends what is still there after `timeout_s` with SIGKILL.
    """
    alive = [(pid, ticks) for pid, ticks in pids if is_alive(pid, ticks)]
    for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, timeout_s)):
        remaining = [(pid, ticks) for pid, ticks in alive if is_alive(pid, ticks)]
        for pid, _ in remaining:
            signal_group(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(is_alive(pid, ticks) for pid, ticks in remaining):
            time.sleep(0.02)
    return [pid for pid, _ in alive]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
