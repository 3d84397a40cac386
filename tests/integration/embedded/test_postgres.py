"""The embedded PostgreSQL for real: rights, stop, crash, and everything that a crash can leave behind."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from embedded import postgres as embedded_postgres
from embedded import process
from embedded.files import DataDirectoryBusyError
from embedded.ports import PortTakenError
from embedded.postgres import Cluster, Postgres, PostgresError
from tests.support.databases import TEST_SETTINGS, running_cluster
from tests.support.waiting import until


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A provisioned data directory, to be copied: making one anew takes a second."""
    directory = tmp_path_factory.mktemp("postgres")
    with running_cluster(directory):
        pass
    return directory


@pytest.fixture
def server(initialised: Path, tmp_path: Path) -> Postgres:
    shutil.copytree(initialised, tmp_path / "pg", symlinks=True)
    (tmp_path / "pg").chmod(0o700)
    return Postgres(tmp_path / "pg", settings=TEST_SETTINGS)


async def fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_what_was_committed_survives_a_stop_and_a_kill(server: Postgres) -> None:
    owner = server.dsn("wallet", "owner")
    async with server:
        await fetch(owner, "CREATE TABLE kept (id int)")
        await fetch(owner, "INSERT INTO kept VALUES (1)")
    async with server:
        await fetch(owner, "INSERT INTO kept VALUES (2)")
        killed = server.kill()
        await server.wait()
        assert server.pid is None
        await server.stop()
        await server.start()
        assert server.pid not in (None, killed)
        assert await fetch(owner, "SELECT count(*) FROM kept") == 2
    assert process.working_in(server.cluster.data, "postgres") == []


async def test_what_is_acknowledged_is_on_disk() -> None:
    assert (embedded_postgres.SETTINGS["fsync"], embedded_postgres.SETTINGS["synchronous_commit"]) == ("on", "on")
    assert embedded_postgres.SETTINGS["listen_addresses"] == "127.0.0.1"


