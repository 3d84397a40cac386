"""Runs commands on wallets: loads books under their locks, decides in the pure domain, writes what changed.

`run_batch` is what group commit calls: the commands of many callers in one transaction. `grant` is for a transaction
of someone else's, such as the one that completes a recharge.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import asyncpg

from services.kit import outbox
from services.kit.errors import Code, PurseError, already_exists, conflict, invalid
from services.kit.groupcommit import Redo
from services.wallet.domain import commands, leases, sizing
from services.wallet.domain.accounts import TransferKind
from services.wallet.domain.book import Book, Lot
from services.wallet.domain.commands import Command, Move, PutGrant, Reclaim, RequestKey, SetState
from services.wallet.domain.leases import AnyOp, Extend, Reverse, StoredOp, Totals
from services.wallet.domain.refusals import Refusal
from services.wallet.store import books as books_store
from services.wallet.store import wallets as wallets_store
from services.wallet.store.books import Additions, EndedEpoch, Key
from services.wallet.store.wallets import StoredAnswer, wallet_unknown

ALERT_TOPIC: Final = "alert"
"""Outbox rows that tell people of something; the payload is JSON with `kind`, `subject` and `wallet`."""

OnBalanceChange = Callable[[asyncpg.Connection, Sequence[Key], datetime], Awaitable[None]]
"""Called in the transaction that lowers balances or ends a block: (conn, sorted (org, wallet), now)."""
_INVALID: Final = frozenset({"AMOUNT_OUT_OF_RANGE", "CURRENCY_MISMATCH", "EXPIRY_PASSED"})


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """The lease after an operation or a look, and what the wallet has.

    Attributes:
        moved: What the operation moved, in nano-units; for an extension what was granted.
        totals: After the operation; a repeated one gets those of its own time.
        target: How much unspent money the holder should keep, in nano-units.
        state: The wallet's.
        available: What the wallet has free, in nano-units.
    """

    wallet: str
    holder: str
    moved: int
    totals: Totals
    target: int
    state: str
    available: int
    quarantined: bool


@dataclass(frozen=True, slots=True)
class GrantAnswer:
    """A grant as it was put in."""

    grant: PutGrant
    created_at: datetime
    remaining: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """The stored answer of a repeated request."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class MoveAnswer:
    """Money as it was moved."""

    order: Move
    grants: Sequence[PutGrant]
    moved_at: datetime


Answer = LeaseAnswer | GrantAnswer | MoveAnswer | Replayed | None
"""None for a command that has nothing to tell."""
Encode = Callable[[GrantAnswer | MoveAnswer], bytes]


@dataclass(slots=True)
class _Batch:
    """What a batch knows and collects."""

    books: dict[Key, Book]
    stored: dict[tuple[str, str, str, int, int], StoredOp]
    keys: dict[tuple[str, str, str], StoredAnswer]
    taken: set[Key]
    now: datetime
    additions: Additions = field(default_factory=Additions)
    new_keys: list[tuple[RequestKey, bytes]] = field(default_factory=list)
    alerts: list[outbox.OutboxRow] = field(default_factory=list)
    touched: set[Key] = field(default_factory=set)
    unblocked: set[Key] = field(default_factory=set)
    bumped: set[str] = field(default_factory=set)


