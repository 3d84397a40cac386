import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedded import process

GUARD = Path(process.__file__).with_name("guard.py")


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)


def test_nothing_starts_when_the_parent_is_already_gone() -> None:
    # The parent it is told of is not the one it has: as if that one had died between fork and exec.
    done = run([sys.executable, "-I", "-S", str(GUARD), "1", "9", "same", "/bin/echo", "started"])
    assert (done.returncode, done.stdout) == (126, "")
    assert "the parent, pid 1, is gone" in done.stderr


def test_a_program_that_is_missing_is_named() -> None:
    done = run(process.guarded(["/no/such/program"]))
    assert done.returncode == 126
    assert "guard: cannot start /no/such/program" in done.stderr


def test_arguments_that_are_missing_are_said_to_be() -> None:
    done = run([sys.executable, "-I", "-S", str(GUARD), "1"])
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("guard: usage:")


def test_the_program_has_its_signals_as_after_a_login() -> None:
    # Bit n-1 stands for signal n. Python itself ignores SIGPIPE, and a service must not inherit that unknowingly.
    done = run(process.guarded(["/bin/grep", "SigIgn", "/proc/self/status"]))
    assert int(done.stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another identity")
def test_a_user_namespace_hides_root() -> None:
    done = run(process.guarded(["/usr/bin/id", "-u"], identity="userns"))
    assert (done.returncode, done.stdout.strip()) in {(0, "1000"), (126, "")}


def test_a_process_is_told_by_pid_and_start() -> None:
    ticks = process.start_ticks(os.getpid())
    assert ticks is not None
    assert process.is_alive(os.getpid(), ticks)
    assert not process.is_alive(os.getpid(), ticks + 1)


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert not process.is_alive(ended.pid)
        assert ended.pid not in process.children_of(os.getpid())
