"""Protocols of a shared transaction: batching, failures, unknown outcomes."""

import asyncio
from dataclasses import dataclass

import asyncpg
import pytest

from services.kit.errors import Code, PurseError, invalid
from services.kit.groupcommit import GroupCommit, Redo

DEADLINE_S = 20


@dataclass(frozen=True, slots=True)
class Put:
    org: str
    id: str
    value: int = 1


async def insert(connection: asyncpg.Connection, items: list[Put]) -> list[str | Exception]:
    """Inserts once per key; a replay answers "stored", a negative value is the database's to refuse."""
    rows = await connection.fetch(
        "INSERT INTO things SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) "
        "ON CONFLICT DO NOTHING RETURNING id",
        [i.org for i in items],
        [i.id for i in items],
        [i.value for i in items],
    )
    new = {row["id"] for row in rows}
    return ["new" if item.id in new else "stored" for item in items]


def group(pool: asyncpg.Pool, run: object = insert, **options: int) -> GroupCommit[Put, str]:
    return GroupCommit(pool, run, org_of=lambda item: item.org, name="test", **options)  # type: ignore[arg-type]


async def stored(pool: asyncpg.Pool) -> set[str]:
    return {row["id"] for row in await pool.fetch("SELECT id FROM things")}


async def test_what_arrives_while_one_runs_is_the_next_transaction(pool: asyncpg.Pool) -> None:
    sizes: list[int] = []
    first_runs, go_on = asyncio.Event(), asyncio.Event()

    async def run(connection: asyncpg.Connection, items: list[Put]) -> list[str | Exception]:
        sizes.append(len(items))
        first_runs.set()
        await go_on.wait()
        return await insert(connection, items)

    commits = group(pool, run)
    async with asyncio.timeout(DEADLINE_S):
        first = asyncio.create_task(commits.submit(Put("a", "0")))
        await first_runs.wait()
        rest = [asyncio.create_task(commits.submit(Put("a", str(n)))) for n in range(1, 51)]
        while commits.waiting_items < 50:
            await asyncio.sleep(0)
        go_on.set()
        assert {"new"} == set(await asyncio.gather(first, *rest))
        await commits.close()

    assert [1, 50] == sizes


async def test_a_large_submission_spans_transactions_and_keeps_its_order(pool: asyncpg.Pool) -> None:
    commits = group(pool, batch_max=7)

    answers = await commits.submit_many([Put("a", str(n % 20)) for n in range(40)])

    assert ["new"] * 20 + ["stored"] * 20 == answers
    await commits.close()


async def test_a_full_queue_refuses_and_does_nothing(pool: asyncpg.Pool) -> None:
    commits = group(pool, queue_max=10)

    with pytest.raises(PurseError) as raised:
        await commits.submit_many([Put("a", str(n)) for n in range(11)])

    assert (Code.RESOURCE_EXHAUSTED, True) == (raised.value.code, raised.value.retry_after_s is not None)
    assert set() == await stored(pool)
    await commits.close()


async def test_only_the_guilty_item_fails(pool: asyncpg.Pool) -> None:
    commits = group(pool)

    answers = await commits.submit_many([Put("a", str(n), -1 if n == 5 else 1) for n in range(16)])

    assert isinstance(answers[5], asyncpg.CheckViolationError)
    assert 15 == answers.count("new")
    assert {str(n) for n in range(16)} - {"5"} == await stored(pool)
    await commits.close()


async def test_an_item_that_cannot_be_encoded_fails_alone(pool: asyncpg.Pool) -> None:
    commits = group(pool)

    answers = await commits.submit_many([Put("a", "1"), Put("a", "2", 2**80), Put("a", "3")])

    assert ("new", True, "new") == (answers[0], isinstance(answers[1], Exception), answers[2])
    await commits.close()


async def test_a_callers_cancellation_does_not_stop_its_item(pool: asyncpg.Pool) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def run(connection: asyncpg.Connection, items: list[Put]) -> list[str | Exception]:
        running.set()
        await go_on.wait()
        return await insert(connection, items)

    commits = group(pool, run)
    async with asyncio.timeout(DEADLINE_S):
        caller = asyncio.create_task(commits.submit(Put("a", "1")))
        await running.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        go_on.set()
        await commits.close()

    assert {"1"} == await stored(pool)


