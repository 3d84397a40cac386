"""Which numbers of a lease apply, and what the others are told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.wallet.domain import leases, sizing
from services.wallet.domain.book import Lease
from services.wallet.domain.leases import AnyOp, Capture, Extend, Line, OpKind, Return, StoredOp, Totals, payload_of
from services.wallet.domain.refusals import Refusal

NOW = datetime(2026, 11, 22, tzinfo=UTC)
LINE = Line("openai", "gpt", "2026-11", 5, 2)


def extend(n: int, epoch: int = 0, ask: int = 10) -> Extend:
    return Extend("acme", "orgs/acme/wallets/main", "b", epoch, n, ask=ask, need=1)


def lease(n: int, epoch: int = 0, quarantine: str | None = None) -> Lease:
    return Lease("b", flow_at=NOW, epoch=epoch, n=n, quarantine=quarantine)


def stored(op: AnyOp) -> StoredOp:
    return StoredOp(OpKind.EXTEND, payload_of(op), 7, Totals(op.epoch, op.n, 7, 0, 0, 0))


def refused(have: Lease | None, op: AnyOp, known: StoredOp | None = None) -> tuple[str, bool, dict[str, str]]:
    with pytest.raises(Refusal) as caught:
        leases.find_stored(have, op, known)
    return caught.value.reason, caught.value.quarantine, caught.value.facts


def test_the_next_number_applies() -> None:
    assert leases.find_stored(None, extend(1), None) is None
    assert leases.find_stored(lease(4), extend(5), None) is None


@pytest.mark.parametrize("last_n", [3, 9])
def test_the_same_number_and_content_gets_the_stored_answer(last_n: int) -> None:
    op = extend(3)
    assert stored(op) == leases.find_stored(lease(last_n), op, stored(op))


def test_a_stored_answer_is_given_even_in_quarantine() -> None:
    op = extend(3)
    assert stored(op) == leases.find_stored(lease(3, quarantine="why"), op, stored(op))


def test_another_content_at_the_last_number_is_refused() -> None:
    expected = ("LEASE_PAYLOAD", False, {"last_n": "3", "epoch": "0"})
    assert expected == refused(lease(3), extend(3, ask=11), stored(extend(3)))


@pytest.mark.parametrize("known", [None, stored(extend(2))])
def test_another_content_behind_the_last_number_quarantines(known: StoredOp | None) -> None:
    assert ("LEASE_PAYLOAD", True, {"last_n": "3", "epoch": "0"}) == refused(lease(3), extend(2, ask=11), known)


def test_a_gap_is_refused_and_carries_the_last_number() -> None:
    assert ("LEASE_GAP", False, {"last_n": "3", "epoch": "0"}) == refused(lease(3), extend(5))
    assert ("LEASE_GAP", False, {"last_n": "0", "epoch": "0"}) == refused(None, extend(2))


@pytest.mark.parametrize("epoch", [1, 3])
def test_another_epoch_quarantines(epoch: int) -> None:
    op = Return("acme", "orgs/acme/wallets/main", "b", epoch, 5, 0)
    assert ("LEASE_EPOCH", True, {"last_n": "4", "epoch": "2"}) == refused(lease(4, epoch=2), op)


def test_an_operation_that_was_on_its_way_when_the_lease_was_reclaimed_does_no_harm() -> None:
    op = Return("acme", "orgs/acme/wallets/main", "b", 1, 5, 0)
    assert ("LEASE_EPOCH", False, {"last_n": "0", "epoch": "2"}) == refused(lease(0, epoch=2), op)
    restored = Return("acme", "orgs/acme/wallets/main", "b", 3, 5, 0)
    assert ("LEASE_EPOCH", True, {"last_n": "0", "epoch": "2"}) == refused(lease(0, epoch=2), restored)


def test_a_database_that_begins_anew_learns_the_epoch_without_harm() -> None:
    assert ("LEASE_EPOCH", False, {"last_n": "0", "epoch": "1"}) == refused(lease(0, epoch=1), extend(1))


def test_nothing_new_moves_in_quarantine() -> None:
    assert "QUARANTINED" == refused(lease(3, quarantine="why"), extend(4))[0]


def test_every_part_of_the_content_counts() -> None:
    capture = Capture("acme", "w", "b", 0, 2, 5, (LINE,))
    others: list[AnyOp] = [
        replace(capture, total=6),
        replace(capture, lines=()),
        *(
            replace(capture, lines=(replace(LINE, **{name: value}),))  # type: ignore[arg-type]
            for name, value in (("provider", "x"), ("model", "x"), ("month", "2026-12"), ("amount", 6), ("calls", 3))
        ),
        Return("acme", "w", "b", 0, 2, 5),
        Extend("acme", "w", "b", 0, 2, ask=5, need=0),
        Extend("acme", "w", "b", 0, 2, ask=0, need=5),
    ]
    assert 1 + len(others) == len({payload_of(capture), *(payload_of(other) for other in others)})


# How much.


@pytest.mark.parametrize(
    ("ask", "need", "available", "room", "expected"),
    [
        (100, 1, 1000, 50, 50),  # by burn
        (30, 1, 1000, 50, 30),  # never more than asked
        (100, 80, 1000, 50, 80),  # at least what is needed
        (100, 1, 40, 50, 10),  # shrinking near the end
        (100, 35, 40, 50, 35),  # what is needed all the same
        (100, 80, 40, 50, 40),  # not enough: all of it
        (100, 1, 0, 50, 0),  # nothing
        (0, 0, 40, 50, 0),
    ],
)
def test_size_of_an_extension(ask: int, need: int, available: int, room: int, expected: int) -> None:
    assert expected == sizing.grant_size(ask=ask, need=need, available=available, room=room)


def test_several_holders_share_the_end_of_a_balance() -> None:
    free = 1_000
    granted = {"east": 0, "west": 0}
    for holder in ("east", "west", "east", "west"):
        size = sizing.grant_size(ask=10**9, need=1, available=free, room=10**9)
        granted[holder] += size
        free -= size
    assert granted["west"] > 0.7 * granted["east"] > 0
    assert free > 0


def test_a_decayed_sum_halves() -> None:
    assert [1000, 750, 500, 250, 0] == [
        sizing.decayed(1000, NOW, NOW + timedelta(seconds=s)) for s in (0, 30, 60, 120, 86_400)
    ]
    assert 1000 == sizing.decayed(1000, NOW, NOW - timedelta(seconds=5))


def test_decay_never_grows() -> None:
    values = [sizing.decayed(10**12, NOW, NOW + timedelta(seconds=s)) for s in range(0, 4000, 7)]
    assert sorted(values, reverse=True) == values


@pytest.mark.parametrize(
    ("state", "quarantine", "expected"),
    [("OPEN", None, 500), ("FROZEN", None, 0), ("CLOSED", None, 0), ("OPEN", "x", 0)],
)
def test_target_is_nothing_where_the_wallet_pays_for_nothing_new(
    state: str, quarantine: str | None, expected: int
) -> None:
    held = Lease("b", flow_at=NOW, extended=200, quarantine=quarantine)
    assert expected == leases.target_of(state, 800, held, NOW, floor=10**6)


def test_target_follows_the_burn() -> None:
    held = Lease("b", flow_at=NOW, extended=200, burn=100)
    assert [400, 200] == [leases.target_of("OPEN", 10**9, held, NOW + timedelta(seconds=s), floor=0) for s in (0, 60)]
