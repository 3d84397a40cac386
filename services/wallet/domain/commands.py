"""What else can be done to a wallet: grants, states, and the forced end of a lease's epoch."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.wallet.domain import leases
from services.wallet.domain.accounts import AccountKind
from services.wallet.domain.book import SOURCES, Book, Lot
from services.wallet.domain.refusals import Refusal

LOTS_MAX: Final = 1_000
"""The most grants with something left in one wallet; a recharge is never refused for it."""
ENDING: Final = frozenset({"CLOSING", "CLOSED"})
"""The states of a wallet that pays for nothing new any more."""
DEFAULT_PRIORITY: Final = {"PAID": 100, "PROMOTIONAL": 50}


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a request happen once.

    Attributes:
        payload: SHA-256 of the request.
    """

    org: str
    method: str
    id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class PutGrant:
    """Puts money into a wallet.

    Attributes:
        name: The grant's resource name.
        kind: PAID or PROMOTIONAL.
        amount: Nano-units, positive.
        reference: What the ledger says of it.
        recharge: The recharge it came from; None: none. Such a grant was paid for, so it is never refused.
        key: Of the request; None where the grant's own name makes it happen once.
        effective_at: It may be spent from then on; None: at once.
        origin: The grant that it was in the wallet that it came from; None: it came from none.
    """

    org: str
    wallet: str
    name: str
    kind: str
    amount: int
    currency: str
    priority: int
    expires_at: datetime | None
    reference: str
    recharge: str | None = None
    key: RequestKey | None = None
    effective_at: datetime | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """Moves free money from one wallet to another of the same organisation.

    Attributes:
        wallet: It gives.
        to_wallet: It gets.
        id: Of the request; the grants that it makes are called after it.
    """

    org: str
    wallet: str
    to_wallet: str
    amount: int
    currency: str
    id: str
    key: RequestKey


