"""What a batch works on: counters, leases, reservations and the items that change them.

Times are whole microseconds since 1970 (`_us`). Amounts are integers: nano-units for COST, counts otherwise. The
classes are plain and mutable where the batch changes them: they live for one transaction, under its locks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from services.budget.domain.approvals import Approval, ApprovalRule, Mark, Need, SettleItem
from services.budget.domain.budgets import AMOUNT_MAX, BLOCKING, FOREVER_US, Budget, OnExceed
from services.budget.domain.pauses import Pause
from services.kit.errors import PurseError
from services.kit.rating import Rate
from services.kit.subject import Subject


class State(IntEnum):
    """Where a reservation stands; the numbers of the contract. CHARGED: expired, and its estimate counts as used."""

    OPEN = 1
    SETTLED = 2
    RELEASED = 3
    EXPIRED = 4
    CHARGED = 5


class WalletState(IntEnum):
    """Whether a wallet pays; the numbers of the wallet's contract. UNKNOWN until the wallet has said."""

    UNKNOWN = 0
    OPEN = 1
    FROZEN = 2
    CLOSED = 3


class DeniedReason(IntEnum):
    """Why a spend is not allowed; the numbers of the contract. APPROVAL_REQUIRED is no denial, and is on no wire."""

    NONE = 0
    BUDGET_EXCEEDED = 1
    INSUFFICIENT_FUNDS = 2
    PAUSED = 3
    WALLET_FROZEN = 4
    NO_WALLET = 5
    UNBUDGETED = 10
    UNRATED_MODEL = 11
    APPROVAL_DENIED = 12
    APPROVALS_HELD = 13
    APPROVAL_REQUIRED = 100


class Call(NamedTuple):
    """What selectors match. Empty: not given. Labels are sorted by key."""

    provider: str = ""
    model: str = ""
    operation: str = ""
    labels: tuple[tuple[str, str], ...] = ()


Amounts = tuple[int, int, int, int, int, int]
"""By dimension; place 0 is unused."""


class Carry(NamedTuple):
    """What a window's carried amount comes from.

    Attributes:
        from_key: The window before.
        base: The limit of the window before, without raises and what it was carried.
        cap: The most that is carried.
    """

    from_key: int
    base: int
    cap: int

    def amount(self, used: int) -> int:
        """What is carried when the window before has spent and holds `used`."""
        return min(self.cap, max(0, self.base - used))


class Counter:
    """One budget window's use, locked for the batch.

    Attributes:
        spent: Actual use.
        reserved: Held by open reservations.
        peak: The most that `spent` was during the batch, which is what alerts look at.
        budget: The definition with the limit in force; None where only a hold of a deleted budget refers to it.
        definition: The definition as it was written.
        start_us: From when the limit in force counts.
        end_us: Until when the limit in force counts, at the latest when the window, or the budget's part of it, ends.
        raised: What temporary raises add to the limit.
        carried: What the window before left to it.
        carry: How `carried` comes about; None: nothing is carried.
        rises: How often `carried` has risen.
        lowered: The limit has fallen in this window, so a threshold may be reached that was not when it was spent.
        denied_generation: The last limit generation in which a denial was told of.
        paused_generation: The last one in which the window has paused its subject.
    """

    __slots__ = (
        "blocking", "budget", "carried", "carry", "carry_changed", "definition", "denied_generation", "dimension",
        "end_us", "key", "limit", "lowered", "no", "org", "paused_generation", "pausing", "peak", "raised", "reserved",
        "reserved_before", "rises", "spent", "spent_before", "start_us", "window_end_us",
    )  # fmt: skip

    def __init__(self, org: str, no: int, key: int) -> None:
        self.org = org
        self.no = no
        self.key = key
        self.budget: Budget | None = None
        self.definition: Budget | None = None
        self.raised = 0
        self.carried = 0
        self.carry: Carry | None = None
        self.rises = 0
        self.carry_changed = False
        self.lowered = False
        self.limit = 0
        self.dimension = 0
        self.blocking = False
        self.pausing = False
        self.denied_generation = 0
        self.paused_generation = 0
        self.start_us = 0
        self.end_us = FOREVER_US
        self.window_end_us = FOREVER_US
        self.load(0, 0)

    def load(self, spent: int, reserved: int) -> None:
        """Takes the row's values."""
        self.spent = self.spent_before = self.peak = spent
        self.reserved = self.reserved_before = reserved

    def define(self, budget: Budget) -> None:
        """Takes the definition's part that decides."""
        self.budget = self.definition = budget
        self.limit = budget.limit
        self.dimension = int(budget.dimension)
        self.blocking = budget.on_exceed in BLOCKING
        self.pausing = budget.on_exceed is OnExceed.PAUSE

    def set_limit(self) -> None:
        """Puts the limit in force together: the definition's, what is carried and temporary raises."""
        written = self.definition
        if written is None:
            return
        self.limit = min(AMOUNT_MAX, written.limit + self.carried + self.raised)
        self.budget = written.with_limit(self.limit, written.generation + self.rises)

    @property
    def changed(self) -> bool:
        """Whether spent and reserved must be written."""
        return self.spent != self.spent_before or self.reserved != self.reserved_before


