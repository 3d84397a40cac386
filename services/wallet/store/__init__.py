"""The wallet database's SQL.

Locks are taken in one order, everywhere: rows of `wallets`, sorted by org and name; then whatever hangs on a recharge;
then rows of `directories`, sorted by org. The lock of a wallet's row guards all that belongs to it: accounts, lots,
tags, leases and their operations; none of these needs a lock of its own. Request ids are not locked: a conflict shows
when the answer is stored, and the transaction runs again.
"""

from services.wallet.store.wallets import (
    Balance,
    WalletRow,
    bump_directory,
    clock,
    get_wallet,
    lock_wallet,
    wallet_balance,
)

__all__ = [
    "Balance",
    "WalletRow",
    "bump_directory",
    "clock",
    "get_wallet",
    "lock_wallet",
    "wallet_balance",
]
