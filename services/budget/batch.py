"""The one transaction of the hot path: lock in order, decide item by item in the pure domain, write back in sets."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

import asyncpg

from services.budget.caches import Directories, Policies
from services.budget.domain import alerts as alert_rules
from services.budget.domain.apply import apply, expire, named_reservation, release
from services.budget.domain.decide import Batch, UsageRow, decide
from services.budget.domain.model import (
    FOREVER_US,
    Answer,
    ApplyItem,
    Binding,
    Budget,
    Counter,
    Decision,
    DeniedReason,
    Dimension,
    ExpireItem,
    Item,
    Lease,
    ReleaseItem,
    Reservation,
    ReserveItem,
    key_number,
)
from services.budget.domain.plan import Directory, Plan, Policy
from services.budget.store import alerts, corrections
from services.budget.store import batch as store
from services.kit.errors import PurseError, unavailable
from services.kit.groupcommit import Redo
from services.kit.subject import Subject
from services.kit.windows import window_at

_KNOWN_MAX: Final = 500_000
_PROBE_BATCHES: Final = 16


class _Known:
    """Which rows exist, as far as this process knows; bounded, and wrong only in what can be found out."""

    def __init__(self) -> None:
        self._keys: set[object] = set()

    def new(self, keys: Iterable[object]) -> list[object]:
        return [key for key in keys if key not in self._keys]

    def add(self, keys: Iterable[object]) -> None:
        if len(self._keys) > _KNOWN_MAX:
            self._keys = set(islice(self._keys, _KNOWN_MAX // 2))
        self._keys.update(keys)

    def forget(self, keys: Iterable[object]) -> None:
        self._keys.difference_update(keys)


class Runner:
    """Runs a batch in an open transaction; what group commit calls.

    Args:
        policies: Definitions by organisation.
        directories: Wallets by organisation.
        on_lease: Called with each lease that a batch changed, before the commit; must not wait.
    """

    def __init__(
        self,
        policies: Policies,
        directories: Directories,
        *,
        on_lease: Callable[[Lease], None],
    ) -> None:
        self._policies = policies
        self._directories = directories
        self._on_lease = on_lease
        self._orgs = _Known()
        self._leases = _Known()
        self._counters = _Known()
        self._notices = _Known()
        self._probing = 0

    async def run(self, connection: asyncpg.Connection, items: list[Item]) -> list[Answer | Exception]:
        """One answer or refusal an item, in order.

        Raises:
            Redo: An id was taken by another transaction, or a window ended while the locks were awaited.
        """
        batch = Batch()
        named = await self._find(connection, batch, items)
        epochs, guess_us = await self._hold_epochs(connection, items)
        policies = await self._policies.at_epochs(connection, epochs)
        binder = _Binder(batch, policies, self._directories, guess_us)
        refused = binder.bind(items)
        binder.bind_holds(named)
        await self._lock(connection, batch)
        if not binder.from_us <= batch.now_us < binder.until_us:
            raise Redo
        answers: list[Answer | Exception] = []
        for index, item in enumerate(items):
            refusal = refused.get(index) if refused else None
            answers.append(_run_one(batch, item) if refusal is None else refusal)
        await self._check_ids(connection, batch, items, answers)
        await self._write(connection, batch)
        return answers

    async def _find(self, connection: asyncpg.Connection, batch: Batch, items: list[Item]) -> list[Reservation]:
        """Finds applied usage and locks the reservations that items name; returns those that may change.

        New reservations are not looked for: their insert finds a taken id, and so does `_check_ids` where nothing is
        inserted; the batch is then run again with a look.
        """
        usage = sorted({(i.org, i.source, i.id) for i in items if isinstance(i, ApplyItem)})
        # What is corrected, and what has no price and so will be; the usual call is neither.
        counted = {
            (i.org, *(i.corrects or (i.source, i.id)))
            for i in items
            if isinstance(i, ApplyItem) and (i.corrects is not None or not i.rated)
        }
        if counted:
            batch.counted = await corrections.find(connection, sorted(counted))
        if usage:
            batch.usage = await store.find_usage(connection, usage)
        named = {(i.org, i.id) for i in items if isinstance(i, ReleaseItem | ExpireItem)}
        named |= {(i.org, i.reservation) for i in items if isinstance(i, ApplyItem) and i.reservation}
        keys = named
        if self._probing:
            self._probing -= 1
            batch.looked = True
            keys = named | {(i.org, i.id) for i in items if isinstance(i, ReserveItem) and not i.validate_only}
        if keys:
            batch.reservations = await store.lock_reservations(connection, sorted(keys))
        return [found for key, found in batch.reservations.items() if key in named]

    async def _check_ids(
        self, connection: asyncpg.Connection, batch: Batch, items: list[Item], answers: list[Answer | Exception]
    ) -> None:
        """Makes sure that no spend is refused whose id has a reservation: its state is the answer, not a decision.

        A spend sent again meets what it holds itself and so may not fit a second time. Nothing is inserted for it then,
        so its id is looked for here. Only batches that refuse something pay for it.

        Raises:
            Redo: A reservation has one of the ids; the batch is run again with a look.
        """
        ids = {
            (item.org, item.id)
            for item, answer in zip(items, answers, strict=True)
            if not (isinstance(answer, Decision) and answer.denied is DeniedReason.NONE)
            and isinstance(item, ReserveItem)
            and not item.validate_only
            and (item.org, item.id) not in batch.reservations
        }
        if ids and not batch.looked and await store.is_any_reserved(connection, sorted(ids)):
            self._probing = _PROBE_BATCHES
            raise Redo

    async def _hold_epochs(self, connection: asyncpg.Connection, items: list[Item]) -> tuple[dict[str, int], int]:
        orgs = sorted({item.org for item in items})
        if new := self._orgs.new(orgs):
            await store.add_orgs(connection, [str(org) for org in new])
        epochs, now_us = await store.hold_epochs(connection, orgs)
        if len(epochs) < len(orgs):
            self._orgs.forget(orgs)
            raise Redo
        self._orgs.add(orgs)
        return epochs, now_us

    async def _lock(self, connection: asyncpg.Connection, batch: Batch) -> None:
        """Locks leases, then counters; makes those that are missing first, in the same order."""
        leases = sorted(batch.leases.values(), key=lambda lease: (lease.org, lease.wallet))
        if leases:
            if new_wallets := set(self._leases.new(batch.leases)):
                await store.add_leases(connection, [lease for lease in leases if lease.wallet in new_wallets])
            if lost := await store.lock_leases(connection, leases):
                self._leases.forget(lost)
                raise Redo
            self._leases.add(batch.leases)
        if new := self._counters.new(batch.counters):
            missing = sorted((batch.counters[key] for key in new), key=_counter_order)  # type: ignore[index]
            await store.add_counters(connection, missing)
        batch.now_us, without_row = await store.lock_counters(connection, batch.counters)
        if without_row:
            self._counters.forget(without_row)
            raise Redo
        self._counters.add(batch.counters)

    async def _write(self, connection: asyncpg.Connection, batch: Batch) -> None:
        # Sorted, so that two replicas that make the same ids wait for each other and never in a circle.
        made = sorted((r for r in batch.reservations.values() if r.is_new), key=_reservation_order)
        changed = [r for r in batch.reservations.values() if r.changed and not r.is_new]
        counters = [c for c in batch.counters.values() if c.changed]
        leases = [lease for lease in batch.leases.values() if lease.changed]
        now_us = batch.now_us
        writes = made or counters or leases
        if writes and not await store.write_decisions(connection, made, counters, leases, now_us):
            self._probing = _PROBE_BATCHES
            raise Redo
        if changed:
            await store.change_reservations(connection, changed)
        if batch.applied:
            batch.applied.sort(key=_usage_order)
            if not await store.add_usage(connection, batch.applied, batch.draws, now_us):
                raise Redo
            crossed = [crossing for c in counters for crossing in alert_rules.crossings(c)]
            await alerts.add_crossings(connection, crossed, now_us)
            await self._write_notices(connection, batch)
        for lease in leases:
            self._on_lease(lease)

    async def _write_notices(self, connection: asyncpg.Connection, batch: Batch) -> None:
        by_key = {notice[:3]: notice for notice in batch.notices}
        new = sorted(self._notices.new(by_key))  # type: ignore[type-var]
        if new:
            written = await alerts.add_notices(connection, [by_key[key] for key in new], batch.now_us)  # type: ignore[index]
            # This batch may yet be rolled back, so only what was there before it is remembered as written.
            self._notices.add(key for key in new if key not in written)


def _reservation_order(found: Reservation) -> tuple[str, str]:
    return (found.org, found.id)


def _usage_order(row: UsageRow) -> tuple[str, str, str]:
    return (row.item.org, row.item.source, row.item.id)


def _counter_order(counter: Counter) -> tuple[str, int, int]:
    return (counter.org, counter.no, counter.key)


def _run_one(batch: Batch, item: Item) -> Answer | PurseError:
    if isinstance(item, ReserveItem):
        return decide(batch, item)
    if isinstance(item, ApplyItem):
        return apply(batch, item)
    if isinstance(item, ReleaseItem):
        return release(batch, item)
    return expire(batch, item)


class _Binder:
    """Finds the counters and leases that a batch's items touch.

    Attributes:
        from_us: The latest instant at which a definition used begins.
        until_us: The earliest instant at which a window used ends: decided later, the batch needs other counters.
    """

    def __init__(self, batch: Batch, policies: dict[str, Policy], directories: Directories, guess_us: int) -> None:
        self._batch = batch
        self._policies = policies
        self._directories = directories
        self._guess_us = guess_us
        self._memo: dict[tuple[int, str, str], tuple[Binding, Plan]] = {}
        self._asked: dict[tuple[str, str], ReserveItem] = {}
        self.from_us = 0
        self.until_us = FOREVER_US

    def bind(self, items: Sequence[Item]) -> dict[int, PurseError]:
        """Binds every item; those that cannot be decided yet are returned with why."""
        refused = {}
        new_events = {
            (i.org, i.source, i.id)
            for i in items
            if self._batch.counted and isinstance(i, ApplyItem) and (i.org, i.source, i.id) not in self._batch.usage
        }
        for index, item in enumerate(items):
            if not isinstance(item, ReserveItem | ApplyItem):
                continue
            directory = self._directories.get(item.org)
            if directory is None:
                refused[index] = unavailable(f"the wallets of orgs/{item.org} are not known yet; send again")
            elif isinstance(item, ReserveItem):
                self._bind_reserve(item, directory)
            elif item.corrects is None:
                self._bind_apply(item, directory)
            elif (item.org, *item.corrects) in new_events:
                refused[index] = unavailable("the event that this corrects is being applied; send again")
            else:
                self._bind_correction(item, item.corrects, directory)
        return refused

    def bind_holds(self, named: Iterable[Reservation]) -> None:
        """Adds what existing reservations hold on."""
        for found in named:
            for at in range(0, len(found.holds), 4):
                self._counter(found.org, found.holds[at], found.holds[at + 1])
            if found.wallet is not None:
                self._lease(found.org, found.wallet, found.currency)

    def _bind_reserve(self, item: ReserveItem, directory: Directory) -> None:
        if not item.validate_only:
            self._asked[(item.org, item.id)] = item
        policy = self._policies[item.org]
        plan = policy.plan(item.subject, item.currency, item.call, actual=False)
        # The plan is kept beside the binding, so that its id stays its own.
        key = (id(plan), item.subject.name, item.currency)
        known = self._memo.get(key)
        if known is None:
            counters = []
            for budget in plan:
                if budget.from_us > self._guess_us:
                    self.until_us = min(self.until_us, budget.from_us)
                elif self._guess_us < budget.until_us:
                    counter = self._window(budget, self._guess_us)
                    self.from_us = max(self.from_us, counter.start_us)
                    self.until_us = min(self.until_us, counter.end_us)
                    counters.append(counter)
            known = (self._fund(tuple(counters), item.subject, item.currency, directory, policy), plan)
            self._memo[key] = known
        item.binding = known[0]

    def _bind_apply(self, item: ApplyItem, directory: Directory) -> None:
        policy = self._policies[item.org]
        currency = item.currency
        if not item.rated and item.reservation:
            # What its reservation expected is what an unrated event counts as.
            key = (item.org, item.reservation)
            estimate = self._batch.reservations.get(key) or self._asked.get(key)
            currency = estimate.currency if estimate is not None else ""
        plan = policy.plan(item.subject, currency, item.call, actual=True)
        at_us = self._used_us(item) if item.reservation else item.occurred_us
        counters = tuple(self._window(b, at_us) for b in plan if b.from_us <= at_us < b.until_us)
        item.binding = (
            self._fund(counters, item.subject, currency, directory, policy) if currency else Binding(counters)
        )
        item.wallet = item.binding.lease.wallet if item.binding.lease is not None else ""

    def _bind_correction(self, item: ApplyItem, corrects: tuple[str, str], directory: Directory) -> None:
        """Binds what counted the event; where nothing has in its currency, what counts such an event now."""
        policy = self._policies[item.org]
        counted = self._batch.counted[(item.org, *corrects)]
        at_us = self._used_us(item) if item.reservation else item.occurred_us
        found = {
            (no, key): self._known_window(policy.by_no[no], key, at_us)
            for no, key in sorted(counted.windows)
            if no in policy.by_no
        }
        if not counted.known or (item.rated and item.currency not in {*counted.wallets, counted.estimate_currency}):
            for budget in policy.plan(item.subject, item.currency, item.call, actual=True):
                if budget.from_us <= at_us < budget.until_us and (
                    not counted.known or budget.dimension is Dimension.COST
                ):
                    counter = self._window(budget, at_us)
                    found.setdefault((counter.no, counter.key), counter)
        counters = tuple(found.values())
        if item.currency:
            item.binding = self._fund(counters, item.subject, item.currency, directory, policy)
        else:
            item.binding = Binding(counters)
        item.wallet = item.binding.lease.wallet if item.binding.lease is not None else ""
        for currency, wallet in (*counted.wallets.items(), (counted.estimate_currency, counted.estimate_wallet)):
            if wallet is not None:
                self._lease(item.org, wallet, currency)

    def _known_window(self, budget: Budget, key: int, at_us: int) -> Counter:
        """A window that has counted an event; with its definition where the event's time tells its bounds."""
        counter = self._window(budget, at_us)
        if counter.key != key:
            counter = self._counter(budget.org, budget.no, key)
            if counter.budget is None:
                counter.define(budget)
        return counter

    def _used_us(self, item: ApplyItem) -> int:
        """When an event that settles a reservation counts: not before the reservation was made, whatever its time says.

        Counted in a window that was over by then, it would free what the reservation holds in the running one, and a
        limit could be spent again and again.
        """
        found = named_reservation(self._batch, item)
        if found is not None:
            return max(item.occurred_us, found.created_us)
        asked = self._asked.get((item.org, item.reservation))
        if asked is None or asked.subject.name != item.reservation_subject:
            return item.occurred_us
        return max(item.occurred_us, self._guess_us)

    def _fund(
        self, counters: tuple[Counter, ...], subject: Subject, currency: str, directory: Directory, policy: Policy
    ) -> Binding:
        wallet = directory.nearest(subject, currency)
        if wallet is None:
            mismatch = bool(currency) and directory.nearest(subject, "") is not None
            return Binding(counters, mismatch=mismatch, wallet_required=policy.require_wallet)
        lease = self._lease(policy.org, wallet.name, wallet.currency)
        lease.state = wallet.state
        return Binding(counters, lease)

    def _window(self, budget: Budget, at_us: int) -> Counter:
        window = window_at(budget.window, at_us)
        counter = self._counter(budget.org, budget.no, key_number(window.key))
        if counter.budget is None:
            counter.define(budget)
            counter.start_us = max(window.start_us, budget.from_us)
            counter.end_us = min(window.end_us, budget.until_us)
            counter.window_end_us = counter.end_us
        return counter

    def _counter(self, org: str, no: int, key: int) -> Counter:
        counter = self._batch.counters.get((no, key))
        if counter is None:
            counter = self._batch.counters[(no, key)] = Counter(org, no, key)
        return counter

    def _lease(self, org: str, wallet: str, currency: str) -> Lease:
        lease = self._batch.leases.get(wallet)
        if lease is None:
            lease = self._batch.leases[wallet] = Lease(org, wallet, currency)
        return lease
