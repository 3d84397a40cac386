"""What is known of the events that corrections name, and of those without a price."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain.decide import Counted

# An event and its corrections meet here, so that none of them is decided without what another one has just changed.
# Few locks for many events: a batch may name a thousand, and they come in order.
_GATE: Final = """
SELECT pg_advisory_xact_lock(7403, gate) FROM (
    SELECT DISTINCT hashtext(k.org || '/' || k.source || '/' || k.id) & 63 AS gate
    FROM unnest($1::text[], $2::text[], $3::text[]) AS k (org, source, id) ORDER BY gate OFFSET 0
) AS gates
"""
_FIND: Final = """
SELECT k.org, k.source, k.id, u.corrects_id IS NULL AS is_event, u.rated, u.currency, u.cost_nanos, u.wallet, u.effects
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (org, source, id)
JOIN applied_usage u ON u.org = k.org AND u.source = k.source AND u.id = k.id
UNION ALL
SELECT k.org, k.source, k.id, false, u.rated, u.currency, u.cost_nanos, u.wallet, u.effects
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (org, source, id)
JOIN applied_usage u ON u.org = k.org AND u.corrects_source = k.source AND u.corrects_id = k.id
"""

Key = tuple[str, str, str]


async def find(connection: asyncpg.Connection, keys: Sequence[Key]) -> dict[Key, Counted]:
    """What counted these events and their corrections; nobody else changes it until the end of the transaction.

    Args:
        connection: In a transaction that holds no other lock yet.
        keys: Organisation, source and id.
    """
    columns = list(zip(*keys, strict=True))
    await connection.execute(_GATE, *columns)
    found = {key: Counted() for key in keys}
    for org, source, id_, is_event, rated, currency, cost, wallet, effects in await connection.fetch(_FIND, *columns):
        counted = found[(org, source, id_)]
        counted.known = counted.known or is_event
        counted.windows.update(zip(effects[::3], effects[1::3], strict=True))
        if rated:
            counted.priced = True
            counted.wallets[currency] = wallet
        elif cost:
            counted.estimate += cost
            counted.estimate_currency, counted.estimate_wallet = currency, wallet
    return found
