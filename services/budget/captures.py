"""Posts what was drawn on leases to their wallets, within a second and strictly in order."""

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain import lease as rules
from services.budget.domain.lease import Line
from services.budget.ops import Ops
from services.budget.store import leases
from services.budget.store.leases import LeaseRow
from services.kit.database import transact
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_LEASES_MAX: Final = 256
_WRITERS: Final = 3
_START: Final = ("", "")


class Captures:
    """Writes captures and reversals, and sends what is open.

    Leases take turns: each round goes on after the last lease of the round before, so that none waits for ever behind
    others, however many are busy or fail.

    Args:
        pool: Budget's database.
        ops: Sends.
    """

    def __init__(self, pool: asyncpg.Pool, ops: Ops) -> None:
        self._pool = pool
        self._ops = ops
        self._writing = asyncio.Semaphore(_WRITERS)
        self._drawn_after = _START
        self._waiting_after = _START

    async def step(self) -> bool:
        """One round over the next leases with something to capture or to send; whether there may be more at once."""
        async with self._pool.acquire() as connection:
            drawn = await leases.with_draws(connection, self._drawn_after, _LEASES_MAX)
        self._drawn_after = drawn[-1] if len(drawn) == _LEASES_MAX else _START
        unwritten = _errors(await asyncio.gather(*(self._write(*key) for key in drawn), return_exceptions=True))
        async with self._pool.acquire() as connection:
            waiting = await leases.with_open_ops(connection, self._waiting_after, _LEASES_MAX)
        self._waiting_after = waiting[-1] if len(waiting) == _LEASES_MAX else _START
        unsent = _errors(await asyncio.gather(*(self._ops.pump(*key) for key in waiting), return_exceptions=True))
        errors = unwritten + unsent
        if errors and len(errors) == len(drawn) + len(waiting):
            raise errors[0]
        if errors:
            _log.warning("captures wait", leases=len(errors), error=repr(errors[0]))
        return len(drawn) == _LEASES_MAX or len(waiting) == _LEASES_MAX

    async def _write(self, org: str, wallet: str) -> None:
        async with self._writing:
            await transact(self._pool, lambda connection: write_capture(connection, org, wallet))


def _errors(results: Sequence[object]) -> list[Exception]:
    """What failed for one lease, which is tried again in the next round; cancelling ends the round."""
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
    return [result for result in results if isinstance(result, Exception)]


async def write_capture(connection: asyncpg.Connection, org: str, wallet: str) -> None:
    """Turns a lease's draws into a capture, and its corrections into a reversal; each the next operation."""
    lease = await leases.lock(connection, org, wallet)
    if lease is None or lease.quarantined is not None:
        return
    if lines := await _take(connection, lease, reversal=False):
        amount = sum(line.amount for line in lines)
        await leases.write_op(connection, lease, "CAPTURE", captured=amount, lines=lines)
        lease = await leases.lock(connection, org, wallet)
    # Only what is captured can be given back; the rest of a correction waits for the next capture.
    if lease is not None and (room := lease.captured - lease.reversed) > 0:
        lines = await _take(connection, lease, reversal=True, room=room)
        if lines:
            await leases.write_op(connection, lease, "REVERSE", given_back=sum(x.amount for x in lines), lines=lines)


async def _take(
    connection: asyncpg.Connection, lease: LeaseRow, *, reversal: bool, room: int | None = None
) -> list[Line]:
    draws = await leases.take_draws(connection, lease.org, lease.wallet, reversal=reversal)
    lines, later = rules.merge(draws)
    if room is not None:
        lines, rest = rules.fit(lines, room)
        later = rest + later
    await leases.put_draws(connection, lease.org, lease.wallet, later, reversal=reversal)
    return lines
