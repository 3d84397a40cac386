"""The lease protocol, budget's side: with lost, late and repeated answers, two replicas, freezes and overage."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pursestrings.budget.v1 import budget_pb2
from pursestrings.wallet.v1 import wallet_pb2
from tests.support.budget import (
    BOT,
    NANOS,
    ORG,
    TEAM,
    WALLET,
    FakeLease,
    FakeWallets,
    refusal_of,
    refusals,
    rows,
    running_budget,
    usage,
)
from tests.support.waiting import until


async def drained(wallets: FakeWallets, captured: int, wallet: str = WALLET) -> None:
    await until(lambda: wallets.lease(wallet).captured == captured, what=f"{captured} captured")


async def test_a_short_spend_waits_for_the_extension(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 5 * NANOS}, grant_max=NANOS)
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        decisions = [await budget.reserve(cost=NANOS) for _ in range(6)]
        assert [d.outcome for d in decisions] == [budget_pb2.OUTCOME_ALLOW] * 5 + [budget_pb2.OUTCOME_DENY]
        assert decisions[0].wallet == WALLET
        assert decisions[5].denied_reason == budget_pb2.DENIED_REASON_INSUFFICIENT_FUNDS
        assert wallets.available[WALLET] == 0
        wallets.check()
        await budget.audit()


async def test_waiters_of_a_batch_share_one_extension(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 1000 * NANOS}, delay_s=0.05)
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        answers = await asyncio.gather(*(budget.reserve(cost=NANOS) for _ in range(40)))
        assert {d.outcome for d in answers} == {budget_pb2.OUTCOME_ALLOW}
        extensions = [op for op in wallets.seen if op[0] == "EXTEND"]
        assert len(extensions) < 10
        assert [n for _, _, n in wallets.seen] == sorted(n for _, _, n in wallets.seen)


async def test_a_spend_that_no_budget_allows_asks_for_no_money(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 5 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        await budget.create(TEAM, limit_amount=0)
        decision = await budget.reserve()
        assert decision.denied_reason == budget_pb2.DENIED_REASON_BUDGET_EXCEEDED
        assert wallets.seen == []


async def test_draws_are_captured_by_provider_model_and_month(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 50 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        held = await budget.reserve(cost=3 * NANOS)
        items = [usage(cost=NANOS, reservation=held.reservation, final=i == 2) for i in range(3)]
        await budget.apply(*items, usage(cost=5, model="other"))
        await drained(wallets, 3 * NANOS + 5)
        assert {(line.provider, line.model): line.amount_nanos for line in wallets.lines} == {
            ("anthropic", "claude-sonnet-4-5"): 3 * NANOS,
            ("anthropic", "other"): 5,
        }
        assert sum(line.calls for line in wallets.lines) == 4
        audit = await budget.audit()
        assert [total.cost_nanos for total in audit.totals] == [3 * NANOS + 5]


async def test_lost_answers_are_asked_for_again_and_count_once(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 20 * NANOS}, grant_max=NANOS)
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        total = 0
        for _ in range(5):
            wallets.lose = 2
            try:
                held = await budget.reserve(cost=2 * NANOS)
            except Exception:  # noqa: S112 - lost: the loops carry it on
                continue
            await budget.apply(usage(cost=2 * NANOS, reservation=held.reservation))
            total += 2 * NANOS
        wallets.lose = 0
        held = await budget.reserve(cost=NANOS)
        await budget.apply(usage(cost=NANOS, reservation=held.reservation))
        await drained(wallets, total + NANOS)
        lease = wallets.lease()
        assert lease.extended + wallets.available[WALLET] == 20 * NANOS
        wallets.check()
        await budget.audit()


async def test_overage_is_captured_in_full_and_blocks_the_next_spend(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 10 * NANOS}, grant_max=NANOS)
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        held = await budget.reserve(cost=NANOS)
        await budget.apply(usage(cost=12 * NANOS, reservation=held.reservation))
        await drained(wallets, 12 * NANOS)
        assert wallets.debt[WALLET] == 2 * NANOS
        denied = await budget.reserve(cost=1)
        assert denied.denied_reason == budget_pb2.DENIED_REASON_INSUFFICIENT_FUNDS
        wallets.check()
        await budget.audit()


async def test_a_frozen_wallet_allows_nothing_new_and_settles_what_is_held(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        held = await budget.reserve(cost=NANOS)
        wallets.freeze()
        await until(lambda: wallets.lease().returned > 0, what="the free part given back")
        denied = await budget.reserve(cost=1)
        assert denied.denied_reason == budget_pb2.DENIED_REASON_WALLET_FROZEN
        assert wallets.lease().extended - wallets.lease().returned == NANOS
        await budget.apply(usage(cost=NANOS, reservation=held.reservation))
        await drained(wallets, NANOS)
        wallets.states[WALLET] = wallet_pb2.WALLET_STATE_OPEN
        wallets.version += 1
        deadline = asyncio.get_running_loop().time() + 10
        while (await budget.reserve(cost=1)).outcome != budget_pb2.OUTCOME_ALLOW:
            assert asyncio.get_running_loop().time() < deadline
        wallets.check()
        await budget.audit()


async def test_a_wallet_out_of_reach_is_unavailable_and_not_empty(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS}, grant_max=2 * NANOS)
    async with running_budget(database("budget"), tmp_path, wallets, funding_wait_s=0.5) as budget:
        assert (await budget.reserve(cost=NANOS)).outcome == budget_pb2.OUTCOME_ALLOW
        wallets.down = True
        refusal = await refusal_of(budget.reserve(cost=500 * NANOS))
        assert (refusal.code.name, refusal.retry_after_s is not None) == ("UNAVAILABLE", True)
        assert (await budget.reserve(cost=1)).outcome == budget_pb2.OUTCOME_ALLOW
        wallets.down = False
        deadline = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < deadline:
            response = await budget.reserve(cost=5 * NANOS)
            if response.outcome == budget_pb2.OUTCOME_ALLOW:
                break
        assert response.outcome == budget_pb2.OUTCOME_ALLOW


async def test_a_new_organisation_without_a_wallet_service_fails_closed(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: NANOS}, down=True)
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        refusal = await refusal_of(budget.reserve(cost=1))
        assert refusal.code.name == "UNAVAILABLE"
        (result,) = await budget.apply(usage())
        assert refusals([result]) == ["UNAVAILABLE"]
        wallets.down = False
        assert (await budget.reserve(cost=1)).outcome == budget_pb2.OUTCOME_ALLOW


async def test_a_stored_directory_carries_a_restart_without_the_wallet_service(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    wallets = FakeWallets({WALLET: 100 * NANOS})
    async with running_budget(base, tmp_path, wallets) as budget:
        assert (await budget.reserve(cost=NANOS)).outcome == budget_pb2.OUTCOME_ALLOW
    wallets.down = True
    async with running_budget(base, tmp_path, wallets) as budget:
        decision = await budget.reserve(cost=NANOS)
        assert (decision.outcome, decision.wallet) == (budget_pb2.OUTCOME_ALLOW, WALLET)


async def test_the_nearest_open_wallet_in_the_currency_pays(database: Any, tmp_path: Path) -> None:
    team_wallet, euros = f"{TEAM}/wallets/team", f"{BOT}/wallets/euros"
    wallets = FakeWallets({WALLET: 10 * NANOS, team_wallet: 10 * NANOS, euros: NANOS}, currencies={euros: "EUR"})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        assert (await budget.reserve(cost=1)).wallet == team_wallet
        assert (await budget.reserve(cost=1, currency="EUR")).wallet == euros
        assert (await budget.reserve(cost=1, subject=f"{ORG}/teams/other")).wallet == WALLET
        refusal = await refusal_of(budget.reserve(cost=1, currency="GBP"))
        assert (refusal.reason, refusal.field) == ("CURRENCY_MISMATCH", "estimate.cost.currency_code")
        await budget.apply(usage("gbp", cost=7, currency="GBP"))
        found = await rows(budget.database, "SELECT wallet, cost_nanos FROM applied_usage WHERE id = 'gbp'")
        assert [tuple(row) for row in found] == [(None, 7)]
        noticed = await rows(budget.database, "SELECT kind FROM alerts")
        assert [row["kind"] for row in noticed] == ["UNFUNDED_CURRENCY"]


async def test_an_empty_wallet_does_not_fall_through_to_its_parent(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 10 * NANOS, f"{TEAM}/wallets/team": 0})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        denied = await budget.reserve(cost=1)
        assert denied.denied_reason == budget_pb2.DENIED_REASON_INSUFFICIENT_FUNDS


async def test_a_hold_settles_on_its_lease_after_the_wallet_is_closed(database: Any, tmp_path: Path) -> None:
    team_wallet = f"{TEAM}/wallets/team"
    wallets = FakeWallets({WALLET: 10 * NANOS, team_wallet: 10 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        held = await budget.reserve(cost=NANOS)
        wallets.states[team_wallet] = wallet_pb2.WALLET_STATE_CLOSED
        wallets.version += 1
        deadline = asyncio.get_running_loop().time() + 10
        while (await budget.reserve(cost=1)).wallet != WALLET:
            assert asyncio.get_running_loop().time() < deadline
        await budget.apply(usage(cost=NANOS, reservation=held.reservation), usage(cost=5))
        await drained(wallets, NANOS, team_wallet)
        await drained(wallets, 5, WALLET)
        wallets.check()


@pytest.mark.parametrize("reason", ["gap", "epoch", "behind"])
async def test_numbers_that_do_not_fit_quarantine_the_lease_and_alert(
    database: Any, tmp_path: Path, reason: str
) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS, f"{TEAM}/wallets/other": 5 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        org_wide = f"{ORG}/agents/lead"
        held = await budget.reserve(cost=NANOS, subject=org_wide)
        lease = wallets.lease()
        if reason == "gap":
            lease.n -= 1
            lease.answers.clear()
        elif reason == "epoch":
            lease.epoch = 7
        else:
            lease.n += 5
        await budget.apply(usage(cost=NANOS, reservation=held.reservation, subject=org_wide))
        found: list[Any] = []

        async def alerted() -> bool:
            found[:] = await rows(budget.database, "SELECT kind FROM alerts")
            return bool(found)

        deadline = asyncio.get_running_loop().time() + 10
        while not await alerted():
            assert asyncio.get_running_loop().time() < deadline
        assert [row["kind"] for row in found] == ["LEASE_QUARANTINED"]
        refusal = await refusal_of(budget.reserve(cost=1, subject=org_wide))
        assert refusal.reason == "QUARANTINED"
        # Usage is recorded all the same, and other wallets go on.
        assert refusals(await budget.apply(usage(cost=2, subject=org_wide))) == [""]
        assert (await budget.reserve(cost=1)).outcome == budget_pb2.OUTCOME_ALLOW
        audit = await budget.admin.Audit(budget_pb2.AuditRequest())
        assert [check.name for check in audit.checks if not check.ok] == ["I5.leases_in_step"]


async def test_a_new_database_begins_in_the_epoch_of_the_wallet(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 10 * NANOS})
    base = database("budget")
    (holder,) = await rows(base, "SELECT id FROM holder")
    async with running_budget(base, tmp_path, wallets) as budget:
        wallets.leases[(WALLET, holder["id"])] = FakeLease(epoch=3)
        deadline = asyncio.get_running_loop().time() + 10
        outcome = 0
        while outcome != budget_pb2.OUTCOME_ALLOW:
            assert asyncio.get_running_loop().time() < deadline
            try:
                outcome = (await budget.reserve(cost=NANOS)).outcome
            except Exception:  # noqa: S112 - told to send again
                continue
        assert ("EXTEND", 3, 1) in wallets.seen
        await budget.audit()


async def test_two_replicas_share_one_lease_and_its_numbers(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    wallets = FakeWallets({WALLET: 60 * NANOS}, grant_max=3 * NANOS)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        running_budget(base, tmp_path / "a", wallets) as one,
        running_budget(base, tmp_path / "b", wallets) as two,
    ):

        async def spend(budget: Any, index: int) -> int:
            wallets.lose += index % 8 == 0
            try:
                held = await budget.reserve(cost=NANOS)
            except Exception:
                # Lost more often than a call asks again.
                held = await budget.reserve(cost=NANOS)
            if held.outcome != budget_pb2.OUTCOME_ALLOW:
                return 0
            await budget.apply(usage(cost=NANOS, reservation=held.reservation))
            return NANOS

        spent = sum(await asyncio.gather(*(spend((one, two)[i % 2], i) for i in range(80))))
        assert 0 < spent <= 60 * NANOS
        wallets.lose = 0
        await until(lambda: wallets.lease().captured >= spent, what="all captured")
        # A lost answer of Reserve may have left a hold, never a draw.
        assert wallets.lease().captured == spent
        firsts = [n for _, _, n in wallets.seen]
        assert sorted(set(firsts)) == list(range(1, max(firsts) + 1))
        wallets.check()
        await one.audit()


async def test_an_idle_lease_is_given_back(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets, idle_return_s=1) as budget:
        held = await budget.reserve(cost=NANOS)
        await budget.release(held.reservation)
        await until(lambda: wallets.available[WALLET] == 100 * NANOS, what="all given back")
        assert (await budget.reserve(cost=NANOS)).outcome == budget_pb2.OUTCOME_ALLOW
        wallets.check()
        await budget.audit()


async def test_what_is_above_the_target_is_given_back(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        await budget.reserve(cost=10 * NANOS)
        wallets.target = 12 * NANOS
        await until(lambda: wallets.available[WALLET] == 88 * NANOS, what="the lease at its target")
        wallets.check()
        await budget.audit()


async def test_a_negative_correction_is_reversed_after_its_capture(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        await budget.create(ORG, "org")
        await budget.apply(usage(cost=3 * NANOS))
        await budget.apply(usage(cost=-NANOS))
        await until(lambda: bool(wallets.leases) and wallets.lease().reversed == NANOS, what="the reversal")
        assert wallets.lease().captured == 3 * NANOS
        assert (await budget.use(f"{ORG}/budgets/org")).spent_amount == 2 * NANOS
        await budget.audit()


async def test_a_preflight_check_holds_nothing(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 10 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        decision = await budget.reserve(cost=NANOS, validate_only=True)
        assert (decision.outcome, decision.reservation) == (budget_pb2.OUTCOME_ALLOW, "")
        denied = await budget.reserve(cost=20 * NANOS, validate_only=True)
        assert denied.outcome == budget_pb2.OUTCOME_DENY
        found = await rows(budget.database, "SELECT reserved FROM leases")
        assert [row["reserved"] for row in found] == [0]
        assert await rows(budget.database, "SELECT FROM reservations") == []


def reclaim(wallets: FakeWallets) -> None:
    """Ends the lease's epoch by force, as an operator would: the escrow is the wallet's again."""
    lease = wallets.lease()
    wallets.available[WALLET] += lease.extended - lease.captured - lease.returned
    lease.epoch += 1
    lease.n = lease.extended = lease.captured = lease.returned = lease.reversed = 0
    lease.answers.clear()


@pytest.mark.parametrize("quarantined", [False, True])
async def test_a_lease_begins_anew_after_an_operator_has_reclaimed_it(
    database: Any, tmp_path: Path, *, quarantined: bool
) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        held = await budget.reserve(cost=2 * NANOS)
        await budget.apply(usage(cost=NANOS))
        await drained(wallets, NANOS)
        if quarantined:
            wallets.lease().n += 5

            async def stopped() -> bool:
                return bool(await rows(budget.database, "SELECT FROM leases WHERE quarantined IS NOT NULL"))

            await until_so(stopped)
            # Drawn while nothing moves: it waits for the next epoch.
            await budget.apply(usage(cost=3))
        reclaim(wallets)

        async def anew() -> bool:
            return bool(await rows(budget.database, "SELECT FROM leases WHERE epoch = 1 AND quarantined IS NULL"))

        await until_so(anew)
        await budget.audit()
        await budget.apply(usage(cost=2 * NANOS, reservation=held.reservation), usage(cost=-NANOS))
        assert (await budget.reserve(cost=NANOS)).outcome == budget_pb2.OUTCOME_ALLOW
        await until(lambda: wallets.lease().captured == 2 * NANOS + 3 * quarantined, what="captures of the new epoch")
        await until(lambda: wallets.lease().reversed == NANOS, what="the correction")
        wallets.check()
        audit = await budget.audit()
        ended, now = sorted((lease.epoch, lease.captured_total_nanos) for lease in audit.leases)
        assert (ended, now) == ((0, NANOS), (1, 2 * NANOS + 3 * quarantined))
        kinds = {row["kind"] for row in await rows(budget.database, "SELECT kind FROM alerts")}
        assert kinds == {"LEASE_BEGAN_ANEW"} | ({"LEASE_QUARANTINED"} if quarantined else set())


async def test_captures_without_an_answer_are_told_when_the_epoch_ends(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets({WALLET: 100 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        await budget.reserve(cost=NANOS)
        wallets.down = True
        await budget.apply(usage(cost=7))

        async def written() -> bool:
            return bool(await rows(budget.database, "SELECT FROM lease_ops WHERE kind = 'CAPTURE'"))

        await until_so(written)
        reclaim(wallets)
        wallets.down = False

        async def told() -> list[Any]:
            return await rows(budget.database, "SELECT detail FROM alerts WHERE kind = 'LEASE_BEGAN_ANEW'")

        await until_so(told)
        assert "captures of 7 nanos" in (await told())[0]["detail"]
        assert (await budget.reserve(cost=NANOS)).outcome == budget_pb2.OUTCOME_ALLOW
        await budget.audit()


async def until_so(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = asyncio.get_running_loop().time() + 15
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)
