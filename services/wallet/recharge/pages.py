"""What payments by a person ask of Stripe: Checkout pages, cards on file, charges on session."""

from dataclasses import dataclass
from typing import Any, Final

import stripe

from services.kit.errors import invalid
from services.wallet.recharge.domain.outcome import Intent
from services.wallet.recharge.stripe import Answer, Stripe, ask, ask_or_refuse, code_of, facts_of, metadata_of

CARDS_MAX: Final = 100
"""The most payment methods of one wallet that are shown."""


@dataclass(frozen=True, slots=True)
class Links:
    """Where a page goes on to: once all is well, and where its visitor turns back."""

    success_url: str
    cancel_url: str


@dataclass(frozen=True, slots=True)
class NewPayment:
    """What a top-up's page or PaymentIntent is created with. The same key must always come with the same content."""

    installation: str
    org: str
    wallet: str
    top_up: str
    customer: str
    amount_minor: int
    currency: str

    @property
    def metadata(self) -> dict[str, str]:
        """What tells whose money it is."""
        return metadata_of(installation=self.installation, org=self.org, wallet=self.wallet, top_up=self.top_up)


@dataclass(frozen=True, slots=True)
class Page:
    """A Checkout session.

    Attributes:
        session: Stripe's id.
        status: open, complete or expired.
        url: Where it is; empty once it is closed.
        intent: Its PaymentIntent as it is now; None where it has none (yet).
        payment_method: The card that a page in setup mode has saved; empty where it has none (yet).
    """

    session: str
    status: str
    url: str
    intent: Intent | None = None
    payment_method: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A payment method on file."""

    payment_method: str
    customer: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int


class Pages:
    """Asks Stripe about payments that a person makes.

    Args:
        stripe: The account.
    """

    def __init__(self, stripe: Stripe) -> None:
        self._client = stripe.client

    async def payment_page(self, new: NewPayment, links: Links, key: str) -> Page:
        """A page to pay a top-up on."""
        params: Any = {
            "mode": "payment",
            "customer": new.customer,
            "allowed_payment_method_types": ["card"],
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": new.currency.lower(),
                        "unit_amount": new.amount_minor,
                        "product_data": {"name": f"Top-up of {new.wallet}"[:250]},
                    },
                }
            ],
            "metadata": new.metadata,
            "payment_intent_data": {"metadata": new.metadata, "description": f"Top-up {new.top_up}"[:350]},
            "success_url": links.success_url,
            "cancel_url": links.cancel_url,
        }
        return await self._create_page(params, key)

    async def setup_page(
        self, metadata: dict[str, str], customer: str, currency: str, *, links: Links, key: str
    ) -> Page:
        """A page to enter a card on that is charged later."""
        params: Any = {
            "mode": "setup",
            "currency": currency.lower(),
            "customer": customer,
            "allowed_payment_method_types": ["card"],
            "metadata": metadata,
            "setup_intent_data": {"metadata": metadata},
            "success_url": links.success_url,
            "cancel_url": links.cancel_url,
        }
        return await self._create_page(params, key)

    async def _create_page(self, params: Any, key: str) -> Page:
        made = await ask_or_refuse(
            lambda: self._client.v1.checkout.sessions.create_async(params, {"idempotency_key": key})
        )
        return _page(made.to_dict())

    async def page(self, session: str) -> Page:
        """A page as it is now, with its intent."""
        params: Any = {"expand": ["payment_intent", "setup_intent"]}
        found = await ask_or_refuse(lambda: self._client.v1.checkout.sessions.retrieve_async(session, params))
        return _page(found.to_dict())

    async def close_page(self, session: str) -> None:
        """Closes a page so that it cannot be paid any more; a look tells what is true."""
        try:
            await ask(lambda: self._client.v1.checkout.sessions.expire_async(session))
        except stripe.InvalidRequestError:
            return

    async def create_payment(self, new: NewPayment, key: str) -> Intent:
        """A top-up's PaymentIntent, not confirmed yet, so that nothing is charged before the wallet knows it."""
        params: Any = {
            "amount": new.amount_minor,
            "currency": new.currency.lower(),
            "customer": new.customer,
            "allowed_payment_method_types": ["card"],
            "description": f"Top-up {new.top_up}"[:350],
            "metadata": new.metadata,
        }
        made = await ask_or_refuse(
            lambda: self._client.v1.payment_intents.create_async(params, {"idempotency_key": key})
        )
        return facts_of(made.to_dict())

    async def confirm_on_session(self, payment_intent: str, payment_method: str, return_url: str) -> tuple[Answer, str]:
        """Charges with the cardholder present; the second is the bank's page, empty where it needs none.

        Without a key of its own: it is one PaymentIntent, which is paid once however often it is confirmed, and a
        stored answer would be an old link.
        """
        params: Any = {"payment_method": payment_method, "return_url": return_url}
        try:
            intent = await ask(lambda: self._client.v1.payment_intents.confirm_async(payment_intent, params))
        except (stripe.CardError, stripe.InvalidRequestError) as error:
            return Answer(code_of(error)), ""
        action = intent.to_dict().get("next_action") or {}
        return Answer(), str((action.get("redirect_to_url") or {}).get("url") or "")

    async def cards(self, customer: str) -> list[Card]:
        """A customer's cards, newest first, at most 100."""
        params: Any = {"type": "card", "limit": CARDS_MAX}
        listed = await ask_or_refuse(lambda: self._client.v1.customers.payment_methods.list_async(customer, params))
        return [_card(one.to_dict()) for one in listed.data]

    async def card(self, payment_method: str) -> Card:
        """A card as it is now.

        Raises:
            PurseError: STRIPE_REFUSED where there is none; UNAVAILABLE.
        """
        found = await ask_or_refuse(lambda: self._client.v1.payment_methods.retrieve_async(payment_method))
        return _card(found.to_dict())

    async def detach(self, payment_method: str) -> None:
        """Takes a card from its customer; one that is detached already stays so.

        Raises:
            PurseError: PAYMENT_METHOD_REFUSED where Stripe keeps it attached.
        """
        try:
            await ask(lambda: self._client.v1.payment_methods.detach_async(payment_method))
        except stripe.InvalidRequestError as error:
            if (await self.card(payment_method)).customer:
                message = f"Stripe does not detach it: {error.user_message}"
                raise invalid("payment_method", message, "PAYMENT_METHOD_REFUSED") from None


def _page(session: Any) -> Page:
    intent, setup = session.get("payment_intent"), session.get("setup_intent")
    saved = setup.get("payment_method") if isinstance(setup, dict) and setup.get("status") == "succeeded" else ""
    return Page(
        session=str(session["id"]),
        status=str(session["status"]),
        url=str(session.get("url") or ""),
        intent=facts_of(intent) if isinstance(intent, dict) else None,
        payment_method=str(saved or ""),
    )


def _card(method: Any) -> Card:
    card = method.get("card") or {}
    return Card(
        payment_method=str(method["id"]),
        customer=str(method.get("customer") or ""),
        brand=str(card.get("brand") or method.get("type") or ""),
        last4=str(card.get("last4") or ""),
        exp_month=int(card.get("exp_month") or 0),
        exp_year=int(card.get("exp_year") or 0),
    )
