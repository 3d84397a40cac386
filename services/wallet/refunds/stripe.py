"""The calls that refunds and disputes need of Stripe; what comes back is plain facts."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

from services.kit.errors import unavailable
from services.wallet.recharge.stripe import Stripe
from services.wallet.refunds.domain.rules import ChargeFacts, DisputeFacts, RefundFacts

_PAGE: Final = 100
_PAGES_MAX: Final = 50

T = TypeVar("T")


class MoneyBack:
    """Refunds and disputes at Stripe.

    Args:
        stripe: The account.
    """

    def __init__(self, stripe: Stripe) -> None:
        self._stripe = stripe

    async def create_refund(
        self, payment_intent: str, amount_minor: int, metadata: Mapping[str, str], key: str
    ) -> RefundFacts:
        """A refund of a part of a charge.

        Raises:
            PurseError: UNAVAILABLE, where the same key asks again; STRIPE_REFUSED: there is none for certain.
        """
        params: Any = {"payment_intent": payment_intent, "amount": amount_minor, "metadata": dict(metadata)}
        made = await self._stripe.call(lambda api: api.v1.refunds.create_async(params, {"idempotency_key": key}))
        return _refund(made.to_dict())

    async def refunds_of(self, payment_intent: str) -> list[RefundFacts]:
        """All refunds of a charge."""
        return await self._all("refunds", {"payment_intent": payment_intent}, _refund)

    async def disputes_of(self, payment_intent: str) -> list[DisputeFacts]:
        """All disputes about a charge."""
        return await self._all("disputes", {"payment_intent": payment_intent}, _dispute)

    async def disputes_since(self, since: datetime) -> list[DisputeFacts]:
        """All disputes of the account that were opened since then."""
        return await self._all("disputes", {"created": {"gte": int(since.timestamp())}}, _dispute)

    async def charge(self, payment_intent: str) -> ChargeFacts:
        """A PaymentIntent.

        Raises:
            PurseError: UNAVAILABLE, or STRIPE_REFUSED where it does not exist under this key.
        """
        found = await self._stripe.call(lambda api: api.v1.payment_intents.retrieve_async(payment_intent))
        return _charge(found.to_dict())

    async def charges_since(self, since: datetime) -> list[ChargeFacts]:
        """All PaymentIntents of the account that were made since then."""
        return await self._all("payment_intents", {"created": {"gte": int(since.timestamp())}}, _charge)

    async def refunds_since(self, since: datetime) -> list[RefundFacts]:
        """All refunds of the account that were made since then."""
        return await self._all("refunds", {"created": {"gte": int(since.timestamp())}}, _refund)

    async def _all(self, collection: str, wanted: Mapping[str, Any], facts: Callable[[Any], T]) -> list[T]:
        found: list[T] = []
        after: dict[str, str] = {}
        for _ in range(_PAGES_MAX):
            params: Any = {**wanted, "limit": _PAGE, **after}
            page = await self._stripe.call(partial(_list, collection, params))
            items = [item.to_dict() for item in page.data]
            found += [facts(item) for item in items]
            if not page.has_more or not items:
                return found
            after = {"starting_after": str(items[-1]["id"])}
        raise unavailable(f"Stripe has more than {_PAGE * _PAGES_MAX} {collection} to look through", 3600.0)


async def _list(collection: str, params: Any, api: Any) -> Any:
    return await getattr(api.v1, collection).list_async(params)


def _refund(found: Mapping[str, Any]) -> RefundFacts:
    metadata = found.get("metadata") or {}
    return RefundFacts(
        id=str(found["id"]),
        status=str(found.get("status") or "pending"),
        failure=str(found.get("failure_reason") or ""),
        name=str(metadata.get("refund") or "") + str(metadata.get("refund_2") or ""),
        installation=str(metadata.get("installation") or ""),
        payment_intent=str(found.get("payment_intent") or ""),
        amount_minor=int(found["amount"]),
        currency=str(found["currency"]).upper(),
    )


def _dispute(found: Mapping[str, Any]) -> DisputeFacts:
    # Amounts of balance transactions are in the account's currency; their signs say what happened to the dispute's.
    moved = [int(one["amount"]) for one in found.get("balance_transactions") or []]
    return DisputeFacts(
        id=str(found["id"]),
        status=str(found["status"]),
        reason=str(found.get("reason") or ""),
        withdrawn=any(amount < 0 for amount in moved),
        reinstated=any(amount > 0 for amount in moved),
        payment_intent=str(found.get("payment_intent") or ""),
        amount_minor=int(found["amount"]),
        currency=str(found["currency"]).upper(),
    )


def _charge(found: Mapping[str, Any]) -> ChargeFacts:
    metadata = found.get("metadata") or {}

    def named(name: str) -> str:
        return str(metadata.get(name) or "") + str(metadata.get(f"{name}_2") or "")

    return ChargeFacts(
        payment_intent=str(found["id"]),
        status=str(found["status"]),
        received_minor=int(found.get("amount_received") or 0),
        currency=str(found["currency"]).upper(),
        installation=named("installation"),
        org=named("org"),
        wallet=named("wallet"),
    )
