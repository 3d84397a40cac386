"""What a reservation is charged that nobody settled, and that use takes the place of it exactly, without a database."""

from collections import Counter as Sums
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.budget.domain.apply import apply, expire, release
from services.budget.domain.budgets import AMOUNT_MAX, Dimension
from services.budget.domain.decide import Batch
from services.budget.domain.model import (
    Applied,
    ApplyItem,
    Binding,
    Call,
    Counter,
    ExpireItem,
    Lease,
    ReleaseItem,
    Reservation,
    State,
)
from services.kit.errors import PurseError
from services.kit.subject import parse

BOT = parse("orgs/acme/agents/bot")
USD = "orgs/acme/wallets/usd"
COST, TOKENS = (1, 20261101), (2, 20261101)
NEXT = (1, 20261102)


def batch_of(**fields: object) -> Batch:
    """An expired hold of 100 in USD and of 7 tokens; the windows of its day, and the next day's of the first budget."""
    batch = Batch(now_us=10)
    for key, dimension in ((COST, Dimension.COST), (TOKENS, Dimension.TOKENS), (NEXT, Dimension.COST)):
        counter = batch.counters[key] = Counter("acme", *key)
        counter.dimension = int(dimension)
    batch.counters[COST].load(0, 100)
    batch.counters[TOKENS].load(0, 7)
    lease = batch.leases[USD] = Lease("acme", USD, "USD")
    lease.reserved = 100
    held = Reservation(
        "acme", "r", BOT.name, State.OPEN, b"", USD, "USD", 100, 100, 0, 3, 5, "", "m", [*COST, 100, 100, *TOKENS, 7, 7]
    )
    batch.reservations[("acme", "r")] = replace(held, **fields)  # type: ignore[arg-type]
    return batch


def event(id_: str, cost: int | None, *, tokens: int = 0, windows: tuple[Any, ...] = (), **fields: object) -> ApplyItem:
    item = ApplyItem(
        "acme", "s", id_, BOT, b"", Call(), (0, cost or 0, tokens, 0, 0, 1), cost is not None,
        "USD" if cost is not None else "", 0, "2026-11", "r", BOT.name, True, USD, Binding(windows),
    )  # fmt: skip
    return replace(item, **fields)  # type: ignore[arg-type]


def books(batch: Batch) -> None:
    """Everything is the sum of the rows."""
    sums: Sums[tuple[int, int]] = Sums()
    for row in batch.applied:
        for at in range(0, len(row.effects), 3):
            sums[(row.effects[at], row.effects[at + 1])] += row.effects[at + 2]
    assert {key: counter.spent for key, counter in batch.counters.items()} == {key: sums[key] for key in batch.counters}
    drawn = [row.drawn for row in batch.applied if row.wallet]
    lease = batch.leases[USD]
    assert lease.drawn == sum(amount for amount in drawn if amount > 0)
    assert lease.reversal == -sum(amount for amount in drawn if amount < 0)
    lines = [(key[2], amount) for key, (amount, _) in batch.draws.items()]
    assert sum(amount for reversal, amount in lines if not reversal) == lease.drawn
    assert sum(amount for reversal, amount in lines if reversal) == lease.reversal


def spent(batch: Batch) -> list[tuple[int, int]]:
    return [(batch.counters[key].spent, batch.counters[key].reserved) for key in (COST, TOKENS, NEXT)]


def charged_batch() -> Batch:
    batch = batch_of()
    assert expire(batch, ExpireItem("acme", "r", 9, charges=True))
    assert spent(batch) == [(100, 0), (7, 0), (0, 0)]
    return batch


def test_all_that_was_held_is_charged_where_it_was_held() -> None:
    batch = charged_batch()
    found = batch.reservations[("acme", "r")]
    assert (found.state, found.events, found.closed_us, found.funding_held) == (State.CHARGED, 0, 10, 0)
    assert (batch.leases[USD].drawn, batch.leases[USD].reserved) == (100, 0)
    (row,) = batch.applied
    assert (row.item.rated, row.item.corrects, row.cost) == (False, (row.item.source, row.item.id), 100)
    assert next(iter(batch.draws.values())) == [100, 0]
    assert "charged the estimate" in batch.notices[0][3]
    books(batch)


