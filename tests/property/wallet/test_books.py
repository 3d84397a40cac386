"""The books against a wallet counted coin by coin, over any sequence of operations of two holders."""

import copy
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.wallet.domain import leases
from services.wallet.domain.accounts import AccountKind, account_id, new_accounts
from services.wallet.domain.book import Book, Lease
from services.wallet.domain.commands import Move, PutGrant, RequestKey, SetState, move, put_grant, set_state
from services.wallet.domain.leases import AnyOp, Capture, Extend, Line, Return, Reverse, StoredOp
from services.wallet.domain.refusals import Refusal
from services.wallet.recharge.domain.extras import Granted, in_force
from services.wallet.recharge.domain.policy import MonthKey, Policy, Situation, Start, Usage, should_recharge
from tests.property.wallet.model import Model, Totals

WALLET = "orgs/acme/wallets/main"
START = datetime(2026, 11, 1, tzinfo=UTC)
HOLDERS = st.sampled_from(["east", "west"])
SMALL = st.integers(0, 12)


MONTH = MonthKey("2026-11", "UTC", datetime(2026, 12, 1, tzinfo=UTC))
CHARGES_MAX = 2
RECHARGE = Policy(True, 5, 7, 9, 7 * CHARGES_MAX, timedelta(0))
CHILD = "orgs/acme/teams/a/wallets/team"
WALLETS = st.sampled_from([WALLET, CHILD])


def new_book(wallet: str = WALLET) -> Book:
    return Book(
        "acme",
        wallet,
        currency="USD",
        state="OPEN",
        state_reason="",
        accounts=new_accounts(wallet),
        lots=[],
        tags=[],
        leases=[],
    )


def lines(amount: int) -> tuple[Line, ...]:
    return (Line("p", "m", "2026-11", amount, 1),)


def state_of(book: Book) -> object:
    """Everything that a book holds, for comparing."""
    held = {name: value for name, value in vars(book).items() if name != "_transaction"}
    return copy.deepcopy(held)


