"""Posts what was drawn on leases to their wallets, within a second and strictly in order."""

import asyncio
from typing import Final

import asyncpg

from services.budget.domain import lease as rules
from services.budget.domain.lease import Line
from services.budget.ops import Ops
from services.budget.store import leases
from services.budget.store.leases import LeaseRow
from services.kit.database import transact
from services.kit.errors import PurseError
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_LEASES_MAX: Final = 256


class Captures:
    """Writes captures and reversals, and sends what is open.

    Args:
        pool: Budget's database.
        ops: Sends.
    """

    def __init__(self, pool: asyncpg.Pool, ops: Ops) -> None:
        self._pool = pool
        self._ops = ops

    async def step(self) -> bool:
        """One round over the leases with something to capture or to send; whether there may be more at once."""
        async with self._pool.acquire() as connection:
            drawn = await leases.with_draws(connection, _LEASES_MAX)
        for org, wallet in drawn:
            await transact(self._pool, lambda c, org=org, wallet=wallet: write_capture(c, org, wallet))  # type: ignore[misc]
        async with self._pool.acquire() as connection:
            waiting = await leases.with_open_ops(connection, _LEASES_MAX)
        results = await asyncio.gather(*(self._ops.pump(*key) for key in waiting), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in errors:
            if not isinstance(error, PurseError | OSError | TimeoutError):
                raise error
        if errors:
            _log.warning("captures wait", leases=len(errors), error=repr(errors[0]))
        return len(drawn) == _LEASES_MAX and not errors


async def write_capture(connection: asyncpg.Connection, org: str, wallet: str) -> None:
    """Turns a lease's draws into a capture, and its corrections into a reversal; each the next operation."""
    lease = await leases.lock(connection, org, wallet)
    if lease is None or lease.quarantined is not None:
        return
    if lines := await _take(connection, lease, reversal=False):
        amount = sum(line.amount for line in lines)
        await leases.write_op(connection, lease, "CAPTURE", captured=amount, lines=lines)
        lease = await leases.lock(connection, org, wallet)
    if lease is not None and (lines := await _take(connection, lease, reversal=True)):
        # Only what is captured can be given back; a correction of a later draw waits for its capture.
        amount = sum(line.amount for line in lines)
        if amount <= lease.captured - lease.reversed:
            await leases.write_op(connection, lease, "REVERSE", given_back=amount, lines=lines)
        else:
            await leases.put_draws(connection, org, wallet, lines, reversal=True)


async def _take(connection: asyncpg.Connection, lease: LeaseRow, *, reversal: bool) -> list[Line]:
    draws = await leases.take_draws(connection, lease.org, lease.wallet, reversal=reversal)
    lines, later = rules.merge(draws)
    await leases.put_draws(connection, lease.org, lease.wallet, later, reversal=reversal)
    return lines
