"""What a process remembers of the database: policies under their epoch, wallet directories at most 5 s old."""

from collections.abc import Iterable
from typing import Final, TypeVar

import asyncpg

from services.budget.domain.plan import Directory, Policy
from services.budget.store import budgets

T = TypeVar("T")

_ORGS_MAX: Final = 20_000


class Policies:
    """Policies by organisation. Each use is checked against the epoch that the transaction holds."""

    def __init__(self) -> None:
        self._by_org: dict[str, Policy] = {}

    async def at_epochs(self, connection: asyncpg.Connection, epochs: dict[str, int]) -> dict[str, Policy]:
        """The policies at these epochs, under the locks that the caller holds.

        What is missing is loaded, and of what is older only what has changed since.
        """
        found = {}
        for org, epoch in epochs.items():
            policy = self._by_org.get(org)
            if policy is None or policy.epoch != epoch:
                # An epoch from before the known one is that of a restored database, of which nothing is known.
                if policy is None or policy.epoch > epoch:
                    policy = await budgets.load_policy(connection, org, epoch)
                else:
                    policy = await budgets.reload_policy(connection, policy, epoch)
                _remember(self._by_org, org, policy)
            found[org] = policy
        return found


class Directories:
    """Wallet directories by organisation."""

    def __init__(self) -> None:
        self._by_org: dict[str, Directory] = {}

    def get(self, org: str) -> Directory | None:
        """The organisation's wallets; None: not known yet."""
        return self._by_org.get(org)

    def put(self, directories: Iterable[Directory]) -> None:
        """Takes those that are newer than what is known."""
        for directory in directories:
            known = self._by_org.get(directory.org)
            if known is None or directory.version > known.version:
                _remember(self._by_org, directory.org, directory)

    def versions(self) -> dict[str, int]:
        """What is known, by organisation."""
        return {org: directory.version for org, directory in self._by_org.items()}


def _remember(memo: dict[str, T], org: str, value: T) -> None:
    if len(memo) >= _ORGS_MAX and org not in memo:
        memo.pop(next(iter(memo)))
    memo[org] = value
