"""The audit finds every kind of damage, and nothing where there is none."""

import asyncpg
import pytest

from services.wallet.audit import audit, examine
from services.wallet.domain.commands import Reclaim
from tests.support.databases import Database
from tests.support.wallets import Books, capture, extend, give_up, no_more_checks, reverse, wallet_name

WALLET, OTHER = wallet_name(1), wallet_name(2, "beta")

DAMAGE = [
    ("I4.balances_equal_transfers", "UPDATE transfers SET amount_nanos = amount_nanos + 1 WHERE kind = 'extend'"),
    ("I4.balances_equal_transfers", "DELETE FROM transfers WHERE kind = 'return'"),
    ("I4.debits_equal_credits", "UPDATE accounts SET credits_nanos = credits_nanos + 1 WHERE kind = 'spent'"),
    ("I5.escrow_equals_leases", "UPDATE leases SET extended_nanos = extended_nanos + 1"),
    ("I5.lots_equal_accounts", "UPDATE grants SET free_nanos = free_nanos + 1, amount_nanos = amount_nanos + 1"),
    ("I5.tags_equal_lots", "UPDATE tags SET spent_nanos = spent_nanos + 1"),
    ("I5.tags_equal_leases", "UPDATE tags SET leased_nanos = leased_nanos + 1"),
    ("I2.lease_numbers_are_whole", "DELETE FROM lease_ops WHERE n = 1"),
    ("I2.lease_numbers_are_whole", "UPDATE lease_ops SET captured_nanos = captured_nanos + 1 WHERE n = 4"),
    ("I6.captures_equal_spent", "UPDATE capture_lines SET amount_nanos = amount_nanos + 1"),
    ("I5.leases_in_step", "UPDATE leases SET quarantine = 'why'"),
]


@pytest.fixture
async def filled(books: Books) -> Books:
    for wallet in (WALLET, OTHER):
        await books.create(wallet)
        await books.grant(wallet, "g", 1_000)
        await books.run(
            extend(wallet, 1, 500), capture(wallet, 2, 700, 700), reverse(wallet, 3, 40, 40), extend(wallet, 4, 90)
        )
        await books.run(Reclaim(wallet.split("/")[1], wallet, "b", "lost"))
        await books.run(
            extend(wallet, 1, 100, epoch=1),
            capture(wallet, 2, 30, 30, epoch=1),
            give_up(wallet, 3, 20, epoch=1),
            reverse(wallet, 4, 5, 5, epoch=1),
        )
    return books


async def failing(conn: asyncpg.Connection, org: str | None = None) -> set[str]:
    report = await examine(conn, org, no_more_checks)
    assert all(check.detail for check in report.checks)
    # Whoever owns the tables may of course change them.
    return {check.name for check in report.checks if not check.ok} - {"I4.ledger_is_append_only"}


async def test_sound_books_pass_and_the_totals_are_told(filled: Books) -> None:
    report = await audit(filled.pool, None, no_more_checks)
    assert [] == [check for check in report.checks if not check.ok]
    assert [
        *((WALLET, 0, 4, 790, 700, 0, 40), (WALLET, 1, 4, 100, 30, 20, 5)),
        *((OTHER, 0, 4, 790, 700, 0, 40), (OTHER, 1, 4, 100, 30, 20, 5)),
    ] == [
        (
            *(lease.wallet, lease.epoch, lease.n, lease.extended_total_nanos),
            *(lease.captured_total_nanos, lease.returned_total_nanos, lease.reversed_total_nanos),
        )
        for lease in sorted(report.leases, key=lambda lease: lease.wallet)
    ]
    assert [("orgs/acme", "USD", 685), ("orgs/beta", "USD", 685)] == [
        (total.org, total.currency_code, total.cost_nanos) for total in report.captured
    ]


async def test_every_damage_is_found_and_another_organisation_is_not_blamed(filled: Books, fresh: Database) -> None:
    owner = await asyncpg.connect(fresh.owner_dsn)
    try:
        for check, statement in DAMAGE:
            assert set() == await failing(owner)
            transaction = owner.transaction()
            await transaction.start()
            await owner.execute(f"{statement} {'AND' if ' WHERE ' in statement else 'WHERE'} org = 'acme'")
            assert check in await failing(owner), statement
            assert check in await failing(owner, "acme"), statement
            assert set() == await failing(owner, "beta"), statement
            await transaction.rollback()
    finally:
        await owner.close()


async def test_a_right_too_many_is_found(filled: Books, fresh: Database) -> None:
    owner = await asyncpg.connect(fresh.owner_dsn)
    await owner.execute("GRANT DELETE ON transfers TO wallet_service")
    await owner.close()
    report = await audit(filled.pool, None, no_more_checks)
    assert ["I4.ledger_is_append_only"] == [check.name for check in report.checks if not check.ok]
