"""A bank that never closes: money moves everywhere at once, and every snapshot of it is whole."""

import asyncio
import random

import asyncpg

from services.kit.database import transact
from services.wallet.changes import change
from services.wallet.domain.accounts import AccountKind
from services.wallet.domain.commands import Command, Move, RequestKey
from services.wallet.store import wallets as wallets_store
from tests.support.wallets import Books, assert_sound, capture, extend, give_up

PARENT = "orgs/acme/wallets/main"
CHILDREN = [f"orgs/acme/teams/t{n}/wallets/team" for n in range(3)]
ROUNDS = 25
_SUMS = """
SELECT sum(CASE WHEN kind IN ('funding', 'promotion') THEN debits_nanos - credits_nanos ELSE 0 END)::bigint,
       sum(CASE WHEN kind IN ('available', 'escrow', 'spent', 'expired', 'refunded', 'disputed', 'debt')
           THEN credits_nanos - debits_nanos ELSE 0 END)::bigint
FROM accounts
"""


async def test_every_snapshot_is_whole_while_money_moves(books: Books) -> None:
    wallets = [PARENT, *CHILDREN]
    for name in wallets:
        await books.create(name)
        await books.grant(name, f"{name.split('/')[-3]}-g", 10_000)
    running = True
    looked = 0

    async def look() -> None:
        nonlocal looked
        while running:
            async with books.pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
                put_in, held = await conn.fetchrow(_SUMS)
            assert put_in == held
            await assert_sound(books.pool)
            looked += 1

    async def spend(wallet: str, dice: random.Random) -> None:
        captured = n = 0
        for _ in range(ROUNDS):
            amount = dice.randint(1, 400)
            ops = [extend(wallet, n + 1, amount), capture(wallet, n + 2, amount, captured + amount)]
            captured += amount
            n += 2
            assert not [a for a in await books.run(*ops) if isinstance(a, Exception)]
        await books.run(give_up(wallet, n + 1, 0))

    async def move(dice: random.Random) -> None:
        for number in range(ROUNDS):
            giver, taker = dice.choice([(PARENT, child) for child in CHILDREN] + [(c, PARENT) for c in CHILDREN])
            key = RequestKey("acme", "Transfer", f"t{number}", bytes(32))
            order: Command = Move("acme", giver, taker, dice.randint(1, 500), "USD", key.id, key)
            await books.run(order)

    async def take_back(wallet: str, dice: random.Random) -> None:
        for number in range(ROUNDS):
            await transact(books.pool, lambda conn, n=number: _there_and_back(conn, wallet, f"back{n}", dice))  # type: ignore[misc]

    looker = asyncio.create_task(look())
    dice = random.Random(2026)  # noqa: S311 - repeatable, not secret
    spending = [spend(wallet, dice) for wallet in wallets]
    await asyncio.gather(*spending, move(dice), take_back(PARENT, dice))
    running = False
    await looker
    assert looked > 1
    await assert_sound(books.pool)


async def _there_and_back(conn: asyncpg.Connection, wallet: str, reference: str, dice: random.Random) -> None:
    """A dispute that is opened and won in one transaction, so that its case needs no row."""
    await wallets_store.lock_wallet(conn, "acme", wallet)
    now = await wallets_store.clock(conn)
    amount = dice.randint(1, 3_000)
    given = await change(
        conn,
        "acme",
        wallet,
        lambda book: book.withdraw(AccountKind.DISPUTED, amount, reference, first="", paid_only=False),
        now=now,
    )
    await change(
        conn,
        "acme",
        wallet,
        lambda book: book.restore(AccountKind.DISPUTED, amount, given, reference, now),
        now=now,
        lots=[lot for lot, _ in given],
        give_back=amount - sum(part for _, part in given),
    )
