"""Databases for tests: a fresh one in milliseconds, copied from a template that is migrated once a session."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from embedded.ports import free_ports
from embedded.postgres import SETTINGS, Cluster, Role
from tests.support.processes import running

CHECKOUT = Path(__file__).resolve().parents[2]

# A kill -9 loses nothing without fsync, only a power cut does; and making a database costs a third.
TEST_SETTINGS = {**SETTINGS, "fsync": "off", "shared_buffers": "64MB", "min_wal_size": "32MB", "max_wal_size": "256MB"}


@dataclass(frozen=True, slots=True)
class Database:
    """One service's database, empty but migrated; gone after the test.

    Attributes:
        service: The service it belongs to.
        name: Its name in the cluster.
        owner_dsn: For the role that owns the tables: look into and prepare what the service may not.
        service_dsn: For the service itself.
        admin_dsn: For the superuser: end sessions, look at locks.
    """

    service: str
    name: str
    owner_dsn: str
    service_dsn: str
    admin_dsn: str


class _Administrator:
    """One connection of the superuser for a session: a process of psql for every statement would cost more than it.

    It has a loop of its own in a thread, since tests ask for databases inside and outside of theirs.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection: asyncpg.Connection | None = None

    def execute(self, *statements: str) -> None:
        """Runs each statement by itself."""
        asyncio.run_coroutine_threadsafe(self._execute(statements), self._loop).result()

    def close(self) -> None:
        """Ends the connection and the thread."""
        if self._connection is not None:
            asyncio.run_coroutine_threadsafe(self._connection.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _execute(self, statements: tuple[str, ...]) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._dsn)
        for statement in statements:
            await self._connection.execute(statement)


class Databases:
    """Makes databases in one cluster; `close` it at the end."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._administrator = _Administrator(cluster.admin_dsn())
        self._templates: set[str] = set()
        self._count = 0

    def create(self, service: str) -> Database:
        """A fresh database of a service ("metering", "budget" or "wallet")."""
        self._ensure_template(service)
        self._count += 1
        name = f"test_{service}_{self._count}"
        self._copy(service, name)
        return self._describe(service, name)

    def drop(self, database: Database) -> None:
        """Remove it, whoever is still connected."""
        self._administrator.execute(f"DROP DATABASE {database.name} WITH (FORCE)")

    def close(self) -> None:
        """Ends what it keeps open."""
        self._administrator.close()

    def _ensure_template(self, service: str) -> None:
        # The service's own database is the template: nobody connects to it, and it has the right owner and schema.
        if service in self._templates:
            return
        dsn = self.cluster.dsn(service, "owner")
        result = subprocess.run(
            [sys.executable, "-m", "services.kit.migrate", service],
            env={"PATH": os.defpath, f"PURSE_{service.upper()}_OWNER_DSN": dsn},
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise RuntimeError(result.stderr)
        self._templates.add(service)

    def _copy(self, service: str, name: str) -> None:
        # By file: a third of the time of a logged copy, and nobody replicates this.
        create = f"CREATE DATABASE {name} TEMPLATE {service} OWNER {service}_owner STRATEGY FILE_COPY"
        # Rights inside come with the copy, those on the database do not.
        self._administrator.execute(
            create,
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
            f"GRANT CONNECT ON DATABASE {name} TO {service}_service",
        )

    def _describe(self, service: str, name: str) -> Database:
        def dsn(role: Role) -> str:
            return self.cluster.dsn(service, role).replace(f"/{service}?", f"/{name}?")

        return Database(service, name, dsn("owner"), dsn("service"), self.cluster.admin_dsn(name))


@contextlib.contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    """A PostgreSQL with its databases and roles, for a test session."""
    cluster = Cluster(directory, free_ports(1)[0], settings=TEST_SETTINGS)
    cluster.prepare()
    with running(
        cluster.argv(),
        environ={"PATH": os.defpath},
        cwd=directory,
        log=directory / "postgres.log",
        is_ready=cluster.is_ready,
        identity=cluster.run_as,
        stop_signal=signal.SIGINT,
    ):
        cluster.provision()
        yield cluster
