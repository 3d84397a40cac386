"""What usage may do to the reservation it settles, however its time, currency and amount are chosen."""

import time
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import ORG, WALLET, FakeWallets, refusals, rows, running_budget, usage
from tests.support.waiting import until

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY
DAY = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)


def ago(hours: int) -> Timestamp:
    at = Timestamp()
    at.FromMicroseconds(time.time_ns() // 1000 - hours * 3600 * 1_000_000)
    return at


async def test_use_dated_back_counts_where_its_reservation_was_made(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        await budget.create(ORG, "day", limit_amount=100, window=DAY)
        await rows(base, "UPDATE budgets SET effective_from_us = 0")
        await rows(base, "UPDATE org_policy SET epoch = epoch + 1")
        held = await budget.reserve(cost=100)
        assert held.outcome == ALLOW
        await budget.apply(usage(cost=100, reservation=held.reservation, occurred_at=ago(36)))
        assert (await budget.use(f"{ORG}/budgets/day")).spent_amount == 100
        assert (await budget.reserve(cost=100)).outcome == DENY
        # What settles nothing counts at its own time, and so does what names a reservation that is not its own.
        others = (usage(cost=7, occurred_at=ago(36)), usage(cost=7, subject=ORG, reservation=held.reservation))
        others[1].occurred_at.CopyFrom(ago(36))
        assert refusals(await budget.apply(*others)) == ["", ""]
        spent = [row["spent"] for row in await rows(base, "SELECT spent FROM counters ORDER BY window_key")]
        assert spent == [14, 100]
        await budget.audit()


async def test_a_cost_in_another_currency_leaves_the_hold(database: Any, tmp_path: Path) -> None:
    euros = "orgs/acme/wallets/euros"
    wallets = FakeWallets({WALLET: 10**12, euros: 10**12}, currencies={euros: "EUR"})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        held = await budget.reserve(cost=100)
        (result,) = await budget.apply(usage(cost=60, currency="EUR", reservation=held.reservation, final=False))
        assert result.applied.drawn_nanos == 60
        found = await budget.get(held.reservation)
        assert (found.funding_held_nanos, found.settled_nanos) == (100, 0)
        await until(lambda: any(name == euros for name, _ in wallets.leases), what="the euros captured")
        await budget.audit()


async def test_no_amount_is_too_large_to_be_applied(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        held = await budget.reserve(cost=1)
        for _ in range(3):
            event = usage(cost=2**63 - 1, reservation=held.reservation, final=False)
            assert refusals(await budget.apply(event)) == [""]
        assert (await budget.get(held.reservation)).settled_nanos == 2**63 - 1
        assert len(await rows(base, "SELECT FROM applied_usage")) == 3


async def test_what_is_left_is_told_also_where_it_is_past_what_can_be_counted(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        warn = {"limit_amount": 100, "on_exceed": budget_pb2.ON_EXCEED_WARN}
        await budget.create(ORG, "org", **warn)
        await budget.reserve(cost=200)
        await budget.apply(usage(cost=2**63 - 1))
        use = await budget.use(f"{ORG}/budgets/org")
        assert (use.remaining_amount, use.overage_amount) == (-(2**63 - 1), 2**63 - 1)
        # Corrections can leave a window with more room than its limit has.
        await budget.create("orgs/beta", "org", limit_amount=2**63 - 1)
        await budget.apply(usage(cost=-(2**62), subject="orgs/beta"))
        assert (await budget.reserve(cost=5, subject="orgs/beta")).tightest.remaining_amount == 2**63 - 1