@dataclass(frozen=True, slots=True)
class SetState:
    """Opens, freezes or closes a wallet."""

    org: str
    wallet: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Ends a lease's epoch by force.

    Attributes:
        epoch: The one to end; None: whichever it is in.
    """

    org: str
    wallet: str
    holder: str
    reason: str
    epoch: int | None = None


Command = leases.AnyOp | PutGrant | Move | SetState | Reclaim


def put_grant(book: Book, grant: PutGrant, now: datetime) -> Lot:
    """Puts a grant in.

    Raises:
        Refusal: Another currency, a closed wallet, an expiry that has passed, or too many grants.
    """
    if grant.currency != book.currency:
        raise Refusal(
            "CURRENCY_MISMATCH",
            f"the wallet is in {book.currency}, the grant in {grant.currency}",
            field="grant.amount.currency_code",
        )
    if grant.recharge is None:
        _check_grant(book, grant, now)
        book.check_room(grant.amount)
    book.begin()
    later = grant.effective_at is not None and grant.effective_at > now
    lot = Lot(
        grant.name,
        grant.amount,
        grant.priority,
        grant.expires_at,
        now,
        free=0 if later else grant.amount,
        pending=grant.amount if later else 0,
        kind=grant.kind,
        effective_at=grant.effective_at,
        reference=grant.reference,
    )
    book.add_lot(lot, SOURCES[grant.kind], grant.reference)
    book.expire(now)
    return lot


def move(giver: Book, taker: Book, order: Move, now: datetime) -> list[PutGrant]:
    """Moves free money; each lot that gives becomes a lot of the same kind, priority and expiry.

    Returns:
        The grants that were made in the wallet that got it.

    Raises:
        Refusal: Another currency, a wallet that may not give or get, not enough that is free, or too many grants.
    """
    for book in (giver, taker):
        if book.currency != order.currency:
            raise Refusal(
                "CURRENCY_MISMATCH",
                f"{book.wallet} is in {book.currency}, the transfer in {order.currency}",
                field="amount.currency_code",
            )
    _check_giver(giver)
    if giver.state in ENDING and taker.state != "OPEN":
        raise Refusal("WALLET_NOT_OPEN", f"{taker.wallet} is {taker.state}: {taker.state_reason}", field="to_wallet")
    if taker.state in ENDING:
        raise Refusal("WALLET_CLOSED", f"{taker.wallet} is closed for good", field="to_wallet")
    giver.begin()
    giver.expire(now)
    if giver.available < order.amount:
        raise Refusal(
            "NOT_ENOUGH_FREE",
            f"{giver.wallet} has {giver.available} nanos free; what is leased is not moved",
            field="amount.amount_nanos",
            facts={"available_nanos": str(giver.available)},
        )
    return _move(giver, taker, order.amount, order.id, now)


def move_rest(giver: Book, taker: Book, id_: str, now: datetime) -> list[PutGrant]:
    """Moves all that is free of a wallet that is closed; nothing where there is nothing."""
    return _move(giver, taker, giver.available, id_, now) if giver.available else []


def _move(giver: Book, taker: Book, amount: int, id_: str, now: datetime) -> list[PutGrant]:
    for book in (giver, taker):
        book.check_room(amount)
    taker.begin()
    taker.expire(now)
    for book in (giver, taker):
        book.begin()
    subject = taker.wallet.rpartition("/wallets/")[0]
    if left_lots(taker) + len(giver.free_parts(amount)) > LOTS_MAX:
        raise Refusal("TOO_MANY_GRANTS", f"{taker.wallet} would have more than {LOTS_MAX} grants with something left")
    reference = f"transfers/{id_}"
    made = []
    for place, (lot, part) in enumerate(giver.move_out(amount, reference), 1):
        grant = PutGrant(
            org=taker.org,
            wallet=taker.wallet,
            name=f"{subject}/grants/{id_}-{place}",
            kind=lot.kind,
            amount=part,
            currency=taker.currency,
            priority=lot.priority,
            expires_at=lot.expires_at,
            reference=reference,
            origin=lot.name,
        )
        new = Lot(grant.name, part, lot.priority, lot.expires_at, now, free=part, kind=lot.kind, reference=reference)
        taker.add_lot(new, AccountKind.MOVED_IN, reference)
        made.append(grant)
    return made


def _check_giver(giver: Book) -> None:
    """What comes into a wallet late must have a way out: one that is closed, or has nothing leased any more, gives."""
    leased = any(lease.escrow for lease in giver.leases.values())
    if giver.state not in {"OPEN", "CLOSED"} and not (giver.state == "CLOSING" and not leased):
        raise Refusal("WALLET_NOT_OPEN", f"{giver.wallet} is {giver.state}: {giver.state_reason}", field="from_wallet")


def has_pending(book: Book) -> bool:
    """Whether a grant is still to take effect."""
    return any(lot.pending for lot in book.lots.values())


def set_state(book: Book, change: SetState) -> bool:
    """Changes a wallet's state; returns whether anything changed.

    Raises:
        Refusal: The wallet is closed, which is for good.
    """
    if (book.state, book.state_reason) == (change.state, change.reason):
        return False
    if book.state == "CLOSING" and change.state == "CLOSED":
        return False
    if book.state in ENDING:
        raise Refusal("WALLET_CLOSED", f"{book.wallet} is closed for good; create another wallet", field="state")
    # What is leased comes back first: budget databases see it closed, settle what they hold and return the rest.
    held = any(lease.escrow for lease in book.leases.values())
    left = held or book.available or has_pending(book)
    book.state = "CLOSING" if change.state == "CLOSED" and left else change.state
    book.state_reason = change.reason
    book.changes.state = True
    return True


def left_lots(book: Book) -> int:
    """How many grants have something left, or are still to take effect."""
    return sum(bool(lot.free or lot.leased or lot.pending) for lot in book.lots.values())


def _check_grant(book: Book, grant: PutGrant, now: datetime) -> None:
    if book.state in ENDING:
        raise Refusal("WALLET_CLOSED", f"{book.wallet} is closed; put the money into another wallet")
    if grant.expires_at is not None and grant.expires_at <= now:
        raise Refusal(
            "EXPIRY_PASSED",
            f"it would expire at {grant.expires_at.isoformat()}, which has passed",
            field="grant.expire_time",
        )
    if grant.expires_at is not None and grant.effective_at is not None and grant.expires_at <= grant.effective_at:
        raise Refusal("EXPIRY_PASSED", "it would expire before it takes effect", field="grant.expire_time")
    if left_lots(book) >= LOTS_MAX:
        raise Refusal(
            "TOO_MANY_GRANTS",
            f"{book.wallet} has {LOTS_MAX} grants with something left, which is the limit; put in fewer, larger ones",
        )
