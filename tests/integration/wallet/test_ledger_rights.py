"""What the database itself forbids, whatever the service does."""

# ruff: noqa: S608 - table names are constants of the test

from contextlib import nullcontext

import asyncpg
import pytest

from tests.support.databases import Database
from tests.support.wallets import Books, capture, extend, wallet_name

WALLET = wallet_name()
LEDGER = ["transfers", "lease_ops", "capture_lines", "lease_epochs"]


@pytest.fixture
async def filled(books: Books) -> Books:
    await books.create(WALLET)
    await books.grant(WALLET, "g", 100)
    await books.run(extend(WALLET, 1, 50), capture(WALLET, 2, 10, 10))
    return books


async def test_the_service_adds_to_the_ledger_and_never_rewrites_it(filled: Books) -> None:
    for table in LEDGER:
        for statement in (
            f"UPDATE {table} SET org = org",
            f"DELETE FROM {table}",
            f"TRUNCATE {table} CASCADE",
            f"ALTER TABLE {table} ADD x text",
            f"DROP TABLE {table}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await filled.pool.execute(statement)
    assert 3 == await filled.pool.fetchval("SELECT count(*) FROM transfers")


async def test_the_service_cannot_delete_money(filled: Books) -> None:
    for table in ("accounts", "grants", "leases", "wallets"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await filled.pool.execute(f"DELETE FROM {table}")


async def test_no_place_goes_below_zero_and_no_lot_loses_a_nano(filled: Books) -> None:
    for statement in (
        "UPDATE accounts SET debits_nanos = credits_nanos + 1 WHERE kind = 'available'",
        "UPDATE accounts SET debits_nanos = credits_nanos + 1 WHERE kind = 'escrow'",
        "UPDATE accounts SET credits_nanos = debits_nanos + 1 WHERE kind = 'funding'",
        "UPDATE accounts SET credits_nanos = debits_nanos + 1 WHERE kind = 'debt'",
        "UPDATE grants SET free_nanos = free_nanos + 1",
        "UPDATE grants SET free_nanos = -1, spent_nanos = spent_nanos + free_nanos + 1",
        "UPDATE leases SET captured_nanos = extended_nanos + 1",
        "UPDATE leases SET reversed_nanos = captured_nanos + 1",
        "UPDATE tags SET leased_nanos = -1",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await filled.pool.execute(statement)


async def test_a_row_of_the_ledger_balances_by_construction(filled: Books) -> None:
    row: dict[str, object] = {
        "org": "acme",
        "transaction_id": "00000000-0000-0000-0000-000000000001",
        "wallet": WALLET,
        "kind": "extend",
        "from_account": f"{WALLET}/available",
        "to_account": f"{WALLET}/escrow/b",
        "amount_nanos": 1,
        "currency": "USD",
        "posted_at": "now",
        "reference": "",
    }
    changes: list[tuple[dict[str, object], type[Exception] | None]] = [
        ({"amount_nanos": 0}, asyncpg.CheckViolationError),
        ({"amount_nanos": -5}, asyncpg.CheckViolationError),
        ({"to_account": f"{WALLET}/available"}, asyncpg.CheckViolationError),
        ({"kind": "gift"}, asyncpg.CheckViolationError),
        ({"currency": "EUR"}, asyncpg.ForeignKeyViolationError),
        ({"to_account": f"{WALLET}/pocket"}, asyncpg.ForeignKeyViolationError),
        ({"org": "other"}, asyncpg.ForeignKeyViolationError),
        ({}, None),
    ]
    for change, error in changes:
        values = ", ".join(f"'{value}'" for value in (row | change).values())
        with nullcontext() if error is None else pytest.raises(error):
            await filled.pool.execute(f"INSERT INTO transfers ({', '.join(row)}) VALUES ({values})")


async def test_one_recharge_makes_one_grant_however_often_it_is_completed(filled: Books) -> None:
    insert = (
        "INSERT INTO grants SELECT org, $1, wallet, kind, currency, amount_nanos, priority, expires_at, reference, "
        "'orgs/acme/recharges/r', created_at, free_nanos, leased_nanos, spent_nanos, expired_nanos FROM grants "
        "WHERE name = 'orgs/acme/grants/g'"
    )
    await filled.pool.execute(insert, "one")
    with pytest.raises(asyncpg.UniqueViolationError):
        await filled.pool.execute(insert, "two")


async def test_every_key_begins_with_the_organisation(fresh: Database) -> None:
    owner = await asyncpg.connect(fresh.owner_dsn)
    try:
        wrong = await owner.fetch(
            """
            SELECT c.conrelid::regclass::text, c.conname FROM pg_constraint c
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
            WHERE c.contype IN ('p', 'u', 'f') AND c.connamespace = 'public'::regnamespace AND a.attname <> 'org'
              AND c.conrelid::regclass::text
                  NOT IN ('schema_migrations', 'installation', 'dispute_sweep', 'refund_sweep')
            """
        )
    finally:
        await owner.close()
    assert [] == wrong