class Books(RuleBasedStateMachine):
    """Every operation is done to the book and to the model; refused ones must change nothing."""

    @initialize()
    def begin(self) -> None:
        self.book = new_book()
        self.model = Model()
        self.now = START
        self.ops: dict[tuple[str, int], tuple[AnyOp, StoredOp]] = {}

    # Helpers.

    def lease(self, holder: str) -> Totals:
        return self.model.leases.get(holder, Totals())

    def last_n(self, holder: str) -> int:
        lease = self.book.leases.get(holder)
        return lease.n if lease else 0

    def send(self, op: AnyOp) -> StoredOp:
        stored = self.ops.get((op.holder, op.n))
        done = leases.find_stored(self.book.leases.get(op.holder), op, stored[1] if stored else None)
        if done is None:
            done = leases.apply(self.book, op, self.now, floor=5)
            self.ops[op.holder, op.n] = (op, done)
            # The model knows of expiry only what the wallet has noticed.
        return done

    def refused(self, op: AnyOp, reason: str, *, quarantine: bool) -> None:
        before = state_of(self.book)
        with pytest.raises(Refusal) as caught:
            self.send(op)
        assert (reason, quarantine) == (caught.value.reason, caught.value.quarantine)
        assert before == state_of(self.book)

    # Operations.

    @rule(amount=st.integers(1, 20), priority=st.sampled_from([1, 50, 100]), lives=st.none() | st.integers(1, 10))
    def grant(self, amount: int, priority: int, lives: int | None) -> None:
        name = f"orgs/acme/grants/g{len(self.model.burn):03}"
        expires = None if lives is None else self.now + timedelta(minutes=lives)
        grant = PutGrant("acme", WALLET, name, "PAID", amount, "USD", priority, expires, name)
        put_grant(self.book, grant, self.now)
        self.model.grant(name, amount, priority, expires, self.now)

    @rule(minutes=st.integers(1, 6))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule()
    def sweep(self) -> None:
        self.book.begin()
        self.book.expire(self.now)
        self.model.expire(self.now)

    @rule(holder=HOLDERS, ask=SMALL, need=SMALL)
    def extend(self, holder: str, ask: int, need: int) -> None:
        self.model.expire(self.now)
        available = self.model.available
        done = self.send(Extend("acme", WALLET, holder, 0, self.last_n(holder) + 1, ask=ask, need=need))
        if self.book.state == "OPEN":
            assert min(need, available) <= done.amount <= min(max(ask, need), available)
        else:
            assert done.amount == 0
        self.model.extend(holder, done.amount)

    @rule(holder=HOLDERS, amount=st.integers(0, 25))
    def capture(self, holder: str, amount: int) -> None:
        self.model.expire(self.now)
        total = self.lease(holder).captured + amount
        self.send(Capture("acme", WALLET, holder, 0, self.last_n(holder) + 1, total, lines(amount)))
        self.model.capture(holder, amount)

    @precondition(lambda self: self.book.leases)
    @rule(holder=HOLDERS, share=st.floats(0, 1))
    def give_up(self, holder: str, share: float) -> None:
        if holder not in self.book.leases:
            return
        amount = int(self.lease(holder).escrow * share)
        self.model.expire(self.now)
        total = self.lease(holder).returned + amount
        self.send(Return("acme", WALLET, holder, 0, self.last_n(holder) + 1, total))
        self.model.give_up(holder, amount, self.now)

    @precondition(lambda self: any(lease.captured > lease.reversed for lease in self.model.leases.values()))
    @rule(holder=HOLDERS, share=st.floats(0, 1))
    def reverse(self, holder: str, share: float) -> None:
        lease = self.lease(holder)
        if holder not in self.book.leases:
            return
        amount = int((lease.captured - lease.reversed) * share)
        self.model.expire(self.now)
        op = Reverse("acme", WALLET, holder, 0, self.last_n(holder) + 1, lease.reversed + amount, lines(amount))
        self.send(op)
        self.model.reverse(holder, amount, self.now)

    @rule(state=st.sampled_from(["OPEN", "FROZEN"]))
    def state(self, state: str) -> None:
        set_state(self.book, SetState("acme", WALLET, state, "why"))

    # What is repeated, lost or wrong.

    @precondition(lambda self: self.ops)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        op, stored = self.ops[data.draw(st.sampled_from(sorted(self.ops)))]
        before = state_of(self.book)
        assert stored == self.send(op)
        assert before == state_of(self.book)

    @precondition(lambda self: self.ops)
    @rule(data=st.data())
    def repeat_with_other_content(self, data: st.DataObject) -> None:
        op, _ = self.ops[data.draw(st.sampled_from(sorted(self.ops)))]
        other = Extend("acme", WALLET, op.holder, 0, op.n, ask=1000, need=1000)
        self.refused(other, "LEASE_PAYLOAD", quarantine=op.n < self.last_n(op.holder))

    @rule(holder=HOLDERS, ahead=st.integers(2, 5))
    def gap(self, holder: str, ahead: int) -> None:
        self.refused(
            Extend("acme", WALLET, holder, 0, self.last_n(holder) + ahead, 1, 1), "LEASE_GAP", quarantine=False
        )

    @rule(holder=HOLDERS, epoch=st.integers(1, 3))
    def another_epoch(self, holder: str, epoch: int) -> None:
        op = Return("acme", WALLET, holder, epoch, self.last_n(holder) + 1, 0)
        self.refused(op, "LEASE_EPOCH", quarantine=holder in self.book.leases)

    @rule(holder=HOLDERS, wrong=st.integers(1, 5))
    def totals_that_do_not_follow(self, holder: str, wrong: int) -> None:
        lease, n = self.lease(holder), self.last_n(holder) + 1
        ops: list[AnyOp] = [
            Capture("acme", WALLET, holder, 0, n, lease.captured + wrong, lines(wrong + 1)),
            Return("acme", WALLET, holder, 0, n, lease.returned + lease.escrow + wrong),
            Reverse(*("acme", WALLET, holder, 0, n), lease.reversed + wrong, lines(wrong + 1)),
            Reverse(
                *("acme", WALLET, holder, 0, n), lease.captured + wrong, lines(lease.captured - lease.reversed + wrong)
            ),
        ]
        if lease.returned:
            ops.append(Return("acme", WALLET, holder, 0, n, lease.returned - 1))
        for op in ops:
            self.refused(op, "LEASE_TOTALS", quarantine=True)

    @rule(holder=HOLDERS)
    def an_amount_past_the_limit(self, holder: str) -> None:
        amount = 2**62
        op = Capture(
            "acme", WALLET, holder, 0, self.last_n(holder) + 1, self.lease(holder).captured + amount, lines(amount)
        )
        self.refused(op, "AMOUNT_OUT_OF_RANGE", quarantine=False)

    # What always holds.

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "book"):
            return
        lots = {
            lot.name: {"free": lot.free, "leased": lot.leased, "spent": lot.spent, "expired": lot.expired}
            for lot in self.book.lots.values()
        }
        assert self.model.lots() == lots
        assert (self.model.available, self.model.debt) == (self.book.available, self.book.debt)
        for holder, lease in self.book.leases.items():
            told = self.lease(holder)
            assert (told.extended, told.captured, told.returned, told.reversed) == (
                lease.extended,
                lease.captured,
                lease.returned,
                lease.reversed,
            )
            assert lease.escrow == self.book.escrow(holder) == len(self.model.at("leased", holder))

    @invariant()
    def is_conserved(self) -> None:
        if not hasattr(self, "book"):
            return
        assert 0 == sum(account.balance for account in self.book.accounts.values())
        assert all(account.holds() for account in self.book.accounts.values())
        moved: dict[str, int] = {}
        for transfer in self.book.changes.transfers:
            assert transfer.amount > 0
            moved[transfer.from_account] = moved.get(transfer.from_account, 0) - transfer.amount
            moved[transfer.to_account] = moved.get(transfer.to_account, 0) + transfer.amount
        assert moved == {id_: a.balance for id_, a in self.book.accounts.items() if id_ in moved}
        for lot in self.book.lots.values():
            assert lot.amount == lot.free + lot.leased + lot.spent + lot.expired
        spent = self.book.accounts[account_id(WALLET, AccountKind.SPENT)].balance
        assert spent == sum(lot.spent for lot in self.book.lots.values()) + self.book.debt


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True)


