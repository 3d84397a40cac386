"""When subjects must ask: read with the budgets under the organisation's epoch."""

import json
from typing import Final

import asyncpg

from services.budget.domain.approvals import ApprovalPolicy
from services.kit.approvals import Times, Urgency

_COLUMNS: Final = "org, subject, content, revision, updated_us, updated_by"
_LOAD: Final = f"SELECT {_COLUMNS} FROM approval_policies WHERE org = $1 AND changed_epoch >= $2"  # noqa: S608 - a constant
_OF_SUBJECTS: Final = f"""
SELECT {_COLUMNS} FROM approval_policies WHERE org = $1 AND subject = ANY($2::text[])
"""  # noqa: S608 - a constant
_COUNT: Final = "SELECT count(*) FROM approval_policies WHERE org = $1"
# Whoever writes holds the organisation's row, whose epoch has just been raised.
_PUT: Final = """
INSERT INTO approval_policies AS p (org, subject, content, revision, updated_us, updated_by, changed_epoch)
SELECT $1, $2, $3, $4, $5, $6, epoch FROM org_policy WHERE org = $1
ON CONFLICT (org, subject) DO UPDATE SET content = excluded.content, revision = excluded.revision,
    updated_us = excluded.updated_us, updated_by = excluded.updated_by, changed_epoch = excluded.changed_epoch
"""


def _policy_of(row: asyncpg.Record) -> ApprovalPolicy:
    org, subject, content, revision, updated_us, updated_by = row
    raw = json.loads(content)
    times = {Urgency(int(number)): Times(*of) for number, of in raw["times"].items()}
    return ApprovalPolicy(org, subject, raw["above"], raw["held"], times, revision, updated_us, updated_by)


async def load(connection: asyncpg.Connection, org: str, epoch: int = 0) -> list[ApprovalPolicy]:
    """An organisation's policies that were set at this epoch or later."""
    return [_policy_of(row) for row in await connection.fetch(_LOAD, org, epoch)]


async def of_path(connection: asyncpg.Connection, org: str, subjects: tuple[str, ...]) -> list[ApprovalPolicy]:
    """The policies of these subjects, in their order; those without one are left out."""
    rows = await connection.fetch(_OF_SUBJECTS, org, list(subjects))
    found = {policy.subject: policy for policy in map(_policy_of, rows)}
    return [found[name] for name in subjects if name in found]


async def count(connection: asyncpg.Connection, org: str) -> int:
    """How many subjects have one."""
    value: int = await connection.fetchval(_COUNT, org)
    return value


async def put(connection: asyncpg.Connection, policy: ApprovalPolicy) -> None:
    """Writes one; the caller holds the organisation's row."""
    content = {
        "above": dict(policy.above),
        "held": dict(policy.held),
        "times": {str(int(urgency)): list(times) for urgency, times in policy.times.items()},
    }
    await connection.execute(
        _PUT,
        policy.org,
        policy.subject,
        json.dumps(content, separators=(",", ":"), sort_keys=True),
        policy.revision,
        policy.updated_us,
        policy.updated_by,
    )
