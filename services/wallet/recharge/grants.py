"""What was paid becomes a grant: once a payment, for recharges and top-ups alike. In the caller's transaction."""

from datetime import datetime
from typing import Final

import asyncpg

from services.kit.errors import Code, PurseError
from services.wallet import ledger
from services.wallet.recharge import names

_PAID_PRIORITY: Final = 100


async def put(
    connection: asyncpg.Connection, org: str, wallet: str, payment: str, *, received_nanos: int, now: datetime
) -> str:
    """Puts the money of a recharge or top-up in; returns the grant's name.

    Should somebody have taken the grant's plain name, it gets one that nobody takes.
    """
    for grant_id in names.grant_ids(payment):
        try:
            return await ledger.grant(
                connection,
                org=org,
                wallet=wallet,
                kind="PAID",
                amount_nanos=received_nanos,
                priority=_PAID_PRIORITY,
                expires_at=None,
                reference=payment,
                grant_id=grant_id,
                recharge=payment,
                now=now,
            )
        except PurseError as error:
            if error.code is not Code.ALREADY_EXISTS:
                raise
    raise AssertionError(f"{payment}: both names of its grant are taken")