class Ledger:
    """Decides batches of commands.

    Args:
        on_balance_change: Evaluates recharges.
        encode: Makes the answer to a grant or a transfer storable under its request id.
        lease_floor: What a lease without history may hold, in nano-units.
        on_unblocked: Called before that for wallets whose state, or whose money without being spent, has changed: what
            a recharge that is under way waited for may have happened, or it is not needed any more.
    """

    def __init__(
        self,
        on_balance_change: OnBalanceChange,
        encode: Encode,
        *,
        lease_floor: int = sizing.FLOOR_NANOS,
        on_unblocked: OnBalanceChange | None = None,
    ) -> None:
        self._on_balance_change = on_balance_change
        self._encode = encode
        self._lease_floor = lease_floor
        self._on_unblocked = on_unblocked

    async def run_batch(self, conn: asyncpg.Connection, items: Sequence[Command]) -> list[Answer | Exception]:
        """Runs commands in order inside the caller's transaction; one answer or refusal each.

        Raises:
            Redo: Another transaction was first with one of the request ids.
        """
        batch = await _load(conn, items)
        answers: list[Answer | Exception] = []
        for item in items:
            try:
                answers.append(self._decide(batch, item))
            except PurseError as refusal:
                answers.append(refusal)
            except Refusal as refusal:
                answers.append(to_error(refusal))
        await self._save(conn, batch)
        return answers

    async def expire_due(self, conn: asyncpg.Connection, wallets_max: int) -> int:
        """Expires what is due in at most so many wallets; returns how many were looked at."""
        keys = await books_store.lock_expiring(conn, wallets_max)
        if keys:
            books = await books_store.load(conn, keys)
            batch = _Batch(books, {}, {}, set(), await wallets_store.clock(conn))
            for book in books.values():
                book.begin()
                if book.expire(batch.now):
                    batch.touched.add((book.org, book.wallet))
            await self._save(conn, batch)
        return len(keys)

    def _decide(self, batch: _Batch, item: Command) -> Answer:
        book = batch.books.get((item.org, item.wallet))
        if book is None:
            raise wallet_unknown(item.wallet)
        if isinstance(item, PutGrant):
            return self._put_grant(batch, book, item)
        if isinstance(item, Move):
            return self._move(batch, book, item)
        if isinstance(item, SetState):
            if commands.set_state(book, item):
                batch.bumped.add(item.org)
                batch.touched.add((item.org, item.wallet))
                batch.unblocked.add((item.org, item.wallet))
            return None
        if isinstance(item, Reclaim):
            return self._reclaim(batch, book, item)
        return self._lease_op(batch, book, item)

    def _lease_op(self, batch: _Batch, book: Book, op: AnyOp) -> LeaseAnswer:
        lease = book.leases.get(op.holder)
        balance, posted = book.balance, len(book.changes.transfers)
        try:
            done = leases.find_stored(lease, op, batch.stored.get(op.key))
            if done is None:
                done = leases.apply(book, op, batch.now, self._lease_floor)
                batch.stored[op.key] = done
                batch.additions.ops.append((op, done))
                # Every operation may expire what is due, not only those that spend.
                expired = any(transfer.kind is TransferKind.EXPIRE for transfer in book.changes.transfers[posted:])
                unfilled = isinstance(op, Extend) and done.amount < max(1, op.need)
                if expired or unfilled or book.balance < balance:
                    batch.touched.add((op.org, op.wallet))
        except Refusal as refusal:
            if refusal.quarantine and lease is not None and lease.quarantine is None:
                lease.quarantine = f"{refusal.reason}: {refusal.message}"[:500]
                book.changes.leases.add(op.holder)
                batch.alerts.append(_quarantined(op, refusal))
            raise
        return self._lease_answer(book, op.holder, batch.now, done.amount, done.totals)

    def _reclaim(self, batch: _Batch, book: Book, item: Reclaim) -> LeaseAnswer:
        lease = book.leases.get(item.holder)
        if lease is None:
            raise PurseError(
                Code.NOT_FOUND,
                "LEASE_UNKNOWN",
                f"{item.wallet} has no lease of the holder {item.holder!r}",
                field="holder",
            )
        reclaimed = 0
        if item.epoch is not None and item.epoch > lease.epoch:
            raise conflict(
                "LEASE_EPOCH",
                f"the lease is in epoch {lease.epoch}, and {item.epoch} is still to come; look at it again",
                field="expected_epoch",
                epoch=str(lease.epoch),
            )
        # Repeated, it finds a later epoch, or a lease that has done nothing since, and leaves it as it is.
        if item.epoch in {None, lease.epoch} and (lease.n or lease.quarantine is not None):
            before = leases.totals_of(lease)
            reclaimed = leases.reclaim(book, lease, batch.now)
            batch.additions.epochs.append(
                EndedEpoch(item.org, item.wallet, item.holder, before, reclaimed, item.reason)
            )
            batch.touched.add((item.org, item.wallet))
            batch.unblocked.add((item.org, item.wallet))
        return self._lease_answer(book, item.holder, batch.now, reclaimed, leases.totals_of(lease))

    def _put_grant(self, batch: _Batch, book: Book, grant: PutGrant) -> Answer:
        key = grant.key
        if key is not None and (known := _known(batch, key)) is not None:
            return known
        if (grant.org, grant.name) in batch.taken:
            raise already_exists(grant.name)
        lot = _put(batch, book, grant)
        answer = GrantAnswer(grant, batch.now, lot.free + lot.leased)
        if key is not None:
            self._keep(batch, key, answer)
        return answer

    def _move(self, batch: _Batch, giver: Book, order: Move) -> Answer:
        if (known := _known(batch, order.key)) is not None:
            return known
        taker = batch.books.get((order.org, order.to_wallet))
        if taker is None:
            raise wallet_unknown(order.to_wallet)
        made = commands.move(giver, taker, order, batch.now)
        batch.additions.grants.extend(made)
        # What is moved in ends a block there, and what is moved out lowers a balance.
        batch.touched.update({(order.org, order.wallet), (order.org, order.to_wallet)})
        batch.unblocked.add((order.org, order.to_wallet))
        answer = MoveAnswer(order, made, batch.now)
        self._keep(batch, order.key, answer)
        return answer

    def _keep(self, batch: _Batch, key: RequestKey, answer: GrantAnswer | MoveAnswer) -> None:
        stored = StoredAnswer(key.payload, self._encode(answer))
        batch.keys[key.org, key.method, key.id] = stored
        batch.new_keys.append((key, stored.answer))

    def _lease_answer(self, book: Book, holder: str, now: datetime, moved: int, totals: Totals) -> LeaseAnswer:
        lease = book.leases.get(holder)
        return LeaseAnswer(
            wallet=book.wallet,
            holder=holder,
            moved=moved,
            totals=totals,
            target=leases.target_of(book.state, book.available, lease, now, self._lease_floor),
            state=book.state,
            available=book.available,
            quarantined=lease is not None and lease.quarantine is not None,
        )

    async def _save(self, conn: asyncpg.Connection, batch: _Batch) -> None:
        if batch.new_keys and not await wallets_store.insert_keys(conn, batch.new_keys, batch.now):
            raise Redo
        await books_store.save(conn, batch.books.values(), batch.additions, batch.now)
        await outbox.put(conn, batch.alerts)
        if self._on_unblocked is not None and batch.unblocked:
            await self._on_unblocked(conn, sorted(batch.unblocked), batch.now)
        if batch.touched:
            await self._on_balance_change(conn, sorted(batch.touched), batch.now)
        if batch.bumped:
            await wallets_store.bump_directory(conn, sorted(batch.bumped))


