"""Lets a reservation live longer: what is left of it is placed in the windows of now, as a new decision."""

from collections.abc import Mapping
from typing import Final

from services.budget.domain.apply import still_waits
from services.budget.domain.approvals import Mark
from services.budget.domain.budgets import AMOUNT_MAX, Dimension, countable
from services.budget.domain.decide import Batch
from services.budget.domain.exceed import pauses_on
from services.budget.domain.model import (
    Binding,
    Counter,
    Decision,
    DeniedReason,
    ExtendItem,
    Reservation,
    State,
    Use,
    WalletState,
)
from services.kit.errors import PurseError, conflict, not_found, unavailable

_FIELDS: Final = 4
_NEW: Final = -1
_COST: Final = int(Dimension.COST)

Place = tuple[Counter, int | None, int]
"""A window of now; what is left for it, None: unknown; and where its hold stands in the reservation, or `_NEW`."""


def extend(batch: Batch, item: ExtendItem) -> Decision | PurseError:
    """Decides anew on what is left of a reservation and, when it is allowed, holds that in the windows of now.

    Its own holds do not count against it, since they are given back. On DENY nothing has changed: it holds on as it
    was, until it expires. Budgets that were made since count too, by what is left in their dimension.
    """
    found = batch.reservations.get((item.org, item.id))
    if found is None or found.subject != item.subject.name:
        return not_found(f"reservation {item.subject.name}/reservations/{item.id}", "RESERVATION_UNKNOWN")
    known = batch.extensions.get((item.org, item.request_id))
    if known is not None and known != (item.id, item.payload_hash):
        return conflict(
            "REQUEST_ID_REUSED",
            f"request_id: {item.request_id} was used for another extension; use a new id for each",
            field="request_id",
            request_id=item.request_id,
        )
    if (closed := _closed(found, batch.now_us)) is not None:
        return closed
    if known is None:
        # One that this batch has made stands in the windows of now, and was bound as its spend was.
        binding = item.binding if found.binding is None else found.binding
        if binding is None:
            return unavailable(f"the reservation {found.name} has just been made; send again")
        denial, unchecked = place(batch, found, item.dimensions, binding)
        if denial is not None:
            return denial
        found.expires_us = max(found.expires_us, batch.now_us + item.ttl_us)
        found.changed = True
        batch.extensions[(item.org, item.request_id)] = (item.id, item.payload_hash)
        batch.extended.append(item)
    else:
        unchecked = []
    decision = _decision(found, DeniedReason.NONE)
    decision.reservation, decision.expires_us = found.name, found.expires_us
    decision.unchecked = unchecked
    return decision


def _closed(found: Reservation, now_us: int) -> PurseError | None:
    state = State.EXPIRED if found.state is State.OPEN and found.expires_us <= now_us else found.state
    if state is State.OPEN:
        return still_waits(found) if found.approval is Mark.WAITING else None
    return conflict(
        "RESERVATION_CLOSED",
        f"the reservation {found.name} is {state.name.lower()} and cannot be extended; reserve anew",
        field="name",
        state=state.name,
    )


