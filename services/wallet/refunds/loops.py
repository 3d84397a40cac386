"""The sweeps of refunds and disputes, and the closing of wallets: safe with several replicas."""

from typing import Final

from services.kit.loops import Loop
from services.wallet.refunds.disputes import Disputes
from services.wallet.refunds.refunds import Refunds

_BATCH_MAX: Final = 50
_REFUNDS_INTERVAL_S: Final = 5.0
_DISPUTES_INTERVAL_S: Final = 15.0


def money_back_loops(refunds: Refunds, disputes: Disputes) -> list[Loop]:
    """What asks Stripe without being told by an event."""

    async def sweep_refunds() -> bool:
        return await refunds.sweep(_BATCH_MAX) == _BATCH_MAX

    async def sweep_disputes() -> bool:
        return await disputes.sweep(_BATCH_MAX) == _BATCH_MAX

    return [
        Loop("refunds", sweep_refunds, _REFUNDS_INTERVAL_S),
        Loop("disputes", sweep_disputes, _DISPUTES_INTERVAL_S),
    ]
