"""What the methods on approvals do, on plain values."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from services.budget import paging
from services.budget.approvals import events
from services.budget.approvals.domain import policies as policy_rules
from services.budget.approvals.domain.policies import PolicyDraft
from services.budget.approvals.store import approvals, policies
from services.budget.decisions import Decisions
from services.budget.domain.approvals import (
    Approval,
    ApprovalPolicy,
    ApprovalState,
    Kind,
    SettleItem,
    Verdict,
    check_estimate,
    counted,
    decide_again,
    end,
    opened,
    refuse_more,
)
from services.budget.domain.model import Answer, Decision, Item, ReserveItem
from services.budget.domain.waiting import reused
from services.budget.overrides import Grant, Overrides
from services.budget.store import budgets, overrides, pauses
from services.kit.approvals import Step, Times
from services.kit.database import transact
from services.kit.errors import conflict, not_found
from services.kit.groupcommit import GroupCommit
from services.kit.subject import Subject, parse, parse_resource

Clock = Callable[[asyncpg.Connection], Awaitable[int]]

_WHO_CHARS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Settling:
    """A decision, or another end, as somebody wants it.

    Attributes:
        by: The principal.
        credential: Subject and token of the call.
    """

    verdict: Verdict
    by: str
    reason: str
    request_id: str = ""
    credential: str = ""


class Approvals:
    """Asks, decides, and does what is due.

    Args:
        pool: Budget's database.
        commit: The shared transactions.
        decisions: Decides spends.
        clock: The deciding clock of what is due.
        wake: Called after something was written that a relay may send.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        commit: GroupCommit[Item, Answer],
        decisions: Decisions,
        *,
        clock: Clock = budgets.now_us,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._commit = commit
        self._decisions = decisions
        self._overrides = Overrides(pool)
        self._clock = clock
        self._wake = wake

    async def times_of(self, subject: Subject, draft: Approval, ttl_us: int | None) -> Approval:
        """The draft with the times that hold for its subject and urgency.

        Args:
            subject: For whom it is asked.
            draft: What is asked for.
            ttl_us: How long it is to live; None: by the urgency.
        """
        async with self._pool.acquire() as connection:
            path = await policies.of_path(connection, subject.org, subject.ancestors)
        times = policy_rules.times_of(path, draft.urgency)
        lives_us = times.expire_us if ttl_us is None else ttl_us
        return replace(draft, times=Times(times.remind_us, times.escalate_us, lives_us), expires_us=lives_us)

    async def request_operation(self, item: ReserveItem, wait_s: float) -> tuple[Approval | None, Decision]:
        """Holds what is asked for and lets it wait; or lets it be spent at once, where nobody needs to be asked.

        Returns:
            The approval, None where the spend was denied; and the decision.

        Raises:
            PurseError: The field at fault, REQUEST_ID_REUSED, or TOO_MANY_APPROVALS.
        """
        check_estimate(item.cost)
        (answer,) = await self._decisions.decide([item], wait_s)
        if isinstance(answer, Exception):
            raise answer
        self._wake()
        async with self._pool.acquire() as connection:
            row = await approvals.get(connection, item.org, item.id)
        # A spend that is denied is denied whoever has asked under its id before.
        mine = row is not None and item.approval is not None and row.payload_hash == item.approval.payload_hash
        return row if mine else None, answer

    async def request(self, subject: Subject, draft: Approval) -> Approval:
        """Asks for a raise or for more recharges; the same request again gives the approval as it stands.

        Raises:
            PurseError: What is asked for cannot be, PAUSED, REQUEST_ID_REUSED, or TOO_MANY_APPROVALS.
        """
        asked = draft
        async with self._pool.acquire() as connection:
            is_new = await approvals.get(connection, subject.org, draft.id) is None
        # Sent again, it is as it stands, whatever has become of the budget since.
        if is_new and draft.kind is Kind.BUDGET_RAISE:
            currency = await self._overrides.check(*parse_resource(draft.target, "budgets"), _grant(draft, "", "", ""))
            asked = replace(draft, currency=currency)

        async def run(connection: asyncpg.Connection) -> Approval:
            await approvals.enter(connection, [subject.org])
            known = await approvals.get(connection, subject.org, draft.id)
            if known is not None:
                if known.payload_hash != draft.payload_hash:
                    raise reused(draft.id)
                return known
            if asked.kind is Kind.BUDGET_RAISE and await overrides.get(connection, subject.org, draft.id) is not None:
                raise reused(draft.id)
            now_us = await budgets.now_us(connection)
            await _refuse_paused(connection, subject, now_us, "ask again once it is resumed")
            waiting = await approvals.held(connection, counted(subject))
            if refusal := refuse_more(waiting, subject):
                raise refusal
            row = opened(asked, now_us, waits=True)
            await events.set_audiences(connection, [row])
            await approvals.add(connection, [row])
            await events.tell_asked(connection, [row], now_us)
            return row

        made = await transact(self._pool, run)
        self._wake()
        return made

    async def get(self, subject: Subject, id_: str) -> Approval:
        """As it stands; NOT_FOUND."""
        async with self._pool.acquire() as connection:
            return _found(await approvals.get(connection, subject.org, id_), subject, id_)

    async def list_page(
        self, subject: Subject, state: int, page_size: int, page_token: str
    ) -> tuple[list[Approval], str]:
        """Approvals of a subtree by when they expire, and the next page's token.

        Raises:
            PurseError: The page's size or token is wrong.
        """
        size = paging.size_of(page_size)
        scope = f"{subject.name} {state}"
        after = paging.after_of(page_token, scope, (0, ""))
        async with self._pool.acquire() as connection:
            found = await approvals.list_page(connection, (subject.org, subject.name), state, after, size + 1)
        if len(found) <= size:
            return found, ""
        last = found[size - 1]
        return found[:size], paging.token_of(scope, (last.expires_us, last.id))

    async def settle(self, subject: Subject, id_: str, how: Settling) -> Approval:
        """Decides an approval, or ends it; what it holds moves in the same transaction.

        Raises:
            PurseError: NOT_FOUND, APPROVAL_DECIDED, APPROVAL_EXPIRED, PAUSED, APPROVAL_DOES_NOT_FIT.
        """
        row = await self.get(subject, id_)
        if row.kind is Kind.OPERATION:
            item = SettleItem(
                subject.org, id_, subject, how.verdict, how.by, how.reason, how.request_id, await self._now_us()
            )
            settled = await self._commit.submit(item)
            assert isinstance(settled, Approval)
        else:
            settled = await transact(self._pool, lambda connection: self._settle_other(connection, subject, id_, how))
        self._wake()
        return settled

    async def _settle_other(
        self, connection: asyncpg.Connection, subject: Subject, id_: str, how: Settling
    ) -> Approval:
        row = _found(await approvals.get(connection, subject.org, id_, lock=True), subject, id_)
        now_us = await self._clock(connection)
        if row.state is not ApprovalState.PENDING:
            refusal = None if how.verdict is Verdict.EXPIRE else decide_again(row, how.verdict, how.by, how.request_id)
            if refusal is not None:
                raise refusal
            return row
        if how.verdict is Verdict.EXPIRE and now_us < row.expires_us:
            return row
        if how.verdict is Verdict.APPROVE:
            if now_us >= row.expires_us:
                raise conflict(
                    "APPROVAL_EXPIRED", f"{row.name} has expired; it must be asked for anew", state="EXPIRED"
                )
            await _refuse_paused(connection, subject, now_us, "resume it and approve again, or deny it")
            if row.kind is Kind.BUDGET_RAISE:
                grant = _grant(row, how.by, how.reason, how.credential)
                override, _, _ = await self._overrides.grant_in(
                    connection, *parse_resource(row.target, "budgets"), grant
                )
                row.outcome = f"{override.subject}/overrides/{override.id}"
        end(row, how.verdict, now_us, by=how.by, reason=how.reason, decide_id=how.request_id)
        await approvals.change(connection, [row])
        await events.tell_settled(connection, [row], now_us)
        return row

    async def expire(self, subject: Subject, id_: str, reason: str = "") -> Approval:
        """Ends an approval whose time, or whose hold's, is over; another one stays as it is."""
        row = await self.get(subject, id_)
        why = reason or ("" if row.kind is Kind.OPERATION else "nobody decided in time")
        return await self.settle(subject, id_, Settling(Verdict.EXPIRE, "", why))

    async def advance(self, subject: Subject, id_: str) -> tuple[Approval, int | None]:
        """Does what is due: ends it, places its hold anew, reminds, or tells those a level up.

        Returns:
            The approval, and when something is due next; None: never.
        """
        row = await self.get(subject, id_)
        now_us = await self._now_us()
        if row.state is ApprovalState.PENDING:
            if now_us >= row.expires_us or (row.kind is Kind.OPERATION and now_us >= row.hold_us):
                row = await self.expire(subject, id_)
            elif row.kind is Kind.OPERATION and now_us >= row.renew_us:
                item = SettleItem(subject.org, id_, subject, Verdict.RENEW, at_us=now_us)
                renewed = await self._commit.submit(item)
                assert isinstance(renewed, Approval)
                row = renewed

        async def step(connection: asyncpg.Connection) -> Approval:
            locked = _found(await approvals.get(connection, subject.org, id_, lock=True), subject, id_)
            if locked.state is ApprovalState.PENDING:
                await _tell_due(connection, locked, now_us)
            locked.next_us = locked.advance_us() if not locked.must_allow else now_us
            await approvals.change(connection, [locked])
            return locked

        row = await transact(self._pool, step)
        self._wake()
        return row, row.advance_us()

    async def complete(self, subject: Subject, id_: str, outcome: str) -> Approval:
        """Notes what came of recharges that were approved; the first word stays.

        Raises:
            PurseError: NOT_FOUND, or APPROVAL_NOT_APPROVED.
        """

        async def run(connection: asyncpg.Connection) -> Approval:
            row = _found(await approvals.get(connection, subject.org, id_, lock=True), subject, id_)
            if row.state is not ApprovalState.APPROVED or row.kind is not Kind.RECHARGES:
                raise conflict("APPROVAL_NOT_APPROVED", f"{row.name} is no approval of recharges that was given")
            if not row.outcome:
                row.outcome, row.next_us = outcome, None
                await approvals.change(connection, [row])
            return row

        return await transact(self._pool, run)

    async def policy(self, subject: Subject) -> tuple[ApprovalPolicy, ApprovalPolicy]:
        """A subject's own policy, and what holds for it."""
        async with self._pool.acquire() as connection:
            path = await policies.of_path(connection, subject.org, subject.ancestors)
        own = next((one for one in path if one.subject == subject.name), ApprovalPolicy(subject.org, subject.name))
        return own, policy_rules.in_force(path, subject.org, subject.name)

    async def set_policy(self, subject: Subject, draft: PolicyDraft, *, by: str, validate_only: bool) -> ApprovalPolicy:
        """Replaces a subject's policy; every replica goes by it from the moment that this answers.

        Raises:
            PurseError: The field at fault, ETAG_MISMATCH, or TOO_MANY_APPROVAL_POLICIES.
        """

        async def run(connection: asyncpg.Connection) -> ApprovalPolicy:
            if validate_only:
                now_us = await budgets.now_us(connection)
            else:
                now_us = await budgets.begin_write(connection, subject.org)
            there = await policies.of_path(connection, subject.org, (subject.name,))
            if not there and (refusal := policy_rules.refuse_more(await policies.count(connection, subject.org))):
                raise refusal
            seen = there[0] if there else ApprovalPolicy(subject.org, subject.name)
            made = policy_rules.define(draft, seen, now_us, by)
            if not validate_only:
                await policies.put(connection, made)
            return made

        # A policy that is wrong must not lock the organisation out.
        policy_rules.define(replace(draft, etag=""), ApprovalPolicy(subject.org, subject.name), 0, by)
        return await transact(self._pool, run)

    async def _now_us(self) -> int:
        async with self._pool.acquire() as connection:
            return await self._clock(connection)


