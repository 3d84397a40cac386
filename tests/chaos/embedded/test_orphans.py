"""Nothing outlives a supervisor that is killed, and the next start finds everything again."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from embedded import process, state
from embedded.files import DataDirectoryBusyError
from embedded.suite import Suite
from tests.support.databases import CHECKOUT
from tests.support.waiting import until

PARTS = "postgres,temporal,twin"


@contextlib.asynccontextmanager
async def suite_process(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Parts of the suite under a supervisor of their own, ready."""
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.suite_process", str(directory), PARTS),
        stdout=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
    )
    try:
        assert supervisor.stdout is not None
        assert await supervisor.stdout.readline() == b"ready\n"
        yield supervisor
    finally:
        with contextlib.suppress(ProcessLookupError):
            supervisor.kill()
        await supervisor.wait()


def descendants(pid: int) -> list[int]:
    found = process.children_of(pid)
    for child in list(found):
        found.extend(descendants(child))
    return found


async def test_kill_9_of_the_supervisor_leaves_no_process_and_loses_nothing(tmp_path: Path) -> None:
    async with suite_process(tmp_path) as supervisor:
        # Of the three parts, PostgreSQL alone has processes of its own.
        family = descendants(supervisor.pid)
        assert len(process.children_of(supervisor.pid)) == len(PARTS.split(","))
        assert len(family) > len(PARTS.split(","))
        # One session is open and idle, another in the middle of a long statement: both have a process.
        dsn = Suite(tmp_path).dsn("budget", "owner").replace(":7405/", f":{postgres_port(tmp_path)}/")
        idle, busy = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
        await idle.execute("CREATE TABLE kept (id int)")
        await idle.execute("INSERT INTO kept VALUES (1)")
        sleeping = asyncio.create_task(busy.execute("SELECT pg_sleep(600)"))
        await until(lambda: len(descendants(supervisor.pid)) >= len(family) + 2, what="two more backends")
        family = descendants(supervisor.pid)
        supervisor.kill()
        await supervisor.wait()
        await until(lambda: not [pid for pid in family if process.is_alive(pid)], what="the end of all children")
        with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
            await sleeping
        idle.terminate()
        busy.terminate()
    left = state.read(tmp_path)
    assert left is not None
    assert not state.is_running(left)
    async with Suite(tmp_path, free_ports=True, only=PARTS.split(",")) as suite:
        connection = await asyncpg.connect(suite.dsn("budget", "owner"))
        assert await connection.fetchval("SELECT count(*) FROM kept") == 1
        await connection.close()
    assert state.read(tmp_path) is None


def postgres_port(directory: Path) -> str:
    content = state.read(directory)
    assert content is not None
    return str(content["endpoints"]["postgres"]["address"]).rpartition(":")[2]


async def test_two_suites_on_one_directory(tmp_path: Path) -> None:
    async with suite_process(tmp_path) as supervisor:
        before = state.read(tmp_path)
        with pytest.raises(DataDirectoryBusyError, match=re.escape(str(tmp_path)) + rf".*pid {supervisor.pid}\b"):
            await Suite(tmp_path, free_ports=True, only=["temporal"]).start()
        # The one that was there is not disturbed.
        assert state.read(tmp_path) == before
        assert before is not None
        assert state.is_running(before)


async def test_what_lived_on_in_spite_of_everything_is_ended_by_the_next_start(tmp_path: Path) -> None:
    survivor = await asyncio.create_subprocess_exec("/bin/sleep", "600", start_new_session=True)
    stranger = await asyncio.create_subprocess_exec("/bin/sleep", "600", start_new_session=True)
    ticks = process.start_ticks(survivor.pid)
    assert ticks is not None
    try:
        child = '{{"name": "budget", "pid": {}, "start_ticks": {}}}'
        children = [child.format(survivor.pid, ticks), child.format(stranger.pid, ticks - 1)]
        (tmp_path / state.FILE_NAME).write_text(
            f'{{"version": 1, "pid": {os.getpid()}, "start_ticks": 1, "children": [{", ".join(children)}]}}'
        )
        async with Suite(tmp_path, free_ports=True, only=["temporal"]):
            assert await survivor.wait() == -signal.SIGTERM
            # The same pid with another start time is another process.
            assert stranger.returncode is None
    finally:
        for one in (survivor, stranger):
            with contextlib.suppress(ProcessLookupError):
                one.kill()
            await one.wait()


@pytest.mark.parametrize("part", PARTS.split(","))
async def test_each_part_comes_back_after_a_kill(tmp_path: Path, part: str) -> None:
    async with Suite(tmp_path, free_ports=True, only=[part]) as suite:
        killed = suite.kill(part)
        assert await suite.wait_ready(part, other_than=killed) != killed
        content = state.read(tmp_path)
        assert content is not None
        assert [(child["name"], child["restarts"]) for child in content["children"]] == [(part, 1)]
