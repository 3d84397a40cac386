"""Captures: every lease has its turn, corrections wait for what they correct, and answered operations are forgotten."""

from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.budget import captures, sync
from services.budget.captures import Captures
from services.budget.domain.model import WalletState
from services.budget.ops import Ops
from services.budget.store import leases
from services.kit.database import create_pool
from services.kit.errors import PurseError, conflict, unavailable
from tests.support.budget import NANOS, ORG, WALLET, FakeWallets, rows, running_budget, usage
from tests.support.databases import Database
from tests.support.waiting import until


class Sent:
    """Answers every operation as sent; some leases always fail."""

    def __init__(self, pool: asyncpg.Pool, broken: set[str]) -> None:
        self._pool = pool
        self._broken = broken
        self.orgs: list[str] = []

    async def pump(self, org: str, wallet: str) -> None:
        if org in self._broken:
            raise unavailable("always")
        self.orgs.append(org)
        await self._pool.execute("UPDATE lease_ops SET answered_us = 1 WHERE org = $1 AND wallet = $2", org, wallet)


async def draw(pool: asyncpg.Pool, *orgs: str) -> None:
    """Draws something on the lease of each organisation."""
    await pool.execute(
        "INSERT INTO leases (org, wallet, currency) SELECT o, 'orgs/' || o || '/wallets/main', 'USD' "
        "FROM unnest($1::text[]) AS o ON CONFLICT DO NOTHING",
        list(orgs),
    )
    await pool.execute("UPDATE leases SET drawn_total = drawn_total + 5 WHERE org = ANY($1)", list(orgs))
    await pool.execute(
        "INSERT INTO lease_draws (org, wallet, reversal, provider, model, month, amount_nanos, calls) "
        "SELECT o, 'orgs/' || o || '/wallets/main', false, 'p', 'm', '2026-11', 5, 1 FROM unnest($1::text[]) AS o",
        list(orgs),
    )


async def test_busy_and_broken_leases_keep_no_other_waiting(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "_LEASES_MAX", 2)
    base: Database = database("budget")
    orgs = [f"o{n}" for n in range(8)]
    async with await create_pool(base.service_dsn, application_name="test") as pool:
        ops: Any = Sent(pool, {"o0", "o1", "o2"})
        step = Captures(pool, ops).step
        for _ in range(12):
            # The first of them spend all the time.
            await draw(pool, *orgs)
            try:
                await step()
            except Exception:  # noqa: S112 - a round in which all failed
                continue
        assert {org: ops.orgs.count(org) > 1 for org in orgs[3:]} == dict.fromkeys(orgs[3:], True)


