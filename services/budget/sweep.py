"""Expires holds whose time ran out, once all usage that could settle them has been delivered."""

from typing import Final

import asyncpg

from services.budget.domain.model import Answer, ExpireItem, Item
from services.budget.store import alerts, reservations
from services.kit.groupcommit import GroupCommit
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_BATCH: Final = 500
_US: Final = 1_000_000


class Sweep:
    """Looks for overdue holds and gives them back through the shared transactions.

    A hold goes back when `expires_at + grace` lies before what metering's relays have delivered. While that is unknown
    it stays, up to a maximum, with an alert: a relay that is down must not resell money that is spent already. Usage
    that cannot be delivered keeps back the holds of its own organisation only.

    Args:
        pool: Budget's database.
        commit: The shared transactions.
        grace_s: How long after its time a hold waits for late usage, in seconds.
        wait_max_s: How long it waits for the relays, in seconds.
    """

    def __init__(
        self, pool: asyncpg.Pool, commit: GroupCommit[Item, Answer], *, grace_s: float, wait_max_s: float
    ) -> None:
        self._pool = pool
        self._commit = commit
        self._grace_us = int(grace_s * _US)
        self._wait_max_us = int(wait_max_s * _US)

    async def step(self) -> bool:
        """One round; whether there may be more at once."""
        async with self._pool.acquire() as connection:
            through_us, now_us = await reservations.delivered(connection)
            # What is delivered later than now is a clock that runs ahead: no hold expires before its time.
            delivered_us = min(through_us or 0, now_us) - self._grace_us
            forced_us = now_us - self._grace_us - self._wait_max_us
            before_us = max(delivered_us, forced_us)
            found = await reservations.overdue(connection, delivered_us, forced_us, self._grace_us, _BATCH)
        if not found:
            return False
        answers = await self._commit.submit_many([ExpireItem(org, id_, before_us) for org, id_, _ in found])
        unproved = [
            (org, id_)
            for (org, id_, proved), answer in zip(found, answers, strict=True)
            if answer is True and not proved
        ]
        if unproved:
            await self._tell(unproved, now_us)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return len(found) == _BATCH

    async def _tell(self, expired: list[tuple[str, str]], now_us: int) -> None:
        _log.warning("holds expired without word from the relay", holds=len(expired))
        # Once an organisation and day.
        day = now_us // (86_400 * _US)
        notices = {
            org: (org, "EXPIRY_UNPROVED", f"day {day}", f"reservation {id_} and maybe others") for org, id_ in expired
        }
        async with self._pool.acquire() as connection, connection.transaction():
            await alerts.add_notices(connection, list(notices.values()), now_us)
