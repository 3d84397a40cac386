"""A request sent again is answered from its reservation, also where it would not fit a second time."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import (
    ORG,
    WALLET,
    FakeWallets,
    ask,
    refusal_of,
    rows,
    running_budget,
)
from tests.support.cutting_proxy import cutting_proxy
from tests.support.waiting import until

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY


async def test_a_request_that_fits_no_second_time_is_allowed_again(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=100)
        first = await budget.reserve(cost=60, request_id="x")
        again = await budget.reserve(cost=60, request_id="x")
        assert (again.outcome, again.reservation) == (ALLOW, first.reservation)
        assert (await budget.reserve(cost=60, request_id="y")).outcome == DENY
        response = await budget.admin.BatchReserve(
            budget_pb2.BatchReserveRequest(
                requests=[ask(cost=60, request_id=i) for i in ("a", "x", "x")]
                + [ask(cost=60, request_id="", validate_only=True)]
            )
        )
        assert [r.decision.outcome for r in response.results] == [DENY, ALLOW, ALLOW, DENY]
        assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == 60
        await budget.audit()


async def test_a_request_on_a_lease_that_is_used_up_or_frozen_is_allowed_again(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 100})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        first = await budget.reserve(cost=60, request_id="x")
        again = await budget.reserve(cost=60, request_id="x")
        assert (again.outcome, again.reservation) == (ALLOW, first.reservation)
        wallets.freeze()
        syncs = wallets.syncs
        await until(lambda: wallets.syncs >= syncs + 2, what="the freeze known")
        assert (await budget.reserve(cost=1)).denied_reason == budget_pb2.DENIED_REASON_WALLET_FROZEN
        again = await budget.reserve(cost=60, request_id="x")
        assert (again.outcome, again.reservation) == (ALLOW, first.reservation)


async def test_a_used_id_is_refused_as_such_also_where_nothing_fits(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=100)
        first = await budget.reserve(cost=60, request_id="x")
        other = await refusal_of(budget.reserve(cost=70, request_id="x"))
        assert (other.reason, other.field) == ("REQUEST_ID_REUSED", "request_id")
        strict = await refusal_of(budget.reserve(cost=None, strict=True, request_id="x"))
        assert strict.reason == "REQUEST_ID_REUSED"
        await budget.release(first.reservation)
        await budget.reserve(cost=90)
        closed = await refusal_of(budget.reserve(cost=60, request_id="x"))
        assert (closed.reason, closed.metadata["state"]) == ("RESERVATION_CLOSED", "RELEASED")


async def test_a_request_whose_time_ran_out_is_closed(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with running_budget(base, tmp_path) as budget:
        await budget.create(ORG, "org", limit_amount=100)
        request = ask(cost=60)
        assert (await budget.admin.Reserve(request)).decision.outcome == ALLOW
        await rows(base, "UPDATE reservations SET expires_us = created_us")
        assert (await refusal_of(budget.admin.Reserve(request))).reason == "RESERVATION_CLOSED"


@pytest.mark.parametrize("is_funded", [False, True])
async def test_a_lost_answer_of_what_just_fits_is_no_denial(database: Any, tmp_path: Path, is_funded: bool) -> None:
    base = database("budget")
    wallets = FakeWallets({WALLET: 60}) if is_funded else None
    async with cutting_proxy(base.service_dsn) as proxy:
        more: dict[str, Any] = {"budget_dsn": SecretStr(proxy.dsn), "sync_interval_s": 5, "sweep_interval_s": 60}
        async with running_budget(base, tmp_path, wallets, **more) as budget:
            await budget.create(ORG, "org", limit_amount=100 if is_funded else 60)
            if is_funded:
                # The whole wallet is leased, and nothing of it held.
                await budget.release((await budget.reserve(cost=60)).reservation)
            proxy.cut_after_commit = True
            decision = await budget.reserve(cost=60)
            assert proxy.cuts == 1
            assert decision.outcome == ALLOW
            assert (await budget.use(f"{ORG}/budgets/org")).reserved_amount == 60
            await budget.audit()
