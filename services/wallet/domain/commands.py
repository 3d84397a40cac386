"""What else can be done to a wallet: grants, states, and the forced end of a lease's epoch."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.wallet.domain import leases
from services.wallet.domain.accounts import AccountKind
from services.wallet.domain.book import Book, Lot
from services.wallet.domain.refusals import Refusal

LOTS_MAX: Final = 1_000
"""The most grants with something left in one wallet; a recharge is never refused for it."""
DEFAULT_PRIORITY: Final = {"PAID": 100, "PROMOTIONAL": 50}
_SOURCES: Final = {"PAID": AccountKind.FUNDING, "PROMOTIONAL": AccountKind.PROMOTION}


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


Command = leases.AnyOp | PutGrant | SetState | Reclaim


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
    lot = Lot(grant.name, grant.amount, grant.priority, grant.expires_at, now, grant.amount)
    book.add_lot(lot, _SOURCES[grant.kind], grant.reference)
    book.expire(now)
    return lot


def set_state(book: Book, change: SetState) -> bool:
    """Changes a wallet's state; returns whether anything changed.

    Raises:
        Refusal: The wallet is closed, which is for good.
    """
    if (book.state, book.state_reason) == (change.state, change.reason):
        return False
    if book.state == "CLOSED":
        raise Refusal("WALLET_CLOSED", f"{book.wallet} is closed for good; create another wallet", field="state")
    book.state, book.state_reason = change.state, change.reason
    book.changes.state = True
    return True


def _check_grant(book: Book, grant: PutGrant, now: datetime) -> None:
    if book.state == "CLOSED":
        raise Refusal("WALLET_CLOSED", f"{book.wallet} is closed; put the money into another wallet")
    if grant.expires_at is not None and grant.expires_at <= now:
        raise Refusal(
            "EXPIRY_PASSED",
            f"it would expire at {grant.expires_at.isoformat()}, which has passed",
            field="grant.expire_time",
        )
    if sum(bool(lot.free or lot.leased) for lot in book.lots.values()) >= LOTS_MAX:
        raise Refusal(
            "TOO_MANY_GRANTS",
            f"{book.wallet} has {LOTS_MAX} grants with something left, which is the limit; put in fewer, larger ones",
        )