async def test_a_correction_larger_than_what_is_captured_waits_alone(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        await budget.apply(usage(cost=3 * NANOS))
        await until(lambda: bool(wallets.leases) and wallets.lease().captured == 3 * NANOS, what="the capture")
        await budget.apply(usage(cost=-5 * NANOS), usage(cost=-NANOS, model="other"))
        await until(lambda: wallets.lease().reversed == 3 * NANOS, what="what can be given back")
        await budget.audit()
        await budget.apply(usage(cost=4 * NANOS))
        await until(lambda: wallets.lease().reversed == 6 * NANOS, what="the rest after the next capture")
        assert wallets.lease().captured == 7 * NANOS
        assert sum(line.calls for line in wallets.lines) == 2
        wallets.check()
        await budget.audit()


async def test_a_correction_of_what_is_not_captured_is_left_alone(database: Any) -> None:
    base: Database = database("budget")
    async with await create_pool(base.service_dsn, application_name="test") as pool:
        await pool.execute(
            "INSERT INTO leases (org, wallet, currency, reversal_total) VALUES ('acme', $1, 'USD', 5)", WALLET
        )
        await pool.execute(
            "INSERT INTO lease_draws (org, wallet, reversal, provider, model, month, amount_nanos, calls) "
            "VALUES ('acme', $1, true, 'p', 'm', '2026-11', 5, 1)",
            WALLET,
        )
        async with pool.acquire() as connection:
            assert await leases.with_draws(connection, ("", ""), 10) == []
            before = await connection.fetchval("SELECT max(seq) FROM lease_draws")
            await captures.write_captures(connection, [("acme", WALLET)])
            assert await connection.fetchval("SELECT max(seq) FROM lease_draws") == before


async def test_forgetting_goes_on_until_nothing_old_is_left(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "_OPS_FORGOTTEN_MAX", 2)
    monkeypatch.setattr(sync, "_OPS_KEPT_S", -60)
    wallets = FakeWallets({WALLET: 100 * NANOS}, grant_max=NANOS)
    base: Database = database("budget")
    async with running_budget(base, tmp_path, wallets, capture_interval_s=1) as budget:
        for _ in range(4):
            await budget.reserve(cost=NANOS)
        assert await rows(base, "SELECT FROM lease_ops WHERE org = $1", ORG.removeprefix("orgs/"))
    async with await create_pool(base.service_dsn, application_name="test") as pool:
        await pool.execute("UPDATE lease_ops SET answered_us = 1")
        before = await pool.fetchval("SELECT count(*) FROM lease_ops")
        forgetting: Any = sync.Sync(pool, None, None, None, idle_return_s=1)  # type: ignore[arg-type]
        rounds = 1
        while await forgetting.forget():
            rounds += 1
        assert await pool.fetchval("SELECT count(*) FROM lease_ops") == 1
        assert rounds == (before - 1) // 2 + 1


async def test_many_leases_are_captured_in_few_transactions_and_a_broken_one_stops_no_other(database: Any) -> None:
    base: Database = database("budget")
    orgs = [f"o{n:02}" for n in range(40)]
    wallets: Any = Batches()
    async with await create_pool(base.service_dsn, application_name="test") as pool:
        ops = Ops(pool, wallets, in_flight_max=2)
        await draw(pool, *orgs)
        await draw(pool, *orgs[:10])
        written = await transactions(pool)
        await Captures(pool, ops).step()
        assert await transactions(pool) - written <= 12
        assert sorted(orgs) == sorted(op.org for calls in wallets.calls for op in calls)
        assert len(wallets.calls) <= 2
        assert {10: 10, 5: 30} == Counter(sum(x.amount for x in op.lines) for calls in wallets.calls for op in calls)
        assert await pool.fetchval("SELECT count(*) FROM lease_draws") == 0
        # A lease whose next number is taken cannot be written; the rest of its round can.
        await pool.execute("UPDATE leases SET last_n = 0 WHERE org = 'o03'")
        await draw(pool, *orgs)
        await Captures(pool, ops).step()
        assert {op.org for calls in wallets.calls[1:] for op in calls if op.n == 2} == {*orgs} - {"o03"}
        assert await pool.fetchval("SELECT array_agg(org) FROM lease_draws") == ["o03"]
        await ops.close()


async def test_a_refused_operation_of_a_batch_quarantines_its_own_lease_alone(database: Any) -> None:
    base: Database = database("budget")
    wallets: Any = Batches(refused="b")
    async with await create_pool(base.service_dsn, application_name="test") as pool:
        ops = Ops(pool, wallets, in_flight_max=2)
        await draw(pool, "a", "b", "c")
        await Captures(pool, ops).step()
        rows = await pool.fetch("SELECT org FROM leases WHERE quarantined IS NOT NULL")
        assert ["b"] == [row["org"] for row in rows]
        assert 1 == await pool.fetchval("SELECT count(*) FROM lease_ops WHERE answered_us IS NULL")
        await ops.close()


class Batches:
    """Keeps the batches that it was sent, and answers operations as done; those of one organisation it refuses."""

    def __init__(self, refused: str = "") -> None:
        self.calls: list[list[leases.Op]] = []
        self._refused = refused

    async def send(self, ops: list[leases.Op]) -> list[tuple[int, leases.Status] | PurseError]:
        self.calls.append(list(ops))
        return [
            conflict("LEASE_TOTALS", "they do not follow", last_n="0", epoch="0")
            if op.org == self._refused
            else (0, leases.Status(op.wallet, op.epoch, op.n, op.captured, 0, WalletState.OPEN, quarantined=False))
            for op in ops
        ]


async def transactions(pool: asyncpg.Pool) -> int:
    """The next transaction's number."""
    found: str = await pool.fetchval("SELECT pg_current_xact_id()::text")
    return int(found)
