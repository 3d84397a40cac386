"""What the worker that delivers asks and tells: deliveries taken, and what became of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from services.budget.domain import alerts as facts
from services.budget.domain.subscriptions import EventKind, Subscription
from services.budget.notify.domain import lanes as rules
from services.budget.notify.domain.events import Event
from services.budget.notify.domain.lanes import Channel, Lane, Outcome, State
from services.budget.notify.store import lanes
from services.budget.notify.store.lanes import Moved, PendingRow
from services.budget.store import budgets, subscriptions
from services.budget.store.alerts import TOPIC
from services.kit import outbox
from services.kit.database import transact
from services.kit.errors import not_found
from services.kit.outbox import OutboxRow
from services.kit.subject import Subject

_FOREVER_US: Final = 2**62
_REST_WHERE_HELD_US: Final = rules.S_US


@dataclass(slots=True, frozen=True)
class Report:
    """One try.

    Attributes:
        retry_after_s: How long the receiver asks to be left alone, in seconds; 0: it does not say.
    """

    number: int
    outcome: Outcome
    error: str
    retry_after_s: int = 0


@dataclass(slots=True)
class Taken:
    """What is to be sent, or why nothing is.

    Attributes:
        secrets: What signs it.
        hold_us: How long the caller holds the lane from now on; 0: it does not.
        waiting: How many are pending.
        rest_us: When to ask again; None: nothing waits.
    """

    to: Subscription
    secrets: list[str] = field(default_factory=list)
    rows: list[PendingRow] = field(default_factory=list)
    hold_us: int = 0
    waiting: int = 0
    rest_us: int | None = None
    reason: str = ""


class Carrying:
    """What the methods do, on plain values.

    Args:
        pool: Budget's database.
        wake: Called when there are events to tell.
    """

    def __init__(self, pool: asyncpg.Pool, wake: Callable[[], None]) -> None:
        self._pool = pool
        self._wake = wake

    async def take(self, subject: Subject, id_: str, channel: Channel, holder: str, limit: int, *, keep: bool) -> Taken:
        """What is to be sent now, in order, for one holder at a time; NOT_FOUND."""

        async def run(connection: asyncpg.Connection) -> Taken:
            to, lane, now_us = await _locked(connection, subject, id_, channel)
            taken = Taken(to, to.secrets(now_us))
            if lane is None:
                return taken
            if lane.is_held(now_us, but_by=holder):
                taken.waiting, taken.rest_us = lane.waiting, lane.held_until_us - now_us + _REST_WHERE_HELD_US
                taken.reason = "another worker delivers"
                return taken
            lane.woken_us = None
            await _take(connection, taken, lane, holder, now_us, limit=limit, keep=keep)
            taken.waiting = lane.waiting
            taken.hold_us = rules.HOLD_US if lane.held_by else 0
            await lanes.write(connection, [lane])
            return taken

        return await transact(self._pool, run)

    async def report(
        self,
        subject: Subject,
        id_: str,
        channel: Channel,
        holder: str,
        reports: Sequence[Report],
        *,
        release: bool = False,
    ) -> int:
        """Notes what became of tries; returns how long the holder goes on holding, in microseconds, 0: it does not.

        What was delivered is noted whoever says so, for it is true. Only the holder's failures count: another one's are
        of a try that is not its turn's any more. With `release` the holder holds no longer.
        """

        async def run(connection: asyncpg.Connection) -> tuple[int, bool]:
            to, lane, now_us = await _locked(connection, subject, id_, channel)
            if lane is None:
                return 0, False
            held = lane.held_by == holder
            told = await _note(connection, to, lane, reports if held else _delivered(reports), now_us)
            holds_on = held and lane.off_us is None and not release
            if holds_on:
                lane.hold(holder, now_us)
            elif held:
                lane.release()
            await lanes.write(connection, [lane])
            return rules.HOLD_US if holds_on else 0, told

        hold_us, told = await transact(self._pool, run)
        if told:
            self._wake()
        return hold_us


async def _locked(
    connection: asyncpg.Connection, subject: Subject, id_: str, channel: Channel
) -> tuple[Subscription, Lane | None, int]:
    to = await subscriptions.find(connection, subject.org, subject.name, id_)
    if to is None:
        raise not_found(f"subscription {subject.name}/subscriptions/{id_}", "SUBSCRIPTION_UNKNOWN")
    locked = await lanes.lock(connection, [(to.org, to.no, int(channel))], make=False)
    return to, next(iter(locked.values()), None), await budgets.now_us(connection)


async def _take(
    connection: asyncpg.Connection, taken: Taken, lane: Lane, holder: str, now_us: int, *, limit: int, keep: bool
) -> None:
    lane.release()
    target = taken.to.webhook_url if lane.channel is Channel.WEBHOOK else taken.to.email
    if lane.waiting and (not target or lane.off_us is not None):
        taken.reason = lane.off_reason or f"the subscription has no {lane.channel.word} any more"
        await give_up(connection, lane, taken.reason, now_us)
    if taken.to.disabled:
        taken.reason = "the subscription is disabled"
        return
    if lane.due_us is None:
        if keep:
            lane.hold(holder, now_us)
        return
    due_us = lane.due_us
    if lane.channel is Channel.MAIL:
        due_us = rules.mail_due_us(lane.sent_us, due_us)
    if due_us > now_us:
        taken.rest_us = due_us - now_us
        mailed = due_us > lane.due_us
        taken.reason = "mails are gathered for a minute" if mailed else "the last try failed"
        return
    taken.rows = await lanes.pending(connection, lane, limit)
    lane.hold(holder, now_us)


async def _note(
    connection: asyncpg.Connection, to: Subscription, lane: Lane, reports: Sequence[Report], now_us: int
) -> bool:
    """Writes what became of tries into a locked lane; whether people are told that it is switched off."""
    known = await lanes.pending_of(connection, lane, [one.number for one in reports])
    moved: list[Moved] = []
    off = ""
    for one in reports:
        if one.number not in known or off:
            continue
        message_id, tries, first_try_us = known[one.number]
        error = one.error[: rules.ERROR_CHARS_MAX]
        state, next_us = State.DEAD, None
        if one.outcome is Outcome.DELIVERED:
            state, error = State.DELIVERED, ""
            lane.failing_since_us, lane.sent_us = None, now_us
        elif one.outcome is Outcome.FAILED:
            lane.failing_since_us = lane.failing_since_us or now_us
            asked = rules.Asked(one.retry_after_s * rules.S_US, now_us if first_try_us is None else first_try_us)
            next_us = rules.after_failure(message_id, tries + 1, now_us, asked).next_try_us
            state = State.DEAD if next_us is None else State.PENDING
            if next_us is None and rules.is_to_be_switched_off(lane.failing_since_us, now_us):
                days = rules.OFF_AFTER_US // rules.DAY_US
                off = f"nothing was taken for {days} days; the last failure: {error}"
        elif one.outcome is Outcome.GONE:
            off = error or "the receiver wants nothing any more"
        moved.append(Moved(one.number, state, tries + 1, error, next_us))
    await lanes.move(connection, lane, moved, now_us)
    lane.waiting -= sum(one.state is not State.PENDING for one in moved)
    if moved:
        lane.due_us = await lanes.head_us(connection, lane)
    if off:
        await _switch_off(connection, to, lane, off, now_us)
    return bool(off)


def _delivered(reports: Sequence[Report]) -> list[Report]:
    return [one for one in reports if one.outcome is Outcome.DELIVERED]


async def give_up(
    connection: asyncpg.Connection, lane: Lane, reason: str, now_us: int, before_us: int = _FOREVER_US
) -> int:
    """Makes dead what is pending in a locked lane and was written before; how many. The caller writes the lane."""
    gone = await lanes.kill(connection, lane, reason[: rules.ERROR_CHARS_MAX], now_us, before_us=before_us)
    lane.waiting -= gone
    lane.due_us = await lanes.head_us(connection, lane)
    return gone


async def _switch_off(connection: asyncpg.Connection, to: Subscription, lane: Lane, why: str, now_us: int) -> None:
    """Sends nothing any more by this channel, gives up what waits, and tells whoever else subscribed."""
    lane.off_us, lane.off_reason = now_us, why[: rules.ERROR_CHARS_MAX]
    lane.release()
    gone = await give_up(connection, lane, lane.off_reason, now_us)
    event = Event(
        to.org,
        f"delivery-off:{to.name}:{lane.channel.word}:{now_us}",
        to.subject,
        EventKind.NOTICE,
        "subscription.switched_off",
        {
            "subscription": to.name,
            "channel": lane.channel.word,
            "reason": lane.off_reason,
            "dead": gone,
            "failing_since": None if lane.failing_since_us is None else facts.rfc3339(lane.failing_since_us),
        },
    )
    await outbox.put(connection, [OutboxRow(to.org, TOPIC, event.key, event.payload(now_us))])
