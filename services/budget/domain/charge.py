"""What a reservation is charged that expires and was never settled, and how use takes the place of that.

The charge is a row of applied usage that no event has sent, in the windows that held the estimate and on the lease that
held the money; so whatever counts rows counts it. It is taken back by a row of its own, like an estimate that stood in
the place of a price.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from services.budget.domain.budgets import AMOUNT_MAX
from services.budget.domain.decide import Batch, UsageRow
from services.budget.domain.model import ApplyItem, Call, Reservation, State
from services.budget.domain.posting import draw, spend
from services.kit.subject import parse

CHARGE_SOURCE: Final = "\x1fcharge"
"""The source of the rows; no event's holds a control character."""
ESTIMATE_SUFFIX: Final = "\x1festimate"
"""What the id of a row ends with that takes an estimate back; no event's id holds a control character."""
_FIELDS: Final = 4
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def charge(batch: Batch, found: Reservation) -> bool:
    """Counts all that a reservation holds as used, which no event has settled; the hold is not given back by it.

    Returns:
        False: a total would be too large to be counted, and nothing has changed.
    """
    cost = found.cost or 0
    holds = [(batch.counters[(no, key)], held) for no, key, _, held in _holds(found)]
    drawn = batch.leases[found.wallet].drawn if found.wallet is not None else 0
    if drawn + cost > AMOUNT_MAX or any(counter.spent + held > AMOUNT_MAX for counter, held in holds):
        return False
    for counter, held in holds:
        spend(batch, counter, held)
    _post(batch, _row_of(found), found, cost, [(counter.no, counter.key, held) for counter, held in holds])
    return True


def take_back(batch: Batch, found: Reservation) -> None:
    """Undoes the charge, because an event says what was really used."""
    back = [(no, key, -placed) for no, key, placed, _ in _holds(found)]
    for no, key, amount in back:
        spend(batch, batch.counters[(no, key)], amount)
    row = _row_of(found)
    _post(batch, replace(row, id=row.id + ESTIMATE_SUFFIX), found, -(found.cost or 0), back)
    found.state = State.EXPIRED
    found.changed = True


def _post(batch: Batch, row: ApplyItem, found: Reservation, cost: int, effects: list[tuple[int, int, int]]) -> None:
    draw(batch, row, found.wallet, cost)
    flat = [number for effect in effects for number in effect]
    drawn = cost if found.wallet is not None else 0
    batch.applied.append(UsageRow(row, found.currency, cost, found.wallet, drawn, unreserved=False, effects=flat))


def _row_of(found: Reservation) -> ApplyItem:
    """The row of a charge: of no price, and of no event either, so it corrects itself.

    A request id may be used again once its reservation is forgotten, so the time of its making is in the row's id.
    """
    key = (CHARGE_SOURCE, f"{found.id}\x1f{found.created_us}")
    month = (_EPOCH + timedelta(microseconds=found.created_us)).date().isoformat()[:7]
    return ApplyItem(
        found.org,
        *key,
        parse(found.subject),
        found.payload_hash,
        Call(model=found.model),
        (0, 0, 0, 0, 0, 0),
        rated=False,
        currency=found.currency,
        occurred_us=found.created_us,
        month=month,
        reservation=found.id,
        reservation_subject=found.subject,
        final=True,
        corrects=key,
    )


def _holds(found: Reservation) -> list[tuple[int, int, int, int]]:
    """Budget, window, placed and held; of what no event has settled the last two are the same."""
    holds = found.holds
    return [(holds[at], holds[at + 1], holds[at + 2], holds[at + 3]) for at in range(0, len(holds), _FIELDS)]