def _found(row: Approval | None, subject: Subject, id_: str) -> Approval:
    if row is None or row.subject != subject.name:
        raise not_found(f"approval {subject.name}/approvals/{id_}", "APPROVAL_UNKNOWN")
    return row


def _grant(row: Approval, by: str, reason: str, credential: str) -> Grant:
    return Grant(
        row.id,
        row.amount,
        row.until_us,
        reason or row.justification,
        by[:_WHO_CHARS_MAX],
        row.name,
        credential,
        row.payload_hash,
    )


async def _refuse_paused(connection: asyncpg.Connection, subject: Subject, now_us: int, advice: str) -> None:
    found = await pauses.of_subjects(connection, subject.org, list(subject.ancestors), now_us)
    if found:
        raise conflict("PAUSED", f"{found[0].subject} is paused ({found[0].reason}); {advice}", pause=found[0].name)


async def _tell_due(connection: asyncpg.Connection, row: Approval, now_us: int) -> None:
    """Reminds, or tells those a level up, where that is due; the row is locked."""
    due = row.step()
    if due is None or now_us < due[1]:
        return
    if due[0] is Step.REMIND:
        row.reminders += 1
        await events.tell(connection, row, events.REMINDER, now_us)
        return
    row.escalations += 1
    if row.told != parse(row.subject).root:
        row.told = await events.audience_of(connection, row, below=row.told)
    await events.tell(connection, row, events.ESCALATED, now_us)
