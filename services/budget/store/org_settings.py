"""Organisations' settings: they stand in the row that carries the epoch."""

from typing import Final

import asyncpg

from services.budget.domain.budgets import OnExceed
from services.budget.domain.org_settings import NO_SETTINGS, ExpiredHold, OrgSettings, UnratedModel
from services.budget.domain.pauses import ResumeMode

_GET: Final = """
SELECT default_on_exceed, default_resume, default_thresholds, deny_unbudgeted, require_wallet, expired_hold,
    unrated_model, settings_revision, settings_by, settings_us
FROM org_policy WHERE org = $1
"""
_SET: Final = """
UPDATE org_policy SET default_on_exceed = $2, default_resume = $3, default_thresholds = $4::bigint[],
    deny_unbudgeted = $5, require_wallet = $6, expired_hold = $7, unrated_model = $8, settings_revision = $9,
    settings_by = $10, settings_us = $11
WHERE org = $1
"""


async def get(connection: asyncpg.Connection, org: str) -> OrgSettings:
    """The settings in force."""
    row = await connection.fetchrow(_GET, org)
    if row is None:
        return NO_SETTINGS
    on_exceed, resume, thresholds, unbudgeted, wallet, expired, unrated, revision, by, at_us = row
    return OrgSettings(
        OnExceed(on_exceed),
        ResumeMode(resume),
        tuple(thresholds),
        unbudgeted,
        wallet,
        ExpiredHold(expired),
        UnratedModel(unrated),
        revision,
        by,
        at_us,
    )


async def put(connection: asyncpg.Connection, org: str, settings: OrgSettings) -> None:
    """Writes them; the caller holds the organisation's row."""
    await connection.execute(
        _SET,
        org,
        int(settings.default_on_exceed),
        int(settings.default_resume),
        settings.default_thresholds,
        settings.deny_unbudgeted,
        settings.require_wallet,
        int(settings.expired_hold),
        int(settings.unrated_model),
        settings.revision,
        settings.updated_by,
        settings.updated_us,
    )
