"""Holds expire once all usage that could settle them has been delivered, and not before."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.budget.v1 import budget_pb2
from services.budget.batch import Runner
from services.budget.caches import Directories, Policies
from services.budget.sweep import Sweep
from services.kit.database import create_pool
from services.kit.groupcommit import GroupCommit
from tests.support.budget import NANOS, ORG, alerts, refusal_of, rows, running_budget, usage

OPEN, EXPIRED = budget_pb2.RESERVATION_STATE_OPEN, budget_pb2.RESERVATION_STATE_EXPIRED


async def report(
    budget: Any, relay: str, ahead_s: float = 0.0, held_back: Mapping[str, float] = MappingProxyType({})
) -> None:
    request = budget_pb2.ApplyUsageRequest(relay=relay)
    request.delivered_through.FromMicroseconds(int((time.time() + ahead_s) * 1_000_000))
    for org, through in held_back.items():
        request.held_back.add(org=org).delivered_through.FromMicroseconds(int(through * 1_000_000))
    await budget.admin.ApplyUsage(request)


async def state(budget: Any, name: str) -> int:
    found: int = (await budget.get(name)).state
    return found


async def age(budget: Any) -> None:
    """Makes every hold's time run out, without waiting for it."""
    await rows(budget.database, "UPDATE reservations SET expires_us = created_us + 1")


async def sweep(budget: Any, wait_max_s: float = 3_600.0) -> None:
    """One round of the sweep, as a replica of its own."""
    async with await create_pool(budget.database.service_dsn, application_name="sweep") as pool:
        runner = Runner(Policies(), Directories(), on_lease=lambda _lease: None)
        commit: Any = GroupCommit(pool, runner.run, org_of=lambda item: item.org, name="sweep")
        await Sweep(pool, commit, grace_s=0, wait_max_s=wait_max_s).step()
        await commit.close()


async def test_expiry_waits_for_every_relay(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        await budget.create(ORG, "org")
        await report(budget, "slow")
        held = await budget.reserve(cost=NANOS)
        await age(budget)
        await report(budget, "quick")
        await sweep(budget)
        assert await state(budget, held.reservation) == OPEN
        # The slow relay brings what it had: it settles the hold, which is not lost and not sold twice.
        await budget.apply(usage(cost=NANOS, reservation=held.reservation))
        second = await budget.reserve(cost=NANOS)
        await age(budget)
        await report(budget, "slow")
        await report(budget, "quick")
        await sweep(budget)
        assert await state(budget, second.reservation) == EXPIRED
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount) == (NANOS, 0)
        await budget.audit()


async def test_usage_that_cannot_be_delivered_keeps_back_the_holds_of_its_organisation_alone(
    database: Any, tmp_path: Path
) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        early = time.time()
        mine = await budget.reserve(cost=NANOS)
        other = await budget.reserve(cost=NANOS, subject="orgs/other")
        await age(budget)
        await report(budget, "relay", held_back={ORG: early})
        await sweep(budget)
        assert await state(budget, mine.reservation) == OPEN
        assert await state(budget, other.reservation) == EXPIRED
        # A word that was on its way for long frees nothing.
        await report(budget, "relay", ahead_s=-10)
        await sweep(budget)
        assert await state(budget, mine.reservation) == OPEN
        await report(budget, "relay")
        await sweep(budget)
        assert await state(budget, mine.reservation) == EXPIRED
        assert await rows(budget.database, "SELECT FROM alerts WHERE kind = 'EXPIRY_UNPROVED'") == []


