"""Several replicas at once: nothing is given out twice, and nobody waits for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
import pytest

from services.kit.errors import PurseError
from services.kit.groupcommit import GroupCommit
from services.wallet import ledger, store
from services.wallet.domain.commands import Command, PutGrant, RequestKey
from services.wallet.ledger import Answer, GrantAnswer, LeaseAnswer, Replayed
from tests.support.wallets import Books, assert_sound, capture, extend, give_up, wallet_name

Commits = GroupCommit[Command, Answer]


@asynccontextmanager
async def replicas(books: Books, count: int = 3) -> AsyncIterator[list[Commits]]:
    """Processes that share a database, as far as PostgreSQL can tell."""
    made: list[Commits] = [
        GroupCommit(books.pool, books.ledger.run_batch, org_of=lambda c: c.org, name=f"replica {number}")
        for number in range(count)
    ]
    yield made
    for one in made:
        await one.close()


async def test_extends_of_one_wallet_never_grant_more_than_it_has(books: Books) -> None:
    wallet, total = wallet_name(), 1_000
    await books.create(wallet)
    await books.grant(wallet, "a", 600)
    await books.grant(wallet, "b", 400)
    async with replicas(books) as made:
        answers = await asyncio.gather(
            *(made[number % 3].submit(extend(wallet, 1, 30, ask=100, holder=f"h{number}")) for number in range(60))
        )
    granted = [answer.moved for answer in answers if isinstance(answer, LeaseAnswer)]
    assert 60 == len(granted)
    assert total == sum(granted)
    assert min(g for g in granted if g) >= 1
    assert [(0, total)] == [(b.available, b.escrow) for b in [await store.wallet_balance(books.pool, "acme", wallet)]]
    await assert_sound(books.pool)


async def test_one_operation_through_all_replicas_is_applied_once(books: Books) -> None:
    wallet = wallet_name()
    await books.create(wallet)
    await books.grant(wallet, "a", 1_000)
    async with replicas(books) as made:
        for n, op in enumerate((extend(wallet, 1, 300), capture(wallet, 2, 100, 100), give_up(wallet, 3, 50)), start=1):
            answers = await asyncio.gather(*(one.submit(op) for one in made for _ in range(4)))
            assert 1 == len({(a.moved, a.totals) for a in answers if isinstance(a, LeaseAnswer)})
            assert n == await books.pool.fetchval("SELECT count(*) FROM lease_ops")
    await assert_sound(books.pool)


async def test_one_request_through_all_replicas_makes_one_grant(books: Books) -> None:
    wallets = [wallet_name(number) for number in range(2)]
    for wallet in wallets:
        await books.create(wallet)

    def put(wallet: str, payload: bytes) -> PutGrant:
        key = RequestKey("acme", "CreateGrant", "g", payload * 32)
        return PutGrant("acme", wallet, "orgs/acme/grants/g", "PAID", 5, "USD", 100, None, "grants/g", key=key)

    async with replicas(books) as made:
        answers = await asyncio.gather(
            *(one.submit(put(wallets[0], b"0")) for one in made for _ in range(3)),
            *(one.submit(put(wallets[1], b"1")) for one in made for _ in range(3)),
            return_exceptions=True,
        )
    # Which wallet was first is open; the other's requests are all told that the id is taken.
    refused = [answer for answer in answers if isinstance(answer, PurseError)]
    assert {"REQUEST_ID_REUSED"} == {error.reason for error in refused}
    assert 9 == len(refused)
    assert [1, 8] == [sum(isinstance(a, kind) for a in answers) for kind in (GrantAnswer, Replayed)]
    assert 1 == await books.pool.fetchval("SELECT count(*) FROM transfers")
    await assert_sound(books.pool)


async def test_batches_over_many_wallets_in_any_order_do_not_deadlock(books: Books) -> None:
    names = [wallet_name(number, org) for org in ("acme", "beta") for number in range(8)]
    for name in names:
        await books.create(name)
        await books.grant(name, f"g-{name[-1]}", 1_000)
    async with replicas(books) as made:
        last = dict.fromkeys(names, 0)
        for round_ in range(6):
            waiting = []
            for number, name in enumerate(names if round_ % 2 else reversed(names)):
                last[name] += 1
                waiting.append(made[number % 3].submit(extend(name, last[name], 3, ask=9)))
            assert all(isinstance(a, LeaseAnswer) for a in await asyncio.gather(*waiting))
    await assert_sound(books.pool)
    # One call of the hook a transaction and organisation, only for what ends a block or lowers a balance.
    assert {"acme", "beta"} == {org for touched in books.hooked for org, _ in touched}


async def test_the_hook_runs_in_the_transaction_and_can_stop_it(books: Books) -> None:
    wallet = wallet_name()
    await books.create(wallet)
    await books.grant(wallet, "a", 100)
    await books.run(extend(wallet, 1, 50))
    books.hooked.clear()
    await books.run(give_up(wallet, 2, 1))
    assert [] == books.hooked
    await books.run(capture(wallet, 3, 10, 10))
    await books.run(extend(wallet, 4, 1_000))
    assert [[("acme", wallet)]] * 2 == books.hooked

    async def fail(_conn: asyncpg.Connection, *_: object) -> None:
        raise LookupError("the hook's own failure")

    books.ledger._on_balance_change = fail
    async with replicas(books, 1) as made:
        (error,) = await asyncio.gather(made[0].submit(capture(wallet, 5, 10, 20)), return_exceptions=True)
    assert isinstance(error, LookupError)
    assert 4 == await books.pool.fetchval("SELECT max(n) FROM lease_ops")


async def test_a_grant_inside_the_transaction_of_a_recharge(books: Books) -> None:
    wallet = wallet_name()
    await books.create(wallet)
    await books.run(capture(wallet, 1, 30, 30))
    now = datetime.now(UTC)

    async def complete(conn: asyncpg.Connection) -> str:
        await store.lock_wallet(conn, "acme", wallet)
        return await ledger.grant(
            conn,
            org="acme",
            wallet=wallet,
            kind="PAID",
            amount_nanos=100,
            priority=100,
            expires_at=None,
            reference="recharges/w1-2026-11-1",
            grant_id="recharge-w1-2026-11-1",
            recharge="orgs/acme/recharges/w1-2026-11-1",
            now=now,
        )

    async with books.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await complete(conn)
        await transaction.rollback()
        assert -30 == (await store.wallet_balance(conn, "acme", wallet)).balance
        async with conn.transaction():
            assert "orgs/acme/grants/recharge-w1-2026-11-1" == await complete(conn)
        assert (70, 0) == (
            (balance := await store.wallet_balance(conn, "acme", wallet)).available,
            balance.debt,
        )
        with pytest.raises(PurseError, match="exists already"):
            await complete(conn)
    await assert_sound(books.pool)
