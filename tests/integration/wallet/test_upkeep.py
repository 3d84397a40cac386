"""Grants expire by themselves, request ids are forgotten, and neither waits for anyone."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from services.kit.database import transact
from services.wallet.domain.commands import RequestKey
from services.wallet.store.wallets import find_keys, forget_keys, insert_keys
from tests.support.databases import Database
from tests.support.wallets import Books, assert_sound, capture, extend, give_up, reverse, wallet_name

PAST = datetime.now(UTC) - timedelta(days=1)


async def age(books: Books, fresh: Database, wallet: str) -> None:
    """Lets a wallet's grants with an expiry have expired."""
    owner = await asyncpg.connect(fresh.owner_dsn)
    await owner.execute("UPDATE grants SET expires_at = $1 WHERE wallet = $2 AND expires_at IS NOT NULL", PAST, wallet)
    await owner.close()


async def lots(books: Books, wallet: str) -> list[tuple[int, ...]]:
    rows = await books.pool.fetch(
        "SELECT free_nanos, leased_nanos, spent_nanos, expired_nanos FROM grants WHERE wallet = $1 ORDER BY name",
        wallet,
    )
    return [tuple(row) for row in rows]


async def test_expiry_takes_what_is_free_and_never_what_is_leased(books: Books, fresh: Database) -> None:
    wallet = wallet_name()
    await books.create(wallet)
    await books.grant(wallet, "a", 10, expires_at=datetime.now(UTC) + timedelta(days=1))
    await books.grant(wallet, "b", 10)
    await books.run(extend(wallet, 1, 4))
    await age(books, fresh, wallet)
    books.hooked.clear()
    assert 1 == await transact(books.pool, lambda conn: books.ledger.expire_due(conn, 100))
    assert [[("acme", wallet)]] == books.hooked
    assert [(0, 4, 0, 6), (10, 0, 0, 0)] == await lots(books, wallet)
    assert 0 == await transact(books.pool, lambda conn: books.ledger.expire_due(conn, 100))
    # The leased part is still spent; what comes back of it expires in the transaction that brings it.
    await books.run(capture(wallet, 2, 1, 1), give_up(wallet, 3, 2))
    assert [(0, 1, 1, 8), (10, 0, 0, 0)] == await lots(books, wallet)


async def test_whatever_expires_on_the_way_the_policy_is_asked(books: Books, fresh: Database) -> None:
    """A return, a reversal and an extension expire what is due, so the balance falls where nothing was spent."""
    soon = datetime.now(UTC) + timedelta(days=1)
    returned, reversed_, extended = names = [wallet_name(number) for number in range(3)]
    for number, name in enumerate(names):
        await books.create(name)
        await books.grant(name, f"g{number}", 10, expires_at=soon)
    await books.run(extend(returned, 1, 4), extend(reversed_, 1, 4), capture(reversed_, 2, 4, 4))
    await books.grant(extended, "later", 10)
    for name in names:
        await age(books, fresh, name)
    books.hooked.clear()
    for step in (give_up(returned, 2, 4), reverse(reversed_, 3, 4, 4), extend(extended, 1, 5)):
        await books.run(step)
    assert [[("acme", name)] for name in names] == books.hooked
    # What expires nothing and is filled asks nobody.
    await books.run(extend(extended, 2, 1), give_up(extended, 3, 1))
    assert len(names) == len(books.hooked)
    await assert_sound(books.pool)


async def test_expiry_passes_over_wallets_that_someone_works_on(books: Books, fresh: Database) -> None:
    names = [wallet_name(number) for number in range(3)]
    for number, name in enumerate(names):
        await books.create(name)
        await books.grant(name, f"g{number}", 10, expires_at=datetime.now(UTC) + timedelta(days=1))
        await age(books, fresh, name)
    async with books.pool.acquire() as busy, busy.transaction():
        await busy.execute("SELECT FROM wallets WHERE name = $1 FOR NO KEY UPDATE", names[1])
        looked_at = await asyncio.wait_for(transact(books.pool, lambda conn: books.ledger.expire_due(conn, 100)), 5)
        assert 2 == looked_at
    assert 1 == await transact(books.pool, lambda conn: books.ledger.expire_due(conn, 100))


async def test_request_ids_are_forgotten_when_they_no_longer_protect(books: Books) -> None:
    old, new = (RequestKey("acme", "CreateGrant", id_, bytes(32)) for id_ in ("old", "new"))
    now = datetime.now(UTC)
    async with books.pool.acquire() as conn:
        assert await insert_keys(conn, [(old, b"1")], now - timedelta(days=8))
        assert await insert_keys(conn, [(new, b"2")], now)
        assert not await insert_keys(conn, [(new, b"3")], now)
        assert 1 == await forget_keys(conn, now - timedelta(days=7), 100)
        assert [("acme", "CreateGrant", "new")] == list(await find_keys(conn, [old, new]))
