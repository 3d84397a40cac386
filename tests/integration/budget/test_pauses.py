"""Subjects that are paused: by persons, by budgets, and what ends it."""

import asyncio
from pathlib import Path
from typing import Any

from pursestrings.budget.v1 import budget_pb2, pauses_pb2
from tests.support.budget import BOT, NANOS, ORG, TEAM, alerts, ask, refusal_of, rows, running_budget, usage

ALLOW, DENY = budget_pb2.OUTCOME_ALLOW, budget_pb2.OUTCOME_DENY
PAUSED = budget_pb2.DENIED_REASON_PAUSED
EXCEEDED = budget_pb2.DENIED_REASON_BUDGET_EXCEEDED
PAUSE = budget_pb2.ON_EXCEED_PAUSE
MANUAL, WINDOW_END = pauses_pb2.RESUME_MODE_MANUAL, pauses_pb2.RESUME_MODE_WINDOW_END
DAY = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)


async def listed(budget: Any, parent: str = ORG, **fields: Any) -> list[pauses_pb2.Pause]:
    """The pauses of a subtree."""
    return list((await budget.admin.ListPauses(pauses_pb2.ListPausesRequest(parent=parent, **fields))).pauses)


def kinds(found: list[dict[str, Any]]) -> list[str]:
    """What the outbox tells, in order."""
    return [one["type"].removeprefix("budget.") for one in found]


