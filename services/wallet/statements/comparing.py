"""Compares Stripe with the books. What an old list shows, or a charge in between, is looked at once more."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from services.kit import subject
from services.kit.errors import invalid
from services.kit.subject import SubjectError
from services.wallet.refunds.domain.rules import ChargeFacts
from services.wallet.refunds.stripe import MoneyBack
from services.wallet.statements import domain, store
from services.wallet.statements.domain import Difference
from services.wallet.statements.lists import Lists, StripeLists

LOOKED_AT_AGAIN_MAX: Final = 20
"""The most PaymentIntents that are asked for one by one. Where more differ at once, it is no charge in between."""
SNAPSHOT: Final[dict[str, Any]] = {"isolation": "repeatable_read", "readonly": True}
# What of the books must agree for every wallet, by the kind of difference that it shows.
_CHECKS: Final = {
    "LEDGER_GRANTS": "I5.lots_equal_accounts",
    "LEDGER_REFUNDS": "I8.money_back_is_in_the_ledger",
    "CAPTURES_LINES": "I6.captures_equal_spent",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What is compared.

    Attributes:
        installation: Whose charges.
        org: The bare id.
        wallet: Its full name; None: all of the organisation.
        since: The charges from then on.
    """

    installation: str
    org: str
    wallet: str | None
    since: datetime

    def has(self, one: ChargeFacts) -> bool:
        """Whether a PaymentIntent is of it."""
        return (one.installation, one.org) == (self.installation, self.org) and self.wallet in {None, one.wallet}


@dataclass(frozen=True, slots=True)
class Compared:
    """What was found.

    Attributes:
        charged: How many PaymentIntents have charged.
    """

    differences: list[Difference]
    charged: int
    books: store.Books


class Comparison:
    """Compares.

    Args:
        pool: The wallet's database.
        stripe: The account.
    """

    def __init__(self, pool: asyncpg.Pool, stripe: MoneyBack) -> None:
        self._pool = pool
        self._stripe = stripe
        self._lists = StripeLists(stripe)

    async def compare(self, scope: Scope, lists_age_max_s: float) -> Compared:
        """Stripe, whose lists may be as old as that, the charges, grants, refunds and disputes, and the ledger.

        Raises:
            PurseError: UNAVAILABLE; there are too many charges.
        """
        # Stripe first: what is charged meanwhile is stored by the time that the books are read.
        first = await self._look(scope, await self._lists.since(scope.since, lists_age_max_s))
        doubted = list(dict.fromkeys(one.payment_intent for one in first.differences if one.payment_intent))
        doubted = doubted[:LOOKED_AT_AGAIN_MAX]
        stay: set[tuple[str, str]] = set()
        if doubted:
            again = await self._look(scope, await self._lists.of(doubted))
            stay = {one.key for one in again.differences}
        differences = [one for one in first.differences if one.payment_intent not in doubted or one.key in stay]
        async with self._pool.acquire() as connection, connection.transaction(**SNAPSHOT):
            differences += await _ledger_differences(connection, scope)
        return Compared(differences, first.charged, first.books)

    async def strays(self, installation: str, since: datetime) -> list[str]:
        """Organisations, by their bare ids, that charges since then name and that never had a wallet here, sorted.

        Raises:
            PurseError: UNAVAILABLE.
        """
        charges = await self._stripe.charges_since(since)
        named = {one.org for one in charges if one.installation == installation and one.status == domain.SUCCEEDED}
        async with self._pool.acquire() as connection:
            return await store.unknown_orgs(connection, sorted(filter(_is_org, named)))

    async def _look(self, scope: Scope, lists: Lists) -> Compared:
        async with self._pool.acquire() as connection, connection.transaction(**SNAPSHOT):
            books = await store.books(connection, scope.org, scope.wallet, scope.since)
            went_back = [*{*lists.refunds, *lists.disputes}]
            earlier = await store.earlier_books(connection, scope.org, scope.wallet, scope.since, went_back)
        if max(len(books.charges), len(earlier.charges)) > store.CHARGES_MAX:
            raise invalid("from_time", f"there are more than {store.CHARGES_MAX} charges since; ask for less")
        seen = [one for one in lists.charges if scope.has(one)]
        differences = domain.compare_charges(seen, books.charges, books.grants)
        for charge in books.charges:
            name = charge.payment_intent
            differences += domain.compare_refunds(charge, lists.refunds.get(name, []), books.refunds.get(name, []))
            differences += domain.compare_disputes(charge, lists.disputes.get(name, []), books.disputes.get(name, []))
        for charge in earlier.charges:
            name = charge.payment_intent
            # Of charges from before the lists begin they have what went back since, and nothing else.
            refunds = lists.refunds.get(name, [])
            ids = {one.id for one in refunds}
            stored = [row for row in earlier.refunds.get(name, []) if row.stripe_refund in ids]
            differences += domain.compare_refunds(charge, refunds, stored)
            differences += domain.compare_disputes(charge, lists.disputes.get(name, []), earlier.disputes.get(name, []))
        return Compared(differences, sum(one.status == domain.SUCCEEDED for one in seen), books)


def _is_org(id_: str) -> bool:
    """Whether metadata at Stripe, which anyone there may write, names an organisation."""
    try:
        return subject.parse(f"orgs/{id_}").depth == 1
    except SubjectError:
        return False


async def _ledger_differences(connection: asyncpg.Connection, scope: Scope) -> Sequence[Difference]:
    found = []
    for kind, check in _CHECKS.items():
        for detail in await store.broken(connection, scope.org, check):
            wallet = detail.partition(":")[0]
            if scope.wallet in {None, wallet}:
                found.append(Difference(kind, wallet, wallet, detail))
    return found
