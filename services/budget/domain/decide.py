"""Decides spends one by one on locked counters and leases: all or nothing, over plain integers."""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from services.budget.domain import fit, waiting
from services.budget.domain.alerts import Crossing
from services.budget.domain.approvals import Approval, Place
from services.budget.domain.budgets import AMOUNT_MAX, Budget, Dimension, OnExceed, countable
from services.budget.domain.exceed import note_denial, stopped
from services.budget.domain.model import (
    Answer,
    Applied,
    ApplyItem,
    Binding,
    Counter,
    Decision,
    DeniedReason,
    ExtendItem,
    Lease,
    Reservation,
    ReserveItem,
    Short,
    State,
    Use,
    WalletState,
)
from services.budget.domain.pauses import Pause
from services.kit.errors import PurseError, conflict, invalid

_COST: Final = int(Dimension.COST)
DrawKey = tuple[str, str, bool, str, str, str]
"""org, wallet, reversal, provider, model, month."""


class UsageRow(NamedTuple):
    """An applied event, as its row will have it."""

    item: ApplyItem
    currency: str
    cost: int
    wallet: str | None
    drawn: int
    unreserved: bool
    effects: list[int]


@dataclass(slots=True)
class Counted:
    """Where an event counts, with the corrections applied so far; of what items correct, and of what has no price.

    Attributes:
        known: Whether the event itself is applied and kept.
        priced: Whether a cost was said of it.
        windows: Budget number and window key of what counted it, its zeros too.
        wallets: What paid, by the currency of what was said; None: unfunded.
        estimate: What stands in the place of its price: drawn and counted, and not taken back yet.
        estimate_currency: Its currency.
        estimate_wallet: What it was drawn on; None: unfunded.
    """

    known: bool = False
    priced: bool = False
    windows: set[tuple[int, int]] = field(default_factory=set)
    wallets: dict[str, str | None] = field(default_factory=dict)
    estimate: int = 0
    estimate_currency: str = ""
    estimate_wallet: str | None = None


@dataclass(slots=True)
class Batch:
    """What one transaction has locked, and what it will write.

    Attributes:
        now_us: The deciding clock, read after the locks.
        counters: By (budget number, window key).
        leases: By wallet.
        reservations: By (org, id): those that exist or that this batch makes.
        extensions: By (org, request id): the reservation's id and the payload's hash, of extensions made before.
        extended: The extensions that this batch makes.
        looked: Whether `reservations` has those that exist of every new spend, too.
        counted: By (org, source, id): the events that items correct, and those without a price.
        usage: By (org, source, id): the payload's hash and the answer, of events applied before or by this batch.
        draws: What this batch draws, by what it went to: amount and calls.
        applied: The events this batch applies.
        mismatched: How many events were of another model than their reservation.
        notices: What a person should look at: (org, kind, reference, detail).
        adjusted: Counters whose limit is more than the definition's: raised, or carried over to.
        carries: Windows that others are carried from: (the window, the next one).
        pauses: Pauses that budgets have made, by their number; those that this batch makes, too.
        begun: The pauses that this batch makes.
        crossings: The alerts of denials.
        marked: Counters whose marks of denials and pauses must be written.
        approvals: By (org, id): those that items ask for or settle, and those of spends that are sent again.
        held: How many approvals wait, and what they hold, in the places that items which ask need to know of.
        asked: The approvals that this batch makes.
        settled: Those whose rows it changes.
        remarked: Reservations whose mark of an approval must be written.
    """

    now_us: int = 0
    counters: dict[tuple[int, int], Counter] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    reservations: dict[tuple[str, str], Reservation] = field(default_factory=dict)
    extensions: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    extended: list[ExtendItem] = field(default_factory=list)
    looked: bool = False
    counted: dict[tuple[str, str, str], Counted] = field(default_factory=dict)
    usage: dict[tuple[str, str, str], tuple[bytes, Applied]] = field(default_factory=dict)
    draws: dict[DrawKey, list[int]] = field(default_factory=dict)
    applied: list[UsageRow] = field(default_factory=list)
    mismatched: int = 0
    notices: list[tuple[str, str, str, str]] = field(default_factory=list)
    adjusted: list[Counter] = field(default_factory=list)
    carries: list[tuple[Counter, Counter]] = field(default_factory=list)
    pauses: dict[int, list[Pause]] = field(default_factory=dict)
    begun: list[Pause] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)
    marked: dict[tuple[int, int], Counter] = field(default_factory=dict)
    approvals: dict[tuple[str, str], Approval] = field(default_factory=dict)
    held: dict[Place, int] = field(default_factory=dict)
    asked: list[Approval] = field(default_factory=list)
    settled: dict[tuple[str, str], Approval] = field(default_factory=dict)
    remarked: dict[tuple[str, str], Reservation] = field(default_factory=dict)


