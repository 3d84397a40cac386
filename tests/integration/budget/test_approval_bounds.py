"""What somebody may try with approvals: to see others', to decide in others' names, to take all the room there is."""

import asyncio
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2, subscriptions_pb2
from tests.support.approving import Approving, request_of, usd
from tests.support.budget import BOT, NANOS, ORG, TEAM, ask, refusal_of, rows, running_budget

SALES = f"{ORG}/teams/sales"
SELLER = f"{SALES}/agents/x"
NUMBER_MAX = 2**63 - 1


def recharges(**fields: Any) -> budget_pb2.RequestApprovalRequest:
    return request_of(recharges=pb.MoreRecharges(wallet=f"{SELLER}/wallets/w", extra_count=1, **fields))


async def test_others_requests_are_neither_shown_nor_decided_in_others_names(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await budget.create(ORG, "b", limit_amount=NANOS)
        secret = recharges()
        await budget.stub_for(SELLER, "agent").RequestApproval(secret)
        answer = await people.request(ask(cost=5 * NANOS, request_id=secret.request_id))
        assert answer.decision.denied_reason == budget_pb2.DENIED_REASON_BUDGET_EXCEEDED
        assert not answer.HasField("approval")
        # Role service of one subject may be a customer's own.
        (other,) = (await people.approver.ListApprovals(pb.ListApprovalsRequest(parent=SALES))).approvals
        own = budget.stub_for(ORG, "service")
        assert (await refusal_of(people.decide(other.name, by=own, decided_by="ann"))).reason == "ROLE_MISSING"
        assert (await people.get(other.name)).state == pb.APPROVAL_STATE_PENDING


async def test_amounts_beyond_any_number_stop_nobody_elses_requests(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await people.policy(TEAM, held_max=[usd(10**9)])
        seller = budget.stub_for(SELLER, "agent")
        # Of another policy's: what has no limit may hold as much as there are numbers.
        for _ in range(2):
            await seller.RequestApproval(request_of(ask(subject=SELLER, cost=NUMBER_MAX)))
        await people.policy(SALES, held_max=[usd(10**9)])
        assert (await people.request()).approval.state == pb.APPROVAL_STATE_PENDING
        held = await seller.RequestApproval(request_of(ask(subject=SELLER, cost=NANOS)))
        assert held.decision.denied_reason == budget_pb2.DENIED_REASON_APPROVALS_HELD


async def test_an_agent_and_all_that_it_makes_leave_room_for_others(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await people.policy(TEAM, held_max=[usd(5_004)])
        first = (await people.request()).approval.name.rpartition("/")[2]
        await rows(
            budget.database,
            """INSERT INTO approvals (org, id, subject, kind, state, payload_hash, justification, urgency, requested_by,
                created_us, expires_us, remind_us, escalate_us, currency, amount, hold_us)
            SELECT org, 'more-' || n, subject || '/agents/helper-' || n, kind, state, payload_hash, '', urgency, '',
                created_us, expires_us, remind_us, escalate_us, currency, amount, hold_us
            FROM approvals, generate_series(1, 999) n WHERE id = $1""",
            first,
        )
        helper = f"{BOT}/agents/helper-new"
        refused = await refusal_of(people.agent.RequestApproval(request_of(ask(subject=helper, cost=NANOS))))
        assert refused.reason == "TOO_MANY_APPROVALS"
        assert f"1000 approvals of {BOT} wait" in str(refused)
        # 5,000 USD are held in the team by then: another agent's 4 fit, and 5 do not.
        colleague = f"{TEAM}/agents/bot-2"
        stub = budget.stub_for(colleague, "agent")
        held = await stub.RequestApproval(request_of(ask(subject=colleague, cost=5 * NANOS)))
        assert held.decision.denied_reason == budget_pb2.DENIED_REASON_APPROVALS_HELD
        asked = await stub.RequestApproval(request_of(ask(subject=colleague, cost=4 * NANOS)))
        assert asked.approval.state == pb.APPROVAL_STATE_PENDING


async def test_many_at_once_are_bounded_and_told_to_whom_each_concerns(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        told = subscriptions_pb2.Subscription(email="s@acme.example", events=[subscriptions_pb2.EVENT_KIND_APPROVAL])
        await people.operator.CreateSubscription(
            subscriptions_pb2.CreateSubscriptionRequest(parent=SALES, subscription_id="s", subscription=told)
        )
        await people.policy(held_max=[usd(50)])
        seller = budget.stub_for(SELLER, "agent")
        spends = [ask(cost=5 * NANOS) for _ in range(8)] + [ask(subject=SELLER, cost=5 * NANOS) for _ in range(8)]
        answers = await asyncio.gather(
            *((people.agent if one.subject == BOT else seller).RequestApproval(request_of(one)) for one in spends)
        )
        asked = [answer.approval for answer in answers if answer.HasField("approval")]
        assert len(asked) == 10
        assert {(one.subject, one.told) for one in asked} <= {(BOT, ORG), (SELLER, SALES)}
        messages = await rows(budget.database, "SELECT topic, count(*) FROM outbox GROUP BY topic")
        assert dict(map(tuple, messages)).items() >= {("approval.start", 10)}


async def test_what_is_asked_for_again_is_as_it_stands_and_times_are_times(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        await budget.create(BOT, "b")
        raised = pb.BudgetRaise(budget=f"{BOT}/budgets/b", amount=NANOS)
        raised.end_time.GetCurrentTime()
        raised.end_time.seconds += 3600
        request = request_of(budget_raise=raised)
        asked = await people.agent.RequestApproval(request)
        await people.operator.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=f"{BOT}/budgets/b"))
        assert await people.agent.RequestApproval(request) == asked
        seller = budget.stub_for(SELLER, "agent")
        for seconds in (-1, 2**40, 2**62):
            refused = await refusal_of(seller.RequestApproval(recharges(until_time=Timestamp(seconds=seconds))))
            assert (refused.reason, refused.field) == ("INVALID_ARGUMENT", "recharges.until_time")


async def test_without_workflows_the_service_itself_keeps_what_waits_alive_and_reminds(
    database: Any, tmp_path: Path
) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        people = Approving(budget)
        asked = (await people.request(urgency=pb.URGENCY_LOW)).approval
        day = 86_400 * 10**6
        # As a day later, an hour before the hold runs out.
        later = f"created_us = created_us - {day}, renew_us = renew_us - {day}, next_us = next_us - {day}"
        await rows(budget.database, f"UPDATE approvals SET {later}, hold_us = hold_us - {23 * 3600 * 10**6}")  # noqa: S608
        async with asyncio.timeout(20):
            while not (found := await people.get(asked.name)).reminders:
                await asyncio.sleep(0.05)
        assert found.state == pb.APPROVAL_STATE_PENDING
        assert found.operation.hold_expire_time.seconds > asked.create_time.seconds + 23 * 3600
