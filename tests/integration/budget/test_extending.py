"""A reservation that lives longer is decided on anew, in the windows of now; and reservations are listed."""

import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import BOT, NANOS, ORG, TEAM, WALLET, FakeWallets, refusal_of, rows, running_budget, usage

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY
DAY = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)


async def extend(budget: Any, name: str, id_: str = "x1", seconds: int = 600) -> budget_pb2.Decision:
    request = budget_pb2.ExtendReservationRequest(name=name, request_id=id_, ttl=Duration(seconds=seconds))
    response = await budget.admin.ExtendReservation(request)
    decision: budget_pb2.Decision = response.decision
    return decision


async def listed(budget: Any, parent: str = ORG, **fields: Any) -> list[str]:
    """The ids of all pages."""
    request = budget_pb2.ListReservationsRequest(parent=parent, include_descendants=True, **fields)
    ids: list[str] = []
    while True:
        response = await budget.admin.ListReservations(request)
        ids += [one.name.rpartition("/")[2] for one in response.reservations]
        request.page_token = response.next_page_token
        if not request.page_token:
            return ids


async def yesterday(budget: Any) -> None:
    """Puts what is held into the window of the day before."""
    await rows(budget.database, "UPDATE counters SET window_key = window_key - 1")
    await rows(budget.database, "UPDATE reservations SET holds[2] = holds[2] - 1")


async def windows(budget: Any) -> list[tuple[int, int]]:
    found = await rows(budget.database, "SELECT spent, reserved FROM counters ORDER BY window_key")
    return [tuple(row) for row in found]


async def test_a_hold_in_the_running_window_stays_and_lives_longer(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "b", limit_amount=5 * NANOS)
        held = await budget.reserve(cost=5 * NANOS, ttl=Duration(seconds=30))
        before = await budget.get(held.reservation)
        decision = await extend(budget, held.reservation)
        assert (decision.outcome, decision.cost.amount_nanos) == (ALLOW, 5 * NANOS)
        after = await budget.get(held.reservation)
        assert after.expire_time == decision.expire_time
        assert after.expire_time.seconds - before.expire_time.seconds > 500
        assert list(after.holds) == list(before.holds)
        assert (await extend(budget, held.reservation, "x2", seconds=1)).expire_time == after.expire_time
        await budget.audit()


async def test_what_is_left_moves_to_the_window_of_now(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "b", limit_amount=5 * NANOS, window=DAY)
        held = await budget.reserve(cost=5 * NANOS)
        await budget.apply(usage(cost=2 * NANOS, reservation=held.reservation, final=False))
        await yesterday(budget)
        assert (await extend(budget, held.reservation)).cost.amount_nanos == 3 * NANOS
        assert await windows(budget) == [(2 * NANOS, 0), (0, 3 * NANOS)]
        await rows(budget.database, "DELETE FROM applied_usage")
        await rows(budget.database, "UPDATE counters SET spent = 0")
        await budget.audit()


async def test_a_denied_extension_leaves_the_old_hold(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "b", limit_amount=5 * NANOS, window=DAY)
        held = await budget.reserve(cost=3 * NANOS)
        await yesterday(budget)
        await budget.reserve(cost=4 * NANOS)
        before = await budget.get(held.reservation)
        decision = await extend(budget, held.reservation)
        assert (decision.outcome, decision.denied_reason) == (DENY, budget_pb2.DENIED_REASON_BUDGET_EXCEEDED)
        (violated,) = decision.violations
        assert (violated.reserved_amount, violated.asked_amount, violated.overage_amount) == (
            4 * NANOS, 3 * NANOS, 2 * NANOS,
        )  # fmt: skip
        assert await budget.get(held.reservation) == before
        assert await windows(budget) == [(0, 3 * NANOS), (0, 4 * NANOS)]
        # A denial is not kept: the same id asks again.
        await budget.update(f"{ORG}/budgets/b", limit_amount=7 * NANOS)
        assert (await extend(budget, held.reservation)).outcome == ALLOW


