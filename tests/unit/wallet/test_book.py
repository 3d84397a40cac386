"""Which lot pays, which gets money back, and in what order."""

from datetime import UTC, datetime, timedelta

import pytest

from services.wallet.domain import leases
from services.wallet.domain.accounts import LEDGER_MAX_NANOS, RECHARGE_ROOM_NANOS, Transfer, new_accounts
from services.wallet.domain.book import Book
from services.wallet.domain.commands import LOTS_MAX, Move, PutGrant, RequestKey, SetState, move, put_grant, set_state
from services.wallet.domain.leases import AnyOp, Capture, Extend, Line, Return, Reverse
from services.wallet.domain.refusals import Refusal

ORG = "acme"
WALLET = "orgs/acme/wallets/main"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
LATER = NOW + timedelta(hours=2)


def new_book(wallet: str = WALLET) -> Book:
    return Book(
        ORG,
        wallet,
        currency="USD",
        state="OPEN",
        state_reason="",
        accounts=new_accounts(wallet),
        lots=[],
        tags=[],
        leases=[],
    )


def put(
    book: Book,
    name: str,
    amount: int,
    priority: int = 100,
    *,
    hours: int | None = None,
    kind: str = "PAID",
    recharge: str | None = None,
    now: datetime = NOW,
) -> None:
    expires = None if hours is None else NOW + timedelta(hours=hours)
    put_grant(book, PutGrant(ORG, WALLET, name, kind, amount, "USD", priority, expires, name, recharge), now)


def line(amount: int) -> tuple[Line, ...]:
    return (Line("openai", "gpt", "2026-11", amount, 1),)


def do(book: Book, op: AnyOp, now: datetime = NOW) -> int:
    return leases.apply(book, op, now, floor=10**9).amount


def extend(book: Book, n: int, need: int, *, holder: str = "b", now: datetime = NOW) -> int:
    return do(book, Extend(ORG, WALLET, holder, 0, n, ask=0, need=need), now)


def capture(book: Book, n: int, amount: int, total: int, *, holder: str = "b", now: datetime = NOW) -> int:
    return do(book, Capture(ORG, WALLET, holder, 0, n, total, line(amount)), now)


def give_up(book: Book, n: int, total: int, *, holder: str = "b", now: datetime = NOW) -> int:
    return do(book, Return(ORG, WALLET, holder, 0, n, total), now)


def reverse(book: Book, n: int, amount: int, total: int, *, holder: str = "b", now: datetime = NOW) -> int:
    return do(book, Reverse(ORG, WALLET, holder, 0, n, total, line(amount)), now)


def lot(book: Book, name: str) -> tuple[int, int, int, int]:
    found = book.lots[name]
    return found.free, found.leased, found.spent, found.expired


def moves(book: Book) -> list[tuple[str, str, str, int]]:
    def short(account: str) -> str:
        return account.removeprefix(f"{WALLET}/")

    return [(t.kind.value, short(t.from_account), short(t.to_account), t.amount) for t in book.changes.transfers]


def last_transaction(book: Book) -> list[Transfer]:
    last = book.changes.transfers[-1].transaction
    return [t for t in book.changes.transfers if t.transaction == last]


def test_burn_order_is_priority_then_expiry_then_age() -> None:
    book = new_book()
    put(book, "old", 10)
    put(book, "young", 10, now=NOW + timedelta(seconds=1))
    put(book, "expires late", 10, hours=2)
    put(book, "expires soon", 10, hours=1)
    put(book, "first", 10, priority=1)
    order = []
    for n in range(1, 6):
        extend(book, n, 10)
        order += [name for name, found in book.lots.items() if found.leased and name not in order]
    assert ["first", "expires soon", "expires late", "old", "young"] == order


def test_paid_and_promotional_money_come_from_different_accounts() -> None:
    book = new_book()
    put(book, "paid", 10)
    put(book, "gift", 5, kind="PROMOTIONAL")
    assert [("grant", "funding", "available", 10), ("grant", "promotion", "available", 5)] == moves(book)