def place(
    batch: Batch, found: Reservation, dimensions: Mapping[int, int], binding: Binding
) -> tuple[Decision | None, list[str]]:
    """Moves the holds into the windows of now, all or none.

    Args:
        batch: The batch.
        found: What holds.
        dimensions: What the budgets count that it holds on, by number.
        binding: The windows of now.

    Returns:
        Why not, None where they are moved; and the budgets whose share is not known.
    """
    if binding.guarded and (pauses := pauses_on(batch, binding)):
        denial = _decision(found, DeniedReason.PAUSED)
        denial.pauses = pauses
        return denial, []
    places = _places(found, dimensions, binding)
    violations: list[Use] = []
    unchecked: list[str] = []
    for counter, left, at in places:
        assert counter.budget is not None
        # What the reservation holds in this very window is given back and asked for again.
        own = found.holds[at + 3] if at != _NEW and found.holds[at + 1] == counter.key else 0
        used = counter.spent + counter.reserved - own
        limit = _limit(batch, found, counter, at)
        if left is None:
            unchecked.append(counter.budget.name)
        is_over = used + (left or 0) > limit or (left is None and used >= limit)
        if (is_over and counter.blocking) or used + (left or 0) > AMOUNT_MAX:
            violations.append(_use(counter, limit, used, left or 0))
    if violations:
        denial = _decision(found, DeniedReason.BUDGET_EXCEEDED)
        denial.violations, denial.unchecked = violations, unchecked
        return denial, unchecked
    lease = binding.lease
    if lease is not None and lease.state is not WalletState.OPEN:
        return _decision(found, DeniedReason.WALLET_FROZEN), unchecked
    if lease is not None and (lease.quarantined is not None or lease.free < 0):
        return _decision(found, DeniedReason.INSUFFICIENT_FUNDS), unchecked
    _move(batch, found, places)
    return None, unchecked


def _limit(batch: Batch, found: Reservation, counter: Counter, at: int) -> int:
    """The limit of a window of now with what the one before leaves to it, once the hold there is given back."""
    carry = counter.carry
    if carry is None or at == _NEW or found.holds[at + 1] != carry.from_key:
        return counter.limit
    before = batch.counters[(counter.no, carry.from_key)]
    left = carry.amount(before.spent + before.reserved - found.holds[at + 3])
    return min(AMOUNT_MAX, counter.limit + left - counter.carried)


def _places(found: Reservation, dimensions: Mapping[int, int], binding: Binding) -> list[Place]:
    """Where what is left belongs now."""
    held = {found.holds[at]: at for at in range(0, len(found.holds), _FIELDS)}
    counters = binding.counters
    if found.is_new:
        # Of its own batch; what it asked nothing of was there when it was made.
        counters = tuple(counter for counter in counters if counter.no in held)
    most: dict[int, int] = {}
    for no, at in held.items():
        dimension = dimensions.get(no, 0)
        most[dimension] = max(most.get(dimension, 0), found.holds[at + 3])
    if found.cost is not None:
        most.setdefault(_COST, _left_cost(found))
    return [
        (counter, found.holds[held[counter.no] + 3], held[counter.no])
        if counter.no in held
        else (counter, most.get(counter.dimension), _NEW)
        for counter in counters
    ]


def _move(batch: Batch, found: Reservation, places: list[Place]) -> None:
    """Gives back what is held elsewhere and holds what is left here."""
    kept: list[int] = []
    stays = set()
    for counter, left, at in places:
        if at != _NEW and found.holds[at + 1] == counter.key:
            kept += found.holds[at : at + _FIELDS]
            stays.add(at)
        elif left:
            counter.reserved += left
            kept += (counter.no, counter.key, left, left)
    for at in range(0, len(found.holds), _FIELDS):
        if at not in stays:
            batch.counters[(found.holds[at], found.holds[at + 1])].reserved -= found.holds[at + 3]
    found.holds = kept


def _left_cost(found: Reservation) -> int:
    """What is left of the cost: what the lease still holds or, without one, what no event has settled."""
    if found.wallet is not None:
        return found.funding_held
    return max(0, (found.cost or 0) - found.settled)


def _decision(found: Reservation, denied: DeniedReason) -> Decision:
    return Decision(
        denied,
        cost=None if found.cost is None else _left_cost(found),
        currency=found.currency,
        wallet=found.wallet or "",
        rate_version=found.rate_version,
    )


def _use(counter: Counter, limit: int, used: int, asked: int) -> Use:
    """The window without the reservation's own hold, which is what it is decided on."""
    assert counter.budget is not None
    budget = counter.budget.with_limit(limit, counter.budget.generation)
    left = limit - used
    return Use(
        budget, counter.key, counter.spent, used - counter.spent, asked, countable(left),
        countable(max(0, asked - left)), counter.window_end_us,
    )  # fmt: skip
