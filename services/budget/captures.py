"""Posts what was drawn on leases to their wallets, within a second and strictly in order."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from services.budget.domain import lease as rules
from services.budget.domain.lease import Line
from services.budget.ops import Ops
from services.budget.store import leases
from services.budget.store.leases import LeaseRow, NewOp
from services.kit.database import transact
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_LEASES_MAX: Final = 1_024
_WRITTEN_MAX: Final = 256
_START: Final = ("", "")

Key = tuple[str, str]
"""A lease: (org, wallet)."""


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
        self._drawn_after = _START
        self._waiting_after = _START

    async def step(self) -> bool:
        """One round over the next leases with something to capture or to send; whether there may be more at once."""
        async with self._pool.acquire() as connection:
            drawn = await leases.with_draws(connection, self._drawn_after, _LEASES_MAX)
            waiting = await leases.with_open_ops(connection, self._waiting_after, _LEASES_MAX)
        self._drawn_after = drawn[-1] if len(drawn) == _LEASES_MAX else _START
        self._waiting_after = waiting[-1] if len(waiting) == _LEASES_MAX else _START
        older = sorted({*waiting} - {*drawn})
        errors: list[Exception] = []
        async with asyncio.TaskGroup() as sending:
            # What is written is sent while the next is being written.
            sends = [sending.create_task(self._send(older))]
            for at in range(0, len(drawn), _WRITTEN_MAX):
                chunk = drawn[at : at + _WRITTEN_MAX]
                errors += await self._write(chunk)
                sends.append(sending.create_task(self._send(chunk)))
        unsent = [error for send in sends for error in send.result()]
        if unsent and len(unsent) == len(drawn) + len(older):
            raise unsent[0]
        errors += unsent
        if errors:
            _log.warning("captures wait", leases=len(errors), error=repr(errors[0]))
        return len(drawn) == _LEASES_MAX or len(waiting) == _LEASES_MAX

    async def _send(self, keys: Sequence[Key]) -> list[Exception]:
        """Sends what is open on these leases; what failed is tried again in the next round."""
        return _errors(await asyncio.gather(*(self._ops.pump(*key) for key in keys), return_exceptions=True))

    async def _write(self, keys: Sequence[Key]) -> list[Exception]:
        """Writes what is drawn on these leases at once; one by one where that fails, so that one stops no other."""
        if not keys:
            return []
        try:
            await transact(self._pool, lambda connection: write_captures(connection, keys))
        except Exception as error:
            if len(keys) == 1:
                return [error]
            _log.warning("captures are written one by one", leases=len(keys), error=repr(error))
            return [failed for key in keys for failed in await self._write([key])]
        return []


def _errors(results: Sequence[object]) -> list[Exception]:
    """What failed; cancelling ends the round."""
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
    return [result for result in results if isinstance(result, Exception)]


async def write_captures(connection: asyncpg.Connection, keys: Sequence[Key]) -> None:
    """Turns the draws of leases into captures, and their corrections into reversals; each a lease's next operation."""
    found = {(x.org, x.wallet): x for x in await leases.lock_many(connection, keys) if x.quarantined is None}
    taken = await _take(connection, found, dict.fromkeys(found), reversal=False)
    captures = [NewOp(found[key], captured=sum(x.amount for x in lines), lines=lines) for key, lines in taken.items()]
    await leases.write_ops(connection, "CAPTURE", captures)
    found |= {(op.lease.org, op.lease.wallet): op.after for op in captures}
    # Only what is captured can be given back; the rest of a correction waits for the next capture.
    rooms = {
        key: lease.captured - lease.reversed
        for key, lease in found.items()
        if lease.reversal > lease.reversed and lease.captured > lease.reversed
    }
    taken = await _take(connection, found, rooms, reversal=True)
    reversals = [
        NewOp(found[key], given_back=sum(x.amount for x in lines), lines=lines) for key, lines in taken.items()
    ]
    await leases.write_ops(connection, "REVERSE", reversals)


async def _take(
    connection: asyncpg.Connection, found: Mapping[Key, LeaseRow], rooms: Mapping[Key, int | None], *, reversal: bool
) -> dict[Key, list[Line]]:
    """The lines of each lease's next operation: at most its room, where one is given, and so many as one may have."""
    taken, later = {}, []
    for key, draws in (await leases.take_draws(connection, list(rooms), reversal=reversal)).items():
        lines, rest = rules.merge(draws)
        room = rooms[key]
        if room is not None:
            lines, above = rules.fit(lines, room)
            rest = above + rest
        later.append((found[key], rest))
        if lines:
            taken[key] = lines
    await leases.put_draws(connection, later, reversal=reversal)
    return taken