def test_only_what_the_organisation_charges_and_nobody_settled_is_charged() -> None:
    batch = batch_of()
    assert expire(batch, ExpireItem("acme", "r", 9))
    assert (batch.reservations[("acme", "r")].state, spent(batch)[0]) == (State.EXPIRED, (0, 0))
    batch = batch_of()
    batch.reservations[("acme", "r")].events = 1
    assert expire(batch, ExpireItem("acme", "r", 9, charges=True))
    assert (batch.reservations[("acme", "r")].state, spent(batch)[0]) == (State.EXPIRED, (0, 0))
    assert not batch.applied


@pytest.mark.parametrize("cost", [0, 60, 100, 150])
@pytest.mark.parametrize("final", [True, False])
def test_late_usage_takes_the_place_of_the_charge(cost: int, final: bool) -> None:
    batch = charged_batch()
    counters = (batch.counters[NEXT], batch.counters[TOKENS])
    answer = apply(batch, event("1", cost, tokens=4, windows=counters, final=final))
    assert isinstance(answer, Applied)
    assert answer.drawn == cost
    assert spent(batch) == [(0, 0), (4, 0), (cost, 0)]
    found = batch.reservations[("acme", "r")]
    assert (found.state, found.events, found.settled) == (State.EXPIRED, 1, cost)
    assert batch.leases[USD].drawn - batch.leases[USD].reversal == cost
    # More of it is use after the end of its reservation, and the same event again is nothing.
    apply(batch, event("2", 5, windows=counters))
    assert apply(batch, event("1", cost, tokens=4, windows=counters)) == replace(answer, duplicate=True)
    assert spent(batch)[2] == (cost + 5, 0)
    books(batch)


@pytest.mark.parametrize("final", [True, False])
def test_usage_without_a_price_counts_the_estimate_in_its_own_name(final: bool) -> None:
    batch = charged_batch()
    counters = (batch.counters[COST], batch.counters[TOKENS])
    apply(batch, event("1", None, tokens=4, windows=counters, final=final))
    apply(batch, event("2", None, tokens=1, windows=counters))
    assert spent(batch)[:2] == [(100, 0), (5, 0)]
    assert batch.applied[-2].cost == 100
    books(batch)


def test_a_release_and_a_second_expiry_come_too_late() -> None:
    batch = charged_batch()
    released = release(batch, ReleaseItem("acme", "r", BOT.name))
    assert isinstance(released, Reservation)
    assert released.state is State.CHARGED
    assert not expire(batch, ExpireItem("acme", "r", 9, charges=True))
    assert len(batch.applied) == 1


def test_usage_of_another_branch_leaves_the_charge() -> None:
    batch = charged_batch()
    apply(batch, event("1", 5, subject=parse("orgs/acme/agents/other")))
    assert batch.reservations[("acme", "r")].state is State.CHARGED
    assert spent(batch)[0] == (100, 0)


def test_what_cannot_be_counted_is_given_back() -> None:
    batch = batch_of()
    batch.counters[TOKENS].load(AMOUNT_MAX - 3, 7)
    assert expire(batch, ExpireItem("acme", "r", 9, charges=True))
    assert batch.reservations[("acme", "r")].state is State.EXPIRED
    assert (spent(batch)[0], batch.leases[USD].drawn) == ((0, 0), 0)
    batch = charged_batch()
    batch.leases[USD].reversal = AMOUNT_MAX - 3
    assert isinstance(apply(batch, event("1", 5)), PurseError)
    assert batch.reservations[("acme", "r")].state is State.CHARGED


@given(
    st.lists(st.tuples(st.none() | st.integers(0, 300), st.booleans(), st.booleans()), max_size=6), st.integers(0, 6)
)
def test_whatever_is_said_before_and_after_the_books_hold(
    said: list[tuple[int | None, bool, bool]], expires_at: int
) -> None:
    batch = batch_of()
    for place, (cost, final, next_day) in enumerate(said):
        if place == expires_at:
            expire(batch, ExpireItem("acme", "r", 9, charges=True))
        window = batch.counters[NEXT if next_day else COST]
        apply(batch, event(str(place), cost, final=final, windows=(window, batch.counters[TOKENS])))
    expire(batch, ExpireItem("acme", "r", 9, charges=True))
    books(batch)
    found = batch.reservations[("acme", "r")]
    assert (found.state is State.CHARGED) == (not said)
    if all(cost is not None for cost, *_ in said):
        net = batch.leases[USD].drawn - batch.leases[USD].reversal
        assert net == (sum(cost or 0 for cost, *_ in said) if said else 100)