def test_a_better_lot_that_arrives_later_waits_its_turn() -> None:
    book = new_book()
    put(book, "plain", 10)
    extend(book, 1, 10)
    put(book, "better", 10, priority=1)
    capture(book, 2, 10, 10)
    assert ((0, 0, 10, 0), (10, 0, 0, 0)) == (lot(book, "plain"), lot(book, "better"))


def test_captures_consume_tags_in_order_and_returns_untag_the_newest() -> None:
    book = new_book()
    put(book, "a", 10, priority=1)
    put(book, "b", 10, priority=2)
    extend(book, 1, 16)
    capture(book, 2, 3, 3)
    assert ((0, 7, 3, 0), (4, 6, 0, 0)) == (lot(book, "a"), lot(book, "b"))
    give_up(book, 3, 8)
    assert ((2, 5, 3, 0), (10, 0, 0, 0)) == (lot(book, "a"), lot(book, "b"))


def test_a_capture_above_the_escrow_takes_the_rest_of_the_wallet_then_debt() -> None:
    book = new_book()
    put(book, "a", 10)
    extend(book, 1, 4)
    capture(book, 2, 25, 25)
    assert [
        ("extend", "available", "escrow/b", 6),
        ("debt", "debt", "escrow/b", 15),
        ("capture", "escrow/b", "spent", 25),
    ] == moves(book)[2:]
    assert 1 == len({t.transaction for t in book.changes.transfers[2:]})
    lease = book.leases["b"]
    assert (25, 25, 0, -15) == (lease.extended, lease.captured, lease.escrow, book.balance)


@pytest.mark.parametrize("state", ["FROZEN", "CLOSED"])
def test_a_wallet_that_pays_for_nothing_new_still_takes_captures_and_returns(state: str) -> None:
    book = new_book()
    put(book, "a", 10)
    extend(book, 1, 6)
    set_state(book, SetState(ORG, WALLET, state, "dispute"))
    assert 0 == extend(book, 2, 4)
    assert 9 == capture(book, 3, 9, 9)
    assert (1, 0) == (book.available, book.debt)
    assert 5 == capture(book, 4, 5, 14)
    assert (0, 4) == (book.available, book.debt)


def test_a_grant_pays_debt_first() -> None:
    book = new_book()
    capture(book, 1, 7, 7)
    put(book, "a", 10)
    assert (3, 0, 3) == (book.available, book.debt, book.balance)
    assert (3, 0, 7, 0) == lot(book, "a")
    assert ["grant", "repay"] == [t.kind.value for t in last_transaction(book)]
    put(book, "b", 10)
    assert ["grant"] == [t.kind.value for t in last_transaction(book)]


def test_what_comes_back_pays_debt_that_another_lease_made() -> None:
    book = new_book()
    put(book, "a", 10)
    extend(book, 1, 10, holder="east")
    capture(book, 1, 4, 4, holder="west")
    assert (0, 4) == (book.available, book.debt)
    give_up(book, 2, 6, holder="east")
    assert (2, 0, (2, 4, 4, 0)) == (book.available, book.debt, lot(book, "a"))


def test_the_returned_part_of_an_expired_lot_expires_in_the_same_transaction() -> None:
    book = new_book()
    put(book, "a", 10, hours=1)
    extend(book, 1, 10)
    book.expire(LATER)
    assert (0, 10, 0, 0) == lot(book, "a")
    give_up(book, 2, 4, now=LATER)
    assert (0, 6, 0, 4) == lot(book, "a")
    assert ["return", "expire"] == [t.kind.value for t in last_transaction(book)]


def test_what_expires_pays_no_debt() -> None:
    book = new_book()
    put(book, "a", 10, hours=1)
    extend(book, 1, 10, holder="east")
    capture(book, 1, 4, 4, holder="west")
    give_up(book, 2, 10, holder="east", now=LATER)
    assert ((0, 0, 0, 10), 4) == (lot(book, "a"), book.debt)