async def test_a_budget_made_since_counts(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        held = await budget.reserve(cost=3 * NANOS)
        await budget.create(ORG, "late", limit_amount=2 * NANOS)
        assert (await extend(budget, held.reservation)).outcome == DENY
        await budget.update(f"{ORG}/budgets/late", limit_amount=4 * NANOS)
        assert (await extend(budget, held.reservation)).outcome == ALLOW
        assert (await budget.use(f"{ORG}/budgets/late")).reserved_amount == 3 * NANOS
        await budget.audit()


async def test_an_extension_sent_again_extends_nothing_twice(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        held = await budget.reserve(cost=NANOS)
        other = await budget.reserve(cost=NANOS)
        first = await extend(budget, held.reservation)
        assert await extend(budget, held.reservation) == first
        for again in (extend(budget, held.reservation, seconds=601), extend(budget, other.reservation)):
            assert (await refusal_of(again)).reason == "REQUEST_ID_REUSED"
        await budget.release(held.reservation)
        assert (await refusal_of(extend(budget, held.reservation))).reason == "RESERVATION_CLOSED"


async def test_what_cannot_be_extended_is_refused(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        held = await budget.reserve(cost=NANOS)
        unknown = await refusal_of(extend(budget, f"{BOT}/reservations/none"))
        assert (unknown.code.name, unknown.reason) == ("NOT_FOUND", "RESERVATION_UNKNOWN")
        for seconds in (0, 86_401):
            assert (await refusal_of(extend(budget, held.reservation, seconds=seconds))).field == "ttl"
        assert (await refusal_of(extend(budget, held.reservation, ""))).reason == "REQUEST_ID_REQUIRED"
        await rows(budget.database, "UPDATE reservations SET expires_us = created_us + 1")
        late = await refusal_of(extend(budget, held.reservation))
        assert (late.reason, late.metadata["state"]) == ("RESERVATION_CLOSED", "EXPIRED")
        team = budget.stub_for("orgs/other", "agent")
        request = budget_pb2.ExtendReservationRequest(name=held.reservation, request_id="x")
        assert (await refusal_of(team.ExtendReservation(request))).code.name == "PERMISSION_DENIED"


async def test_a_frozen_wallet_extends_nothing(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets(available={WALLET: 20 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        held = await budget.reserve(cost=NANOS)
        assert (await extend(budget, held.reservation)).outcome == ALLOW
        wallets.freeze()
        # An answer from before the freeze may still be taken in, so it is asked until the freeze has arrived.
        reasons: list[int] = []
        deadline = time.monotonic() + 20
        while budget_pb2.DENIED_REASON_WALLET_FROZEN not in reasons:
            assert time.monotonic() < deadline
            reasons.append((await extend(budget, held.reservation, f"y{len(reasons)}")).denied_reason)
        await budget.audit()


async def test_a_subtree_is_listed_by_state_in_pages(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        for number in range(5):
            await budget.reserve(cost=NANOS, request_id=f"r{number}", subject=BOT if number % 2 else TEAM)
        await budget.reserve(cost=NANOS, request_id="z", subject="orgs/acme/teams/other")
        await budget.release(f"{BOT}/reservations/r1")
        await budget.apply(usage(reservation=f"{BOT}/reservations/r3", final=False))
        assert await listed(budget, page_size=2) == ["r0", "r1", "r2", "r3", "r4", "z"]
        assert await listed(budget, TEAM) == ["r0", "r1", "r2", "r3", "r4"]
        assert await listed(budget, BOT, states=[budget_pb2.RESERVATION_STATE_OPEN]) == ["r3"]
        assert await listed(budget, states=[budget_pb2.RESERVATION_STATE_RELEASED]) == ["r1"]
        assert await listed(budget, BOT, unsettled_only=True) == ["r1"]
        own = await budget.admin.ListReservations(budget_pb2.ListReservationsRequest(parent=TEAM))
        assert [one.name for one in own.reservations] == [f"{TEAM}/reservations/r{n}" for n in (0, 2, 4)]


async def test_a_page_looks_at_a_bounded_number(database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.budget.store import reservations

    small = {
        name: getattr(reservations, name).replace("20000", "3").replace("19999", "2")
        for name in ("_LIST", "_LAST_LOOKED_AT")
    }
    for name, statement in small.items():
        monkeypatch.setattr(reservations, name, statement)
    async with running_budget(database("budget"), tmp_path) as budget:
        for number in range(8):
            await budget.reserve(cost=NANOS, request_id=f"r{number}", subject=TEAM if number == 7 else BOT)
        request = budget_pb2.ListReservationsRequest(parent=TEAM)
        first = await budget.admin.ListReservations(request)
        assert (len(first.reservations), first.next_page_token) == (0, "r2")
        assert await listed(budget, TEAM, page_size=5) == [f"r{n}" for n in range(8)]


async def test_what_is_no_question_is_refused(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        wrong = {
            "parent": budget_pb2.ListReservationsRequest(parent="acme"),
            "page_size": budget_pb2.ListReservationsRequest(parent=ORG, page_size=1001),
            "states": budget_pb2.ListReservationsRequest(parent=ORG, states=[budget_pb2.RESERVATION_STATE_UNSPECIFIED]),
            "page_token": budget_pb2.ListReservationsRequest(parent=ORG, page_token="\x00"),
        }
        for field, request in wrong.items():
            assert (await refusal_of(budget.admin.ListReservations(request))).field == field
