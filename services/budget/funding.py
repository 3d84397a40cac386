"""Keeps leases covered: extends them for spends that wait and before they run low. Never inside a batch."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from services.budget.caches import Directories
from services.budget.domain import lease as rules
from services.budget.domain.budgets import AMOUNT_MAX
from services.budget.domain.lease import Account
from services.budget.domain.model import Lease, Short
from services.budget.domain.plan import Directory
from services.budget.ops import Ops
from services.budget.store import leases
from services.budget.store.leases import Op
from services.budget.wallets import Wallets
from services.kit.database import is_certain_rollback, is_connection_lost
from services.kit.errors import PurseError, conflict, unavailable
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_POLL_MIN_S: Final = 0.01
_POLL_MAX_S: Final = 0.1
_LOSSES_MAX: Final = 4
_MEMO_MAX: Final = 100_000


class Funding:
    """What the service asks when a lease is short or an organisation is new.

    Args:
        pool: Budget's database.
        wallets: The wallet service; None: no spend is funded.
        ops: Sends the operations that are written here.
        directories: Filled here.
        empty_memory_s: For how long a wallet that gave too little is not asked again, at most 1 s.
        extend_timeout_s: How long an extension may take, in seconds.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        wallets: Wallets | None,
        ops: Ops,
        directories: Directories,
        *,
        empty_memory_s: float,
        extend_timeout_s: float,
    ) -> None:
        self._pool = pool
        self._wallets = wallets
        self._ops = ops
        self._directories = directories
        self._empty_memory_s = min(1.0, empty_memory_s)
        self._extend_timeout_s = extend_timeout_s
        self._extending: dict[str, asyncio.Task[None]] = {}
        self._syncing: dict[str, asyncio.Task[None]] = {}
        self._looking: dict[str, asyncio.Task[int]] = {}
        self._granted_last: dict[str, int] = {}
        self._empty_until_s: dict[str, float] = {}
        self._seen: dict[str, tuple[float, int]] = {}

    async def know(self, orgs: Sequence[str]) -> None:
        """Returns once the wallets of these organisations are known, or cannot be: their items are then refused."""
        unknown = [org for org in orgs if self._directories.get(org) is None]
        if not unknown:
            return
        if self._wallets is None:
            self._directories.put(Directory(org, 0) for org in unknown)
            return
        tasks = [self._syncing.get(org) or self._start_sync(org) for org in unknown]
        await asyncio.gather(*map(asyncio.shield, tasks), return_exceptions=True)

    def _start_sync(self, org: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._learn(org), name=f"directory {org}")
        self._syncing[org] = task
        task.add_done_callback(lambda done: self._forget_sync(org, done))
        return task

    def _forget_sync(self, org: str, done: asyncio.Task[None]) -> None:
        self._syncing.pop(org, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.warning("directory unknown", org=org, error=repr(error))

    async def _learn(self, org: str) -> None:
        if self._wallets is None:
            raise AssertionError("asked without a wallet service")
        try:
            _, directories = await self._wallets.sync([], {org: 0})
        except PurseError as error:
            async with self._pool.acquire() as connection:
                stored = await leases.directory(connection, org)
            if stored is None:
                raise unavailable(f"the wallets of orgs/{org} cannot be asked for: {error.message}") from error
            directories = [stored]
        else:
            async with self._pool.acquire() as connection:
                await leases.save_directories(connection, directories)
        # An organisation that the wallet service has nothing of has no wallets, at version 0.
        self._directories.put([*directories, Directory(org, 0)])

    def is_empty(self, wallet: str) -> bool:
        """Whether the wallet gave too little a moment ago, so that asking again would only hammer it."""
        return self._empty_until_s.get(wallet, 0.0) > asyncio.get_running_loop().time()

    async def cover(self, shorts: Sequence[Short], timeout_s: float) -> None:
        """Returns once the lease that these spends are short of was extended, or could not be.

        Args:
            shorts: Of one wallet, at least one.
            timeout_s: How long the caller can wait.

        Raises:
            PurseError: UNAVAILABLE: the wallet is out of reach, or did not answer in time; QUARANTINED.
        """
        first = shorts[0]
        # No wallet holds more than the most that can be counted: who asks for more is denied without its neighbours.
        need = min(AMOUNT_MAX, max(1, sum(short.cost for short in shorts) - min(short.free for short in shorts)))
        task = self._extending.get(first.wallet) or self._start_extend(first.org, first.wallet, need)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(task)
        except TimeoutError:
            raise unavailable(f"{first.wallet} did not answer in time; send again with the same ids") from None

    async def available(self, wallet: str, timeout_s: float) -> int:
        """What the wallet could lease now, in nano-units; moves nothing. Callers at the same time share one call.

        Args:
            wallet: Its name.
            timeout_s: How long the caller can wait.

        Raises:
            PurseError: The wallet is out of reach, or did not answer in time.
        """
        if self._wallets is None:
            raise unavailable(f"{wallet} cannot be asked: this service runs without a wallet service")
        task = self._looking.get(wallet)
        if task is None:
            task = self._looking[wallet] = asyncio.create_task(self._wallets.available(wallet), name=f"look {wallet}")
            task.add_done_callback(lambda done: self._forget_look(wallet, done))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise unavailable(f"{wallet} did not answer in time; send again") from None

    async def lately_available(self, wallet: str, timeout_s: float) -> int:
        """What the wallet could lease now or a moment ago, as long as `is_empty` remembers; so a loop hammers nothing.

        Raises:
            PurseError: The wallet is out of reach, or did not answer in time.
        """
        clock = asyncio.get_running_loop()
        if self.is_empty(wallet):
            return 0
        until_s, available = self._seen.get(wallet, (0.0, 0))
        if clock.time() < until_s:
            return available
        available = await self.available(wallet, timeout_s)
        if len(self._seen) >= _MEMO_MAX:
            self._seen.clear()
        self._seen[wallet] = (clock.time() + self._empty_memory_s, available)
        return available

    def _forget_look(self, wallet: str, done: asyncio.Task[int]) -> None:
        self._looking.pop(wallet, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.warning("balance unknown", wallet=wallet, error=repr(error))

    def note(self, lease: Lease) -> None:
        """Looks at a lease that a batch has changed, and asks for more before any spend has to wait."""
        granted = self._granted_last.get(lease.wallet, 0)
        if not granted or lease.quarantined or lease.wallet in self._extending or self.is_empty(lease.wallet):
            return
        account = Account(lease.extended, lease.returned, lease.drawn, lease.reserved, lease.target, int(lease.state))
        if rules.is_low(account, granted):
            self._start_extend(lease.org, lease.wallet, 0)

    def _start_extend(self, org: str, wallet: str, need: int) -> asyncio.Task[None]:
        task = asyncio.create_task(self._extend(org, wallet, need), name=f"extend {wallet}")
        self._extending[wallet] = task
        task.add_done_callback(lambda done: self._forget_extend(wallet, done))
        return task

    def _forget_extend(self, wallet: str, done: asyncio.Task[None]) -> None:
        self._extending.pop(wallet, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.warning("extension failed", wallet=wallet, error=repr(error))

    async def _extend(self, org: str, wallet: str, need: int) -> None:
        """Writes an extension, or joins the one that is open; sends it; returns once it is answered."""
        try:
            async with asyncio.timeout(self._extend_timeout_s):
                op = await self._until_answered(org, wallet, need)
        except TimeoutError:
            raise unavailable(f"{wallet} did not answer in time; send again with the same ids") from None
        if len(self._granted_last) >= _MEMO_MAX:
            self._granted_last.clear()
            self._empty_until_s.clear()
        granted = op.granted or 0
        # What was seen as available may be what the lease has now.
        self._seen.pop(wallet, None)
        self._granted_last[wallet] = max(granted, 1)
        # Empty is a wallet that gave less than it was asked for. An extension that was open already may have asked for
        # less than `need`: what it leaves short is decided again, and asks for its own.
        if granted < max(op.need, 1):
            self._empty_until_s[wallet] = asyncio.get_running_loop().time() + self._empty_memory_s

    async def _until_answered(self, org: str, wallet: str, need: int) -> Op:
        """The answered extension. A lost connection only means to look again: one that was written is found open."""
        for _ in range(_LOSSES_MAX):
            try:
                return await self._answered(org, wallet, *await self._write(org, wallet, need))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if not (is_connection_lost(error) or is_certain_rollback(error)):
                    raise
                _log.warning("extension is looked for again", wallet=wallet, error=repr(error))
        raise unavailable("the database is out of reach; send again with the same ids", retry_after_s=0.5)

    async def _write(self, org: str, wallet: str, need: int) -> tuple[int, int]:
        async with self._pool.acquire() as connection, connection.transaction():
            lease = await leases.lock(connection, org, wallet)
            if lease is None:
                raise unavailable(f"the lease on {wallet} is being made; send again")
            if lease.quarantined is not None:
                raise conflict("QUARANTINED", f"the lease on {wallet} is quarantined: {lease.quarantined}")
            n = await leases.open_extend(connection, org, wallet)
            if n is None:
                ask = rules.ask(lease.account, need or self._granted_last.get(wallet, 1))
                n = await leases.write_op(connection, lease, "EXTEND", ask=ask, need=need)
            return lease.epoch, n

    async def _answered(self, org: str, wallet: str, epoch: int, n: int) -> Op:
        """Sends until the operation is answered, here or by another replica; returns it."""
        rest_s = _POLL_MIN_S
        losses = 0
        while True:
            try:
                await self._ops.pump(org, wallet)
            except PurseError as error:
                # One lost answer is asked for again at once; a wallet that is down must not keep calls waiting.
                losses += 1
                if losses >= _LOSSES_MAX:
                    raise unavailable(f"{wallet} is out of reach: {error.message}", retry_after_s=0.5) from error
            async with self._pool.acquire() as connection:
                op = await leases.get_op(connection, org, wallet, epoch, n)
                if op is not None and op.answered:
                    return op
                if op is None or await leases.is_quarantined(connection, org, wallet):
                    # A lease that begins anew in the wallet's epoch, or that stops.
                    raise unavailable(f"the lease on {wallet} was moved or stopped; send again", retry_after_s=0.1)
            await asyncio.sleep(rest_s)
            rest_s = min(_POLL_MAX_S, rest_s * 2)

    async def close(self) -> None:
        """Ends what is under way."""
        tasks: list[asyncio.Task[Any]] = [
            *self._extending.values(), *self._syncing.values(), *self._looking.values()
        ]  # fmt: skip
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
