"""What usage changes of its reservation, at the edges, without a database."""

from dataclasses import replace

import pytest

from services.budget.domain.apply import apply
from services.budget.domain.budgets import AMOUNT_MAX
from services.budget.domain.decide import Batch
from services.budget.domain.model import Applied, ApplyItem, Binding, Call, Lease, Reservation, State
from services.kit.errors import PurseError
from services.kit.subject import parse

BOT = parse("orgs/acme/teams/support/agents/bot")
USD, EUR = "orgs/acme/wallets/usd", "orgs/acme/wallets/eur"


def held(**fields: object) -> Reservation:
    """A reservation of 100 in USD."""
    found = Reservation("acme", "r", BOT.name, State.OPEN, b"", USD, "USD", 100, 100, 0, 0, 1, "", "", [])
    return replace(found, **fields)  # type: ignore[arg-type]


def event(id_: str, cost: int, currency: str = "USD", *, wallet: str = USD, **fields: object) -> ApplyItem:
    item = ApplyItem(
        "acme", "s", id_, BOT, b"", Call(), (0, cost, 0, 0, 0, 1), True, currency, 0, "2026-11", "r", BOT.name, False,
        wallet, Binding(),
    )  # fmt: skip
    return replace(item, **fields)  # type: ignore[arg-type]


def batch_of(reservation: Reservation) -> Batch:
    batch = Batch()
    batch.reservations[("acme", "r")] = reservation
    for wallet, currency in ((USD, "USD"), (EUR, "EUR")):
        batch.leases[wallet] = Lease("acme", wallet, currency)
    batch.leases[USD].reserved = reservation.funding_held
    return batch


def test_a_cost_in_another_currency_uses_nothing_of_the_hold() -> None:
    reservation = held()
    batch = batch_of(reservation)
    assert isinstance(apply(batch, event("1", 60, "EUR", wallet=EUR)), Applied)
    assert (reservation.funding_held, reservation.settled, batch.leases[USD].reserved) == (100, 0, 100)
    assert (batch.leases[EUR].drawn, batch.leases[USD].drawn) == (60, 0)
    assert isinstance(apply(batch, event("2", 60)), Applied)
    assert (reservation.funding_held, reservation.settled, batch.leases[USD].reserved) == (40, 60, 40)
    assert isinstance(apply(batch, event("3", 5, "EUR", wallet=EUR, final=True)), Applied)
    assert (reservation.funding_held, reservation.settled, batch.leases[USD].reserved) == (0, 60, 0)
    assert reservation.state is State.SETTLED


def test_a_reservation_without_a_cost_is_in_the_currency_of_its_wallet() -> None:
    reservation = held(currency="", cost=None, funding_held=0)
    batch = batch_of(reservation)
    apply(batch, event("1", 60, "EUR", wallet=EUR))
    apply(batch, event("2", 7))
    assert reservation.settled == 7
    unfunded = held(wallet=None, currency="", cost=None, funding_held=0)
    apply(batch_of(unfunded), event("1", 60, "EUR", wallet=""))
    assert unfunded.settled == 60


@pytest.mark.parametrize("cost", [AMOUNT_MAX, -AMOUNT_MAX])
def test_what_is_settled_stops_at_what_can_be_stored(cost: int) -> None:
    reservation = held(wallet=None, funding_held=0)
    batch = batch_of(reservation)
    for id_ in "123":
        assert isinstance(apply(batch, event(id_, cost, wallet="")), Applied)
    assert reservation.settled == cost
    apply(batch, event("4", 0, "", wallet="", rated=False, final=True))
    assert 0 <= batch.applied[-1].cost <= AMOUNT_MAX


@pytest.mark.parametrize("cost", [AMOUNT_MAX, -AMOUNT_MAX])
def test_what_a_lease_cannot_count_is_refused_and_changes_nothing(cost: int) -> None:
    batch = batch_of(held())
    assert isinstance(apply(batch, event("1", cost)), Applied)
    lease = batch.leases[USD]
    totals = (lease.drawn, lease.reversal)
    refusal = apply(batch, event("2", cost))
    assert isinstance(refusal, PurseError)
    assert refusal.reason == "AMOUNT_OUT_OF_RANGE"
    assert (lease.drawn, lease.reversal) == totals == (max(0, cost), max(0, -cost))