def decide(batch: Batch, item: ReserveItem) -> Answer | PurseError:
    """Decides one spend and, when it is allowed, holds it in the batch. A refusal changes nothing."""
    if not item.validate_only:
        known = batch.reservations.get((item.org, item.id))
        if known is not None:
            return _replay(batch, known, item)
    binding = item.binding
    if binding.guarded and (denial := stopped(batch, item, binding)) is not None:
        return denial
    asks = item.asks
    for counter in binding.counters:
        if counter.spent + counter.reserved + asks[counter.dimension] > counter.limit:
            return _decide_tight(batch, item, binding)
    if item.unknown:
        return _decide_tight(batch, item, binding)
    refusal = _refuse(batch, item, binding)
    if refusal is not None:
        return _with_answer(batch, item, binding, refusal)
    return _allow(batch, item, binding)


def _with_answer(
    batch: Batch, item: ReserveItem, binding: Binding, refusal: Decision | Short | PurseError
) -> Decision | Short | PurseError:
    """Gives a short spend that holds nothing its answer, as it is not decided again."""
    if item.validate_only and isinstance(refusal, Short):
        refusal.allowed = _allow(batch, item, binding)
    return refusal


def _allow(batch: Batch, item: ReserveItem, binding: Binding) -> Decision:
    asks = item.asks
    now_us = batch.now_us
    lease = binding.lease
    decision = Decision(
        DeniedReason.NONE,
        cost=item.cost,
        currency=item.currency,
        wallet=lease.wallet if lease is not None else "",
        rate_version=item.rate_version,
    )
    decision.tightest = _tightest(binding.counters, asks)
    if item.validate_only:
        return decision
    holds: list[int] = []
    for counter in binding.counters:
        asked = asks[counter.dimension]
        if asked:
            counter.reserved += asked
            holds += (counter.no, counter.key, asked, asked)
    held = 0
    if lease is not None and item.cost:
        held = item.cost
        lease.reserved += held
    made = Reservation(
        item.org,
        item.id,
        item.subject.name,
        State.OPEN,
        item.payload_hash,
        lease.wallet if lease is not None else None,
        item.currency,
        item.cost,
        held,
        0,
        now_us,
        now_us + item.ttl_us,
        item.rate_version,
        item.call.model,
        holds,
        binding=binding,
    )
    batch.reservations[(item.org, item.id)] = made
    decision.reservation = made.name
    decision.expires_us = made.expires_us
    if item.approval is not None:
        waiting.note_asked(batch, item, made, decision)
    return decision


def _tightest(counters: tuple[Counter, ...], asks: tuple[int, ...]) -> Use | None:
    """The window with the least room after the spend, relative to its limit."""
    best: Counter | None = None
    best_room = best_limit = 0
    for counter in counters:
        limit = counter.limit
        room = limit - counter.spent - counter.reserved - asks[counter.dimension]
        # room / limit < best_room / best_limit, exactly; a limit of 0 has no room at all.
        if best is None or room * (best_limit or 1) < best_room * (limit or 1):
            best, best_room, best_limit = counter, room, limit
    if best is None:
        return None
    asked = asks[best.dimension]
    best_room = countable(best_room)
    overage = -best_room if best_room < 0 else 0
    return Use(
        _defined(best), best.key, best.spent, best.reserved + asked, asked, best_room, overage, best.window_end_us
    )


def _defined(counter: Counter) -> Budget:
    if counter.budget is None:
        raise AssertionError(f"counter {counter.no} decides without a definition")
    return counter.budget


def _use_before(counter: Counter, asked: int) -> Use:
    """The window as it stands, for a spend that does not fit."""
    left = counter.limit - counter.spent - counter.reserved
    return Use(
        _defined(counter), counter.key, counter.spent, counter.reserved, asked, countable(left),
        countable(max(0, asked - left)), counter.window_end_us,
    )  # fmt: skip


