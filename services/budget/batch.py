"""The one transaction of the hot path: lock in order, decide item by item in the pure domain, write back in sets."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

import asyncpg

from services.budget import carry
from services.budget.approvals import events as approval_events
from services.budget.approvals.store import approvals
from services.budget.binder import Binder
from services.budget.caches import Directories, Policies
from services.budget.domain import alerts as alert_rules
from services.budget.domain import limits, waiting
from services.budget.domain.apply import apply, expire, release
from services.budget.domain.approvals import SettleItem
from services.budget.domain.decide import Batch, UsageRow, decide
from services.budget.domain.extend import extend
from services.budget.domain.model import (
    Answer,
    ApplyItem,
    Counter,
    Decision,
    DeniedReason,
    ExpireItem,
    ExtendItem,
    Item,
    Lease,
    ReleaseItem,
    Reservation,
    ReserveItem,
)
from services.budget.domain.plan import Policy
from services.budget.domain.settle import settle
from services.budget.store import alerts, corrections, pauses, reservations, retention
from services.budget.store import batch as store
from services.kit.errors import PurseError
from services.kit.groupcommit import Redo

_KNOWN_MAX: Final = 500_000
_PROBE_BATCHES: Final = 16


class _Known:
    """Which rows exist, as far as this process knows; bounded, and wrong only in what can be found out."""

    def __init__(self) -> None:
        self._keys: set[object] = set()

    def __contains__(self, key: object) -> bool:
        return key in self._keys

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
        asked = await self._find_approvals(connection, batch, items)
        named = await self._find(connection, batch, items, asked)
        epochs, guess_us = await self._hold_epochs(connection, items)
        policies = await self._policies.at_epochs(connection, epochs)
        binder = Binder(batch, policies, self._directories, guess_us, self._counters)
        refused = binder.bind(items)
        if asked:
            asking = [item for item in items if isinstance(item, ReserveItem) and item.approval is not None]
            batch.held = await approvals.held(connection, {place for item in asking for place in waiting.places(item)})
        binder.bind_holds(named)
        await self._lock(connection, batch, policies, binder)
        if not binder.from_us <= batch.now_us < binder.until_us:
            raise Redo
        answers: list[Answer | Exception] = []
        for index, item in enumerate(items):
            refusal = refused.get(index) if refused else None
            answers.append(_run_one(batch, item) if refusal is None else refusal)
            for before, after in batch.carries:
                limits.carry_over(before, after)
        await self._check_ids(connection, batch, items, answers)
        await self._write(connection, batch)
        return answers

    async def _find(
        self, connection: asyncpg.Connection, batch: Batch, items: list[Item], asked: set[tuple[str, str]]
    ) -> list[Reservation]:
        """Finds applied usage and locks the reservations that items name; returns those that may change.

        New reservations are not looked for: their insert finds a taken id, and so does `_check_ids` where nothing is
        inserted; the batch is then run again with a look.
        """
        events = [i for i in items if isinstance(i, ApplyItem)]
        usage = sorted({(i.org, i.source, i.id) for i in events})
        # What is corrected, and what has no price and so will be; the usual call is neither.
        counted = {(i.org, *(i.corrects or (i.source, i.id))) for i in events if i.corrects is not None or not i.rated}
        if counted:
            batch.counted = await corrections.find(connection, sorted(counted))
        if usage:
            batch.usage = await store.find_usage(connection, usage)
            await self._forget_reused(connection, batch, items)
        named = {(i.org, i.id) for i in items if isinstance(i, (ReleaseItem, ExpireItem, ExtendItem, SettleItem))}
        if extending := sorted({(i.org, i.request_id) for i in items if isinstance(i, ExtendItem)}):
            batch.extensions = await reservations.find_extensions(connection, extending)
        named |= {(i.org, i.reservation) for i in events if i.reservation}
        # Requests of approvals are few, and look first: what is asked for again is as it stands.
        keys = named | asked
        if self._probing:
            self._probing -= 1
            batch.looked = True
            keys = keys | {(i.org, i.id) for i in items if isinstance(i, ReserveItem) and not i.validate_only}
        if keys:
            batch.reservations = await store.lock_reservations(connection, sorted(keys))
            # They change under their reservations' locks only.
            of = [key for key, found in batch.reservations.items() if found.approval and key not in batch.approvals]
            if of:
                batch.approvals |= await approvals.find(connection, of, lock=False)
        return [found for key, found in batch.reservations.items() if key in named]

    async def _find_approvals(
        self, connection: asyncpg.Connection, batch: Batch, items: list[Item]
    ) -> set[tuple[str, str]]:
        """Finds and locks the approvals that items ask for or settle; lets one batch of an organisation ask at a time.

        Returns:
            The ids that items ask under.
        """
        asked = set()
        settled = set()
        for item in items:
            if isinstance(item, ReserveItem):
                if item.approval is not None:
                    asked.add((item.org, item.id))
            elif isinstance(item, SettleItem):
                settled.add((item.org, item.id))
        if asked:
            await approvals.enter(connection, sorted({org for org, _ in asked}))
        if keys := sorted(asked | settled):
            batch.approvals = await approvals.find(connection, keys, lock=True)
        return asked

    async def _forget_reused(self, connection: asyncpg.Connection, batch: Batch, items: list[Item]) -> None:
        """Forgets old events whose ids name others by now: who meters tells ids apart for 90 days only."""
        reused = {
            key
            for item in items
            if isinstance(item, ApplyItem)
            and (known := batch.usage.get(key := (item.org, item.source, item.id))) is not None
            and known[0] != item.payload_hash
            and known[1].is_old
        }
        if reused and await retention.trim_keys(connection, sorted(reused)):
            batch.usage = await store.find_usage(connection, sorted(reused | set(batch.usage)))

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

    async def _lock(
        self, connection: asyncpg.Connection, batch: Batch, policies: dict[str, Policy], binder: Binder
    ) -> None:
        """Locks leases, then counters; makes those that are missing first, in the same order. Finds pauses, too."""
        leases = sorted(batch.leases.values(), key=lambda lease: (lease.org, lease.wallet))
        if leases:
            if new_wallets := set(self._leases.new(batch.leases)):
                await store.add_leases(connection, [lease for lease in leases if lease.wallet in new_wallets])
            if lost := await store.lock_leases(connection, leases):
                self._leases.forget(lost)
                raise Redo
            self._leases.add(batch.leases)
        made: set[tuple[int, int]] = set()
        if new := self._counters.new(batch.counters):
            missing = sorted((batch.counters[key] for key in new), key=_counter_order)  # type: ignore[index]
            made = await store.add_counters(connection, missing)
        batch.now_us, without_row, batch.pauses = await store.lock_counters(
            connection, batch.counters, sorted(binder.pausing), binder.guess_us
        )
        if without_row:
            self._counters.forget(without_row)
            raise Redo
        self._counters.add(batch.counters)
        if made:
            await carry.begin(connection, batch, policies, made)
        for counter in batch.adjusted:
            counter.set_limit()

    async def _write(self, connection: asyncpg.Connection, batch: Batch) -> None:
        # Sorted, so that two replicas that make the same ids wait for each other and never in a circle.
        made = sorted((r for r in batch.reservations.values() if r.is_new), key=_reservation_order)
        # New ones too: the insert has no room for what only happens later, as to be closed.
        changed = [r for r in batch.reservations.values() if r.changed]
        counters = [c for c in batch.counters.values() if c.changed]
        leases = [lease for lease in batch.leases.values() if lease.changed]
        now_us = batch.now_us
        writes = made or counters or leases
        if writes and not await store.write_decisions(connection, made, counters, leases, now_us):
            self._probing = _PROBE_BATCHES
            raise Redo
        if changed:
            await store.change_reservations(connection, changed)
        carried = [c for c in batch.counters.values() if c.carry_changed]
        if carried:
            await store.set_carried(connection, carried)
        if batch.extended and not await reservations.add_extensions(connection, batch.extended, now_us):
            raise Redo
        if batch.applied:
            batch.applied.sort(key=_usage_order)
            if not await store.add_usage(connection, batch.applied, batch.draws, now_us):
                raise Redo
            counters += [c for c in carried if not c.changed]
            batch.crossings += [crossing for c in counters for crossing in alert_rules.crossings(c)]
        if batch.asked or batch.settled:
            await self._write_approvals(connection, batch)
        if batch.notices:
            await self._write_notices(connection, batch)
        if batch.crossings:
            await alerts.add_crossings(connection, batch.crossings, now_us)
        if batch.marked:
            await store.mark_counters(connection, list(batch.marked.values()))
            await pauses.begin(connection, batch.begun, now_us)
        for lease in leases:
            self._on_lease(lease)

    async def _write_approvals(self, connection: asyncpg.Connection, batch: Batch) -> None:
        if batch.asked:
            await approval_events.set_audiences(connection, batch.asked)
            if not await approvals.add(connection, batch.asked):
                raise Redo
        if batch.settled:
            await approvals.change(connection, [row for _, row in sorted(batch.settled.items())])
        if batch.remarked:
            await approvals.mark(connection, batch.remarked)
        await approval_events.tell_asked(connection, batch.asked, batch.now_us)
        await approval_events.tell_settled(connection, list(batch.settled.values()), batch.now_us)

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
    if isinstance(item, ExtendItem):
        return extend(batch, item)
    if isinstance(item, SettleItem):
        return settle(batch, item)
    return expire(batch, item)
