"""PostgreSQL through asyncpg: pools, and which failures mean what."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

T = TypeVar("T")

# Serialization failure, deadlock, lock timeout, cancelled statement: rolled back for certain.
CERTAIN_ROLLBACK = frozenset({"40001", "40P01", "55P03", "57014"})
# The server went away, is coming up or down, or has become a standby.
_GONE = frozenset({"57P01", "57P02", "57P03", "08000", "08001", "08003", "08004", "08006", "25006"})
# Out of resources (connections, memory, disk), and failures of the system below: nobody's request is at fault.
_GONE_CLASSES = frozenset({"53", "58"})


async def _nothing_to_reset(_: asyncpg.Connection) -> None:
    """Spares a round trip a transaction: the services keep no session state, and asyncpg ends what is open itself."""


async def create_pool(
    dsn: str,
    *,
    application_name: str,
    size_max: int = 8,
    statement_timeout_s: float = 30.0,
    lock_timeout_s: float = 2.0,
) -> asyncpg.Pool:
    """A pool whose connections never wait without an end.

    Args:
        dsn: Where; of the service's own role.
        application_name: How the connections show in `pg_stat_activity`.
        size_max: The most connections.
        statement_timeout_s: After which PostgreSQL cancels a statement.
        lock_timeout_s: After which it gives up waiting for a lock.
    """
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size_max,
        command_timeout=statement_timeout_s + 5,
        reset=_nothing_to_reset,
        server_settings={
            "application_name": application_name,
            "statement_timeout": str(int(statement_timeout_s * 1000)),
            "lock_timeout": str(int(lock_timeout_s * 1000)),
            "idle_in_transaction_session_timeout": "60000",
            "timezone": "UTC",
            # Generic plans: the hot statements are all keyed look-ups, and planning them anew costs more than they do.
            "plan_cache_mode": "force_generic_plan",
            "jit": "off",
        },
    )


def is_certain_rollback(error: BaseException) -> bool:
    """Whether PostgreSQL said that the transaction is rolled back and may simply be run again."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in CERTAIN_ROLLBACK


def is_connection_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that nothing is known of what it had not answered."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state in _GONE or state[:2] in _GONE_CLASSES
    # A backend that is killed can surface as a broken state of the driver's protocol.
    if isinstance(error, asyncpg.InternalClientError):
        return True
    # An InterfaceError that is a ValueError is a parameter that cannot be encoded: the item's fault.
    return isinstance(error, OSError | EOFError | TimeoutError) or (
        isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
    )


async def is_reachable(pool: asyncpg.Pool, timeout_s: float = 2.0) -> bool:
    """Whether the database answers."""
    try:
        await pool.fetchval("SELECT 1", timeout=timeout_s)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        return False
    return True


async def transact(pool: asyncpg.Pool, run: Callable[[asyncpg.Connection], Awaitable[T]], *, tries_max: int = 3) -> T:
    """Runs one READ COMMITTED transaction, again where it was rolled back for certain.

    A connection lost at COMMIT is raised: the outcome is unknown, and only the caller's keys can tell.
    """
    for tries in range(1, tries_max + 1):
        try:
            async with pool.acquire() as connection, connection.transaction():
                return await run(connection)
        except asyncpg.PostgresError as error:
            if not is_certain_rollback(error) or tries == tries_max:
                raise
    raise AssertionError("unreachable: the last try returns or raises")
