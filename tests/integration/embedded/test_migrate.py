"""Migrations through the real dbmate on a real PostgreSQL."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from services.kit.migrate import MigrationError, migrate, wait_until_migrated
from tests.support.databases import CHECKOUT, Database

DatabaseFactory = Callable[[str], Database]


def write(folder: Path, name: str, statement: str) -> None:
    (folder / name).write_text(f"-- migrate:up\n{statement};\n\n-- migrate:down\n")


async def exists(dsn: str, table: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table))
    finally:
        await connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Numbers behind those of the service, whose own migrations the database has.
    write(tmp_path, "9001_first.sql", "CREATE TABLE first (id int)")
    write(tmp_path, "9002_second.sql", "CREATE TABLE second (id int)")
    return tmp_path


async def test_what_is_missing_is_applied_once_and_in_order(database: DatabaseFactory, folder: Path) -> None:
    dsn = database("wallet").owner_dsn
    assert await migrate("wallet", dsn, directory=folder) == ["9001_first.sql", "9002_second.sql"]
    assert await migrate("wallet", dsn, directory=folder) == []
    write(folder, "9003_third.sql", "CREATE TABLE third (id int)")
    assert await migrate("wallet", dsn, directory=folder) == ["9003_third.sql"]


async def test_a_failure_names_the_migration_and_keeps_what_came_before(
    database: DatabaseFactory, folder: Path
) -> None:
    write(folder, "9003_broken.sql", "CREATE TABLE half (id int); CREATE TABEL third (id int)")
    dsn = database("wallet").owner_dsn
    with pytest.raises(
        MigrationError, match=r'wallet failed, migration 9003_broken\.sql: .*syntax error at or near "TABEL"'
    ):
        await migrate("wallet", dsn, directory=folder)
    assert await exists(dsn, "second")
    assert not await exists(dsn, "half")


async def test_the_service_cannot_migrate(database: DatabaseFactory, folder: Path) -> None:
    with pytest.raises(MigrationError, match="permission denied"):
        await migrate("wallet", database("wallet").service_dsn, directory=folder)


async def test_a_folder_without_migrations_changes_nothing(database: DatabaseFactory, tmp_path: Path) -> None:
    dsn = database("wallet").owner_dsn
    assert await migrate("wallet", dsn, directory=tmp_path / "none") == []
    assert not await exists(dsn, "first")


def command(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.kit.migrate", *arguments],
        env={"PATH": os.defpath, **environ},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_command_migrates_all_from_the_environment(database: DatabaseFactory) -> None:
    environ = {f"PURSE_{name.upper()}_OWNER_DSN": database(name).owner_dsn for name in ("metering", "budget", "wallet")}
    done = command(environ, "all")
    assert (done.returncode, done.stderr) == (0, "")
    # The template had been migrated already.
    assert done.stdout.splitlines() == ["metering: up to date", "budget: up to date", "wallet: up to date"]


def test_the_command_says_which_variable_is_missing() -> None:
    done = command({}, "budget")
    assert done.returncode == 1
    assert done.stderr.startswith("set PURSE_BUDGET_OWNER_DSN to the address of the role that owns the database")


def test_the_wait_is_over_once_all_is_applied(database: DatabaseFactory) -> None:
    done = command({"PURSE_BUDGET_DSN": database("budget").service_dsn}, "--wait", "budget")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_database_that_is_behind_is_waited_for(database: DatabaseFactory) -> None:
    budget = database("budget")
    owner = await asyncpg.connect(budget.owner_dsn)
    try:
        await owner.execute("DELETE FROM schema_migrations WHERE version = '0001'")
    finally:
        await owner.close()
    with pytest.raises(MigrationError, match=r"budget was not migrated within 0\.1 s: still waiting for .*0001"):
        await wait_until_migrated("budget", budget.service_dsn, timeout_s=0.1)
