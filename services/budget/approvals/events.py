"""What people and the workflow are told of approvals: outbox rows, written with the change itself."""

import json
from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain.alerts import rfc3339
from services.budget.domain.approvals import Approval, ApprovalState, Kind
from services.budget.domain.subscriptions import EventKind
from services.budget.notify.domain.events import Event
from services.budget.store import subscriptions
from services.budget.store.alerts import TOPIC as TOPIC_ALERTS
from services.kit import money, outbox
from services.kit.outbox import OutboxRow
from services.kit.subject import parse

TOPIC_START: Final = "approval.start"
TOPIC_SIGNAL: Final = "approval.signal"

REQUESTED: Final = "approval.requested"
REMINDER: Final = "approval.reminder"
ESCALATED: Final = "approval.escalated"
DECIDED: Final = "approval.decided"


def words(row: Approval) -> str:
    """What is asked for, in words with the amount."""
    if row.kind is Kind.OPERATION:
        return f"{row.operation}: {money.format_nanos(row.amount, row.currency)} for {row.subject}"
    if row.kind is Kind.BUDGET_RAISE:
        amount = money.format_nanos(row.amount, row.currency) if row.currency else str(row.amount)
        return f"a raise of {row.target} by {amount} until {rfc3339(row.until_us)}"
    more = [f"{row.extra_count} more recharges"] if row.extra_count else []
    if row.amount:
        more.append(f"{money.format_nanos(row.amount, row.currency)} more to recharge")
    return f"{' and '.join(more)} for {row.target}"


async def audience_of(connection: asyncpg.Connection, row: Approval, below: str = "") -> str:
    """The nearest subject upward with a subscription for approvals, else the organisation.

    Args:
        connection: A connection.
        row: The approval.
        below: Only subjects above this one; empty: from the approval's own on.
    """
    subject = parse(row.subject)
    levels = subject.ancestors if not below else parse(below).ancestors[:-1]
    found = await subscriptions.of_subjects(connection, row.org, list(levels))
    listening = {one.subject for one in found if one.wants(EventKind.APPROVAL)}
    return next((name for name in reversed(levels) if name in listening), subject.root)


async def set_audiences(connection: asyncpg.Connection, rows: Sequence[Approval]) -> None:
    """Notes who is told of new approvals first. One statement, however many there are: spends wait for it."""
    levels = {(row.org, row.subject): parse(row.subject).ancestors for row in rows}
    pairs = sorted({(org, name) for (org, _), names in levels.items() for name in names})
    found = await subscriptions.of_pairs(connection, pairs)
    listening = {(one.org, one.subject) for one in found if one.wants(EventKind.APPROVAL)}
    for row in rows:
        path = levels[row.org, row.subject]
        row.told = next((name for name in reversed(path) if (row.org, name) in listening), path[0])


async def tell(connection: asyncpg.Connection, row: Approval, kind: str, at_us: int) -> None:
    """Writes what the row's audience is told."""
    await outbox.put(connection, [_told(row, kind, at_us)])


def _told(row: Approval, kind: str, at_us: int) -> OutboxRow:
    number = {REMINDER: f":{row.reminders}", ESCALATED: f":{row.escalations}"}.get(kind, "")
    data = {
        "approval": row.name,
        "kind": row.kind.name,
        "what": words(row),
        "operation": row.operation,
        "target": row.target,
        "amount": str(row.amount),
        "currency": row.currency,
        "extra_count": row.extra_count,
        "until": rfc3339(row.until_us) if row.until_us else None,
        "justification": row.justification,
        "urgency": row.urgency.name,
        "requested_by": row.requested_by,
        "requested_at": rfc3339(row.created_us),
        "expires_at": rfc3339(row.expires_us),
        "state": row.state.name,
        "decided_by": row.decided_by,
        "reason": row.reason,
    }
    event = Event(
        row.org, f"{kind}:{row.name}{number}", row.subject, EventKind.APPROVAL, kind, data, row.told, at_us
    )  # fmt: skip
    return OutboxRow(row.org, TOPIC_ALERTS, event.key, event.payload(at_us))


async def start(connection: asyncpg.Connection, rows: Sequence[Approval]) -> None:
    """Asks for the workflows of approvals."""
    await outbox.put(connection, [_start(row) for row in rows])


def _start(row: Approval) -> OutboxRow:
    about = {
        "subject": row.subject,
        "requested_by": row.requested_by,
        "what": words(row),
        "justification": row.justification,
        "urgency": row.urgency.name,
        "expires_at": rfc3339(row.expires_us),
        "state": row.state.name,
    }
    payload = json.dumps(about, separators=(",", ":"), sort_keys=True).encode()
    return OutboxRow(row.org, TOPIC_START, row.name, payload)


async def tell_asked(connection: asyncpg.Connection, rows: Sequence[Approval], at_us: int) -> None:
    """What follows from requests: approvers are told and a workflow is started, where somebody must decide."""
    waiting = [row for row in rows if row.state is ApprovalState.PENDING]
    await outbox.put(connection, [one for row in waiting for one in (_told(row, REQUESTED, at_us), _start(row))])


async def tell_settled(connection: asyncpg.Connection, rows: Sequence[Approval], at_us: int) -> None:
    """What follows from changes: whoever was told last is told the outcome, and the workflow is woken."""
    ended = [row for row in rows if row.state is not ApprovalState.PENDING]
    messages = []
    for row in ended:
        messages.append(_told(row, DECIDED, at_us))
        messages.append(OutboxRow(row.org, TOPIC_SIGNAL, row.name, row.state.name.encode()))
    await outbox.put(connection, messages)