async def grant(
    conn: asyncpg.Connection,
    *,
    org: str,
    wallet: str,
    kind: str,
    amount_nanos: int,
    priority: int,
    expires_at: datetime | None,
    reference: str,
    grant_id: str,
    recharge: str | None,
    now: datetime,
) -> str:
    """Puts a grant into a wallet inside the caller's transaction; returns its name.

    Takes the wallet's lock; take it (`store.lock_wallet`) before any row of a recharge. Does not evaluate recharges:
    whoever ends a block does. The wallet's state is no obstacle to a grant of a recharge: its money was paid.

    Args:
        conn: In a READ COMMITTED transaction.
        org: The organisation's bare id.
        wallet: `{subject}/wallets/{id}`.
        kind: PAID or PROMOTIONAL.
        amount_nanos: Positive, in the wallet's currency.
        priority: Lower burns first.
        expires_at: When what is left expires; None: never.
        reference: What the ledger says of it.
        grant_id: The last part of the grant's name.
        recharge: The recharge that it came from; one recharge makes one grant, and the database sees to it.
        now: The deciding clock, read under the caller's locks.

    Raises:
        PurseError: The wallet is unknown, the name is taken, or a limit is passed; nothing is written.
    """
    if amount_nanos <= 0:
        raise invalid("amount_nanos", f"a grant is more than nothing, not {amount_nanos}", "AMOUNT_OUT_OF_RANGE")
    books = await books_store.load(conn, [(org, wallet)])
    book = books.get((org, wallet))
    if book is None:
        raise wallet_unknown(wallet)
    name = f"{wallet.rpartition('/wallets/')[0]}/grants/{grant_id}"
    item = PutGrant(
        org=org,
        wallet=wallet,
        name=name,
        kind=kind,
        amount=amount_nanos,
        currency=book.currency,
        priority=priority,
        expires_at=expires_at,
        reference=reference,
        recharge=recharge,
    )
    if await books_store.existing_grants(conn, [(org, name)]):
        raise already_exists(name)
    batch = _Batch(books, {}, {}, set(), now)
    try:
        _put(batch, book, item)
    except Refusal as refusal:
        raise to_error(refusal) from None
    await books_store.save(conn, books.values(), batch.additions, now)
    return name


