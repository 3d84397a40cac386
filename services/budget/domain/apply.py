"""What usage, a release and an expiry change: holds go down, what was really used is counted in full."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Final

from services.budget.domain.approvals import Mark, answerable
from services.budget.domain.budgets import AMOUNT_MAX, Dimension, countable
from services.budget.domain.charge import ESTIMATE_SUFFIX, charge, take_back
from services.budget.domain.decide import Batch, Counted, UsageRow
from services.budget.domain.model import Applied, ApplyItem, ExpireItem, ReleaseItem, Reservation, State
from services.budget.domain.posting import draw, spend
from services.kit.errors import PurseError, conflict, not_found

_COST: Final = int(Dimension.COST)
_FIELDS: Final = 4
_DAY_US: Final = 86_400_000_000
_SURELY_KEPT_US: Final = 90 * _DAY_US


def apply(batch: Batch, item: ApplyItem) -> Applied | PurseError:
    """Applies one event in full, whatever the state of its reservation; the same event again changes nothing."""
    key = (item.org, item.source, item.id)
    known = batch.usage.get(key)
    if known is not None:
        return _applied_before(item, known)
    if item.corrects is not None:
        return _correct(batch, item, item.corrects)
    named = named_reservation(batch, item)
    cost, currency = _cost_of(batch, item, named)
    amounts = (0, cost, *item.amounts[2:])
    is_open = named is not None and named.state is State.OPEN
    wallet = _payer(batch, item, named, currency)
    overflow = _overflow(batch, item, amounts, wallet)
    if overflow is not None:
        return overflow
    if named is not None and named.state is State.CHARGED:
        if _is_too_much_to_take_back(batch, named):
            return _too_large(item)
        # First, so that no window ever seems to have used both.
        take_back(batch, named)
        _count_event(batch, named, cost, currency)
    effects: list[int] = []
    for counter in item.binding.counters:
        # Zeros too: a correction counts where its event did.
        amount = amounts[counter.dimension]
        spend(batch, counter, amount)
        effects += (counter.no, counter.key, amount)
    if is_open and named is not None:
        _settle(batch, item, named, amounts, currency)
    draw(batch, item, wallet, cost)
    _notice(batch, item, named, wallet, cost)
    answer = Applied(
        duplicate=False, drawn=cost if wallet else 0, unfunded=not wallet and cost != 0, unreserved=not is_open
    )
    batch.applied.append(UsageRow(item, currency, cost, wallet, answer.drawn, not is_open, effects))
    batch.usage[key] = (item.payload_hash, answer)
    return answer


def _correct(batch: Batch, item: ApplyItem, corrects: tuple[str, str]) -> Applied | PurseError:
    """Adds signed differences to what counted the event that is corrected, and to the lease that paid for it.

    The windows of an event therefore hold what was last said of it, whatever budgets were made or changed since. Only
    a first price, or one in another currency, goes to the budgets that match by now. No hold is moved: the event did.
    """
    counted = batch.counted[(item.org, *corrects)]
    if min(item.amounts) < 0 and not counted.known and batch.now_us - item.occurred_us <= _SURELY_KEPT_US:
        # Given back now, it could be spent before what it is taken from has come.
        return conflict(
            "ORIGINAL_UNKNOWN",
            f"corrects: usage {'/'.join(corrects)} is not applied, so nothing of it can be taken back; send again "
            "once it is",
            field="corrects",
        )
    cost, currency = item.amounts[_COST], item.currency
    amounts = (0, cost, *item.amounts[2:])
    wallet = payer_of_correction(batch, item, counted)
    taken_back = counted.estimate if item.rated else 0
    overflow = _overflow(batch, item, amounts, wallet)
    if taken_back and counted.estimate_wallet is not None:
        reversal = batch.leases[counted.estimate_wallet].reversal + taken_back + abs(cost)
        overflow = overflow or (_too_large(item) if reversal > AMOUNT_MAX else None)
    if overflow is not None:
        return overflow
    if taken_back:
        _take_back(batch, item, counted)
    effects: list[int] = []
    for counter in item.binding.counters:
        if counter.dimension == _COST and (counter.budget is None or counter.budget.currency != currency):
            continue
        spend(batch, counter, amounts[counter.dimension])
        effects += (counter.no, counter.key, amounts[counter.dimension])
        counted.windows.add((counter.no, counter.key))
    draw(batch, item, wallet, cost)
    _notice(batch, item, None, wallet, cost)
    if item.rated:
        counted.priced = True
        counted.wallets[currency] = wallet
    drawn = (cost if wallet else 0) - (taken_back if counted.estimate_wallet else 0)
    answer = Applied(duplicate=False, drawn=drawn, unfunded=not wallet and cost != 0, unreserved=True)
    batch.applied.append(UsageRow(item, currency, cost, wallet, cost if wallet else 0, answer.unreserved, effects))
    batch.usage[(item.org, item.source, item.id)] = (item.payload_hash, answer)
    return answer


def payer_of_correction(batch: Batch, item: ApplyItem, counted: Counted) -> str | None:
    """What paid for the event pays and is paid back; where nothing has in this currency, as for a new event."""
    if not item.rated:
        return None
    if item.currency in counted.wallets:
        return counted.wallets[item.currency]
    if counted.estimate and item.currency == counted.estimate_currency:
        return counted.estimate_wallet
    return _payer(batch, item, named_reservation(batch, item), item.currency)


def _take_back(batch: Batch, item: ApplyItem, counted: Counted) -> None:
    """Undoes the estimate that stood in the place of a price, as a row of its own."""
    estimate, wallet = counted.estimate, counted.estimate_wallet
    effects: list[int] = []
    for counter in item.binding.counters:
        if (
            counter.dimension == _COST
            and counter.budget is not None
            and counter.budget.currency == counted.estimate_currency
            and (counter.no, counter.key) in counted.windows
        ):
            spend(batch, counter, -estimate)
            effects += (counter.no, counter.key, -estimate)
    draw(batch, item, wallet, -estimate)
    row = replace(item, id=item.id + ESTIMATE_SUFFIX, rated=False)
    drawn = -estimate if wallet else 0
    batch.applied.append(
        UsageRow(row, counted.estimate_currency, -estimate, wallet, drawn, unreserved=True, effects=effects)
    )
    counted.estimate = 0


def _applied_before(item: ApplyItem, known: tuple[bytes, Applied]) -> Applied | PurseError:
    payload_hash, answer = known
    if payload_hash != item.payload_hash:
        return conflict(
            "USAGE_ID_REUSED",
            f"id: usage {item.source}/{item.id} was applied with another content; a correction needs an id of its own",
            field="id",
        )
    return replace(answer, duplicate=True)


def named_reservation(batch: Batch, item: ApplyItem) -> Reservation | None:
    """The reservation that the event settles: of its own subject or an ancestor, in the same organisation."""
    if not item.reservation:
        return None
    found = batch.reservations.get((item.org, item.reservation))
    if found is None or found.subject != item.reservation_subject or not item.subject.is_within(found.subject):
        return None
    return found


def _cost_of(batch: Batch, item: ApplyItem, named: Reservation | None) -> tuple[int, str]:
    """The cost and its currency; unrated usage draws what its open reservation still holds as cost, else nothing.

    Nothing either where the price has overtaken the event. What a reservation was charged when it expired goes over to
    the first event.
    """
    if item.rated:
        return item.amounts[_COST], item.currency
    overtaken = batch.counted.get((item.org, item.source, item.id))
    if overtaken is not None and overtaken.priced:
        return 0, ""
    if named is None or named.cost is None:
        return 0, ""
    if named.state is not State.CHARGED and not (named.state is State.OPEN and item.final):
        return 0, ""
    return min(AMOUNT_MAX, max(0, named.cost - named.settled)), named.currency


def _payer(batch: Batch, item: ApplyItem, named: Reservation | None, currency: str) -> str | None:
    """The wallet: that of the reservation, whatever has changed since, else the nearest; None: unfunded."""
    own = batch.leases.get(named.wallet) if named is not None and named.wallet is not None else None
    if own is not None and currency in ("", own.currency):
        return own.wallet
    return item.wallet or None


def _overflow(batch: Batch, item: ApplyItem, amounts: tuple[int, ...], wallet: str | None) -> PurseError | None:
    """Refuses what would not fit into 64 bits, before anything is changed."""
    too_large = any(abs(c.spent + amounts[c.dimension]) > AMOUNT_MAX for c in item.binding.counters)
    if wallet is not None:
        lease = batch.leases[wallet]
        cost = amounts[_COST]
        too_large = too_large or max(lease.drawn + cost, lease.reversal - cost) > AMOUNT_MAX
    return _too_large(item) if too_large else None


def _is_too_much_to_take_back(batch: Batch, named: Reservation) -> bool:
    return named.wallet is not None and batch.leases[named.wallet].reversal + (named.cost or 0) > AMOUNT_MAX


def _too_large(item: ApplyItem) -> PurseError:
    return conflict("AMOUNT_OUT_OF_RANGE", f"usage {item.source}/{item.id} takes a total past {AMOUNT_MAX}")


def _settle(batch: Batch, item: ApplyItem, named: Reservation, amounts: tuple[int, ...], currency: str) -> None:
    """Lowers each hold by what was really used of it; the final event gives back the rest.

    A cost in another currency than the reservation's uses nothing of what it holds as cost.
    """
    cost = _own_cost(batch, named, amounts[_COST], currency)
    counted = {counter.no: amounts[counter.dimension] for counter in item.binding.counters}
    holds = named.holds
    for at in range(0, len(holds), _FIELDS):
        held = holds[at + 3]
        lower = held if item.final else min(max(0, counted.get(holds[at], 0)), held)
        if lower:
            batch.counters[(holds[at], holds[at + 1])].reserved -= lower
            holds[at + 3] = held - lower
    lower = named.funding_held if item.final else min(max(0, cost), named.funding_held)
    if lower and named.wallet is not None:
        batch.leases[named.wallet].reserved -= lower
        named.funding_held -= lower
    _count_event(batch, named, cost, currency)
    if item.final:
        named.state = State.SETTLED
        named.closed_us = batch.now_us


def _count_event(batch: Batch, named: Reservation, cost: int, currency: str) -> None:
    # No book is made of it, so at the edge of 64 bits it stops rather than refuse what was really used.
    named.settled = countable(named.settled + _own_cost(batch, named, cost, currency))
    named.events += 1
    named.changed = True


def _own_cost(batch: Batch, named: Reservation, cost: int, currency: str) -> int:
    own = _currency_of(batch, named)
    return cost if not own or currency == own else 0


def _currency_of(batch: Batch, named: Reservation) -> str:
    """The currency of a reservation; that of its wallet where its cost is unknown, which may be none."""
    if named.currency or named.wallet is None:
        return named.currency
    return batch.leases[named.wallet].currency


def _notice(batch: Batch, item: ApplyItem, named: Reservation | None, wallet: str | None, cost: int) -> None:
    """What a person should look at: once a day, kind and outermost agent, whatever the events name."""
    event = f"{item.source}/{item.id}"
    if named is not None and named.model and item.call.model and named.model != item.call.model:
        batch.mismatched += 1
        _tell(
            batch, item.org, "MODEL_DIFFERS", named.subject, f"{event}: {named.model} estimated, {item.call.model} used"
        )
    if not item.rated and wallet is None and cost == 0 and item.corrects is None:
        model = f"{item.call.provider}/{item.call.model}"
        _tell(batch, item.org, "UNRATED", item.subject.name, f"{event} and maybe others: no price for {model}")
    if wallet is None and cost and item.binding.mismatch:
        _tell(batch, item.org, "UNFUNDED_CURRENCY", item.subject.name, f"{event} and maybe others: in {item.currency}")


def _tell(batch: Batch, org: str, kind: str, subject: str, detail: str) -> None:
    day = date(1970, 1, 1) + timedelta(days=batch.now_us // _DAY_US)
    batch.notices.append((org, kind, f"{answerable(subject)}:{day}", detail))


def release(batch: Batch, item: ReleaseItem) -> Reservation | PurseError:
    """Gives back what a reservation still holds; a closed one stays as it is."""
    found = batch.reservations.get((item.org, item.id))
    if found is None or found.subject != item.subject:
        return not_found(f"reservation {item.subject}/reservations/{item.id}", "RESERVATION_UNKNOWN")
    if found.state is State.OPEN:
        if found.approval is Mark.WAITING:
            return still_waits(found)
        give_back(batch, found, State.RELEASED)
    # Later items of the batch may change it, so the caller gets it as it is now.
    return replace(found, holds=list(found.holds))


def still_waits(found: Reservation) -> PurseError:
    """Why what waits for an approval is neither released nor extended by whoever asked."""
    return conflict(
        "APPROVAL_PENDING",
        f"{found.name} waits for an approval, which keeps it alive; cancel the approval to give it back",
        field="name",
        approval=f"{found.subject}/approvals/{found.id}",
    )


def expire(batch: Batch, item: ExpireItem) -> bool:
    """Ends a reservation whose time ran out before `before_us`; whether it did.

    What no event has settled is charged where the organisation has it so. One that was settled in part is not: what was
    used of it is known.
    """
    found = batch.reservations.get((item.org, item.id))
    if found is None or found.state is not State.OPEN or found.expires_us >= item.before_us:
        return False
    if found.approval is Mark.WAITING:
        # It ends with its approval.
        return False
    charged = item.charges and not found.events and charge(batch, found)
    give_back(batch, found, State.CHARGED if charged else State.EXPIRED)
    if not found.events:
        # Somebody may have spent and not said so; all of them are listed.
        ending = "charged the estimate" if charged else "never settled"
        _tell(batch, found.org, "RESERVATION_EXPIRED", found.subject, f"{found.name} and maybe others: {ending}")
    return True


def give_back(batch: Batch, found: Reservation, state: State) -> None:
    """Gives back what a reservation holds, and closes it."""
    holds = found.holds
    for at in range(0, len(holds), _FIELDS):
        if holds[at + 3]:
            batch.counters[(holds[at], holds[at + 1])].reserved -= holds[at + 3]
            holds[at + 3] = 0
    if found.funding_held and found.wallet is not None:
        batch.leases[found.wallet].reserved -= found.funding_held
        found.funding_held = 0
    found.state = state
    found.closed_us = batch.now_us
    found.changed = True
