"""Outbox rows that wake the workflows of lanes."""

import json
from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain.subscriptions import Subscription
from services.budget.notify.domain.lanes import Channel, workflow_id
from services.kit import outbox
from services.kit.outbox import OutboxRow

TOPIC: Final = "notify"
"""The outbox topic that Temporal is told of."""


async def put(connection: asyncpg.Connection, waking: Sequence[tuple[Subscription, Channel]]) -> None:
    """Writes a row for each, in the caller's transaction."""
    rows = []
    for one, channel in waking:
        about = {"subscription": one.name, "subject": one.subject, "channel": channel.word}
        rows.append(OutboxRow(one.org, TOPIC, workflow_id(one.name, channel), json.dumps(about).encode()))
    await outbox.put(connection, rows)