class Lease:
    """The account of one funding lease, locked for the batch. All but `reserved` are cumulative totals.

    Attributes:
        wallet: The wallet's name.
        extended: Moved into escrow for it.
        returned: Given back from it.
        drawn: Spent from it.
        reversal: Given back by negative corrections.
        reserved: Held by open reservations.
        state: The wallet's: as it last said of this lease, until then as the directory has it.
        target: How much unspent money the wallet wants held here; None until it has said.
        quarantined: Why nothing new is allowed on it; None when all is well.
    """

    __slots__ = (
        "before", "currency", "drawn", "extended", "org", "quarantined", "reserved", "returned", "reversal", "state",
        "target", "wallet",
    )  # fmt: skip

    def __init__(self, org: str, wallet: str, currency: str) -> None:
        self.org = org
        self.wallet = wallet
        self.currency = currency
        self.quarantined: str | None = None
        self.target: int | None = None
        self.state = WalletState.OPEN
        self.load(0, 0, 0, 0, reserved=0, state=WalletState.UNKNOWN)

    def load(
        self, extended: int, returned: int, drawn: int, reversal: int, *, reserved: int, state: WalletState
    ) -> None:
        """Takes the row's values."""
        self.extended = extended
        self.returned = returned
        self.drawn = drawn
        self.reversal = reversal
        self.reserved = reserved
        if state is not WalletState.UNKNOWN:
            self.state = state
        self.before = (drawn, reversal, reserved)

    @property
    def free(self) -> int:
        """What may still be reserved; below 0 after overage."""
        return self.extended - self.returned - self.drawn - self.reserved

    @property
    def changed(self) -> bool:
        """Whether the row must be written."""
        return (self.drawn, self.reversal, self.reserved) != self.before


@dataclass(slots=True)
class Reservation:
    """A hold, as its row has it.

    Attributes:
        wallet: The lease that it holds on and settles on; None: unfunded.
        cost: What was held as cost; None: the cost is unknown.
        holds: Four numbers a hold: budget, window key, placed, still held.
        binding: What decided it, where this batch has made it; None: it was there before.
        changed: Its row must be written.
        events: How many usage events have settled it.
        closed_us: When it was closed; 0: it is open.
        approval: Whether it waits for an approval.
    """

    org: str
    id: str
    subject: str
    state: State
    payload_hash: bytes
    wallet: str | None
    currency: str
    cost: int | None
    funding_held: int
    settled: int
    created_us: int
    expires_us: int
    rate_version: str
    model: str
    holds: list[int]
    binding: "Binding | None" = None
    changed: bool = False
    events: int = 0
    closed_us: int = 0
    approval: Mark = Mark.NONE

    @property
    def is_new(self) -> bool:
        """Whether this batch has made it."""
        return self.binding is not None

    @property
    def name(self) -> str:
        """`{subject}/reservations/{id}`."""
        return f"{self.subject}/reservations/{self.id}"


class Use(NamedTuple):
    """One budget's window, seen from one spend. What remains and the overage stop at what can be counted."""

    budget: Budget
    key: int
    spent: int
    reserved: int
    asked: int
    remaining: int
    overage: int
    end_us: int


@dataclass(slots=True)
class Decision:
    """The answer to a spend. `denied` is NONE for an ALLOW."""

    denied: DeniedReason
    reservation: str = ""
    expires_us: int = 0
    cost: int | None = None
    currency: str = ""
    wallet: str = ""
    tightest: Use | None = None
    warnings: Sequence[Use] = ()
    violations: Sequence[Use] = ()
    unchecked: Sequence[str] = ()
    rate_version: str = ""
    fit: "Fit | None" = None
    pauses: Sequence[Pause] = ()
    need: Need | None = None


@dataclass(slots=True)
class Fit:
    """How much smaller a denied spend must be.

    Attributes:
        output_tokens: The largest cap on output tokens that budgets and funding allow; 0: none.
        by_budgets: The largest that the budgets alone allow, where the funding is shorter.
        wallet: What could give more; empty: it would not help.
        free: What its lease has free, in nano-units.
    """

    output_tokens: int
    by_budgets: int = 0
    wallet: str = ""
    free: int = 0