async def test_a_person_pauses_a_subtree_and_resumes_it(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        held = await budget.reserve()
        operator = budget.stub_for(ORG, "operator")
        made = (await operator.Pause(pauses_pb2.PauseRequest(subject=TEAM, reason="it loops"))).pause
        again = (await operator.Pause(pauses_pb2.PauseRequest(subject=TEAM, reason="it loops"))).pause
        assert (again.name, again.paused_by.split("#")[0]) == (made.name, ORG)
        denied = await budget.reserve()
        assert (denied.outcome, denied.denied_reason) == (DENY, PAUSED)
        (why,) = denied.pauses
        assert (why.subject, why.reason, why.cause) == (TEAM, "it loops", pauses_pb2.PAUSE_CAUSE_PERSON)
        assert (why.pause_time, why.HasField("until_time")) == (made.pause_time, False)
        assert (await budget.reserve(subject=f"{ORG}/agents/other")).outcome == ALLOW
        extend = budget_pb2.ExtendReservationRequest(name=held.reservation, request_id="x1")
        extended = (await budget.admin.ExtendReservation(extend)).decision
        assert (extended.denied_reason, [p.name for p in extended.pauses]) == (PAUSED, [made.name])
        # What was allowed before still settles, and a request sent again gets its reservation.
        assert (await budget.get(held.reservation)).state == budget_pb2.RESERVATION_STATE_OPEN
        assert not (await budget.apply(usage(reservation=held.reservation)))[0].applied.unreserved
        refusal = await refusal_of(operator.Pause(pauses_pb2.PauseRequest(subject=TEAM, reason="another")))
        assert (refusal.reason, refusal.field) == ("PAUSED_ALREADY", "subject")
        refusal = await refusal_of(operator.Resume(pauses_pb2.ResumeRequest(subject=BOT)))
        assert (refusal.reason, refusal.metadata["paused"]) == ("NOT_PAUSED", TEAM)
        ended = await operator.Resume(pauses_pb2.ResumeRequest(subject=TEAM, note="mended"))
        assert [(p.name, p.end_note, p.active) for p in ended.ended] == [(made.name, "mended", False)]
        assert (await budget.reserve()).outcome == ALLOW
        assert await listed(budget) == []
        (kept,) = await listed(budget, include_ended=True)
        assert (kept.reason, kept.end_note, kept.ended_by.split("#")[0]) == ("it loops", "mended", ORG)
        assert kinds(await alerts(budget.database)) == ["paused", "resumed"]


async def test_use_at_the_limit_pauses_every_descendant_whatever_its_own_limits(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(TEAM, "cap", limit_amount=NANOS, on_exceed=PAUSE, thresholds_percent=[50])
        await budget.create(BOT, "own", limit_amount=100 * NANOS)
        await budget.apply(usage(cost=NANOS))
        denied = await budget.reserve(cost=1)
        assert denied.denied_reason == PAUSED
        (why,) = denied.pauses
        assert (why.subject, why.budget, why.window) == (TEAM, f"{TEAM}/budgets/cap", "lifetime")
        assert why.cause == pauses_pb2.PAUSE_CAUSE_USE
        # Calls that the budget does not count are stopped, too: it is the subject that is paused.
        assert (await budget.reserve(cost=1, currency="EUR")).denied_reason == PAUSED
        assert (await budget.reserve(subject=ORG, cost=1)).outcome == ALLOW
        # Use is recorded all the same, and a correction neither ends the pause nor begins another.
        for cost in (5, -NANOS, NANOS):
            await budget.apply(usage(cost=cost))
        assert kinds(await alerts(budget.database)) == ["threshold_reached", "paused"]
        (one,) = await listed(budget)
        assert one.name == why.name
        assert [p.name for p in await listed(budget, parent=BOT, include_ancestors=True)] == [why.name]
        assert await listed(budget, parent=BOT) == []


async def test_the_first_denial_alerts_and_pauses_once(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        name = (await budget.create(ORG, "b", limit_amount=10, on_exceed=PAUSE)).name
        await budget.apply(usage(cost=6))
        # Neither a dry run, nor what would not fit an empty window, tells or changes anything.
        assert (await budget.reserve(cost=5, validate_only=True)).denied_reason == EXCEEDED
        assert (await budget.reserve(cost=11)).denied_reason == EXCEEDED
        before = await alerts(budget.database)
        assert [one["threshold_percent"] for one in before] == [50]
        requests = [ask(cost=5), ask(cost=1)]
        answer = await budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests))
        first, second = (result.decision for result in answer.results)
        assert (first.denied_reason, second.denied_reason) == (EXCEEDED, PAUSED)
        assert [p.cause for p in first.pauses] == [pauses_pb2.PAUSE_CAUSE_DENIAL]
        assert [p.name for p in second.pauses] == [p.name for p in first.pauses]
        told = (await alerts(budget.database))[1:]
        assert kinds(told) == ["threshold_reached", "paused"]
        assert [told[0][key] for key in ("severity", "cause", "percent", "asked")] == ["EXCEEDED", "DENIAL", 60, "5"]
        # A person lets it go on; the same window and limit never pause it again.
        await budget.admin.Resume(pauses_pb2.ResumeRequest(subject=ORG))
        assert (await budget.reserve(cost=5)).denied_reason == EXCEEDED
        assert (await budget.reserve(cost=1)).outcome == ALLOW
        assert kinds(await alerts(budget.database))[3:] == ["resumed"]
        # A raised limit is a new generation.
        await budget.update(name, limit_amount=11)
        assert (await budget.reserve(cost=5)).denied_reason == EXCEEDED
        assert (await budget.reserve(cost=1)).denied_reason == PAUSED
        await budget.audit()


async def test_a_raise_ends_the_pause_of_a_limit_that_was_higher(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        name = (await budget.create(ORG, "b", limit_amount=20, on_exceed=PAUSE)).name
        await budget.apply(usage("u", cost=20))
        await budget.update(name, limit_amount=10)
        correction = usage("c", cost=-9)
        correction.corrects.source, correction.corrects.id = "test", "u"
        await budget.apply(correction)
        assert (await budget.reserve(cost=1)).denied_reason == PAUSED
        await budget.update(name, limit_amount=15)
        assert (await budget.reserve(cost=1)).outcome == ALLOW


async def test_a_raised_limit_ends_the_pause_once_it_is_above_use(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        name = (await budget.create(ORG, "b", limit_amount=10, on_exceed=PAUSE)).name
        await budget.apply(usage(cost=15))
        await budget.update(name, limit_amount=15)
        assert (await budget.reserve(cost=1)).denied_reason == PAUSED
        await budget.update(name, limit_amount=20)
        assert (await budget.reserve(cost=5)).outcome == ALLOW
        assert await listed(budget) == []
        assert {p.end_note for p in await listed(budget, include_ended=True)} == {"the limit was raised above use"}
        # A limit that is lowered below use pauses by itself.
        await budget.update(name, limit_amount=12)
        # The same generation has not paused yet: only a rise begins another.
        assert (await budget.reserve(cost=1)).denied_reason == PAUSED
        await budget.admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=name))
        assert (await budget.reserve(cost=1)).outcome == ALLOW


async def test_the_end_of_the_window_ends_its_pause_without_a_job(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(TEAM, "manual", limit_amount=10, window=DAY, on_exceed=PAUSE, resume=MANUAL)
        await budget.create(BOT, "daily", limit_amount=10, window=DAY, on_exceed=PAUSE, resume=WINDOW_END)
        await budget.apply(usage(cost=10))
        status = await budget.admin.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=f"{BOT}/budgets/daily"))
        by_subject = {p.subject: p for p in (await budget.reserve(cost=1)).pauses}
        assert by_subject[BOT].until_time == status.status.use.window_end_time
        assert not by_subject[TEAM].HasField("until_time")
        await budget.admin.Resume(pauses_pb2.ResumeRequest(subject=TEAM))
        (left,) = (await budget.reserve(cost=1)).pauses
        assert left.subject == BOT
        # A day goes by: what the window's counters and its pause are keyed by lies a day back.
        await rows(budget.database, "UPDATE pauses SET until_us = until_us - 86400000000 WHERE subject = $1", BOT)
        await rows(budget.database, "UPDATE counters SET window_key = window_key - 1")
        assert (await budget.reserve(cost=1)).outcome == ALLOW
        assert await listed(budget) == []
        (over, _) = await listed(budget, include_ended=True)
        assert over.HasField("end_time") is (over.subject == TEAM)


