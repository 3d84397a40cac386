"""Asks the wallet service at least every 5 s what has changed, and gives back what it does not want held here."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final

import asyncpg

from services.budget.caches import Directories
from services.budget.domain import lease as rules
from services.budget.ops import Ops, begin_anew, quarantine
from services.budget.store import leases
from services.budget.store.leases import LeaseRow, NewOp, Status
from services.budget.wallets import Wallets
from services.kit.database import transact
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_CHUNK: Final = 100
_TARGET_SLACK: Final = 8
_OPS_KEPT_S: Final = 86_400
_OPS_FORGOTTEN_MAX: Final = 5_000


class Sync:
    """One synchronisation with the wallet service.

    Args:
        pool: Budget's database.
        wallets: The wallet service.
        ops: Sends returns.
        directories: Refreshed here.
        idle_return_s: After which time without use a lease's free part goes back, in seconds.
    """

    def __init__(
        self, pool: asyncpg.Pool, wallets: Wallets, ops: Ops, directories: Directories, *, idle_return_s: float
    ) -> None:
        self._pool = pool
        self._wallets = wallets
        self._ops = ops
        self._directories = directories
        self._idle_return_us = int(idle_return_s * 1_000_000)

    async def step(self) -> bool:
        """Asks for every lease and every known organisation; a page of each a call."""
        versions = list(self._directories.versions().items())
        after = ("", "")
        while True:
            async with self._pool.acquire() as connection:
                rows = await leases.page(connection, after)
            part, versions = versions[: leases.PAGE], versions[leases.PAGE :]
            if rows or part:
                statuses, directories = await self._wallets.sync(rows, dict(part))
                if directories:
                    async with self._pool.acquire() as connection:
                        await leases.save_directories(connection, directories)
                    self._directories.put(directories)
                await self._take_in({row.wallet: row for row in rows}, statuses)
            if len(rows) < leases.PAGE and not versions:
                return False
            after = (rows[-1].org, rows[-1].wallet) if rows else after

    async def forget(self) -> bool:
        """Deletes answered operations that no audit asks for any more: a day old, each lease's last one stays.

        Returns whether there may be more.
        """
        before_us = int((time.time() - _OPS_KEPT_S) * 1_000_000)
        async with self._pool.acquire() as connection:
            forgotten = await leases.forget_ops(connection, before_us, _OPS_FORGOTTEN_MAX)
        return forgotten == _OPS_FORGOTTEN_MAX

    async def _take_in(self, known: dict[str, LeaseRow], statuses: Sequence[Status]) -> None:
        news = [status for status in statuses if status.wallet in known and _is_news(known[status.wallet], status)]
        news.sort(key=lambda status: (known[status.wallet].org, status.wallet))
        for chunk in _chunks(news):
            by_wallet = {status.wallet: status for status in chunk}
            keys = [(known[wallet].org, wallet) for wallet in by_wallet]
            asked = {wallet: known[wallet].epoch for wallet in by_wallet}
            await transact(self._pool, lambda c, k=keys, b=by_wallet, a=asked: _adopt(c, k, b, a))  # type: ignore[misc]
        await self._give_back([known[status.wallet] for status in statuses if status.wallet in known], statuses)

    async def _give_back(self, rows: Sequence[LeaseRow], statuses: Sequence[Status]) -> None:
        """Looks with what was read; decides again under the lock."""
        now_us = int(time.time() * 1_000_000)
        by_wallet = {status.wallet: status for status in statuses}
        waiting = []
        for row in rows:
            status = by_wallet[row.wallet]
            account = row.account._replace(target=status.target, state=int(status.state))
            if row.quarantined is None and rules.give_back(account, idle=self._is_idle(row, now_us)):
                waiting.append((row.org, row.wallet))
        waiting.sort()
        for at in range(0, len(waiting), _CHUNK):
            chunk = waiting[at : at + _CHUNK]
            await transact(self._pool, lambda c, keys=chunk: self._write_returns(c, keys, now_us))  # type: ignore[misc]
        for result in await asyncio.gather(*(self._ops.pump(*key) for key in waiting), return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def _is_idle(self, row: LeaseRow, now_us: int) -> bool:
        return bool(row.active_us) and row.active_us + self._idle_return_us < now_us

    async def _write_returns(self, connection: asyncpg.Connection, keys: list[tuple[str, str]], now_us: int) -> None:
        """Writes the returns of leases, by their sorted keys, that still have something to return."""
        locked = await leases.lock_many(connection, keys)
        extending = await leases.open_extends(connection, keys)
        returns = []
        for lease in locked:
            if lease.quarantined is not None or (lease.org, lease.wallet) in extending:
                continue
            amount = rules.give_back(lease.account, idle=self._is_idle(lease, now_us))
            if amount:
                returns.append(NewOp(lease, returned=amount))
        await leases.write_ops(connection, "RETURN", returns)


def _is_news(row: LeaseRow, status: Status) -> bool:
    """Whether the row must be written: targets move all the time, so only what matters counts."""
    target = row.target
    return (
        status.quarantined
        or status.epoch != row.epoch
        or status.n > row.last_n
        or status.extended > row.extended
        or status.state != row.state
        or target is None
        or abs(status.target - target) * _TARGET_SLACK > target
    )


async def _adopt(
    connection: asyncpg.Connection,
    keys: list[tuple[str, str]],
    statuses: dict[str, Status],
    asked: dict[str, int],
) -> None:
    news = []
    for lease in await leases.lock_many(connection, keys):
        status = statuses[lease.wallet]
        if lease.epoch != asked[lease.wallet]:
            # It began anew after the question: the answer may be older than that.
            continue
        if lease.last_n and status.epoch > lease.epoch and status.n == 0 and not status.quarantined:
            # Only an operator ends an epoch, which settles whatever was wrong in it.
            await begin_anew(connection, lease, status.epoch)
        elif lease.quarantined is not None:
            continue
        elif why := _conflict(lease, status):
            await quarantine(connection, lease.org, lease.wallet, why)
        else:
            news.append((lease, status))
    await leases.adopt(connection, news)


def _conflict(lease: LeaseRow, status: Status) -> str | None:
    """Why the two sides do not fit; None when they do."""
    if status.quarantined:
        return "the wallet has quarantined it"
    if status.epoch != lease.epoch and lease.last_n:
        return f"the wallet is in epoch {status.epoch}, this database in epoch {lease.epoch}"
    if status.n > lease.last_n:
        return f"the wallet has operation {status.n}, this database only {lease.last_n}: it was restored from a backup"
    return None


def _chunks(statuses: Sequence[Status]) -> Iterator[Sequence[Status]]:
    for at in range(0, len(statuses), _CHUNK):
        yield statuses[at : at + _CHUNK]