async def test_roles_have_the_least_rights(server: Postgres) -> None:
    async with server:
        owner = await asyncpg.connect(server.dsn("budget", "owner"))
        service = await asyncpg.connect(server.dsn("budget", "service"))
        await owner.execute("CREATE TABLE ledger (id int); GRANT SELECT, INSERT ON ledger TO budget_service")
        await service.execute("INSERT INTO ledger VALUES (1)")
        refused = (
            "UPDATE ledger SET id = 2",
            "DELETE FROM ledger",
            "ALTER TABLE ledger ADD COLUMN x int",
            "DROP TABLE ledger",
            "CREATE TABLE own (id int)",
            "CREATE TEMP TABLE own (id int)",
            "CREATE SCHEMA own",
            "CREATE ROLE another",
            "GRANT SELECT ON ledger TO wallet_service",
        )
        for statement in refused:
            # The last is a warning without effect in PostgreSQL, so rights are looked at, not only errors.
            with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
                await service.execute(statement)
                assert statement.startswith("GRANT"), f"allowed: {statement}"
        assert await owner.fetchval("SELECT count(*) FROM ledger WHERE id = 1") == 1
        assert not await owner.fetchval("SELECT has_table_privilege('wallet_service', 'ledger', 'SELECT')")
        for statement in ("CREATE ROLE another", "CREATE DATABASE another", "DROP DATABASE wallet"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute(statement)
        await owner.close()
        await service.close()


@pytest.mark.parametrize("role", ["owner", "service"])
@pytest.mark.parametrize("elsewhere", ["wallet", "metering", "postgres", "template1"])
async def test_a_role_gets_into_its_own_database_only(
    session_server: Cluster, role: embedded_postgres.Role, elsewhere: str
) -> None:
    own = session_server.dsn("budget", role)
    assert await fetch(own, "SELECT current_user") == f"budget_{role}"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(own.replace("/budget?", f"/{elsewhere}?"))


@pytest.fixture
def session_server(postgres_cluster: Cluster) -> Cluster:
    return postgres_cluster


async def test_nobody_gets_in_without_the_password(session_server: Cluster) -> None:
    for user in ("postgres", "budget_owner", "budget_service"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(session_server.dsn_for("budget", user, "guess"))


async def test_files_with_secrets_are_private(server: Postgres) -> None:
    passwords = server.cluster.directory / "passwords.json"
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600
    values = list(json.loads(passwords.read_text()).values())
    assert len(set(values)) == len(values) == 7
    assert not [part for part in server.cluster.argv() for value in values if value in part]


@contextlib.contextmanager
def zombie() -> Iterator[int]:
    """A process that has ended and that its parent has not asked for."""
    with subprocess.Popen(["/bin/true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        yield ended.pid


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with PostgreSQL."""
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeping:
        yield sleeping
        sleeping.kill()


async def test_a_lock_file_with_a_stranger_s_pid_does_not_stop_the_start(
    server: Postgres, stranger: subprocess.Popen[bytes]
) -> None:
    lock = server.cluster.data / "postmaster.pid"
    content = f"{{}}\n{server.cluster.data}\n1700000000\n{server.cluster.port}\n\n127.0.0.1\n\nready\n"
    with zombie() as pid:
        for other in (pid, stranger.pid, 1):
            lock.write_text(content.format(other))
            async with server:
                assert await fetch(server.dsn("budget", "service"), "SELECT 1") == 1
    assert stranger.poll() is None, "the stranger is none of our business"


def start_and_forget(cluster: Cluster) -> subprocess.Popen[bytes]:
    cluster.prepare()
    return subprocess.Popen(
        process.guarded(cluster.argv(), identity=cluster.run_as),
        env={"PATH": os.defpath},
        cwd=cluster.directory,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def test_a_server_that_lives_on_is_ended_before_the_next_one_starts(server: Postgres) -> None:
    cluster = server.cluster
    # As after a crash of whatever had started it: nobody holds the directory's lock.
    forgotten = start_and_forget(cluster)
    try:
        await until(lambda: cluster.is_ready(forgotten.pid), what="the forgotten server being ready")
        next_one = Postgres(cluster.directory, settings=TEST_SETTINGS)
        async with next_one:
            assert forgotten.poll() is not None
            assert await fetch(next_one.dsn("budget", "service"), "SELECT 1") == 1
    finally:
        forgotten.kill()
        forgotten.wait()


async def test_two_on_one_directory_are_refused(server: Postgres) -> None:
    async with server:
        with pytest.raises(DataDirectoryBusyError, match=f"{server.cluster.directory}.*pid {os.getpid()}"):
            await Postgres(server.cluster.directory).start()
        assert await fetch(server.dsn("budget", "service"), "SELECT 1") == 1


async def test_a_taken_port_is_an_error_that_names_it(server: Postgres, session_server: Cluster) -> None:
    taken = Postgres(server.cluster.directory, port=session_server.port)
    with pytest.raises(PortTakenError, match=f"port {session_server.port} for PostgreSQL is held by pid"):
        await taken.start()
    # The directory is free again.
    async with server:
        assert server.pid is not None


async def test_an_interrupted_initdb_is_begun_anew(tmp_path: Path) -> None:
    half = tmp_path / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    async with Postgres(tmp_path, settings=TEST_SETTINGS) as fresh:
        assert await fetch(fresh.dsn("metering", "service"), "SELECT 1") == 1
    assert not half.exists()


async def test_text_sorts_and_encodes_the_same_everywhere(session_server: Cluster) -> None:
    query = (
        "SELECT datlocprovider::text || datlocale || pg_encoding_to_char(encoding) FROM pg_database WHERE datname = $1"
    )
    connection = await asyncpg.connect(session_server.admin_dsn())
    assert await connection.fetchval(query, "wallet") == "bC.UTF-8UTF8"
    await connection.close()


async def test_missing_passwords_are_said_to_be_missing(server: Postgres) -> None:
    (server.cluster.directory / "passwords.json").unlink()
    with pytest.raises(PostgresError, match=r"passwords\.json is missing"):
        await server.start()


def test_the_service_has_databases_we_know(session_server: Cluster) -> None:
    with pytest.raises(ValueError, match="no database 'purse'"):
        session_server.dsn("purse", "owner")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A folder that other users can enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="purse-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def owner_of(pid: int | None) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
async def test_root_without_user_namespaces_uses_a_system_user(open_directory: Path) -> None:
    server = Postgres(open_directory, settings=TEST_SETTINGS)
    system_user = embedded_postgres.system_user_identity()
    server.cluster.run_as = system_user
    async with server:
        assert owner_of(server.pid) == int(system_user.partition(":")[0])
        assert await fetch(server.dsn("budget", "service"), "SELECT 1") == 1
    # And back: the files are made whose they must be.
    server.cluster.run_as = embedded_postgres.identity()
    async with server:
        assert await fetch(server.dsn("budget", "service"), "SELECT 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
async def test_a_system_user_who_cannot_reach_the_files_is_told_why(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "closed", settings=TEST_SETTINGS)
    server.cluster.run_as = embedded_postgres.system_user_identity()
    with pytest.raises(PostgresError, match=rf"system user {server.cluster.run_as}.*every directory above"):
        await server.start()
