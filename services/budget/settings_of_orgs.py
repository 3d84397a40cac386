"""Organisations' settings: read and changed under the organisation's lock, since decisions go by them."""

from collections.abc import Sequence

import asyncpg

from services.budget.domain import org_settings as rules
from services.budget.domain.org_settings import OrgSettings, SettingsDraft
from services.budget.store import budgets, org_settings
from services.kit.database import transact


class SettingsOfOrgs:
    """What the settings methods do, on plain values.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def get(self, org: str) -> OrgSettings:
        """The settings in force; `org` is the bare id."""
        async with self._pool.acquire() as connection:
            return await org_settings.get(connection, org)

    async def update(
        self, org: str, draft: SettingsDraft, mask: Sequence[str], etag: str, *, by: str, validate_only: bool
    ) -> OrgSettings:
        """Changes the fields in the mask.

        Raises:
            PurseError: The field at fault, or ETAG_MISMATCH.
        """

        async def run(connection: asyncpg.Connection) -> OrgSettings:
            if validate_only:
                now_us = await budgets.now_us(connection)
            else:
                now_us = await budgets.begin_write(connection, org)
            seen = await org_settings.get(connection, org)
            made = rules.change(seen, draft, mask, etag, by=by, now_us=now_us)
            if not validate_only:
                await org_settings.put(connection, org, made)
            return made

        return await transact(self._pool, run)
