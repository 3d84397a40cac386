"""What Stripe lists of an account, read once for all organisations that are compared with it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from services.kit.errors import PurseError
from services.wallet.recharge.stripe import MISSING, REFUSED
from services.wallet.refunds.domain.rules import ChargeFacts, DisputeFacts, RefundFacts
from services.wallet.refunds.stripe import MoneyBack

_AT_ONCE: Final = 4
T = TypeVar("T", RefundFacts, DisputeFacts)


@dataclass(frozen=True, slots=True)
class Lists:
    """PaymentIntents of an account, with the refunds of them and the disputes about them by PaymentIntent."""

    charges: Sequence[ChargeFacts]
    refunds: Mapping[str, Sequence[RefundFacts]] = field(default_factory=dict)
    disputes: Mapping[str, Sequence[DisputeFacts]] = field(default_factory=dict)


class StripeLists:
    """Reads them. Keeps the lists that were read last for whoever takes them as they are, a few megabytes at the most.

    Args:
        stripe: The account.
    """

    def __init__(self, stripe: MoneyBack) -> None:
        self._stripe = stripe
        self._reading = asyncio.Lock()
        self._kept: tuple[datetime, float, Lists] | None = None

    async def since(self, since: datetime, age_max_s: float) -> Lists:
        """What was made from then on, as it was at most `age_max_s` ago; 0: as it is now.

        Raises:
            PurseError: UNAVAILABLE.
        """
        if not age_max_s:
            return await self._read(since)
        # Whoever comes while another reads waits for what it reads.
        async with self._reading:
            now_s = asyncio.get_running_loop().time()
            if self._kept is None or self._kept[0] != since or now_s - self._kept[1] > age_max_s:
                self._kept = (since, now_s, await self._read(since))
            return self._kept[2]

    async def of(self, payment_intents: Sequence[str]) -> Lists:
        """What is true of these PaymentIntents now, whenever they were made, without those that Stripe does not know.

        Raises:
            PurseError: UNAVAILABLE.
        """
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> tuple[ChargeFacts | None, list[RefundFacts], list[DisputeFacts]]:
            async with room:
                charge = await self._charge(name)
                if charge is None:
                    return None, [], []
                return charge, await self._stripe.refunds_of(name), await self._stripe.disputes_of(name)

        found = await asyncio.gather(*map(one, payment_intents))
        return Lists(
            [charge for charge, _, _ in found if charge],
            {charge.payment_intent: refunds for charge, refunds, _ in found if charge},
            {charge.payment_intent: disputes for charge, _, disputes in found if charge},
        )

    async def _charge(self, name: str) -> ChargeFacts | None:
        try:
            return await self._stripe.charge(name)
        except PurseError as error:
            if error.reason == REFUSED and error.metadata.get("code") == MISSING:
                return None
            raise

    async def _read(self, since: datetime) -> Lists:
        charges = await self._stripe.charges_since(since)
        refunds = _by_intent(await self._stripe.refunds_since(since))
        return Lists(charges, refunds, _by_intent(await self._stripe.disputes_since(since)))


def _by_intent(found: Sequence[T]) -> dict[str, list[T]]:
    sorted_out: dict[str, list[T]] = {}
    for one in found:
        sorted_out.setdefault(one.payment_intent, []).append(one)
    return sorted_out
