"""The ledger's accounts and the transfers between them.

A transfer moves a positive amount from one account to another of the same wallet and currency, so every transfer
balances by itself. What may not go below zero is said here and, as constraints, in the database.

    grant      funding | promotion → available
    extend     available → escrow of a holder
    debt       debt → escrow of a holder            spent beyond what there was
    capture    escrow of a holder → spent
    return     escrow of a holder → available
    reverse    spent → debt, then spent → available
    expire     available → expired
    repay      available → debt
    refund     available → refunded             refund_failed: back
    dispute    available → disputed, then debt → disputed
    reinstate  disputed → available, and disputed → debt
    move       available → moved_out, and in the other wallet moved_in → available
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LEDGER_MAX_NANOS: Final = 2**63 - 1
"""The most that an account's debits or credits can reach, in nano-units: about 9.2 billion units."""
RECHARGE_ROOM_NANOS: Final = 10**18
"""What is kept free of that for recharges on their way: a charge was checked before it was made, and is not refused."""


class AccountKind(StrEnum):
    """What an account's money is."""

    FUNDING = "funding"
    PROMOTION = "promotion"
    AVAILABLE = "available"
    ESCROW = "escrow"
    SPENT = "spent"
    DEBT = "debt"
    EXPIRED = "expired"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    MOVED_IN = "moved_in"
    MOVED_OUT = "moved_out"


WALLET_KINDS: Final = (
    AccountKind.FUNDING,
    AccountKind.PROMOTION,
    AccountKind.AVAILABLE,
    AccountKind.SPENT,
    AccountKind.DEBT,
    AccountKind.EXPIRED,
)
"""The accounts that every wallet has from the start; others come with their first transfer."""
_SOURCES: Final = frozenset({AccountKind.FUNDING, AccountKind.PROMOTION, AccountKind.DEBT, AccountKind.MOVED_IN})


class TransferKind(StrEnum):
    """What happened."""

    GRANT = "grant"
    EXTEND = "extend"
    CAPTURE = "capture"
    RETURN = "return"
    REVERSE = "reverse"
    EXPIRE = "expire"
    DEBT = "debt"
    REPAY = "repay"
    REFUND = "refund"
    REFUND_FAILED = "refund_failed"
    DISPUTE = "dispute"
    REINSTATE = "reinstate"
    MOVE = "move"


@dataclass(slots=True)
class Account:
    """One account.

    Attributes:
        id: `{wallet}/{kind}`, or `{wallet}/escrow/{holder}`.
        kind: What its money is.
        debits: All that was ever taken from it, in nano-units.
        credits: All that was ever put into it, in nano-units.
    """

    id: str
    kind: AccountKind
    debits: int = 0
    credits: int = 0

    @property
    def balance(self) -> int:
        """Credits less debits; never below zero, and for sources never above."""
        return self.credits - self.debits

    def holds(self) -> bool:
        """Whether the balance is on the side where it must be."""
        return self.balance <= 0 if self.kind in _SOURCES else self.balance >= 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One row of the ledger, before it has a number.

    Attributes:
        transaction: Transfers with the same value belong together and succeed or fail together.
        reference: A grant, a recharge, or a lease operation.
    """

    transaction: int
    kind: TransferKind
    from_account: str
    to_account: str
    amount: int
    reference: str


def account_id(wallet: str, kind: AccountKind, holder: str = "") -> str:
    """An account's id; `holder` only for escrow."""
    return f"{wallet}/{kind}/{holder}" if kind is AccountKind.ESCROW else f"{wallet}/{kind}"


def new_accounts(wallet: str) -> list[Account]:
    """The accounts of a new wallet."""
    return [Account(account_id(wallet, kind), kind) for kind in WALLET_KINDS]
