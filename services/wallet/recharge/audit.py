"""Verifies the books of recharges: I7 (caps) and I8 (one for one). Run in the snapshot of the wallet's audit."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from pursestrings.type.v1 import type_pb2
from services.wallet.recharge.store import audit as store

_SHOWN: Final = 5
_WORDS: Final = {
    "I7.one_pending": "at most one recharge a wallet is pending",
    "I7.months_recomputed": "what every month counts equals its pending and succeeded recharges and top-ups of cards",
    "I7.months_within_caps": "every month is within the caps and extras in force when something was last let in",
    "I7.extras_allowed": "what was in force beyond a cap had been allowed",
    "I8.one_grant": "every succeeded recharge is one grant of what was received, and no other has one",
    "I8.top_up_one_grant": "every top-up that was paid is one grant of what was received, and no other has one",
    "I8.one_charge": "every succeeded recharge has one succeeded PaymentIntent, and no other has any",
    "I8.events_processed": "no event of Stripe was put aside because processing it fails",
    "I8.no_problems": "nothing was charged that does not fit its recharge",
}


async def checks(connection: asyncpg.Connection, org: str | None) -> Sequence[type_pb2.AuditCheck]:
    """The checks of one organisation (its bare id), or of all."""
    totals = await store.totals(connection, org)
    seen = f"{totals.recharges} recharges, {totals.succeeded} succeeded, {totals.pending} pending"
    found = []
    for name, words in _WORDS.items():
        offenders = await store.offenders(connection, name, org, _SHOWN + 1)
        if offenders:
            more = " and more" if len(offenders) > _SHOWN else ""
            detail = f"not so that {words}: {'; '.join(offenders[:_SHOWN])}{more}"
        else:
            detail = f"{words} ({seen})"
        found.append(type_pb2.AuditCheck(name=name, ok=not offenders, detail=detail))
    return found