def request_id_reused(key: RequestKey) -> PurseError:
    """The refusal of a request id that was used for something else."""
    return conflict(
        "REQUEST_ID_REUSED",
        f"request_id {key.id!r} was used for another {key.method}; make a new id for a new request",
        field="request_id",
    )


def _known(batch: _Batch, key: RequestKey) -> Replayed | None:
    """The stored answer of a repeated request."""
    known = batch.keys.get((key.org, key.method, key.id))
    if known is None:
        return None
    if known.payload != key.payload:
        raise request_id_reused(key)
    return Replayed(known.answer)


async def _load(conn: asyncpg.Connection, items: Sequence[Command]) -> _Batch:
    give_back: dict[Key, int] = defaultdict(int)
    for item in items:
        if isinstance(item, Reverse):
            give_back[item.org, item.wallet] += item.amount
    moves = [item for item in items if isinstance(item, Move)]
    wallets = {(item.org, item.wallet) for item in items} | {(item.org, item.to_wallet) for item in moves}
    books = await books_store.load(conn, wallets, give_back)
    ops = [item for item in items if not isinstance(item, PutGrant | Move | SetState | Reclaim)]
    grants = [item for item in items if isinstance(item, PutGrant)]
    keys = [item.key for item in grants if item.key is not None] + [item.key for item in moves]
    return _Batch(
        books=books,
        stored=await books_store.stored_ops(conn, ops),
        keys=await wallets_store.find_keys(conn, keys) if keys else {},
        taken=await books_store.existing_grants(conn, [(item.org, item.name) for item in grants]),
        now=await wallets_store.clock(conn),
    )


def _put(batch: _Batch, book: Book, item: PutGrant) -> Lot:
    lot = commands.put_grant(book, item, batch.now)
    batch.taken.add((item.org, item.name))
    batch.additions.grants.append(item)
    batch.touched.add((item.org, item.wallet))
    batch.unblocked.add((item.org, item.wallet))
    return lot


def to_error(refusal: Refusal) -> PurseError:
    """A refusal as callers see it."""
    if refusal.reason in _INVALID:
        return invalid(refusal.field or "amount", refusal.message, refusal.reason, **refusal.facts)
    return conflict(refusal.reason, refusal.message, field=refusal.field, **refusal.facts)


def digest(name: str) -> str:
    """A short stand-in for a name, the same for ever."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def _quarantined(op: AnyOp, refusal: Refusal) -> outbox.OutboxRow:
    payload = {
        "kind": "LEASE_QUARANTINED",
        "subject": op.wallet.rpartition("/wallets/")[0],
        "wallet": op.wallet,
        "holder": op.holder,
        "sent_epoch": op.epoch,
        "sent_n": op.n,
        "reason": refusal.reason,
        "detail": refusal.message,
        **refusal.facts,
    }
    return outbox.OutboxRow(op.org, ALERT_TOPIC, f"{op.wallet}/leases/{op.holder}", json.dumps(payload).encode())