async def test_a_hold_that_is_kept_back_expires_after_the_maximum_with_an_alert(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        early = time.time()
        mine = await budget.reserve(cost=NANOS)
        other = await budget.reserve(cost=NANOS, subject="orgs/other")
        await age(budget)
        await report(budget, "relay", held_back={ORG: early})
        await sweep(budget, wait_max_s=0)
        assert await state(budget, mine.reservation) == await state(budget, other.reservation) == EXPIRED
        found = await rows(budget.database, "SELECT org, kind FROM alerts WHERE kind = 'EXPIRY_UNPROVED'")
        assert [tuple(row) for row in found] == [("acme", "EXPIRY_UNPROVED")]


async def test_who_is_held_back_is_said_with_what_is_delivered(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        wrong = {
            "delivered_through": budget_pb2.ApplyUsageRequest(relay="r", held_back=[budget_pb2.HeldBack(org=ORG)]),
            "held_back": budget_pb2.ApplyUsageRequest(relay="r", held_back=[budget_pb2.HeldBack(org=ORG)] * 1001),
            "held_back.org": budget_pb2.ApplyUsageRequest(
                relay="r", delivered_through=Timestamp(seconds=1), held_back=[budget_pb2.HeldBack(org="acme")]
            ),
        }
        for field, request in wrong.items():
            assert (await refusal_of(budget.admin.ApplyUsage(request))).field == field
        mine = budget.stub_for(ORG, "service")
        refusal = await refusal_of(mine.ApplyUsage(wrong["delivered_through"]))
        assert refusal.code.name == "PERMISSION_DENIED"


async def test_the_service_sweeps_by_itself(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=0.02) as budget:
        held = await budget.reserve(cost=NANOS)
        await age(budget)
        await report(budget, "relay")
        deadline = asyncio.get_running_loop().time() + 15
        while await state(budget, held.reservation) != EXPIRED:
            assert asyncio.get_running_loop().time() < deadline


async def test_without_word_of_a_relay_holds_stay_up_to_the_maximum(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        held = await budget.reserve(cost=NANOS)
        await age(budget)
        await sweep(budget)
        assert await state(budget, held.reservation) == OPEN
        await sweep(budget, wait_max_s=0)
        assert await state(budget, held.reservation) == EXPIRED
        found = await rows(budget.database, "SELECT kind FROM alerts ORDER BY 1")
        assert [row["kind"] for row in found] == ["EXPIRY_UNPROVED", "RESERVATION_EXPIRED"]


async def test_usage_after_expiry_is_counted_in_full(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        await budget.create(ORG, "org")
        held = await budget.reserve(cost=NANOS, ttl=Duration(seconds=1))
        await age(budget)
        await report(budget, "relay")
        await sweep(budget)
        (late,) = await budget.apply(usage(cost=NANOS, reservation=held.reservation))
        assert late.applied.unreserved
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.spent_amount, use.reserved_amount) == (NANOS, 0)
        await budget.audit()


async def test_a_relay_whose_clock_runs_ahead_expires_nothing_early(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        held = await budget.reserve(cost=NANOS)
        await report(budget, "ahead", ahead_s=10_000)
        await sweep(budget)
        assert await state(budget, held.reservation) == OPEN


async def test_a_reservation_out_of_time_is_closed_to_a_replay(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        held = await budget.reserve(cost=NANOS, request_id="one")
        await age(budget)
        refusal = await refusal_of(budget.reserve(cost=NANOS, request_id="one"))
        assert (refusal.reason, refusal.metadata["state"]) == ("RESERVATION_CLOSED", "EXPIRED")
        assert await state(budget, held.reservation) == OPEN


async def test_what_expires_and_was_never_settled_is_reported_once_a_day(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        never = [await budget.reserve(cost=NANOS) for _ in range(2)]
        partly = await budget.reserve(cost=NANOS)
        await budget.apply(usage(cost=1, reservation=partly.reservation, final=False))
        await age(budget)
        await report(budget, "relay")
        await sweep(budget)
        (told,) = [one for one in await alerts(budget.database) if one["type"] == "budget.reservation_expired"]
        assert told["detail"].partition(" ")[0] in {one.reservation for one in never}
        request = budget_pb2.ListReservationsRequest(
            parent=ORG, include_descendants=True, states=[EXPIRED], unsettled_only=True
        )
        found = (await budget.admin.ListReservations(request)).reservations
        assert {one.name for one in found} == {one.reservation for one in never}
        assert all(one.close_time.seconds for one in found)