def _decide_tight(batch: Batch, item: ReserveItem, binding: Binding) -> Answer | PurseError:
    """The slow path: some budget is exceeded, or the estimate leaves a dimension open."""
    if item.unpriced is not None and item.cost is None:
        return item.unpriced
    unchecked: list[str] = []
    warnings: list[Use] = []
    violations: list[Use] = []
    violated: list[Counter] = []
    for counter in binding.counters:
        asked = item.asks[counter.dimension]
        used = counter.spent + counter.reserved
        budget = _defined(counter)
        is_open = bool(item.unknown >> counter.dimension & 1)
        if is_open:
            unchecked.append(budget.name)
        if used + asked > counter.limit or (is_open and used >= counter.limit):
            if counter.blocking:
                violations.append(_use_before(counter, asked))
                violated.append(counter)
            elif budget.on_exceed is OnExceed.WARN:
                warnings.append(_use_before(counter, asked))
            if used + asked > AMOUNT_MAX:
                return invalid(
                    "estimate",
                    f"{budget.name} would hold more than {AMOUNT_MAX}, the most that can be counted; ask for less",
                    "AMOUNT_OUT_OF_RANGE",
                )
    if unchecked and item.strict:
        return invalid(
            "estimate",
            f"strict, and it does not say what {', '.join(unchecked[:5])} count; give the cost and both token counts",
            "ESTIMATE_INCOMPLETE",
        )
    if violations:
        begun = [] if item.validate_only else note_denial(batch, item, violated)
        return Decision(
            DeniedReason.BUDGET_EXCEEDED,
            cost=item.cost,
            currency=item.currency,
            warnings=warnings,
            violations=violations,
            unchecked=unchecked,
            rate_version=item.rate_version,
            fit=fit.of_denied(item, binding),
            pauses=begun,
        )
    refusal = _refuse(batch, item, binding)
    if refusal is None:
        answer: Decision | Short | PurseError = _allow(batch, item, binding)
    else:
        answer = _with_answer(batch, item, binding, refusal)
    allowed = answer.allowed if isinstance(answer, Short) else answer
    if isinstance(allowed, Decision) and allowed.denied in (DeniedReason.NONE, DeniedReason.APPROVAL_REQUIRED):
        allowed.warnings = warnings
        allowed.unchecked = unchecked
    return answer


def _refuse(batch: Batch, item: ReserveItem, binding: Binding) -> Decision | Short | PurseError | None:
    """Why a spend that its budgets allow is not held: a person must decide first, or the funding does not cover it.

    None when it does, or when no wallet pays.
    """
    if (item.asks[_COST] > binding.ask_above or item.approval is not None) and (
        asked := waiting.ask(batch, item, binding)
    ) is not None:
        return asked
    lease = binding.lease
    if lease is None:
        return _refuse_unfunded(item, binding)
    if lease.quarantined is not None:
        return conflict(
            "QUARANTINED",
            f"the lease on {lease.wallet} is quarantined ({lease.quarantined}); an operator must look at it",
            wallet=lease.wallet,
        )
    if lease.state is not WalletState.OPEN:
        return _denied(item, DeniedReason.WALLET_FROZEN)
    # An unknown cost needs a lease that is not exhausted, as it needs budgets that are not.
    needed = 1 if item.cost is None else item.cost
    free = lease.extended - lease.returned - lease.drawn - lease.reserved
    if needed > free:
        return Short(item.org, lease.wallet, lease.currency, needed, free)
    return None


def _refuse_unfunded(item: ReserveItem, binding: Binding) -> Decision | PurseError | None:
    if binding.mismatch:
        return invalid(
            "estimate.cost.currency_code",
            f"no wallet on the way to the root is in {item.currency}; use a currency that one of them has",
            "CURRENCY_MISMATCH",
        )
    return _denied(item, DeniedReason.NO_WALLET) if binding.wallet_required else None


def _denied(item: ReserveItem, reason: DeniedReason) -> Decision:
    return Decision(reason, cost=item.cost, currency=item.currency, rate_version=item.rate_version)


def deny_for_funds(item: ReserveItem, wallet: str, free: int) -> Decision:
    """The answer to a spend that its budgets allow and the wallet has too little for.

    Args:
        item: The spend.
        wallet: What should pay.
        free: What it could pay, in nano-units.
    """
    decision = _denied(item, DeniedReason.INSUFFICIENT_FUNDS)
    decision.wallet = wallet
    decision.fit = fit.of_unfunded(item, free)
    return decision


def _replay(batch: Batch, known: Reservation, item: ReserveItem) -> Decision | PurseError:
    """A request id that was seen before: the reservation's current state, never a second hold.

    One whose time ran out is closed to the caller, though its hold may stand until all usage has been delivered.
    """
    if known.payload_hash != item.payload_hash:
        return conflict(
            "REQUEST_ID_REUSED",
            f"request_id: {item.id} was used for another request; use a new id for each",
            field="request_id",
            request_id=item.id,
        )
    if (known.approval or item.approval is not None) and (answer := waiting.again(batch, known, item)) is not None:
        return answer
    state = State.EXPIRED if known.state is State.OPEN and known.expires_us <= batch.now_us else known.state
    if state is not State.OPEN:
        return conflict(
            "RESERVATION_CLOSED",
            f"the reservation {known.name} is {state.name.lower()}; use a new request_id",
            field="request_id",
            state=state.name,
        )
    return Decision(
        DeniedReason.NONE,
        reservation=known.name,
        expires_us=known.expires_us,
        cost=known.cost,
        currency=known.currency,
        wallet=known.wallet or "",
        rate_version=known.rate_version,
    )
