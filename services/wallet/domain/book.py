"""One wallet's books in memory: accounts, lots, tags and leases, and how money moves between them.

A **lot** is what is left of a grant. A **tag** says how much of a lot is leased to a holder or was spent, in the order
of tagging. After every movement, to the nano:

    lot:      amount = pending + free + leased + spent + expired + gone
    wallet:   Σ free = available      Σ leased of a holder = its escrow
              Σ (spent + gone) + debt = spent + refunded + disputed + moved_out of the ledger

Movements check nothing about requests; `leases` and `commands` decide, and ask `Book.check_room` first.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from services.wallet.domain.accounts import (
    LEDGER_MAX_NANOS,
    RECHARGE_ROOM_NANOS,
    Account,
    AccountKind,
    Transfer,
    TransferKind,
    account_id,
)
from services.wallet.domain.refusals import Refusal

NOBODY: Final = ""
"""The holder of tags that paid off debt."""
SOURCES: Final = {"PAID": AccountKind.FUNDING, "PROMOTIONAL": AccountKind.PROMOTION}
"""Where a grant's money comes from, by its kind."""


@dataclass(slots=True)
class Lot:
    """A grant and what is left of it; amounts in nano-units.

    Attributes:
        name: The grant's resource name.
        priority: Lower burns first.
        expires_at: What is free expires then; None: never.
        pending: Not in effect yet, and in no account until then.
        gone: Refunded, disputed or moved to another wallet.
        kind: PAID or PROMOTIONAL.
        effective_at: When `pending` takes effect; None: it did from the start.
        reference: What the ledger says of it.
    """

    name: str
    amount: int
    priority: int
    expires_at: datetime | None
    created_at: datetime
    free: int
    leased: int = 0
    spent: int = 0
    expired: int = 0
    pending: int = 0
    gone: int = 0
    kind: str = "PAID"
    effective_at: datetime | None = None
    reference: str = ""

    @property
    def burn_key(self) -> tuple[int, bool, float, datetime, str]:
        """Sorts lots in burn order: priority, then expiry, then age."""
        at_s = self.expires_at.timestamp() if self.expires_at else 0.0
        return (self.priority, self.expires_at is None, at_s, self.created_at, self.name)

    def is_due(self, now: datetime) -> bool:
        """Whether its free part has expired."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(slots=True)
class Tag:
    """A part of a lot that is leased to a holder, or was spent by it.

    Attributes:
        position: The order of tagging within the wallet.
        holder: The lease's holder, or `NOBODY` for debt paid off.
    """

    position: int
    holder: str
    lot: str
    leased: int = 0
    spent: int = 0


@dataclass(slots=True)
class Lease:
    """Where a lease stands; totals are cumulative within the epoch, in nano-units.

    Attributes:
        n: The number of the last operation applied.
        quarantine: Why nothing moves; None while it moves.
        burn: Decayed sum of captures, as of `flow_at`.
        pull: Decayed sum of extensions, as of `flow_at`.
    """

    holder: str
    flow_at: datetime
    epoch: int = 0
    n: int = 0
    extended: int = 0
    captured: int = 0
    returned: int = 0
    reversed: int = 0
    quarantine: str | None = None
    burn: int = 0
    pull: int = 0

    @property
    def escrow(self) -> int:
        """Leased and not yet captured or returned."""
        return self.extended - self.captured - self.returned


@dataclass(slots=True)
class Changes:
    """What a batch has done to a book, for the store to write."""

    transfers: list[Transfer] = field(default_factory=list)
    lots: set[str] = field(default_factory=set)
    new_lots: set[str] = field(default_factory=set)
    tags: set[int] = field(default_factory=set)
    leases: set[str] = field(default_factory=set)
    state: bool = False


class Book:
    """The books of one wallet, loaded under its lock.

    Args:
        org: The organisation's bare id.
        wallet: The wallet's full name.
        state: OPEN, FROZEN or CLOSED.
        state_reason: Why, for people.
        accounts: All of its accounts.
        lots: At least those with something free or leased, and those that loaded tags name.
        tags: At least those with something leased, and the newest of every holder.
        leases: All of its leases.
    """

    def __init__(
        self,
        org: str,
        wallet: str,
        *,
        currency: str,
        state: str,
        state_reason: str,
        accounts: list[Account],
        lots: list[Lot],
        tags: list[Tag],
        leases: list[Lease],
    ) -> None:
        self.org = org
        self.wallet = wallet
        self.currency = currency
        self.state = state
        self.state_reason = state_reason
        self.accounts = {account.id: account for account in accounts}
        self.lots = {lot.name: lot for lot in lots}
        self.tags = sorted(tags, key=lambda tag: tag.position)
        self.leases = {lease.holder: lease for lease in leases}
        self.changes = Changes()
        self._transaction = 0

    # What there is.

    def _balance(self, kind: AccountKind, holder: str = "") -> int:
        account = self.accounts.get(account_id(self.wallet, kind, holder))
        return account.balance if account else 0

    @property
    def available(self) -> int:
        """Free to lease, in nano-units."""
        return self._balance(AccountKind.AVAILABLE)

    @property
    def debt(self) -> int:
        """Spent beyond what there was, in nano-units."""
        return -self._balance(AccountKind.DEBT)

    def escrow(self, holder: str) -> int:
        """Leased to a holder, in nano-units."""
        return self._balance(AccountKind.ESCROW, holder)

    @property
    def balance(self) -> int:
        """Available, and all escrow, less debt."""
        held = sum(a.balance for a in self.accounts.values() if a.kind is AccountKind.ESCROW)
        return self.available + held - self.debt

    def check_room(self, amount: int) -> None:
        """Refuses an amount that could take an account past int64.

        Raises:
            Refusal: AMOUNT_OUT_OF_RANGE.
        """
        # One command moves its amount through an account at most twice; what it expires or repays besides came in
        # through accounts that are fuller than those it goes to.
        fullest = max(max(account.debits, account.credits) for account in self.accounts.values())
        limit = LEDGER_MAX_NANOS - RECHARGE_ROOM_NANOS
        if fullest + 2 * amount > limit:
            raise Refusal(
                "AMOUNT_OUT_OF_RANGE",
                f"{amount} nanos would take the ledger of {self.wallet} past its limit of {limit} "
                "nanos moved in all; use a new wallet",
            )

    # Movements.

    def begin(self) -> None:
        """Starts a transaction of linked transfers: all until the next call belong together."""
        self._transaction += 1

    def mature(self, now: datetime) -> int:
        """Puts in what takes effect by now; it pays debt first. Returns how much."""
        total = 0
        for lot in self.lots.values():
            if lot.pending and lot.effective_at is not None and lot.effective_at <= now:
                source = self._id(SOURCES[lot.kind])
                self._post(TransferKind.GRANT, source, self._id(AccountKind.AVAILABLE), lot.pending, lot.reference)
                total += lot.pending
                lot.free += lot.pending
                lot.pending = 0
                self.changes.lots.add(lot.name)
        if total:
            self.repay("effective")
        return total

    def expire(self, now: datetime) -> int:
        """Puts in what takes effect, and expires what is free of every lot that is due; leased money is not touched.

        Returns how much has expired.
        """
        self.mature(now)
        available, expired = self._id(AccountKind.AVAILABLE), self._id(AccountKind.EXPIRED)
        total = 0
        for lot in self.lots.values():
            if lot.free and lot.is_due(now):
                self._post(TransferKind.EXPIRE, available, expired, lot.free, lot.name)
                total += lot.free
                lot.expired += lot.free
                lot.free = 0
                self.changes.lots.add(lot.name)
        return total

    def add_lot(self, lot: Lot, source: AccountKind, reference: str) -> None:
        """Puts a grant in; it pays debt first."""
        self.lots[lot.name] = lot
        self.changes.new_lots.add(lot.name)
        if not lot.free:
            return
        kind = TransferKind.MOVE if source is AccountKind.MOVED_IN else TransferKind.GRANT
        self._post(kind, self._id(source), self._id(AccountKind.AVAILABLE), lot.free, reference)
        self.repay(reference)

    def repay(self, reference: str) -> None:
        """Pays debt from what is free, in burn order."""
        due = min(self.debt, self.available)
        if not due:
            return
        self._post(TransferKind.REPAY, self._id(AccountKind.AVAILABLE), self._id(AccountKind.DEBT), due, reference)
        for lot, part in self.free_parts(due):
            lot.free -= part
            lot.spent += part
            self._tag(NOBODY, lot, leased=0, spent=part)

    def extend(self, lease: Lease, amount: int, reference: str) -> None:
        """Moves available money into escrow, tagging lots in burn order. `amount` is at most what is available."""
        if not amount:
            return
        escrow = self._escrow_id(lease.holder)
        self._post(TransferKind.EXTEND, self._id(AccountKind.AVAILABLE), escrow, amount, reference)
        for lot, part in self.free_parts(amount):
            lot.free -= part
            lot.leased += part
            self._tag(lease.holder, lot, leased=part, spent=0)
        lease.extended += amount

    def capture(self, lease: Lease, amount: int, reference: str) -> None:
        """Spends from escrow; what is short is extended from available money, then as debt."""
        short = max(0, amount - lease.escrow)
        owed = max(0, short - self.available)
        escrow = self._escrow_id(lease.holder)
        self.extend(lease, short - owed, reference)
        if owed:
            self._post(TransferKind.DEBT, self._id(AccountKind.DEBT), escrow, owed, reference)
            lease.extended += owed
        if amount:
            self._post(TransferKind.CAPTURE, escrow, self._id(AccountKind.SPENT), amount, reference)
        left = amount - owed
        for tag in self.tags:
            if not left:
                break
            if tag.holder == lease.holder and tag.leased:
                part = min(tag.leased, left)
                self._move(tag, leased=-part, spent=part)
                left -= part
        assert left == 0, "escrow and tags differ"
        lease.captured += amount

    def give_up(self, lease: Lease, amount: int, reference: str, now: datetime) -> None:
        """Moves escrow back to available, untagging newest first; an expired lot's part expires, debt is paid."""
        if not amount:
            return
        escrow = self._escrow_id(lease.holder)
        self._post(TransferKind.RETURN, escrow, self._id(AccountKind.AVAILABLE), amount, reference)
        left = amount
        for tag in reversed(self.tags):
            if not left:
                break
            if tag.holder == lease.holder and tag.leased:
                part = min(tag.leased, left)
                self._move(tag, leased=-part, free=part)
                left -= part
        assert left == 0, "escrow and tags differ"
        lease.returned += amount
        self.expire(now)
        self.repay(reference)

    def reverse(self, lease: Lease, amount: int, reference: str, now: datetime) -> None:
        """Gives spent money back: debt first, then to the lots it came from, newest first."""
        lease.reversed += amount
        spent = self._id(AccountKind.SPENT)
        to_debt = min(amount, self.debt)
        if to_debt:
            self._post(TransferKind.REVERSE, spent, self._id(AccountKind.DEBT), to_debt, reference)
        left = amount - to_debt
        if not left:
            return
        self._post(TransferKind.REVERSE, spent, self._id(AccountKind.AVAILABLE), left, reference)
        # What this lease spent as debt was paid by tags of nobody, or never, when another lease gave its part back.
        self._unspend(left, lease.holder)
        self.expire(now)

    def withdraw(
        self, to: AccountKind, amount: int, reference: str, *, first: str, paid_only: bool
    ) -> list[tuple[str, int]]:
        """Takes money out for good; what is short is taken as debt. Returns which lots gave how much of it.

        Args:
            to: REFUNDED or DISPUTED.
            amount: How much.
            reference: A refund or a dispute.
            first: The lot that gives first; then the others that were paid for, those that would burn last before
                others, then what was given away.
            paid_only: Whether what was given away must stay; then `amount` is at most what else is free.
        """
        kind = TransferKind.REFUND if to is AccountKind.REFUNDED else TransferKind.DISPUTE
        free = [lot for lot in self.lots.values() if lot.free and (lot.kind == "PAID" or not paid_only)]
        free.sort(key=lambda lot: lot.burn_key, reverse=True)
        free.sort(key=lambda lot: (lot.name != first, lot.kind != "PAID"))
        given = []
        left = amount
        for lot in free:
            part = min(lot.free, left)
            if part:
                lot.free -= part
                lot.gone += part
                left -= part
                given.append((lot.name, part))
                self.changes.lots.add(lot.name)
        assert not (left and paid_only), "more is refunded than is free"
        if amount > left:
            self._post(kind, self._id(AccountKind.AVAILABLE), self._id(to), amount - left, reference)
        if left:
            self._post(kind, self._id(AccountKind.DEBT), self._id(to), left, reference)
        return given

    def restore(
        self, source: AccountKind, amount: int, given: list[tuple[str, int]], reference: str, now: datetime
    ) -> None:
        """Gives back what `withdraw` took: to the lots that gave it, the last of them first; the rest was debt.

        Args:
            source: REFUNDED or DISPUTED.
            amount: How much.
            given: What lots gave and did not get back yet, in the order of giving.
            reference: The refund or the dispute.
            now: The deciding clock.
        """
        kind = TransferKind.REFUND_FAILED if source is AccountKind.REFUNDED else TransferKind.REINSTATE
        left = amount
        for name, gave in reversed(given):
            part = min(gave, left)
            lot = self.lots[name]
            lot.gone -= part
            lot.free += part
            left -= part
            self.changes.lots.add(name)
        to_debt = min(left, self.debt)
        if amount > to_debt:
            self._post(kind, self._id(source), self._id(AccountKind.AVAILABLE), amount - to_debt, reference)
        if to_debt:
            self._post(kind, self._id(source), self._id(AccountKind.DEBT), to_debt, reference)
        # Debt that was paid since was paid by lots: they get it back.
        self._unspend(left - to_debt, NOBODY)
        self.expire(now)
        self.repay(reference)

    def move_out(self, amount: int, reference: str) -> list[tuple[Lot, int]]:
        """Takes free money out for another wallet, in burn order; returns which lots gave how much of it."""
        given = self.free_parts(amount)
        self._post(
            TransferKind.MOVE, self._id(AccountKind.AVAILABLE), self._id(AccountKind.MOVED_OUT), amount, reference
        )
        for lot, part in given:
            lot.free -= part
            lot.gone += part
            self.changes.lots.add(lot.name)
        return given

    # Parts of movements.

    def _id(self, kind: AccountKind) -> str:
        id_ = account_id(self.wallet, kind)
        if id_ not in self.accounts:
            self.accounts[id_] = Account(id_, kind)
        return id_

    def _unspend(self, amount: int, holder: str) -> None:
        """Frees spent money of lots: of this holder first, then what paid off debt, the newest before others."""
        rank = {holder: 0, NOBODY: 1}
        own_first = sorted(self.tags, key=lambda tag: (rank.get(tag.holder, 2), -tag.position))
        for tag in own_first:
            if not amount:
                break
            part = min(tag.spent, amount)
            if part:
                self._move(tag, spent=-part, free=part)
                amount -= part
        assert amount == 0, "captures and tags differ"

    def _escrow_id(self, holder: str) -> str:
        id_ = account_id(self.wallet, AccountKind.ESCROW, holder)
        if id_ not in self.accounts:
            self.accounts[id_] = Account(id_, AccountKind.ESCROW)
        return id_

    def _post(self, kind: TransferKind, from_account: str, to_account: str, amount: int, reference: str) -> None:
        assert amount > 0, "a transfer moves something"
        giver, taker = self.accounts[from_account], self.accounts[to_account]
        giver.debits += amount
        taker.credits += amount
        assert giver.holds(), f"{giver.id} would hold {giver.balance}"
        assert taker.holds(), f"{taker.id} would hold {taker.balance}"
        self.changes.transfers.append(Transfer(self._transaction, kind, from_account, to_account, amount, reference))

    def free_parts(self, amount: int) -> list[tuple[Lot, int]]:
        """Which lots an amount comes from, in burn order."""
        parts = []
        for lot in sorted((lot for lot in self.lots.values() if lot.free), key=lambda lot: lot.burn_key):
            if not amount:
                break
            part = min(lot.free, amount)
            parts.append((lot, part))
            amount -= part
        assert amount == 0, "available money and lots differ"
        return parts

    def _tag(self, holder: str, lot: Lot, *, leased: int, spent: int) -> None:
        # Emptied tags count for nothing: the store deletes them.
        own = (tag for tag in reversed(self.tags) if tag.holder == holder and (tag.leased or tag.spent))
        newest = next(own, None)
        if newest is None or newest.lot != lot.name:
            position = self.tags[-1].position + 1 if self.tags else 1
            newest = Tag(position, holder, lot.name)
            self.tags.append(newest)
        newest.leased += leased
        newest.spent += spent
        self.changes.tags.add(newest.position)
        self.changes.lots.add(lot.name)

    def _move(self, tag: Tag, *, leased: int = 0, spent: int = 0, free: int = 0) -> None:
        lot = self.lots[tag.lot]
        tag.leased += leased
        tag.spent += spent
        lot.leased += leased
        lot.spent += spent
        lot.free += free
        self.changes.tags.add(tag.position)
        self.changes.lots.add(lot.name)
