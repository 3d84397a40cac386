"""The wallet's side of the lease protocol: which numbers apply, and what each operation does.

Operations of a lease carry numbers without gaps. Only the next one applies; a repeated one gets its stored answer;
everything else shows that the two sides have lost each other, and is refused. What cannot happen between two healthy
sides also quarantines the lease:

- a number of another epoch (once the new epoch has operations, or a wallet restored from a backup);
- a number below the last with another content, or never stored (a holder restored from a backup);
- totals that do not follow from the last ones.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final

from services.wallet.domain import sizing
from services.wallet.domain.book import Book, Lease
from services.wallet.domain.refusals import Refusal

LINES_MAX: Final = 1_000
"""The most lines of one capture or reversal."""
BATCH_OPS_MAX: Final = 500
"""The most operations of one batch."""
BATCH_LINES_MAX: Final = 5_000
"""The most lines of all operations of one batch."""


class OpKind(StrEnum):
    """What an operation does."""

    EXTEND = "extend"
    CAPTURE = "capture"
    RETURN = "return"
    REVERSE = "reverse"


@dataclass(frozen=True, slots=True)
class Line:
    """What captured money went to.

    Attributes:
        month: Of use, `YYYY-MM`.
        amount: Nano-units.
    """

    provider: str
    model: str
    month: str
    amount: int
    calls: int


@dataclass(frozen=True, slots=True)
class LeaseOp:
    """One numbered operation of a holder on a wallet."""

    org: str
    wallet: str
    holder: str
    epoch: int
    n: int

    kind: ClassVar[OpKind]

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What identifies it for ever."""
        return (self.org, self.wallet, self.holder, self.epoch, self.n)


@dataclass(frozen=True, slots=True)
class Extend(LeaseOp):
    """Wants `ask` more, of which `need` is needed now."""

    ask: int
    need: int

    kind: ClassVar[OpKind] = OpKind.EXTEND


@dataclass(frozen=True, slots=True)
class Capture(LeaseOp):
    """Posts what was spent; `total` takes it in."""

    total: int
    lines: tuple[Line, ...]

    kind: ClassVar[OpKind] = OpKind.CAPTURE

    @property
    def amount(self) -> int:
        """What is captured, in nano-units."""
        return sum(line.amount for line in self.lines)


@dataclass(frozen=True, slots=True)
class Return(LeaseOp):
    """Gives unspent money back; `total` takes it in."""

    total: int

    kind: ClassVar[OpKind] = OpKind.RETURN


@dataclass(frozen=True, slots=True)
class Reverse(LeaseOp):
    """Gives captured money back; `total` takes it in."""

    total: int
    lines: tuple[Line, ...]

    kind: ClassVar[OpKind] = OpKind.REVERSE

    @property
    def amount(self) -> int:
        """What is given back, in nano-units."""
        return sum(line.amount for line in self.lines)


AnyOp = Extend | Capture | Return | Reverse


@dataclass(frozen=True, slots=True)
class Totals:
    """A lease's totals after its operation `n`, in nano-units."""

    epoch: int
    n: int
    extended: int
    captured: int
    returned: int
    reversed: int


@dataclass(frozen=True, slots=True)
class StoredOp:
    """An operation that was applied, and what it was answered.

    Attributes:
        payload: Digest of its content.
        amount: What it moved, in nano-units; for an extension what was granted.
    """

    kind: OpKind
    payload: bytes
    amount: int
    totals: Totals


def payload_of(op: AnyOp) -> bytes:
    """A digest of the operation's content."""
    content: list[object] = [op.kind.value]
    if isinstance(op, Extend):
        content += [op.ask, op.need]
    else:
        content.append(op.total)
    if isinstance(op, Capture | Reverse):
        content += [[line.provider, line.model, line.month, line.amount, line.calls] for line in op.lines]
    return hashlib.sha256(json.dumps(content).encode()).digest()


def totals_of(lease: Lease) -> Totals:
    """Where a lease stands."""
    return Totals(lease.epoch, lease.n, lease.extended, lease.captured, lease.returned, lease.reversed)


def find_stored(lease: Lease | None, op: AnyOp, stored: StoredOp | None) -> StoredOp | None:
    """The answer of a repeated operation; None where the operation is the next one and may be applied.

    Raises:
        Refusal: The number, the epoch or the content does not fit.
    """
    epoch, last_n = (lease.epoch, lease.n) if lease else (0, 0)
    facts = {"last_n": str(last_n), "epoch": str(epoch)}
    if op.epoch != epoch:
        # A database that starts from nothing learns the epoch this way, for it has spent nothing yet; and so does one
        # whose lease was just reclaimed, for what it sends was on its way.
        newcomer = op.epoch < epoch and (last_n == 0 or (op.kind is OpKind.EXTEND and op.n == 1))
        raise Refusal(
            "LEASE_EPOCH",
            f"operation {op.n} is of epoch {op.epoch} and the lease is in epoch {epoch}; its numbers begin again there",
            field="epoch",
            facts=facts,
            quarantine=lease is not None and not newcomer,
        )
    if op.n <= last_n:
        if stored is not None and stored.payload == payload_of(op):
            return stored
        raise Refusal(
            "LEASE_PAYLOAD",
            f"operation {op.n} was applied with another content; the last one is {last_n}",
            field="n",
            facts=facts,
            quarantine=op.n < last_n,
        )
    if lease and lease.quarantine is not None:
        raise Refusal(
            "QUARANTINED",
            f"the lease is quarantined: {lease.quarantine}; an operator must look and reclaim it",
            facts=facts,
        )
    if op.n > last_n + 1:
        raise Refusal(
            "LEASE_GAP",
            f"operation {op.n} came after {last_n}; send {last_n + 1} first",
            field="n",
            facts=facts,
        )
    return None