def test_an_expired_lot_is_never_extended_however_late_the_sweep_is() -> None:
    book = new_book()
    put(book, "a", 10, hours=1)
    put(book, "b", 5)
    assert 5 == extend(book, 1, 8, now=LATER)
    assert ((0, 0, 0, 10), (0, 5, 0, 0)) == (lot(book, "a"), lot(book, "b"))


def test_a_reversal_goes_back_to_the_lots_it_came_from_newest_first() -> None:
    book = new_book()
    put(book, "a", 10, priority=1)
    put(book, "b", 10, priority=2)
    extend(book, 1, 20)
    capture(book, 2, 15, 15)
    reverse(book, 3, 7, 7)
    assert ((2, 0, 8, 0), (5, 5, 0, 0)) == (lot(book, "a"), lot(book, "b"))
    assert [("reverse", "spent", "available", 7)] == moves(book)[-1:]


def test_a_reversal_pays_debt_first_and_leaves_the_lots() -> None:
    book = new_book()
    put(book, "a", 10)
    capture(book, 1, 14, 14)
    reverse(book, 2, 6, 6)
    assert [("reverse", "spent", "debt", 4), ("reverse", "spent", "available", 2)] == moves(book)[-2:]
    assert (0, 2, (2, 0, 8, 0)) == (book.debt, book.available, lot(book, "a"))


def test_a_reversal_into_an_expired_lot_expires_at_once() -> None:
    book = new_book()
    put(book, "a", 10, hours=1)
    extend(book, 1, 10)
    capture(book, 2, 10, 10)
    reverse(book, 3, 4, 4, now=LATER)
    assert (0, 0, 6, 4) == lot(book, "a")
    assert 0 == book.available


def test_a_reversal_of_what_was_debt_comes_from_whoever_paid_it() -> None:
    book = new_book()
    capture(book, 1, 5, 5, holder="east")
    put(book, "a", 10)
    capture(book, 1, 5, 5, holder="west")
    reverse(book, 2, 5, 5, holder="east")
    assert ((5, 0, 5, 0), 0) == (lot(book, "a"), book.debt)
    assert {"west": 5} == {tag.holder: tag.spent for tag in book.tags if tag.spent}


def test_linked_transfers_share_a_transaction_and_others_do_not() -> None:
    book = new_book()
    put(book, "a", 10)
    put(book, "b", 10)
    extend(book, 1, 5)
    assert 3 == len({t.transaction for t in book.changes.transfers})


def test_a_forced_reclaim_begins_a_new_epoch_with_nothing_in_escrow() -> None:
    book = new_book()
    put(book, "a", 10)
    extend(book, 1, 10)
    capture(book, 2, 3, 3)
    lease = book.leases["b"]
    lease.quarantine = "lost"
    assert 7 == leases.reclaim(book, lease, NOW)
    assert (1, 0, 0, 0) == (lease.epoch, lease.n, lease.extended, lease.escrow)
    assert not lease.quarantine
    assert (7, 0) == (book.available, book.escrow("b"))


def test_a_grant_in_another_currency_is_refused() -> None:
    book = new_book()
    grant = PutGrant(ORG, WALLET, "a", "PAID", 10, "EUR", 100, None, "a")
    with pytest.raises(Refusal) as caught:
        put_grant(book, grant, NOW)
    assert ("CURRENCY_MISMATCH", "grant.amount.currency_code") == (caught.value.reason, caught.value.field)


def test_a_grant_that_has_expired_is_refused() -> None:
    book = new_book()
    with pytest.raises(Refusal) as caught:
        put(book, "a", 10, hours=0)
    assert "EXPIRY_PASSED" == caught.value.reason
    assert not book.lots


def test_a_closed_wallet_takes_no_grant_but_one_that_was_paid_for() -> None:
    book = new_book()
    set_state(book, SetState(ORG, WALLET, "CLOSED", "moved"))
    with pytest.raises(Refusal) as caught:
        put(book, "a", 10)
    assert "WALLET_CLOSED" == caught.value.reason
    put(book, "b", 10, recharge="orgs/acme/recharges/main-2026-11-1")
    assert 10 == book.available


