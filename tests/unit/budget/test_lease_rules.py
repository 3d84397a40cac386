"""The arithmetic of leases: what to ask for, what to give back, what a capture is made of."""

import pytest

from services.budget.domain import lease
from services.budget.domain.budgets import AMOUNT_MAX
from services.budget.domain.lease import Account, Line
from services.budget.domain.model import WalletState


def account(**fields: int | None) -> Account:
    values: dict[str, int | None] = {
        "extended": 100,
        "returned": 0,
        "drawn": 0,
        "reserved": 0,
        "target": None,
        "state": int(WalletState.OPEN),
    }
    return Account(**(values | fields))  # type: ignore[arg-type]


def test_free_is_what_is_neither_returned_nor_drawn_nor_held() -> None:
    assert account(returned=10, drawn=20, reserved=30).free == 40
    assert account(drawn=130).free == -30


def test_an_extension_asks_for_at_least_what_is_needed() -> None:
    assert lease.ask(account(), 7) == 7 * 64
    assert lease.ask(account(reserved=900), 7) == 900
    assert lease.ask(account(target=1_000), 7) == 900
    assert lease.ask(account(), AMOUNT_MAX) == AMOUNT_MAX


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target": 500, "reserved": 60}, True),
        ({"target": 500, "reserved": 10}, False),
        ({"target": 100, "reserved": 60}, False),
        ({"target": None, "reserved": 60}, False),
        ({"target": 500, "reserved": 60, "state": int(WalletState.FROZEN)}, False),
    ],
)
def test_a_lease_is_low_when_half_of_the_last_extension_is_used(fields: dict[str, int | None], expected: bool) -> None:
    assert lease.is_low(account(**fields), granted_last=100) is expected


@pytest.mark.parametrize(
    ("fields", "idle", "expected"),
    [
        ({"target": None}, False, 0),
        ({"target": 100}, False, 0),
        # Within the slack of a quarter of the target nothing goes back.
        ({"target": 80}, False, 0),
        ({"target": 79}, False, 21),
        ({"target": 40, "reserved": 70}, False, 30),
        ({"target": 99, "state": int(WalletState.FROZEN)}, False, 1),
        ({"target": 0, "state": int(WalletState.FROZEN), "reserved": 30}, False, 70),
        ({"target": 100, "reserved": 30}, True, 70),
        ({"target": 0, "drawn": 120}, True, 0),
    ],
)
def test_only_what_is_free_and_not_wanted_goes_back(fields: dict[str, int | None], idle: bool, expected: int) -> None:
    assert lease.give_back(account(**fields), idle=idle) == expected


def test_draws_of_one_kind_are_one_line() -> None:
    draws = [Line("p", "m", "2026-11", 5, 1), Line("p", "n", "2026-11", 1, 1), Line("p", "m", "2026-11", 7, 2)]
    assert lease.merge(draws) == ([Line("p", "m", "2026-11", 12, 3), Line("p", "n", "2026-11", 1, 1)], [])


def test_more_lines_than_a_capture_may_have_wait_for_the_next() -> None:
    lines, later = lease.merge(Line("p", f"m{i}", "2026-11", 1, 1) for i in range(lease.LINES_MAX + 3))
    assert (len(lines), len(later)) == (lease.LINES_MAX, 3)
    assert not {line.model for line in lines} & {line.model for line in later}


def test_lines_are_cut_where_they_reach_the_room() -> None:
    lines = [Line("p", "a", "2026-11", 5, 2), Line("p", "b", "2026-11", 7, 3), Line("p", "c", "2026-11", 1, 1)]
    assert lease.fit(lines, 8) == (
        [Line("p", "a", "2026-11", 5, 2), Line("p", "b", "2026-11", 3, 3)],
        [Line("p", "b", "2026-11", 4, 0), Line("p", "c", "2026-11", 1, 1)],
    )
    assert lease.fit(lines, 0) == ([], lines)
    assert lease.fit(lines, 13) == (lines, [])
