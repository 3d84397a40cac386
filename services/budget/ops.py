"""Sends the numbered operations of leases: strictly in order, one at a time, shared by replicas."""

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.store import alerts, budgets, leases
from services.budget.store.leases import LeaseRow, Op
from services.budget.wallets import Wallets
from services.kit.errors import Code, PurseError
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_BATCH_MAX: Final = 256
_LINES_MAX: Final = 5_000
# The operation itself is refused, so sending it again never helps: the numbers of the two sides do not fit.
_REFUSALS: Final = frozenset(
    {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE}
)

Key = tuple[str, str]
"""A lease: (org, wallet)."""


class Ops:
    """Sends operations that were written before; any replica may send any of them.

    What is asked for while a call is on its way becomes part of the next one, so that a thousand busy leases cost few
    calls and few transactions, and a single one goes at once.

    Args:
        pool: Budget's database.
        wallets: The wallet service.
        in_flight_max: How many calls are on their way at once; each holds a connection.
    """

    def __init__(self, pool: asyncpg.Pool, wallets: Wallets | None, *, in_flight_max: int) -> None:
        self._pool = pool
        self._wallets = wallets
        self._in_flight_max = in_flight_max
        self._waiting: dict[Key, asyncio.Future[bool]] = {}
        self._sending: set[Key] = set()
        self._workers: set[asyncio.Task[None]] = set()

    async def pump(self, org: str, wallet: str) -> None:
        """Sends what is open on a lease, unless another replica is doing so.

        Raises:
            PurseError: The wallet is out of reach; the operations stay and are sent again.
        """
        if self._wallets is None:
            return
        while await self._turn((org, wallet)):
            pass

    async def close(self) -> None:
        """Ends what is under way."""
        for task in self._workers:
            task.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _turn(self, key: Key) -> bool:
        """Waits for the call that takes the lease's next operation along; returns whether more are open."""
        turn = self._waiting.get(key)
        if turn is None:
            turn = self._waiting[key] = asyncio.get_running_loop().create_future()
            # Whoever waits may be gone by then.
            turn.add_done_callback(lambda done: done.cancelled() or done.exception())
        if len(self._workers) < self._in_flight_max:
            worker = asyncio.create_task(self._work(), name="lease operations")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await asyncio.shield(turn)

    async def _work(self) -> None:
        while keys := [key for key in self._waiting if key not in self._sending][:_BATCH_MAX]:
            turns = {key: self._waiting.pop(key) for key in keys}
            self._sending.update(turns)
            results: dict[Key, bool | Exception] = {}
            try:
                results = await self._send(sorted(turns))
            except Exception as error:
                results = dict.fromkeys(turns, error)
            finally:
                self._sending.difference_update(turns)
                for key, turn in turns.items():
                    _settle(turn, results.get(key))

    async def _send(self, keys: Sequence[Key]) -> dict[Key, bool | Exception]:
        """Sends the next operation of each lease; by lease, whether more are open, or why it must be sent again."""
        assert self._wallets is not None, "there is somebody to send to"
        # The operations' rows stay locked while they are on their way, so that no other replica sends them or the next.
        async with self._pool.acquire() as connection, connection.transaction():
            due = await leases.next_ops(connection, keys)
            ops = _fitting(due)
            found: dict[Key, bool | Exception] = dict.fromkeys(keys, False)
            found |= {(op.org, op.wallet): True for op in due[len(ops) :]}
            if not ops:
                return found
            answers = await self._wallets.send(ops)
            accepted = [(op, *answer) for op, answer in zip(ops, answers, strict=True) if isinstance(answer, tuple)]
            found |= dict.fromkeys(await leases.answer(connection, accepted), True)
            for op, _, status in accepted:
                if status.quarantined:
                    await quarantine(connection, op.org, op.wallet, "the wallet has quarantined it")
                    found[op.org, op.wallet] = False
            for op, answer in zip(ops, answers, strict=True):
                if isinstance(answer, PurseError):
                    known = answer.code in _REFUSALS
                    found[op.org, op.wallet] = await _refused(connection, op, answer) if known else answer
            return found


def _settle(turn: asyncio.Future[bool], result: object) -> None:
    if turn.done():
        return
    if isinstance(result, Exception):
        turn.set_exception(result)
    elif isinstance(result, bool):
        turn.set_result(result)
    else:
        turn.cancel()


def _fitting(ops: Sequence[Op]) -> list[Op]:
    """As many as one call may hold; the rest are sent by the next round."""
    fitting: list[Op] = []
    lines = 0
    for op in ops:
        lines += len(op.lines)
        if fitting and lines > _LINES_MAX:
            break
        fitting.append(op)
    return fitting


async def _refused(connection: asyncpg.Connection, op: Op, error: PurseError) -> bool:
    epoch = int(error.metadata.get("epoch", "0"))
    if error.reason == "LEASE_EPOCH" and op.n == 1 and op.kind == "EXTEND" and epoch > op.epoch:
        # This database has never had a lease here: it begins in the wallet's epoch.
        await leases.begin_in_epoch(connection, op, epoch)
        return True
    lease = await leases.lock(connection, op.org, op.wallet)
    if error.reason == "LEASE_EPOCH" and error.metadata.get("last_n") == "0" and lease and epoch > lease.epoch:
        await begin_anew(connection, lease, epoch)
        return False
    await quarantine(connection, op.org, op.wallet, f"{op.kind} {op.n} was refused: {error.reason}: {error.message}")
    return False


async def quarantine(connection: asyncpg.Connection, org: str, wallet: str, why: str) -> None:
    """Stops a lease and tells people, once."""
    if await leases.quarantine(connection, org, wallet, why):
        _log.error("lease quarantined", wallet=wallet, why=why)
        at_us = await budgets.now_us(connection)
        await alerts.add_notices(connection, [(org, "LEASE_QUARANTINED", f"{wallet}@{at_us}", why)], at_us)


async def begin_anew(connection: asyncpg.Connection, lease: LeaseRow, epoch: int) -> None:
    """Follows an operator who ended the lease's epoch by force, and tells people what may be missing; see `leases`."""
    unanswered = await leases.begin_anew(connection, lease, epoch)
    if unanswered is None:
        return
    unknown = sum(line.amount for op in unanswered if op.kind == "CAPTURE" for line in op.lines)
    why = (
        f"epoch {lease.epoch} was ended by an operator at operation {lease.last_n}; epoch {epoch} begins. "
        f"{len(unanswered)} operations had no answer; captures of {unknown} nanos among them may not be in the wallet"
    )
    _log.warning("lease began anew", wallet=lease.wallet, epoch=epoch, unanswered=len(unanswered), nanos=unknown)
    at_us = await budgets.now_us(connection)
    await alerts.add_notices(connection, [(lease.org, "LEASE_BEGAN_ANEW", f"{lease.wallet}@{epoch}", why)], at_us)
