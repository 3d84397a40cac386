"""Alerts as people see them: listed and acknowledged."""

import asyncpg

from services.budget import paging
from services.budget.domain import pauses
from services.budget.domain.alerts import parse_alert_id
from services.budget.store import alerts
from services.budget.store.alerts import AlertFilter, AlertRow
from services.kit.database import transact
from services.kit.errors import not_found
from services.kit.subject import Subject

_NEWEST = (2**63 - 1,) * 5


class Alerted:
    """What the alert methods do, on plain values.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def list_page(
        self, subject: Subject, wanted: AlertFilter, page_size: int, page_token: str
    ) -> tuple[list[AlertRow], str]:
        """Alerts of a subtree, the newest first, and the next page's token.

        Raises:
            PurseError: The page's size or token is wrong.
        """
        size = paging.size_of(page_size)
        scope = (
            f"{subject.name} {wanted.state} {wanted.threshold_min} {wanted.budget} {wanted.from_us} {wanted.until_us}"
        )
        after = paging.after_of(page_token, scope, _NEWEST)
        place = (after[0], after[1], after[2], after[3], after[4])
        async with self._pool.acquire() as connection:
            found = await alerts.list_page(connection, subject.org, subject.name, wanted, after=place, limit=size + 1)
        if len(found) <= size:
            return found, ""
        return found[:size], paging.token_of(scope, found[size - 1].place)

    async def acknowledge(self, subject: Subject, id_: str, note: str, *, by: str) -> AlertRow:
        """Notes who has seen an alert; the first one stays. NOT_FOUND, or the note is too long."""
        text = pauses.check_note(note)
        missing = not_found(f"alert {subject.name}/alerts/{id_}", "ALERT_UNKNOWN")
        key = parse_alert_id(id_)
        if key is None:
            raise missing

        async def run(connection: asyncpg.Connection) -> AlertRow:
            found = await alerts.get(connection, subject.org, key)
            if found is None or found.subject != subject.name:
                raise missing
            await alerts.acknowledge(connection, subject.org, key, by, text)
            seen = await alerts.get(connection, subject.org, key)
            return seen or found

        return await transact(self._pool, run)