async def test_a_budget_that_pauses_no_more_lets_its_subject_go(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        name = (await budget.create(ORG, "b", limit_amount=10, on_exceed=PAUSE)).name
        await budget.apply(usage(cost=10))
        assert (await budget.reserve(cost=1)).denied_reason == PAUSED
        await budget.update(name, on_exceed=budget_pb2.ON_EXCEED_WARN)
        assert (await budget.reserve(cost=1)).outcome == ALLOW
        await budget.update(name, on_exceed=PAUSE)
        # Its window has paused once in this generation: it denies, and does not pause again.
        assert (await budget.reserve(cost=1)).denied_reason == EXCEEDED


async def test_many_first_denials_at_once_on_two_servers_tell_once(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running_budget(base, tmp_path / "a") as one, running_budget(base, tmp_path / "b") as two:
        await one.create(ORG, "b", limit_amount=100, on_exceed=PAUSE, thresholds_percent=[50, 80, 100])
        await one.apply(usage(cost=40))
        events = [usage(cost=1) for _ in range(60)]
        # Every event goes to both servers: at least once is what a relay promises.
        spends = asyncio.gather(*(server.apply(event) for event in events for server in (one, two)))
        decisions = await asyncio.gather(*(server.reserve(cost=70) for server in (one, two) for _ in range(30)))
        await spends
        assert {decision.denied_reason for decision in decisions} <= {EXCEEDED, PAUSED}
        told = await alerts(base)
        assert sorted(one["threshold_percent"] for one in told if "threshold_percent" in one) == [50, 80, 100]
        assert kinds(told).count("paused") == 1
        assert (await one.use(f"{ORG}/budgets/b")).spent_amount == 100
        assert len(await rows(base, "SELECT FROM pauses")) == 1
        await two.audit()


async def test_pages_of_pauses(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        for number in range(5):
            subject = f"{ORG}/agents/a{number}"
            await budget.admin.Pause(pauses_pb2.PauseRequest(subject=subject, reason="test"))
        request = pauses_pb2.ListPausesRequest(parent=ORG, page_size=2)
        seen = []
        while True:
            page = await budget.admin.ListPauses(request)
            seen += [pause.subject for pause in page.pauses]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert seen == [f"{ORG}/agents/a{number}" for number in range(5)]
        request.parent = TEAM
        assert (await refusal_of(budget.admin.ListPauses(request))).field == "page_token"


WRONG = {
    "subject": pauses_pb2.PauseRequest(subject="acme", reason="x"),
    "reason": pauses_pb2.PauseRequest(subject=ORG, reason="  "),
    "reason ": pauses_pb2.PauseRequest(subject=ORG, reason="x" * 501),
    "reason  ": pauses_pb2.PauseRequest(subject=ORG, reason="a\x00b"),
}


async def test_wrong_requests_and_strangers_pause_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        for field, request in WRONG.items():
            assert (await refusal_of(budget.admin.Pause(request))).field == field.strip()
        request = pauses_pb2.PauseRequest(subject=ORG, reason="x")
        for subject, role in ((ORG, "agent"), (TEAM, "operator"), (ORG, "auditor")):
            refusal = await refusal_of(budget.stub_for(subject, role).Pause(request))
            assert refusal.code.name == "PERMISSION_DENIED"
        checked = pauses_pb2.PauseRequest(subject=ORG, reason="x", validate_only=True)
        assert (await budget.admin.Pause(checked)).pause.subject == ORG
        assert await rows(budget.database, "SELECT FROM pauses") == []
        refusal = await refusal_of(budget.admin.Resume(pauses_pb2.ResumeRequest(subject=ORG, note="x" * 501)))
        assert refusal.field == "note"
