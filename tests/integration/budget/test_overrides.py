"""Temporary raises: granted once, never changed, over when their time is."""

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import BOT, NANOS, ORG, TEAM, alerts, refusal_of, rows, running_budget, usage
from tests.support.limits import at, backdate, daily, status_of

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY


def grant(name: str, amount: int, seconds: float = 3600, **fields: Any) -> budget_pb2.GrantOverrideRequest:
    end = Timestamp()
    end.FromNanoseconds(int((time.time() + seconds) * 1e9))
    values: dict[str, Any] = {
        "budget": name,
        "amount": amount,
        "end_time": end,
        "reason": "launch day",
        "granted_by": "ada@acme",
    }
    return budget_pb2.GrantOverrideRequest(**({"request_id": "o1"} | values | fields))


async def test_a_raise_counts_at_once_on_every_replica_and_shows_what_is_left(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_budget(base, tmp_path / "a") as one, running_budget(base, tmp_path / "b") as two:
        created = await one.create(TEAM, "b")
        assert (await two.reserve(cost=10 * NANOS)).outcome == ALLOW
        assert (await two.reserve(cost=1)).outcome == DENY
        response = await one.admin.GrantOverride(grant(created.name, 5 * NANOS))
        override = response.override
        assert (override.name, override.budget, override.amount, override.remaining_amount, override.active) == (
            f"{TEAM}/overrides/o1",
            created.name,
            5 * NANOS,
            5 * NANOS,
            True,
        )
        assert (override.reason, override.granted_by, override.approval) == ("launch day", "ada@acme", "")
        decision = await two.reserve(cost=2 * NANOS)
        assert (decision.outcome, decision.tightest.limit_amount) == (ALLOW, 15 * NANOS)
        denied = await two.reserve(cost=3 * NANOS + 1)
        assert denied.violations[0].limit_amount == 15 * NANOS
        status = await status_of(two, created.name)
        assert (status.base_limit_amount, status.override_amount, status.override_remaining_amount) == (
            10 * NANOS,
            5 * NANOS,
            3 * NANOS,
        )
        found = await two.admin.ListOverrides(budget_pb2.ListOverridesRequest(budget=created.name))
        assert [(o.name, o.remaining_amount) for o in found.overrides] == [(override.name, 3 * NANOS)]
        await one.audit()


async def test_a_raise_ends_by_itself(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b")

        async def alerted() -> set[int]:
            return {alert["threshold_percent"] for alert in await alerts(base) if "threshold_percent" in alert}

        await budget.admin.GrantOverride(grant(created.name, 5 * NANOS, seconds=2.5))
        held, _ = await asyncio.gather(budget.reserve(cost=6 * NANOS), budget.apply(usage(cost=6 * NANOS)))
        assert held.outcome == ALLOW
        # Of 15, 6 are no half.
        assert await alerted() == set()
        deadline = time.monotonic() + 20
        while (await status_of(budget, created.name)).use.limit_amount != 10 * NANOS:
            assert time.monotonic() < deadline
        status = await status_of(budget, created.name)
        assert (status.use.overage_amount, status.override_amount) == (2 * NANOS, 0)
        (shown,) = (await budget.admin.ListOverrides(budget_pb2.ListOverridesRequest(budget=created.name))).overrides
        assert (shown.active, shown.remaining_amount) == (False, 0)
        # Use that comes after the end alerts what the lower limit has reached by what was used before.
        await budget.apply(usage(cost=1))
        assert await alerted() == {50}
        assert (await budget.reserve(cost=1)).outcome == DENY


async def test_a_raise_touches_every_window_while_it_lasts(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b", window=daily())
        await backdate(base, created.name, 1)
        await budget.admin.GrantOverride(grant(created.name, NANOS))
        late = usage("late", cost=11 * NANOS)
        late.occurred_at.FromDatetime(at(1))
        await budget.apply(late)
        # The day before ended before the raise was granted, so its limit was 10 and is exceeded.
        reached = [a for a in await alerts(base) if a.get("threshold_percent") == 100]
        assert [a["limit"] for a in reached] == [str(10 * NANOS)]
        assert (await budget.reserve(cost=11 * NANOS)).outcome == ALLOW


async def test_a_request_is_granted_once_and_its_row_never_changes(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(ORG, "b")
        wanted = grant(created.name, 5 * NANOS)
        answers = await asyncio.gather(*(budget.admin.GrantOverride(wanted) for _ in range(4)))
        assert len({a.override.SerializeToString() for a in answers}) == 1
        assert (await status_of(budget, created.name)).override_amount == 5 * NANOS
        other = grant(created.name, 6 * NANOS)
        assert (await refusal_of(budget.admin.GrantOverride(other))).reason == "REQUEST_ID_REUSED"
        service = await asyncpg.connect(base.service_dsn)
        for statement in ("UPDATE overrides SET amount = 1", "DELETE FROM overrides"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(statement)
        await service.close()
        (row,) = await rows(base, "SELECT credential FROM overrides")
        assert row["credential"].startswith("orgs/- ")


async def test_a_budget_made_anew_has_none_of_its_old_raises(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        created = await budget.create(ORG, "b")
        await budget.admin.GrantOverride(grant(created.name, 5 * NANOS))
        await budget.admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=created.name))
        await budget.create(ORG, "b")
        assert (await status_of(budget, created.name)).use.limit_amount == 10 * NANOS
        listed = await budget.admin.ListOverrides(budget_pb2.ListOverridesRequest(budget=created.name))
        assert not listed.overrides


async def test_pages_go_from_the_newest_on(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        created = await budget.create(ORG, "b")
        for number in range(5):
            await budget.admin.GrantOverride(grant(created.name, number + 1, request_id=f"o{number}"))
        found, token = [], ""
        while True:
            request = budget_pb2.ListOverridesRequest(budget=created.name, page_size=2, page_token=token)
            page = await budget.admin.ListOverrides(request)
            found += [one.amount for one in page.overrides]
            token = page.next_page_token
            if not token:
                break
        assert found == [5, 4, 3, 2, 1]
        wrong = budget_pb2.ListOverridesRequest(budget=created.name, page_token="?")
        assert (await refusal_of(budget.admin.ListOverrides(wrong))).field == "page_token"


async def test_wrong_requests_name_their_field_and_grant_nothing(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        created = await budget.create(BOT, "b")
        name = created.name
        for request, field in (
            (grant(name, 0), "amount"),
            (grant(name, 2**63 - 1), "amount"),
            (grant(name, 1, seconds=-1), "end_time"),
            (grant(name, 1, seconds=367 * 86_400), "end_time"),
            (grant(name, 1, reason=" "), "reason"),
            (grant(name, 1, granted_by=""), "granted_by"),
            (grant(name, 1, approval="x" * 257), "approval"),
            (grant(name, 1, request_id=""), "request_id"),
            (grant(f"{ORG}/wallets/x", 1), "budget"),
            (budget_pb2.GrantOverrideRequest(budget=name, amount=1, reason="r", granted_by="a", request_id="o"),
             "end_time"),
        ):  # fmt: skip
            assert (await refusal_of(budget.admin.GrantOverride(request))).field == field
        unknown = await refusal_of(budget.admin.GrantOverride(grant(f"{ORG}/budgets/none", 1)))
        assert unknown.reason == "BUDGET_UNKNOWN"
        dry = await budget.admin.GrantOverride(grant(name, 7, request_id="", validate_only=True))
        assert dry.override.amount == 7
        agent = budget.stub_for(BOT, "agent")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.GrantOverride(grant(name, 1))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert await rows(base, "SELECT 1 FROM overrides") == []
