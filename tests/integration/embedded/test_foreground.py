"""The suite in the foreground, as a person runs it: what it says, how it ends."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from embedded import process, state
from embedded.suite import Suite
from tests.support.databases import CHECKOUT
from tests.support.waiting import until

SCRIPT = """
import sys
from pathlib import Path
from embedded.suite import run_foreground
sys.exit(run_foreground(Path(sys.argv[1]), sys.argv[2] == "free", only=["temporal", "keys"]))
"""


@contextlib.asynccontextmanager
async def foreground(
    directory: Path, *, ports: str = "free", environ: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT, str(directory), ports),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
        env={"PATH": os.defpath, "COLUMNS": "200", **(environ or {})},
    )
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.wait()


def is_ready(directory: Path) -> bool:
    content = state.read(directory)
    return content is not None and content["status"] == "ready"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_it_says_where_everything_is_and_stops_when_asked(tmp_path: Path, number: signal.Signals) -> None:
    async with foreground(tmp_path) as running:
        await until(lambda: is_ready(tmp_path), what="the suite being ready")
        content = state.read(tmp_path)
        assert content is not None
        running.send_signal(number)
        out, err = await running.communicate()
    told = out.decode()
    assert (running.returncode, err) == (0, b"")
    for where in content["endpoints"].values():
        assert where["address"] in told
    assert str(tmp_path / "keys" / "dev.token") in told
    assert "ready in " in told
    assert not process.is_alive(content["children"][0]["pid"])
    assert state.read(tmp_path) is None


async def test_a_stop_during_the_start_stops_cleanly(tmp_path: Path) -> None:
    async with foreground(tmp_path) as running:
        await until(lambda: state.read(tmp_path), what="the start having begun")
        running.send_signal(signal.SIGINT)
        out, err = await running.communicate()
    assert (running.returncode, err) == (0, b"")
    assert out.strip().endswith((b"stopped before it was ready", b"stopped"))
    assert process.working_in(tmp_path / "temporal", "temporal") == []


async def test_a_second_signal_kills_what_does_not_stop(tmp_path: Path) -> None:
    async with foreground(tmp_path) as running:
        await until(lambda: is_ready(tmp_path), what="the suite being ready")
        content = state.read(tmp_path)
        assert content is not None
        pid = content["children"][0]["pid"]
        # A stopped process does not react to SIGTERM.
        os.kill(pid, signal.SIGSTOP)
        running.send_signal(signal.SIGINT)
        assert running.stdout is not None
        await running.stdout.readuntil(b"once more kills at once")
        running.send_signal(signal.SIGINT)
        assert await running.wait() == 0
    assert not process.is_alive(pid)


async def test_it_tells_of_a_crash(tmp_path: Path) -> None:
    async with foreground(tmp_path) as running:
        await until(lambda: is_ready(tmp_path), what="the suite being ready")
        assert running.stdout is not None
        # The watch begins after this line.
        await running.stdout.readuntil(b"stops everything")
        content = state.read(tmp_path)
        assert content is not None
        os.kill(content["children"][0]["pid"], signal.SIGKILL)
        await running.stdout.readuntil(b"temporal was ended by SIGKILL; starting it again")


async def test_a_start_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    first = Suite(tmp_path / "busy", free_ports=True, only=["temporal"])
    async with first, foreground(first.data_dir) as second:
        _, err = await second.communicate()
    text = err.decode()
    assert second.returncode == 1
    assert text.startswith(f"cannot start: {tmp_path / 'busy'} is in use by another process, pid {os.getpid()}")
    assert "Traceback" not in text


async def test_it_ends_with_the_process_that_started_it_when_asked_to(tmp_path: Path) -> None:
    # As make does: a process between, which is killed.
    between = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])"),
        *(sys.executable, "-c", SCRIPT, str(tmp_path), "free"),
        stdout=asyncio.subprocess.DEVNULL,
        cwd=CHECKOUT,
        env={"PATH": os.defpath, "PURSE_FOLLOW_PARENT": "1"},
    )
    try:
        await until(lambda: is_ready(tmp_path), what="the suite being ready")
        content = state.read(tmp_path)
        assert content is not None
    finally:
        between.kill()
        await between.wait()
    await until(lambda: not state.is_running(content), what="the end of the suite")
    assert not process.is_alive(content["children"][0]["pid"])
