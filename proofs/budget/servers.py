"""Budget as processes of its own on databases of their own, for proofs: nothing else runs beside it."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from embedded.child import Child, ChildSpec, LogFile
from embedded.ports import LOOPBACK, free_ports
from embedded.postgres import Postgres
from embedded.probes import grpc_health
from services.budget.main import NAME
from services.kit import auth
from services.kit.migrate import migrate

CHECKOUT = Path(__file__).resolve().parents[2]
EVERYONE = "orgs/-"


class Ground:
    """A PostgreSQL with migrated budget databases, and servers on them; all in one folder, gone at the end.

    Attributes:
        token: Of everyone and every role a proof needs.
    """

    def __init__(self, directory: Path, postgres: Postgres) -> None:
        self._directory = directory
        self._postgres = postgres
        private_pem, public_pem = auth.generate_key()
        self._public_file = directory / "public.pem"
        self._public_file.write_bytes(public_pem)
        self.token = auth.mint(private_pem, EVERYONE, ("admin", "service"), 24 * 3_600, datetime.now(UTC))
        (directory / "token").write_text(self.token)

    def dsn(self, database: str, role: str) -> str:
        """The address of a database for `owner` or `service`."""
        return self._postgres.dsn("budget", role).replace("/budget?", f"/{database}?")  # type: ignore[arg-type]

    async def copy(self, database: str) -> None:
        """Makes another empty database. No server may run on the first one yet."""
        # Rights inside come with the copy, those on the database do not.
        create = f"CREATE DATABASE {database} TEMPLATE budget OWNER budget_owner;"
        rights = (
            f"REVOKE ALL ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO budget_service;"
        )
        self._postgres.cluster.run_sql("postgres", f"{create}\n{rights}")

    async def execute(self, database: str, *statements: str) -> None:
        """Runs statements as the database's owner."""
        connection = await asyncpg.connect(self.dsn(database, "owner"))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def fetch(self, database: str, query: str, *values: object) -> Sequence[asyncpg.Record]:
        """What the database's owner sees."""
        connection = await asyncpg.connect(self.dsn(database, "owner"))
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def settle(self) -> None:
        """Lets PostgreSQL finish what preparing has left to do, so that no measurement pays for it."""
        connection = await asyncpg.connect(self._postgres.admin_dsn())
        try:
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def server(self, database: str) -> AsyncIterator[str]:
        """A budget process on a database; gives its address once it is ready."""
        port, metrics_port = free_ports(2)
        environ = {
            "PATH": os.defpath,
            "PURSE_BIND": f"{LOOPBACK}:{port}",
            "PURSE_METRICS_BIND": f"{LOOPBACK}:{metrics_port}",
            "PURSE_AUTH_PUBLIC_KEY_FILE": str(self._public_file),
            "PURSE_SERVICE_TOKEN_FILE": str(self._directory / "token"),
            "PURSE_BUDGET_DSN": self.dsn(database, "service"),
            "PURSE_USE_WALLETS": "false",
            "PURSE_USE_TEMPORAL": "false",
            "PURSE_METERING_ADDRESS": f"{LOOPBACK}:1",
            "PURSE_RATES_INTERVAL_S": "3600",
        }
        spec = ChildSpec(
            name=f"budget-{port}",
            argv=(sys.executable, "-m", "services.budget.main"),
            environ=environ,
            ready=grpc_health(LOOPBACK, port, NAME),
            ports={"gRPC": port},
            cwd=CHECKOUT,
        )
        child = Child(spec, LogFile(self._directory / f"budget-{port}.log"))
        await child.launch()
        try:
            await child.wait_ready()
            yield f"{LOOPBACK}:{port}"
        finally:
            await child.stop()


@contextlib.asynccontextmanager
async def ground(directory: Path) -> AsyncIterator[Ground]:
    """A server of databases in a folder, with the migrated database `budget`."""
    async with Postgres(directory / "postgres", databases=("budget",)) as postgres:
        await migrate("budget", postgres.dsn("budget", "owner"))
        yield Ground(directory, postgres)
