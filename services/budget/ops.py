"""Sends the numbered operations of leases: strictly in order, one at a time, shared by replicas."""

import asyncio
from typing import Final
from weakref import WeakValueDictionary

import asyncpg

from services.budget.store import alerts, budgets, leases
from services.budget.store.leases import LeaseRow, Op, Status
from services.budget.wallets import Wallets
from services.kit.errors import Code, PurseError
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
# The operation itself is refused, so sending it again never helps: the numbers of the two sides do not fit.
_REFUSALS: Final = frozenset(
    {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE}
)


class Ops:
    """Sends operations that were written before; any replica may send any of them.

    Args:
        pool: Budget's database.
        wallets: The wallet service.
        in_flight_max: How many leases are sent for at once; each holds a connection.
    """

    def __init__(self, pool: asyncpg.Pool, wallets: Wallets | None, *, in_flight_max: int) -> None:
        self._pool = pool
        self._wallets = wallets
        self._in_flight = asyncio.Semaphore(in_flight_max)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def pump(self, org: str, wallet: str) -> None:
        """Sends what is open on a lease, unless another replica is doing so.

        Raises:
            PurseError: The wallet is out of reach; the operations stay and are sent again.
        """
        lock = self._locks.setdefault(wallet, asyncio.Lock())
        async with lock:
            while await self._send_next(org, wallet):
                pass

    async def _send_next(self, org: str, wallet: str) -> bool:
        if self._wallets is None:
            return False
        # The operation's row stays locked while it is on its way, so that no other replica sends it or the next one.
        async with self._in_flight, self._pool.acquire() as connection, connection.transaction():
            op = await leases.next_op(connection, org, wallet)
            if op is None:
                return False
            try:
                granted, status = await self._wallets.send(op)
            except PurseError as error:
                if error.code not in _REFUSALS:
                    raise
                return await self._refused(connection, op, error)
            return await self._accepted(connection, op, granted, status)

    async def _accepted(self, connection: asyncpg.Connection, op: Op, granted: int, status: Status) -> bool:
        more = await leases.answer(connection, op, granted, status)
        if status.quarantined:
            await quarantine(connection, op.org, op.wallet, "the wallet has quarantined it")
            return False
        return more

    async def _refused(self, connection: asyncpg.Connection, op: Op, error: PurseError) -> bool:
        epoch = int(error.metadata.get("epoch", "0"))
        if error.reason == "LEASE_EPOCH" and op.n == 1 and op.kind == "EXTEND" and epoch > op.epoch:
            # This database has never had a lease here: it begins in the wallet's epoch.
            await leases.begin_in_epoch(connection, op, epoch)
            return True
        lease = await leases.lock(connection, op.org, op.wallet)
        if error.reason == "LEASE_EPOCH" and error.metadata.get("last_n") == "0" and lease and epoch > lease.epoch:
            await begin_anew(connection, lease, epoch)
            return False
        await quarantine(
            connection, op.org, op.wallet, f"{op.kind} {op.n} was refused: {error.reason}: {error.message}"
        )
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
