"""Spends that a person must decide: held while they wait, resumed, given back, ended in time."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from pursestrings import AsyncClient, Denied
from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2, pauses_pb2
from services.kit.status import from_rpc_error
from tests.support.approving import APPROVE, DENY, Approving, request_of, times, usd
from tests.support.budget import (
    BOT,
    NANOS,
    ORG,
    TEAM,
    WALLET,
    FakeWallets,
    alerts,
    ask,
    refusal_of,
    rows,
    running_budget,
    usage,
)

ALLOW, DENIED, REQUIRED = (
    budget_pb2.OUTCOME_ALLOW,
    budget_pb2.OUTCOME_DENY,
    budget_pb2.OUTCOME_APPROVAL_REQUIRED,
)


async def test_above_the_limit_a_spend_waits_and_is_resumed(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await budget.create(ORG, "b")
        await people.policy(approval_above=[usd(2)])
        spend = ask(cost=5 * NANOS)
        stopped = await people.reserve(spend)
        assert (stopped.outcome, stopped.approval.policy_subject, stopped.approval.approval_above) == (
            REQUIRED, ORG, usd(2),
        )  # fmt: skip
        assert (await budget.use(f"{ORG}/budgets/b")).reserved_amount == 0
        assert (await people.reserve(ask(cost=2 * NANOS))).outcome == ALLOW

        asked = await people.request(spend)
        assert (asked.decision.outcome, asked.approval.state) == (REQUIRED, pb.APPROVAL_STATE_PENDING)
        assert asked.approval.operation.cost == usd(5)
        assert (await budget.use(f"{ORG}/budgets/b")).reserved_amount == 7 * NANOS
        assert (await people.request(spend)).approval == asked.approval
        waiting = await people.reserve(spend)
        assert (waiting.outcome, waiting.approval.approval) == (REQUIRED, asked.approval.name)

        decided = await people.decide(asked.approval.name)
        assert (decided.state, decided.reason) == (pb.APPROVAL_STATE_APPROVED, "as planned")
        resumed = await people.reserve(spend)
        assert (resumed.outcome, resumed.reservation) == (ALLOW, f"{BOT}/reservations/{spend.request_id}")
        assert 3500 < resumed.expire_time.seconds - decided.decide_time.seconds <= 3600
        await budget.apply(usage(cost=4 * NANOS, reservation=resumed.reservation))
        use = await budget.use(f"{ORG}/budgets/b")
        assert (use.spent_amount, use.reserved_amount) == (4 * NANOS, 2 * NANOS)
        told = [one["type"] for one in await alerts(budget.database) if one["event"] == "APPROVAL"]
        assert told == ["approval.requested", "approval.decided"]
        await budget.audit()


async def test_what_is_denied_is_given_back_and_says_who_and_why(database: Any, tmp_path: Path) -> None:
    wallets = FakeWallets(available={WALLET: 10 * NANOS})
    async with running_budget(database("budget"), tmp_path, wallets) as budget:
        people = Approving(budget)
        spend = ask(cost=5 * NANOS)
        name = (await people.request(spend)).approval.name
        denied = await people.decide(name, DENY, reason="too dear")
        assert denied.state == pb.APPROVAL_STATE_DENIED
        again = await people.reserve(spend)
        assert (again.outcome, again.denied_reason) == (DENIED, budget_pb2.DENIED_REASON_APPROVAL_DENIED)
        assert (again.approval.reason, again.approval.decided_by) == ("too dear", denied.decided_by)
        held = await rows(budget.database, "SELECT reserved FROM leases")
        assert [row["reserved"] for row in held] == [0]
        assert (await people.request(spend)).decision.denied_reason == budget_pb2.DENIED_REASON_APPROVAL_DENIED
        await budget.audit()


async def test_decisions_are_made_once_and_by_others(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        name = (await people.request()).approval.name
        assert (await refusal_of(people.decide(name, by=people.agent))).reason == "ROLE_MISSING"
        assert (await refusal_of(people.decide(name, by=people.service))).reason == "DECIDER_MISSING"
        assert (await refusal_of(people.decide(name, decided_by="eve"))).reason == "ROLE_MISSING"
        elsewhere = budget.stub_for(f"{ORG}/teams/sales", "approver")
        assert (await refusal_of(people.decide(name, by=elsewhere))).reason == "OUT_OF_SCOPE"
        first = await people.decide(name, request_id="d1")
        assert await people.decide(name, request_id="d1") == first
        assert (await refusal_of(people.decide(name, request_id="d2"))).reason == "APPROVAL_DECIDED"
        assert (await refusal_of(people.decide(name, DENY, request_id="d1"))).reason == "APPROVAL_DECIDED"
        assert (await refusal_of(people.decide(name, request_id="d1", by=people.operator))).reason == "APPROVAL_DECIDED"

        own = await people.operator.RequestApproval(request_of())
        refused = await refusal_of(people.decide(own.approval.name, by=people.operator))
        assert refused.reason == "OWN_REQUEST"
        by_workflow = await refusal_of(
            people.decide(own.approval.name, by=people.service, decided_by=own.approval.requested_by)
        )
        assert by_workflow.reason == "OWN_REQUEST"
        assert (await people.decide(own.approval.name, by=people.service, decided_by="ann")).decided_by == "ann"


async def test_nobody_is_asked_below_the_strictest_limit(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await people.policy(approval_above=[usd(3)])
        await people.policy(TEAM, approval_above=[usd(8)])
        assert (await people.reserve(ask(cost=5 * NANOS))).approval.policy_subject == ORG
        spend = ask(cost=3 * NANOS)
        asked = await people.request(spend)
        assert (asked.decision.outcome, asked.approval.decided_by) == (ALLOW, "AUTO")
        assert (await people.reserve(spend)).outcome == ALLOW
        # A cost that nobody knows is above every limit; another currency has none.
        assert (await people.reserve(ask(cost=None))).outcome == REQUIRED
        assert (await people.reserve(ask(cost=9 * NANOS, currency="EUR"))).outcome == ALLOW
        refused = await refusal_of(people.request(ask(cost=None)))
        assert refused.reason == "ESTIMATE_INCOMPLETE"
        await people.policy()
        assert (await people.reserve(ask(cost=5 * NANOS))).outcome == ALLOW


async def test_what_waits_is_bounded_and_must_fit(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await budget.create(ORG, "b", limit_amount=20 * NANOS)
        await people.policy(approval_above=[usd(1)], held_max=[usd(9)])
        first = await people.request()
        held = await people.request(ask(cost=5 * NANOS))
        assert (held.decision.denied_reason, held.HasField("approval")) == (
            budget_pb2.DENIED_REASON_APPROVALS_HELD, False,
        )  # fmt: skip
        await people.decide(first.approval.name, DENY)
        assert (await people.request(ask(cost=5 * NANOS))).decision.outcome == REQUIRED
        await people.policy(approval_above=[usd(1)])
        too_much = await people.request(ask(cost=16 * NANOS))
        assert too_much.decision.denied_reason == budget_pb2.DENIED_REASON_BUDGET_EXCEEDED
        assert len(await rows(budget.database, "SELECT FROM approvals")) == 2
        await budget.audit()


async def test_a_paused_subject_is_neither_asked_for_nor_approved(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        name = (await people.request()).approval.name
        other = (await people.request()).approval.name
        await people.operator.Pause(pauses_pb2.PauseRequest(subject=TEAM, reason="it loops"))
        assert (await people.request()).decision.denied_reason == budget_pb2.DENIED_REASON_PAUSED
        assert (await refusal_of(people.decide(name))).reason == "PAUSED"
        assert (await people.decide(other, DENY)).state == pb.APPROVAL_STATE_DENIED
        await people.operator.Resume(pauses_pb2.ResumeRequest(subject=TEAM))
        assert (await people.decide(name)).state == pb.APPROVAL_STATE_APPROVED


async def test_a_hold_that_waits_is_neither_released_nor_charged(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await budget.create(ORG, "b")
        spend = ask(cost=5 * NANOS)
        name = (await people.request(spend)).approval.name
        reservation = f"{BOT}/reservations/{spend.request_id}"
        assert (await refusal_of(budget.release(reservation))).reason == "APPROVAL_PENDING"
        extend = budget_pb2.ExtendReservationRequest(name=reservation, request_id="x")
        assert (await refusal_of(people.agent.ExtendReservation(extend))).reason == "APPROVAL_PENDING"
        canceled = (
            await people.agent.CancelApproval(pb.CancelApprovalRequest(name=name, reason="not needed"))
        ).approval
        assert canceled.state == pb.APPROVAL_STATE_CANCELED
        assert (await budget.use(f"{ORG}/budgets/b")).reserved_amount == 0
        assert (await people.reserve(spend)).denied_reason == budget_pb2.DENIED_REASON_APPROVAL_DENIED
        again = (await people.agent.CancelApproval(pb.CancelApprovalRequest(name=name))).approval
        assert again == canceled
        assert (await refusal_of(people.decide(name))).reason == "APPROVAL_DECIDED"
        await budget.audit()


async def test_the_service_itself_ends_what_nobody_decides(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await budget.create(ORG, "b")
        spend = ask(cost=5 * NANOS)
        name = (await people.request(spend, ttl=Duration(seconds=600))).approval.name
        await people.request(ask(cost=NANOS))
        await rows(budget.database, "UPDATE approvals SET expires_us = created_us - 1 WHERE amount > 1000000000")
        ended = (await people.advance(name)).approval
        assert (ended.state, ended.reason) == (pb.APPROVAL_STATE_EXPIRED, "nobody decided in time")
        assert (await budget.use(f"{ORG}/budgets/b")).reserved_amount == NANOS
        assert (await people.reserve(spend)).approval.state == pb.APPROVAL_STATE_EXPIRED
        listed = await people.approver.ListApprovals(
            pb.ListApprovalsRequest(parent=ORG, state=pb.APPROVAL_STATE_PENDING)
        )
        assert [one.operation.cost for one in listed.approvals] == [usd(1)]
        await budget.audit()


async def test_what_waits_moves_into_the_window_of_now(database: Any, tmp_path: Path) -> None:
    day = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await budget.create(ORG, "b", limit_amount=6 * NANOS, window=day)
        name = (await people.request()).approval.name
        await rows(budget.database, "UPDATE counters SET window_key = window_key - 1")
        await rows(budget.database, "UPDATE reservations SET holds[2] = holds[2] - 1")
        await rows(budget.database, "UPDATE approvals SET renew_us = 0")
        # What is spent today leaves no room: the hold stays where it is, and can be neither moved nor approved.
        today = await budget.reserve(cost=4 * NANOS)
        trouble = (await people.advance(name)).approval.operation.hold_trouble
        assert "BUDGET_EXCEEDED" in trouble
        assert (await refusal_of(people.decide(name))).reason == "APPROVAL_DOES_NOT_FIT"
        await budget.release(today.reservation)
        await rows(budget.database, "UPDATE approvals SET renew_us = 0")
        assert (await people.advance(name)).approval.operation.hold_trouble == ""
        use = await budget.use(f"{ORG}/budgets/b")
        assert use.reserved_amount == 5 * NANOS
        # A hold that could not be kept alive ends its approval, with why.
        await rows(budget.database, "UPDATE approvals SET hold_us = created_us, trouble = 'no room'")
        ended = (await people.advance(name)).approval
        assert (ended.state, ended.reason) == (pb.APPROVAL_STATE_EXPIRED, "no room")
        await budget.audit()


async def test_the_client_asks_waits_and_goes_on(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await people.policy(approval_above=[usd(2)])
        async with AsyncClient(budget=budget.address, token=budget.token_for(BOT, "agent")) as client:
            call = client.reserve(BOT, cost="5 USD")
            with pytest.raises(Denied, match="ask with request_approval, as the policy of orgs/acme says") as denied:
                await call.__aenter__()
            assert denied.value.reason == "APPROVAL_REQUIRED"
            asked = await client.request_approval(call, "nightly run", "the customer waits", urgency="high")
            still = await client.wait_for_approval(asked.name, timeout_s=0.01)
            assert still.state == pb.APPROVAL_STATE_PENDING
            with pytest.raises(Denied, match=f"{asked.name} waits"):
                await call.again().__aenter__()
            await people.decide(asked.name)
            assert (await client.wait_for_approval(asked.name, timeout_s=20)).state == pb.APPROVAL_STATE_APPROVED
            async with call.again() as resumed:
                assert resumed.reservation == asked.operation.reservation
            again = client.reserve(BOT, cost="5 USD")
            other = await client.request_approval(again, "nightly run", "the customer waits")
            await people.decide(other.name, DENY, reason="too dear")
            with pytest.raises(Denied, match="was not approved: too dear"):
                await again.__aenter__()


async def test_replicas_ask_and_decide_at_once_as_one_would(database: Any, tmp_path: Path) -> None:
    books = database("budget")
    async with contextlib.AsyncExitStack() as stack:
        replicas = []
        for number in range(2):
            directory = tmp_path / str(number)
            directory.mkdir()
            replicas.append(Approving(await stack.enter_async_context(running_budget(books, directory))))
        one, other = replicas
        await one.policy(approval_above=[usd(1)], held_max=[usd(40)])
        spends = [ask(cost=5 * NANOS) for _ in range(16)]
        # Half of them on each, then each on the other one; what waits together stays under its limit.
        halves = (spends[:8], spends[8:])
        answers = []
        for asking in (halves, halves[::-1]):
            pairs = [(people, spend) for people, half in zip(replicas, asking, strict=True) for spend in half]
            answers += await asyncio.gather(*(people.request(spend) for people, spend in pairs))
        names = {answer.approval.name for answer in answers if answer.HasField("approval")}
        assert len(names) == 8
        denied = {answer.decision.denied_reason for answer in answers if not answer.HasField("approval")}
        assert denied == {budget_pb2.DENIED_REASON_APPROVALS_HELD}
        # Two decide at once, one so and one otherwise: one of them is told that it is decided.
        outcomes = await asyncio.gather(
            *(
                people.decide(name, verdict)
                for name in sorted(names)
                for people, verdict in ((one, APPROVE), (other, DENY))
            ),
            return_exceptions=True,
        )
        refused = [found for found in outcomes if isinstance(found, grpc.aio.AioRpcError)]
        decided = [found for found in outcomes if isinstance(found, pb.Approval)]
        assert {from_rpc_error(found).reason for found in refused} == {"APPROVAL_DECIDED"}
        assert {found.name for found in decided} == names
        assert len(refused) == len(decided) == 8
        approved = sum(found.state == pb.APPROVAL_STATE_APPROVED for found in decided)
        (held,) = await rows(books, "SELECT coalesce(sum(cost_nanos), 0) AS nanos FROM reservations WHERE state = 1")
        assert held["nanos"] == approved * 5 * NANOS
        await one.budget.audit()


async def test_what_cannot_be_asked_is_refused_by_its_field(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        spend = ask(cost=5 * NANOS)
        asked = people.agent.RequestApproval
        raised = pb.BudgetRaise(budget=f"{BOT}/budgets/none", amount=1)
        raised.end_time.GetCurrentTime()
        raised.end_time.seconds += 60
        for wrong, reason in (
            (request_of(spend, justification=""), "INVALID_ARGUMENT"),
            (request_of(spend, operation=" "), "INVALID_ARGUMENT"),
            (request_of(spend, request_id="another"), "INVALID_ARGUMENT"),
            (request_of(spend, ttl=Duration(seconds=31 * 86_400)), "INVALID_ARGUMENT"),
            (request_of(spend, subject=TEAM), "OUT_OF_SCOPE"),
            (request_of(ask(subject=TEAM)), "OUT_OF_SCOPE"),
            (request_of(ask(validate_only=True)), "INVALID_ARGUMENT"),
            (budget_pb2.RequestApprovalRequest(subject=BOT, request_id="x", justification="y"), "INVALID_ARGUMENT"),
            (request_of(budget_raise=raised), "BUDGET_UNKNOWN"),
            (request_of(recharges=pb.MoreRecharges(wallet=f"{BOT}/wallets/w")), "INVALID_ARGUMENT"),
        ):
            assert (await refusal_of(asked(wrong))).reason == reason, wrong
        first = await people.request(spend)
        changed = await refusal_of(people.request(spend, justification="another"))
        assert changed.reason == "REQUEST_ID_REUSED"
        assert (await refusal_of(people.reserve(ask(request_id=spend.request_id)))).reason == "REQUEST_ID_REUSED"
        plain = ask(cost=NANOS)
        await budget.admin.Reserve(plain)
        assert (await refusal_of(people.request(plain))).reason == "REQUEST_ID_REUSED"
        assert await rows(budget.database, "SELECT FROM approvals WHERE id <> $1", spend.request_id) == []
        policy = pb.ApprovalPolicy(subject=ORG, approval_above=[usd(1)], times=[times(60, 30, 90)])
        set_policy = people.operator.SetApprovalPolicy
        assert (await refusal_of(set_policy(pb.SetApprovalPolicyRequest(policy=policy)))).reason == "INVALID_ARGUMENT"
        stale = pb.ApprovalPolicy(subject=ORG, etag="a.7")
        assert (await refusal_of(set_policy(pb.SetApprovalPolicyRequest(policy=stale)))).reason == "ETAG_MISMATCH"
        nobody = people.decide(f"{BOT}/approvals/none")
        assert (await refusal_of(nobody)).reason == "APPROVAL_UNKNOWN"
        assert (await people.get(first.approval.name)).state == pb.APPROVAL_STATE_PENDING


async def test_usage_that_nobody_had_approved_is_counted_and_ends_the_approval(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await budget.create(ORG, "b")
        asked = (await people.request()).approval
        await budget.apply(usage(cost=6 * NANOS, reservation=asked.operation.reservation))
        use = await budget.use(f"{ORG}/budgets/b")
        assert (use.spent_amount, use.reserved_amount) == (6 * NANOS, 0)
        await budget.audit()
        assert (await refusal_of(people.decide(asked.name))).reason == "APPROVAL_HOLD_GONE"
        await rows(budget.database, "UPDATE approvals SET renew_us = 0")
        ended = (await people.advance(asked.name)).approval
        assert (ended.state, "used before" in ended.reason) == (pb.APPROVAL_STATE_EXPIRED, True)