@dataclass(slots=True)
class Short:
    """The budgets allow the spend, the lease does not cover it: ask the wallet for more and decide again.

    Attributes:
        cost: What the spend needs, at least 1.
        free: What the lease had free; below 0 after overage.
        allowed: The answer if the wallet has what is short; only to a spend that holds nothing.
    """

    org: str
    wallet: str
    currency: str
    cost: int
    free: int
    allowed: Decision | None = None


@dataclass(slots=True)
class Applied:
    """What became of a usage event.

    Attributes:
        is_old: It was applied so long ago that its id may name another event by now.
    """

    duplicate: bool
    drawn: int
    unfunded: bool
    unreserved: bool
    is_old: bool = False


@dataclass(slots=True, eq=False)
class Binding:
    """The counters and the wallet that one kind of spend touches in this batch.

    Attributes:
        counters: One a budget that applies.
        lease: What pays; None: unfunded.
        mismatch: The path has wallets, but none in the spend's currency.
        wallet_required: The organisation refuses spends without a wallet.
        paused: Pauses by persons on the way to the root.
        pausing: Numbers of the budgets on that way which may have paused.
        unbudgeted: The organisation denies what no budget counts, and none counts this.
        blocks_unrated: The organisation denies models without a price.
        guarded: Whether one of the last four is to be looked at.
        ask_above: What costs more needs an approval, in nano-units.
        rule: What the policies on the way to the root say of approvals; None: there are none.
    """

    counters: tuple[Counter, ...] = ()
    lease: Lease | None = None
    mismatch: bool = False
    wallet_required: bool = False
    paused: tuple[Pause, ...] = ()
    pausing: tuple[int, ...] = ()
    unbudgeted: bool = False
    blocks_unrated: bool = False
    guarded: bool = False
    ask_above: int = AMOUNT_MAX
    rule: ApprovalRule | None = None


NO_BINDING: Final = Binding()


@dataclass(slots=True, eq=False)
class ReserveItem:
    """Asks for a decision.

    Attributes:
        asks: By dimension; 0 where unknown.
        unknown: Bit 1 << dimension for each dimension that the estimate does not know.
        cost: None: unknown.
        currency: Of the cost; empty where the cost is unknown.
        capped: The request says the most output tokens, so that a smaller number may fit.
        price: What priced the cost; None: the caller said it, or it is unknown.
        unpriced: Why the model that is named has no price; None: it has, or none is named.
        approval: What a person is asked about it; None: it is spent at once.
    """

    org: str
    id: str
    subject: Subject
    payload_hash: bytes
    call: Call
    currency: str
    asks: Amounts
    unknown: int
    cost: int | None
    ttl_us: int
    validate_only: bool
    strict: bool
    rate_version: str
    capped: bool = False
    price: Rate | None = None
    unpriced: PurseError | None = None
    binding: Binding = NO_BINDING
    approval: Approval | None = None


@dataclass(slots=True, eq=False)
class ReleaseItem:
    """Asks to give a reservation back."""

    org: str
    id: str
    subject: str


@dataclass(slots=True, eq=False)
class ExtendItem:
    """Asks to let a reservation live longer, by what is left of it in the windows of now.

    Attributes:
        request_id: Of this request, in the organisation.
        ttl_us: How long it is to live from now on.
        binding: Filled by each run of the batch: the windows of now, of the budgets that it holds on or that were made
            since; None: the reservation was not there to be bound, so nothing may be moved by it.
        dimensions: Filled by the batch: what the budgets count that it holds on, by number.
    """

    org: str
    id: str
    subject: Subject
    request_id: str
    payload_hash: bytes
    ttl_us: int
    binding: Binding | None = None
    dimensions: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class ExpireItem:
    """Expires a reservation whose time ran out before `before_us`.

    Attributes:
        charges: Filled by the batch: whether the organisation charges what was never settled.
    """

    org: str
    id: str
    before_us: int
    charges: bool = False


@dataclass(slots=True, eq=False)
class ApplyItem:
    """One metered event.

    Attributes:
        amounts: By dimension; the cost is 0 where it is not rated.
        rated: Whether the cost is known.
        currency: Of the cost; empty where it is not rated.
        reservation: The reservation's id, where it is one of this organisation; empty otherwise.
        reservation_subject: The subject in the reservation's name.
        wallet: Filled by the batch: the nearest wallet; empty: none.
        corrects: Source and id of the event that this one adjusts, by signed differences; None: it is a call.
    """

    org: str
    source: str
    id: str
    subject: Subject
    payload_hash: bytes
    call: Call
    amounts: Amounts
    rated: bool
    currency: str
    occurred_us: int
    month: str
    reservation: str
    reservation_subject: str
    final: bool
    wallet: str = ""
    binding: Binding = NO_BINDING
    corrects: tuple[str, str] | None = None


Item = ReserveItem | ExtendItem | ReleaseItem | ExpireItem | ApplyItem | SettleItem
Answer = Decision | Short | Reservation | Applied | Approval | bool