def test_closing_is_for_good_and_repeating_a_state_changes_nothing() -> None:
    book = new_book()
    assert set_state(book, SetState(ORG, WALLET, "FROZEN", "dispute"))
    assert not set_state(book, SetState(ORG, WALLET, "FROZEN", "dispute"))
    assert set_state(book, SetState(ORG, WALLET, "CLOSED", "moved"))
    with pytest.raises(Refusal) as caught:
        set_state(book, SetState(ORG, WALLET, "OPEN", ""))
    assert "WALLET_CLOSED" == caught.value.reason


def test_the_number_of_grants_with_something_left_is_limited_but_for_recharges() -> None:
    book = new_book()
    for number in range(LOTS_MAX):
        put(book, f"g{number:04}", 1)
    with pytest.raises(Refusal) as caught:
        put(book, "one too many", 1)
    assert "TOO_MANY_GRANTS" == caught.value.reason
    put(book, "paid for", 1, recharge="orgs/acme/recharges/main-2026-11-1")
    assert LOTS_MAX + 1 == book.available


def test_a_ledger_near_its_limit_refuses_and_stays_as_it_is() -> None:
    book = new_book()
    put(book, "a", LEDGER_MAX_NANOS // 4)
    with pytest.raises(Refusal) as caught:
        put(book, "b", LEDGER_MAX_NANOS // 2)
    assert "AMOUNT_OUT_OF_RANGE" == caught.value.reason
    assert ["a"] == list(book.lots)


def test_what_was_charged_finds_room_where_all_else_is_refused() -> None:
    book = new_book()
    put(book, "a", (LEDGER_MAX_NANOS - RECHARGE_ROOM_NANOS) // 2)
    with pytest.raises(Refusal):
        put(book, "b", RECHARGE_ROOM_NANOS * 3)
    put(book, "paid for", RECHARGE_ROOM_NANOS * 3, recharge="orgs/acme/recharges/main-2026-11-1")
    assert ["a", "paid for"] == list(book.lots)


def test_a_wallet_whose_grant_is_not_in_effect_yet_goes_on_closing() -> None:
    book = new_book()
    put_grant(book, PutGrant(ORG, WALLET, "g", "PAID", 10, "USD", 1, None, "g", effective_at=LATER), NOW)
    set_state(book, SetState(ORG, WALLET, "CLOSED", "merged"))
    assert "CLOSING" == book.state


@pytest.mark.parametrize(
    ("state", "leased", "to_state", "reason"),
    [
        ("CLOSED", 0, "OPEN", ""),
        ("CLOSED", 3, "OPEN", ""),
        ("CLOSING", 0, "OPEN", ""),
        ("CLOSING", 3, "OPEN", "WALLET_NOT_OPEN"),
        ("FROZEN", 0, "OPEN", "WALLET_NOT_OPEN"),
        ("CLOSED", 0, "FROZEN", "WALLET_NOT_OPEN"),
        ("CLOSED", 0, "CLOSED", "WALLET_NOT_OPEN"),
    ],
)
def test_what_is_in_a_closed_wallet_has_a_way_out(state: str, leased: int, to_state: str, reason: str) -> None:
    giver, taker = new_book(), new_book("orgs/acme/wallets/other")
    put(giver, "late", 10)
    extend(giver, 1, leased)
    giver.state, taker.state = state, to_state
    free = giver.available
    order = Move(ORG, WALLET, taker.wallet, free, "USD", "t", RequestKey(ORG, "Transfer", "t", b""))
    if reason:
        with pytest.raises(Refusal) as refused:
            move(giver, taker, order, NOW)
        assert (reason, free) == (refused.value.reason, giver.available)
    else:
        move(giver, taker, order, NOW)
        assert (0, free) == (giver.available, taker.available)