class Leaving(RuleBasedStateMachine):
    """A parent's and a child's books: money is granted, recharged, leased, spent, moved, taken back, and expires.

    The plain model is six sums; it knows nothing of lots, tags or burn order. None is made or lost.
    """

    @initialize()
    def begin(self) -> None:
        self.books = {name: new_book(name) for name in (WALLET, CHILD)}
        self.now = START
        self.put_in = self.refunded = self.disputed = self.spent = self.grants = 0
        self.open: dict[str, tuple[str, AccountKind, int, list[tuple[str, int]]]] = {}
        self.charging: dict[str, int] = {}
        self.recharged: dict[str, list[int]] = {name: [] for name in self.books}
        self.allowed: dict[str, list[tuple[int, Usage]]] = {name: [] for name in self.books}

    def lease(self, name: str) -> Lease:
        book = self.books[name]
        return book.leases.setdefault("b", Lease("b", flow_at=self.now))

    def expired(self) -> int:
        """What was there and has run out of time, by the accounts."""
        return sum(
            account.balance
            for book in self.books.values()
            for account in book.accounts.values()
            if account.kind is AccountKind.EXPIRED
        )

    @rule(
        name=WALLETS,
        amount=st.integers(1, 20),
        kind=st.sampled_from(["PAID", "PROMOTIONAL"]),
        late=st.booleans(),
        lives=st.none() | st.integers(4, 9),
    )
    def grant(self, name: str, amount: int, kind: str, late: bool, lives: int | None) -> None:
        effective = self.now + timedelta(minutes=3) if late else None
        expires = None if lives is None else self.now + timedelta(minutes=lives)
        self.put(name, kind, amount, effective=effective, expires=expires)

    def put(
        self, name: str, kind: str, amount: int, effective: datetime | None = None, expires: datetime | None = None
    ) -> None:
        self.grants += 1
        lot = f"{name.rpartition('/wallets/')[0]}/grants/g{self.grants:03}"
        put_grant(
            self.books[name],
            PutGrant("acme", name, lot, kind, amount, "USD", 1, expires, lot, effective_at=effective),
            self.now,
        )
        self.put_in += amount

    @rule(name=WALLETS)
    def start_recharge(self, name: str) -> None:
        """By level, whatever has happened to the balance; one at a time, within the caps."""
        used, most = self.used(name), CHARGES_MAX + sum(more for more, _ in self.allowed[name])
        granted = [
            Granted(MONTH.key, more, more * 7, MONTH.end, then, used, RECHARGE.max_count, RECHARGE.max_amount_nanos)
            for more, then in self.allowed[name]
        ]
        situation = Situation(
            *(self.books[name].balance, MONTH, used, name in self.charging, None),
            is_open=True,
            has_card=True,
            currency="USD",
            extras=in_force(granted, RECHARGE, MONTH.key, self.now),
        )
        decision = should_recharge(RECHARGE, situation, self.now)
        low = self.books[name].balance < RECHARGE.threshold_nanos
        assert isinstance(decision, Start) == (low and name not in self.charging and used.count < most)
        if isinstance(decision, Start):
            self.charging[name] = decision.amount_nanos

    def used(self, name: str) -> Usage:
        """What counts in the month: what was charged, and what may be."""
        held = [*self.recharged[name], *([self.charging[name]] if name in self.charging else [])]
        return Usage(len(held), sum(held))

    @rule(name=WALLETS, more=st.integers(0, 2), paid=st.booleans())
    def run_dry(self, name: str, more: int, paid: bool) -> None:
        """Spent to the last, recharged if the caps and what is allowed beyond them let it."""
        if more:
            self.allowed[name].append((more, self.used(name)))
        available = self.books[name].available
        self.spend(name, available, self.lease(name).escrow + available)
        self.start_recharge(name)
        if name in self.charging:
            self.settle(name, paid)

    @precondition(lambda self: self.charging)
    @rule(data=st.data(), paid=st.booleans())
    def end_recharge(self, data: st.DataObject, paid: bool) -> None:
        self.settle(data.draw(st.sampled_from(sorted(self.charging))), paid)

    def settle(self, name: str, paid: bool) -> None:
        amount = self.charging.pop(name)
        if paid:
            before = self.books[name].balance
            self.put(name, "PAID", amount)
            assert self.books[name].balance == before + amount
            self.recharged[name].append(amount)

    @rule()
    def wait(self, minutes: int = 2) -> None:
        self.now += timedelta(minutes=minutes)
        for book in self.books.values():
            book.begin()
            book.expire(self.now)

    @rule(name=WALLETS, amount=st.integers(0, 12), spent=st.integers(0, 15))
    def spend(self, name: str, amount: int, spent: int) -> None:
        book, lease = self.books[name], self.lease(name)
        book.begin()
        book.extend(lease, min(amount, book.available), "extend")
        book.capture(lease, spent, "capture")
        self.spent += spent

    @rule(name=WALLETS, share=st.floats(0, 1))
    def give_up(self, name: str, share: float) -> None:
        self.books[name].begin()
        self.books[name].give_up(self.lease(name), int(self.lease(name).escrow * share), "return", self.now)

    @rule(name=WALLETS, share=st.floats(0, 1))
    def reverse(self, name: str, share: float) -> None:
        lease = self.lease(name)
        amount = int((lease.captured - lease.reversed) * share)
        self.books[name].begin()
        self.books[name].reverse(lease, amount, "reverse", self.now)
        self.spent -= amount

    @rule(name=WALLETS, amount=st.integers(1, 30))
    def move(self, name: str, amount: int) -> None:
        self.grants += 1
        to = next(other for other in self.books if other != name)
        key = RequestKey("acme", "Transfer", f"t{self.grants}", b"")
        order = Move("acme", name, to, amount, "USD", key.id, key)
        enough = self.books[name].available >= amount
        before = state_of(self.books[to])
        if enough:
            move(self.books[name], self.books[to], order, self.now)
        else:
            with pytest.raises(Refusal, match="free"):
                move(self.books[name], self.books[to], order, self.now)
            assert before == state_of(self.books[to])

    @rule(name=WALLETS, amount=st.integers(1, 25), dispute=st.booleans())
    def take_back(self, name: str, amount: int, dispute: bool) -> None:
        book = self.books[name]
        paid = sum(lot.free for lot in book.lots.values() if lot.kind == "PAID")
        if not dispute and amount > paid:
            return
        self.grants += 1
        to = AccountKind.DISPUTED if dispute else AccountKind.REFUNDED
        first = min(book.lots, default="")
        reference = f"back{self.grants}"
        book.begin()
        given = book.withdraw(to, amount, reference, first=first, paid_only=not dispute)
        assert sum(part for _, part in given) == amount or (dispute and not book.available)
        self.open[reference] = (name, to, amount, given)
        self.disputed += amount if dispute else 0
        self.refunded += 0 if dispute else amount

    @precondition(lambda self: self.open)
    @rule(data=st.data(), late=st.booleans())
    def comes_again(self, data: st.DataObject, late: bool) -> None:
        if late:
            # Until every lot that can expire has.
            self.wait(10)
        reference = data.draw(st.sampled_from(sorted(self.open)))
        name, source, amount, given = self.open.pop(reference)
        book = self.books[name]
        before = book.balance + self.expired()
        book.begin()
        book.restore(source, amount, given, reference, self.now)
        # What comes back to a lot that has expired meanwhile expires at once.
        assert book.balance + self.expired() == before + amount
        self.disputed -= amount if source is AccountKind.DISPUTED else 0
        self.refunded -= amount if source is AccountKind.REFUNDED else 0

    @invariant()
    def is_conserved(self) -> None:
        if not hasattr(self, "books"):
            return
        pending = sum(lot.pending for book in self.books.values() for lot in book.lots.values())
        held = sum(book.balance for book in self.books.values())
        assert self.put_in - pending == held + self.spent + self.refunded + self.disputed + self.expired()
        assert self.expired() == sum(lot.expired for book in self.books.values() for lot in book.lots.values())
        for book in self.books.values():
            assert 0 == sum(account.balance for account in book.accounts.values())
            assert all(account.holds() for account in book.accounts.values())
            assert not (book.debt and book.available)
            lots = book.lots.values()
            for lot in lots:
                over = lot.expires_at is not None and lot.expires_at <= self.now
                assert not lot.free if over else not lot.expired
                places = (lot.pending, lot.free, lot.leased, lot.spent, lot.expired, lot.gone)
                assert lot.amount == sum(places)
                assert min(places) >= 0
            kinds = {a.kind: a.balance for a in book.accounts.values() if a.kind is not AccountKind.ESCROW}
            gone = sum(
                kinds.get(kind, 0) for kind in (AccountKind.REFUNDED, AccountKind.DISPUTED, AccountKind.MOVED_OUT)
            )
            assert kinds[AccountKind.SPENT] + gone - book.debt == sum(lot.spent + lot.gone for lot in lots)
            assert book.available == sum(lot.free for lot in lots)
            assert sum(tag.spent for tag in book.tags) == sum(lot.spent for lot in lots)


TestLeaving = Leaving.TestCase
TestLeaving.settings = settings(max_examples=50, stateful_step_count=40, deadline=None, derandomize=True)
