"""What a failure of the database means."""

import asyncpg
import pytest

from services.kit.database import is_certain_rollback, is_connection_lost


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.TooManyConnectionsError("too many"),
        asyncpg.DiskFullError("no space left"),
        asyncpg.PostgresIOError("cannot read block"),
        asyncpg.ReadOnlySQLTransactionError("a standby now"),
    ],
)
def test_these_say_nothing_of_the_request(error: Exception) -> None:
    assert is_connection_lost(error)
    assert not is_certain_rollback(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.SerializationError(),
        asyncpg.DeadlockDetectedError(),
        asyncpg.LockNotAvailableError(),
        asyncpg.QueryCanceledError(),
    ],
)
def test_these_are_rolled_back_for_certain(error: Exception) -> None:
    assert is_certain_rollback(error)
    assert not is_connection_lost(error)


@pytest.mark.parametrize("error", [asyncpg.CheckViolationError(), ValueError("x"), asyncpg.UndefinedTableError()])
def test_these_are_somebodys_fault(error: Exception) -> None:
    assert not is_connection_lost(error)
    assert not is_certain_rollback(error)