async def test_closing_finishes_what_waits_and_refuses_the_rest(pool: asyncpg.Pool) -> None:
    commits = group(pool)
    waiting = asyncio.create_task(commits.submit(Put("a", "1")))
    await asyncio.sleep(0)

    await commits.close()

    assert "new" == await waiting
    with pytest.raises(PurseError) as raised:
        await commits.submit(Put("a", "2"))
    assert raised.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
async def test_a_lost_connection_is_found_out_by_the_keys(pool: asyncpg.Pool, moment: str) -> None:
    """Before COMMIT nothing was stored and the items run again; after it the replay returns what is stored."""
    lost = False

    async def run(connection: asyncpg.Connection, items: list[Put]) -> list[str | Exception]:
        nonlocal lost
        answers = await insert(connection, items)
        if not lost:
            lost = True
            if moment == "after_commit":
                await connection.execute("COMMIT")
            me = await connection.fetchval("SELECT pg_backend_pid()")
            async with pool.acquire() as other:
                await other.execute("SELECT pg_terminate_backend($1)", me)
        return answers

    commits = group(pool, run)
    async with asyncio.timeout(DEADLINE_S):
        answers = await commits.submit_many([Put("a", "1"), Put("a", "2")])

    assert ["new" if moment == "before_commit" else "stored"] * 2 == answers
    assert {"1", "2"} == await stored(pool)
    await commits.close()


async def test_one_orgs_lock_does_not_stall_another(pool: asyncpg.Pool) -> None:
    await pool.execute("INSERT INTO things VALUES ('busy', 'row', 0), ('idle', 'row', 0)")

    async def run(connection: asyncpg.Connection, items: list[Put]) -> list[str | Exception]:
        orgs = sorted({item.org for item in items})
        await connection.fetch("SELECT FROM things WHERE org = ANY($1) ORDER BY org FOR UPDATE", orgs)
        return await insert(connection, items)

    commits = group(pool, run)
    async with asyncio.timeout(DEADLINE_S), pool.acquire() as holder, holder.transaction():
        await holder.execute("SELECT FROM things WHERE org = 'busy' FOR UPDATE")
        answers = await commits.submit_many([Put("busy", "1"), Put("idle", "2"), Put("busy", "3")])

    assert "new" == answers[1]
    refused = [answers[0], answers[2]]
    assert [Code.UNAVAILABLE] * 2 == [error.code for error in refused if isinstance(error, PurseError)]
    assert {"row", "2"} == await stored(pool)
    await commits.close()


async def test_redo_runs_the_same_items_in_a_new_transaction(pool: asyncpg.Pool) -> None:
    seen: list[list[Put]] = []

    async def run(connection: asyncpg.Connection, items: list[Put]) -> list[str | Exception]:
        seen.append(list(items))
        answers = await insert(connection, items)
        if len(seen) == 1:
            raise Redo
        return answers

    commits = group(pool, run)

    assert ["new"] == await commits.submit_many([Put("a", "1")])
    assert [[Put("a", "1")]] * 2 == seen
    await commits.close()


async def test_redo_without_an_end_is_unavailable(pool: asyncpg.Pool) -> None:
    async def run(_: asyncpg.Connection, __: list[Put]) -> list[str | Exception]:
        raise Redo

    commits = group(pool, run)

    with pytest.raises(PurseError) as raised:
        await commits.submit(Put("a", "1"))

    assert raised.value.code is Code.UNAVAILABLE
    await commits.close()


async def test_an_items_own_refusal_is_its_answer(pool: asyncpg.Pool) -> None:
    async def run(connection: asyncpg.Connection, items: list[Put]) -> list[str | Exception]:
        answers = await insert(connection, [i for i in items if i.id != "bad"])
        return [invalid("id", "is bad") if i.id == "bad" else answers.pop(0) for i in items]

    commits = group(pool, run)

    answers = await commits.submit_many([Put("a", "1"), Put("a", "bad"), Put("a", "2")])

    assert ["new", "INVALID_ARGUMENT", "new"] == [a.reason if isinstance(a, PurseError) else a for a in answers]
    await commits.close()