def apply(book: Book, op: AnyOp, now: datetime, floor: int = sizing.FLOOR_NANOS) -> StoredOp:
    """Applies the next operation of a lease; the lease begins with its first.

    Args:
        book: Of the operation's wallet.
        op: Checked by `find_stored`.
        now: The deciding clock.
        floor: What a lease without history may hold, in nano-units.

    Raises:
        Refusal: Its totals do not follow, or an amount is out of range; the book is unchanged.
    """
    lease = book.leases.get(op.holder) or Lease(op.holder, flow_at=now)
    amount = _amount_of(book, lease, op)
    book.check_room(amount)
    book.begin()
    book.expire(now)
    book.leases[op.holder] = lease
    book.changes.leases.add(op.holder)
    reference = f"leases/{op.holder}/{lease.epoch}/{op.n}"
    _flow(lease, now)
    if isinstance(op, Extend):
        amount = _grant_size(book, lease, op, floor)
        book.extend(lease, amount, reference)
        lease.pull += amount
    elif isinstance(op, Capture):
        book.capture(lease, amount, reference)
        lease.burn += amount
    elif isinstance(op, Return):
        book.give_up(lease, amount, reference, now)
    else:
        book.reverse(lease, amount, reference, now)
    lease.n = op.n
    return StoredOp(op.kind, payload_of(op), amount, totals_of(lease))


def reclaim(book: Book, lease: Lease, now: datetime) -> int:
    """Ends a lease's epoch by force: its escrow is available again, and its numbers begin anew. Returns how much.

    What the holder had spent and not yet captured is lost to the books; the caller archives the old totals.
    """
    escrow = lease.escrow
    book.check_room(escrow)
    book.begin()
    book.expire(now)
    book.give_up(lease, escrow, f"leases/{lease.holder}/{lease.epoch}/reclaim", now)
    lease.epoch += 1
    lease.n = lease.extended = lease.captured = lease.returned = lease.reversed = 0
    lease.burn = lease.pull = 0
    lease.quarantine = None
    book.changes.leases.add(lease.holder)
    return escrow


def target_of(state: str, available: int, lease: Lease | None, now: datetime, floor: int = sizing.FLOOR_NANOS) -> int:
    """How much unspent money the holder should keep, in nano-units.

    Args:
        state: The wallet's: OPEN, FROZEN or CLOSED.
        available: What the wallet has free, in nano-units.
        lease: None before the first operation.
        now: The deciding clock.
        floor: What a lease without history may hold, in nano-units.
    """
    if lease is None:
        lease = Lease("", flow_at=now)
    burn, pull = (sizing.decayed(amount, lease.flow_at, now) for amount in (lease.burn, lease.pull))
    return sizing.target(
        pays=state == "OPEN" and lease.quarantine is None,
        available=available,
        escrow=lease.escrow,
        comfortable=sizing.comfort(burn, pull, floor),
    )


def _amount_of(book: Book, lease: Lease, op: AnyOp) -> int:
    """What the operation moves; of an extension the most that it can."""
    if isinstance(op, Extend):
        return min(max(op.ask, op.need), book.available)
    if isinstance(op, Return):
        amount, most, of = op.total - lease.returned, lease.escrow, "in escrow"
        follows = 0 <= amount <= most
    elif isinstance(op, Reverse):
        amount, most, of = op.amount, lease.captured - lease.reversed, "captured"
        follows = op.total == lease.reversed + amount and amount <= most
    else:
        amount, most, of = op.amount, book.available, "available"
        follows = op.total == lease.captured + amount
    if not follows:
        raise Refusal(
            "LEASE_TOTALS",
            f"{op.kind} {op.n} of {amount} nanos to a total of {op.total} does not follow: {most} are {of}, "
            f"and the lease stands at captured {lease.captured}, returned {lease.returned}, "
            f"reversed {lease.reversed}",
            facts={"last_n": str(lease.n), "epoch": str(lease.epoch)},
            quarantine=True,
        )
    return amount


def _flow(lease: Lease, now: datetime) -> None:
    lease.burn = sizing.decayed(lease.burn, lease.flow_at, now)
    lease.pull = sizing.decayed(lease.pull, lease.flow_at, now)
    lease.flow_at = max(lease.flow_at, now)


def _grant_size(book: Book, lease: Lease, op: Extend, floor: int) -> int:
    if book.state != "OPEN":
        return 0
    # `pull` counts what was just extended, so a holder that comes back soon gets twice as much.
    room = sizing.comfort(lease.burn, lease.pull, floor)
    return sizing.grant_size(ask=op.ask, need=op.need, available=book.available, room=room)
