"""Which counters and leases the items of a batch touch, found before anything is locked."""

from collections.abc import Container, Iterable, Sequence

from services.budget.caches import Directories
from services.budget.domain import limits
from services.budget.domain.apply import named_reservation
from services.budget.domain.approvals import SettleItem
from services.budget.domain.budgets import AMOUNT_MAX, FOREVER_US, Budget, Dimension, key_number, key_text
from services.budget.domain.decide import Batch
from services.budget.domain.model import (
    ApplyItem,
    Binding,
    Call,
    Counter,
    ExpireItem,
    ExtendItem,
    Item,
    Lease,
    Reservation,
    ReserveItem,
    State,
)
from services.budget.domain.org_settings import ExpiredHold, UnratedModel
from services.budget.domain.plan import Directory, Plan, Policy
from services.kit.errors import PurseError, unavailable
from services.kit.subject import Subject
from services.kit.windows import Window, window_at, window_bounds, window_key


class Binder:
    """Finds the counters and leases that a batch's items touch.

    Args:
        batch: Gets them.
        policies: By organisation.
        directories: Wallets by organisation.
        guess_us: About when the batch will decide.
        known: Keys of counters whose rows are known to exist.

    Attributes:
        from_us: The latest instant at which a definition used begins.
        until_us: The earliest instant at which a window used ends: decided later, the batch needs other counters.
        pausing: Organisation and number of the budgets whose pauses the batch must know.
    """

    def __init__(
        self,
        batch: Batch,
        policies: dict[str, Policy],
        directories: Directories,
        guess_us: int,
        known: Container[object],
    ) -> None:
        self._batch = batch
        self._policies = policies
        self._directories = directories
        self.guess_us = guess_us
        self._known = known
        self._carried: set[tuple[int, int]] = set()
        self._memo: dict[tuple[int, str, str], tuple[Binding, Plan]] = {}
        self._asked: dict[tuple[str, str], ReserveItem] = {}
        self._unclear: set[tuple[str, str]] = set()
        self.from_us = 0
        self.until_us = FOREVER_US
        self.pausing: set[tuple[str, int]] = set()

    def bind(self, items: Sequence[Item]) -> dict[int, PurseError]:
        """Binds every item; those that cannot be decided yet are returned with why."""
        refused = {}
        new_events = set()
        if self._batch.counted:
            events = {(i.org, i.source, i.id) for i in items if isinstance(i, ApplyItem)}
            new_events = events - self._batch.usage.keys()
        for index, item in enumerate(items):
            if not isinstance(item, (ReserveItem, ApplyItem)):
                if isinstance(item, ExtendItem) or (isinstance(item, SettleItem) and item.places):
                    self._bind_extend(item)
                elif isinstance(item, ExpireItem):
                    self._bind_expire(item)
                continue
            directory = self._directories.get(item.org)
            if directory is None:
                refused[index] = unavailable(f"the wallets of orgs/{item.org} are not known yet; send again")
            elif isinstance(item, ReserveItem):
                self._bind_reserve(item, directory)
            elif (item.org, item.reservation) in self._unclear:
                # Which of several spends under one id is allowed is not known before they are decided.
                refused[index] = unavailable("the reservation that this settles is being made; send again")
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
                no, key = found.holds[at], found.holds[at + 1]
                self._counter(found.org, no, key)
                budget = self._policies[found.org].by_no.get(no)
                if budget is not None and budget.rollover_cap is not None:
                    self._carry(budget, key, window_bounds(budget.window, key_text(key)))
            if found.wallet is not None:
                self._lease(found.org, found.wallet, found.currency)

    def _bind_reserve(self, item: ReserveItem, directory: Directory) -> None:
        if not item.validate_only:
            first = self._asked.setdefault((item.org, item.id), item)
            if first.payload_hash != item.payload_hash:
                self._unclear.add((item.org, item.id))
        policy = self._policies[item.org]
        plan = policy.plan(item.subject, item.currency, item.call, actual=False)
        # The plan is kept beside the binding, so that its id stays its own.
        key = (id(plan), item.subject.name, item.currency)
        known = self._memo.get(key)
        if known is None:
            counters = []
            for budget in plan:
                if budget.from_us > self.guess_us:
                    self.until_us = min(self.until_us, budget.from_us)
                elif self.guess_us < budget.until_us:
                    counter = self._window(budget, self.guess_us)
                    self.from_us = max(self.from_us, counter.start_us)
                    self.until_us = min(self.until_us, counter.end_us)
                    counters.append(counter)
            binding = self._fund(tuple(counters), item.subject, item.currency, directory, policy)
            known = (self._guard(binding, item.subject, item.currency, policy), plan)
            self._memo[key] = known
        item.binding = known[0]

    def _guard(self, binding: Binding, subject: Subject, currency: str, policy: Policy) -> Binding:
        """Adds what may stop the subject whatever it asks for."""
        binding.paused = policy.paused(subject)
        binding.pausing = policy.pausing(subject)
        self.pausing.update((policy.org, no) for no in binding.pausing)
        binding.unbudgeted = policy.settings.deny_unbudgeted and not binding.counters
        binding.blocks_unrated = policy.settings.unrated_model is UnratedModel.BLOCK
        if (rule := policy.approval_rule(subject, currency)) is not None:
            binding.rule = rule
            binding.ask_above = AMOUNT_MAX if rule.above is None else rule.above
        binding.guarded = bool(binding.paused or binding.pausing or binding.unbudgeted or binding.blocks_unrated)
        return binding

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

    def _bind_extend(self, item: ExtendItem | SettleItem) -> None:
        """Binds the windows of now: of the budgets that the reservation holds on, and of those that were made since."""
        # The batch may be run again, and then it may find what it did not.
        item.binding, item.dimensions = None, {}
        found = self._batch.reservations.get((item.org, item.id))
        if found is None or found.subject != item.subject.name or found.state is not State.OPEN:
            return
        policy = self._policies[item.org]
        held = set(found.holds[::4])
        counters = []
        # Of the call, only the model is known; what is not known matches, as in any estimate.
        for budget in policy.plan(item.subject, found.currency, Call(model=found.model), actual=False):
            if budget.no not in held and budget.from_us <= found.created_us:
                continue
            if budget.from_us > self.guess_us:
                self.until_us = min(self.until_us, budget.from_us)
            elif self.guess_us < budget.until_us:
                counter = self._window(budget, self.guess_us)
                self.from_us = max(self.from_us, counter.start_us)
                self.until_us = min(self.until_us, counter.end_us)
                counters.append(counter)
        lease = self._lease(found.org, found.wallet, found.currency) if found.wallet is not None else None
        item.binding = self._guard(Binding(tuple(counters), lease), item.subject, found.currency, policy)
        item.dimensions = {no: int(policy.by_no[no].dimension) for no in held if no in policy.by_no}

    def _bind_expire(self, item: ExpireItem) -> None:
        """Binds what the hold stands in as definitions, which alert and pause, where it may be charged."""
        found = self._batch.reservations.get((item.org, item.id))
        policy = self._policies[item.org]
        item.charges = policy.settings.expired_hold is ExpiredHold.CHARGE_ESTIMATE
        if not item.charges or found is None or found.state is not State.OPEN or found.events:
            return
        for at in range(0, len(found.holds), 4):
            budget = policy.by_no.get(found.holds[at])
            if budget is not None:
                self._window(budget, _start_of(budget, found.holds[at + 1]))

    def _bind_correction(self, item: ApplyItem, corrects: tuple[str, str], directory: Directory) -> None:
        """Binds what counted the event; where nothing has in its currency, what counts such an event now."""
        policy = self._policies[item.org]
        counted = self._batch.counted[(item.org, *corrects)]
        at_us = self._used_us(item) if item.reservation else item.occurred_us
        found = {
            (no, key): self._window(policy.by_no[no], _start_of(policy.by_no[no], key))
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
        return max(item.occurred_us, self.guess_us)

    def _fund(
        self, counters: tuple[Counter, ...], subject: Subject, currency: str, directory: Directory, policy: Policy
    ) -> Binding:
        wallet = directory.nearest(subject, currency)
        if wallet is None:
            mismatch = bool(currency) and directory.nearest(subject, "") is not None
            return Binding(counters, mismatch=mismatch, wallet_required=policy.settings.require_wallet)
        lease = self._lease(policy.org, wallet.name, wallet.currency)
        lease.state = wallet.state
        return Binding(counters, lease)

    def _window(self, budget: Budget, at_us: int) -> Counter:
        window = window_at(budget.window, at_us)
        counter = self._counter(budget.org, budget.no, key_number(window.key))
        if counter.budget is None:
            self._define(counter, budget, window)
        if budget.rollover_cap is not None:
            self._carry(budget, counter.key, window[1:])
        return counter

    def _define(self, counter: Counter, budget: Budget, window: Window) -> None:
        counter.define(budget)
        counter.start_us = max(window.start_us, budget.from_us)
        counter.end_us = min(window.end_us, budget.until_us)
        counter.window_end_us = counter.end_us
        if budget.raises or budget.rollover_cap is not None:
            self._adjust(counter, budget)

    def _adjust(self, counter: Counter, budget: Budget) -> None:
        """Notes what temporary raises add, and that the limit is put together once the row is read."""
        self._batch.adjusted.append(counter)
        if budget.raises:
            start_us = counter.start_us
            raises = budget.touching(start_us, counter.end_us)
            counter.raised, counter.start_us, counter.end_us = limits.raised(
                raises, start_us, counter.end_us, self.guess_us
            )
            counter.lowered = limits.has_fallen(raises, start_us, min(self.guess_us, counter.window_end_us))

    def _carry(self, budget: Budget, key: int, bounds: tuple[int, int]) -> None:
        """Binds the neighbours of a window that unused amounts are carried from and to.

        The one before is needed where this one's row may have to be made, the next one where it has begun: what is
        carried to it follows from this one.
        """
        if (budget.no, key) in self._carried:
            return
        self._carried.add((budget.no, key))
        start_us, end_us = bounds
        if end_us > self.guess_us:
            # Decided after the window's end, the next one would have to follow.
            self.until_us = min(self.until_us, end_us)
        elif end_us < budget.until_us:
            after = self._counter(budget.org, budget.no, key_number(window_key(budget.window, end_us)))
            self._batch.carries.append((self._counter(budget.org, budget.no, key), after))
            if after.budget is None:
                self._define(after, budget, window_at(budget.window, end_us))
        if budget.from_us < start_us and (budget.no, key) not in self._known:
            self._counter(budget.org, budget.no, key_number(window_key(budget.window, start_us - 1)))

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


def _start_of(budget: Budget, key: int) -> int:
    start_us, _ = window_bounds(budget.window, key_text(key))
    return start_us
