"""A connection that drops at any step of a shared transaction: every numbered operation happens exactly once."""

import asyncio
from collections.abc import Callable

from services.kit.database import create_pool
from services.kit.errors import Code, PurseError
from services.kit.groupcommit import GroupCommit
from services.wallet.domain.commands import Command, PutGrant, RequestKey
from services.wallet.ledger import Answer, GrantAnswer, LeaseAnswer, Replayed
from tests.support.cutting_proxy import CuttingProxy, cutting_proxy
from tests.support.databases import Database
from tests.support.wallets import (
    Books,
    assert_sound,
    capture,
    extend,
    give_up,
    reverse,
    wallet_name,
)

STEPS_MAX = 200
KILLS_MAX = 12


def work(number: int) -> list[Command]:
    """One of each, on a wallet of its own."""
    wallet = wallet_name(number)
    key = RequestKey("acme", "CreateGrant", f"late-{number}", bytes(32))
    late = PutGrant(*("acme", wallet, f"orgs/acme/grants/late-{number}", "PAID", 50, "USD", 100, None, "late"), key=key)
    return [
        extend(wallet, 1, 600),
        capture(wallet, 2, 500, 500),
        give_up(wallet, 3, 40),
        reverse(wallet, 4, 30, 30),
        late,
    ]


async def once(books: Books, commits: GroupCommit[Command, Answer], number: int) -> None:
    """Does the work, again as a caller would who heard nothing, and looks at what is stored."""
    wallet = wallet_name(number)
    await books.create(wallet)
    await books.grant(wallet, f"first-{number}", 1_000)
    first = await commits.submit_many(work(number))
    again = await commits.submit_many(work(number))
    for before, after in zip(first[:4], again[:4], strict=True):
        assert isinstance(before, LeaseAnswer), before
        assert isinstance(after, LeaseAnswer)
        assert (before.moved, before.totals) == (after.moved, after.totals)
    assert isinstance(first[4], GrantAnswer | Replayed)
    assert isinstance(again[4], Replayed)
    rows = await books.pool.fetch("SELECT kind, sum(amount_nanos) FROM transfers WHERE wallet = $1 GROUP BY 1", wallet)
    assert {"grant": 1_050, "extend": 600, "capture": 500, "return": 40, "reverse": 30} == {r[0]: r[1] for r in rows}
    assert 4 == await books.pool.fetchval("SELECT count(*) FROM lease_ops WHERE wallet = $1", wallet)


async def test_a_cut_at_any_step_leaves_every_operation_done_once(database: Callable[[str], Database]) -> None:
    fresh = database("wallet")
    async with (
        cutting_proxy(fresh.service_dsn) as proxy,
        await create_pool(proxy.dsn, application_name="cut", size_max=1) as cut,
        await create_pool(fresh.service_dsn, application_name="whole") as whole,
    ):
        books, other = Books(whole), Books(cut)
        commits: GroupCommit[Command, Answer] = GroupCommit(
            cut, other.ledger.run_batch, org_of=lambda command: command.org, name="ledger"
        )
        number = 0
        while number < STEPS_MAX:
            proxy.cut_before_statement = number
            await once(books, commits, number)
            if proxy.cut_before_statement is not None:
                break  # the transactions have fewer steps than this
            number += 1
        proxy.cut_before_statement = None
        assert 15 < number < STEPS_MAX
        assert number == proxy.cuts
        for arm in (_before_commit, _after_commit):
            number += 1
            arm(proxy)
            await once(books, commits, number)
        assert number == proxy.cuts
        await commits.close()
        await assert_sound(whole)


def _before_commit(proxy: CuttingProxy) -> None:
    proxy.cut_before_commit = True


def _after_commit(proxy: CuttingProxy) -> None:
    proxy.cut_after_commit = True


async def test_sessions_ended_by_an_administrator_lose_and_double_nothing(database: Callable[[str], Database]) -> None:
    fresh = database("wallet")
    async with (
        await create_pool(fresh.service_dsn, application_name="victim", size_max=2) as victims,
        await create_pool(fresh.admin_dsn, application_name="killer", size_max=1) as killer,
    ):
        books = Books(victims)
        wallets = [wallet_name(number) for number in range(4)]
        for number, wallet in enumerate(wallets):
            await books.create(wallet)
            await books.grant(wallet, f"g{number}", 10_000)
        replicas: list[GroupCommit[Command, Answer]] = [
            GroupCommit(victims, books.ledger.run_batch, org_of=lambda c: c.org, name=f"replica {i}") for i in range(2)
        ]
        done = asyncio.Event()

        async def kill() -> int:
            kills = 0
            while kills < KILLS_MAX and not done.is_set():
                kills += await killer.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE application_name = 'victim' AND state <> 'idle'"
                )
                await asyncio.sleep(0.03)
            return kills

        async def spend(wallet: str) -> None:
            await _insist(replicas[0], extend(wallet, 1, 5_000))
            for n in range(2, 30):
                await _insist(replicas[n % 2], capture(wallet, n, n, sum(range(2, n + 1))))

        killing = asyncio.create_task(kill())
        async with asyncio.timeout(60):
            await asyncio.gather(*map(spend, wallets))
        done.set()
        assert await killing > 0
        for replica in replicas:
            await replica.close()
        rows = await killer.fetch("SELECT n, captured_nanos FROM leases")
        assert [(29, sum(range(2, 30)))] * 4 == [tuple(row) for row in rows]
        async with await create_pool(fresh.service_dsn, application_name="whole") as whole:
            await assert_sound(whole)


async def _insist(commits: GroupCommit[Command, Answer], op: Command) -> None:
    """Sends an operation until it is answered."""
    while True:
        (answer,) = await commits.submit_many([op])
        if isinstance(answer, LeaseAnswer):
            return
        assert isinstance(answer, PurseError), answer
        assert Code.UNAVAILABLE == answer.code, answer
