"""Stripe, through its own SDK's async client: the few calls that recharges need, and what their errors mean.

Every call that changes something takes an idempotency key. What comes back is plain facts; objects of the SDK stay
here. Keys never reach a log or an error.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
import stripe

from services.kit.errors import PurseError, conflict, invalid, unavailable
from services.wallet.recharge.domain.outcome import Intent
from services.wallet.recharge.settings import ALLOW_LIVE, StripeSettings

API_VERSION: Final = "2026-10-28.endive"
"""Pinned: an answer's shape never changes under a running service."""
REFUSED: Final = "STRIPE_REFUSED"
"""The reason of an error that says for certain: Stripe has not done it."""
MISSING: Final = "resource_missing"
"""The `code` of such an error: Stripe has nothing of that name."""
STRIPE_URL: Final = "https://api.stripe.com"
PAYLOAD_BYTES_MAX: Final = 256 * 1024
"""The largest webhook event taken."""

_TEST_PREFIXES: Final = ("sk_test_", "rk_test_")
_LIVE_PREFIXES: Final = ("sk_live_", "rk_live_")
_CONNECT_TIMEOUT_S: Final = 5.0
_RETRIES: Final = 2
_METADATA_CHARS_MAX: Final = 500
_LIST_PAGE: Final = 100
_LIST_PAGES_MAX: Final = 20
_RETRY_AFTER_S: Final = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a confirmation was answered: `code` is why it was refused, empty where it was not."""

    code: str = ""


@dataclass(frozen=True, slots=True)
class NewIntent:
    """What a PaymentIntent is created with. The same key must always come with the same content."""

    installation: str
    org: str
    wallet: str
    recharge: str
    number: int
    customer: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Event:
    """A webhook event whose signature was verified, as far as the inbox needs it.

    Attributes:
        content: The event without what differs from one delivery to the next.
        org: The organisation that its object's metadata names; empty where it names none.
        recharge: The recharge, top-up or card setup that it names; empty likewise.
        object_id: The object that it is about.
        payment_intent: The PaymentIntent that it is about; empty where it is about none.
    """

    id: str
    type: str
    livemode: bool
    content: bytes
    org: str
    recharge: str
    object_id: str
    payment_intent: str


class Stripe:
    """A client for one Stripe account, or for the twin.

    Args:
        settings: Key, address and time-outs.

    Raises:
        SystemExit: No key, or a live key that was not allowed in words.
    """

    def __init__(self, settings: StripeSettings) -> None:
        key = settings.stripe_api_key.get_secret_value() if settings.stripe_api_key else ""
        self.livemode = _mode(key, settings.stripe_allow_live)
        self.return_url = settings.payments_return_url
        secret = settings.stripe_webhook_secret
        self._webhook_secret = secret.get_secret_value() if secret else ""
        self._http = stripe.HTTPXClient(timeout=httpx.Timeout(settings.stripe_timeout_s, connect=_CONNECT_TIMEOUT_S))
        self._client = stripe.StripeClient(
            key,
            stripe_version=API_VERSION,
            base_addresses={"api": _base(settings.stripe_base_url or STRIPE_URL, livemode=self.livemode)},
            http_client=self._http,
            max_network_retries=_RETRIES,
        )

    @property
    def client(self) -> stripe.StripeClient:
        """The SDK's client; calls go through `ask` or `ask_or_refuse`."""
        return self._client

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def call(self, run: Callable[[stripe.StripeClient], Awaitable[T]]) -> T:
        """Runs a call of the SDK for a room that has calls of its own.

        Raises:
            PurseError: UNAVAILABLE, or STRIPE_REFUSED: Stripe has not done it for certain.
        """
        return await ask_or_refuse(lambda: run(self._client))

    async def create_customer(self, installation: str, org: str, wallet: str, key: str) -> str:
        """A customer that holds a wallet's payment methods; returns its id."""
        metadata = metadata_of(installation=installation, org=org, wallet=wallet)
        customer = await ask_or_refuse(
            lambda: self._client.v1.customers.create_async(
                {"description": f"Wallet {wallet}"[:350], "metadata": metadata}, {"idempotency_key": key}
            )
        )
        return str(customer.id)

    async def attach(self, payment_method: str, customer: str, key: str) -> str:
        """Puts a payment method on file; returns its id, which differs from a test name such as `pm_card_visa`.

        Raises:
            PurseError: PAYMENT_METHOD_DECLINED, or the method cannot be attached.
        """
        try:
            method = await ask(
                lambda: self._client.v1.payment_methods.attach_async(
                    payment_method, {"customer": customer}, {"idempotency_key": key}
                )
            )
        except stripe.CardError as error:
            raise conflict(
                "PAYMENT_METHOD_DECLINED",
                f"payment_method: the bank refuses this method ({code_of(error)}); use another",
                field="payment_method",
                decline_code=code_of(error),
            ) from None
        except stripe.InvalidRequestError as error:
            if await self._is_of(payment_method, customer):
                return payment_method
            raise invalid(
                "payment_method", f"Stripe does not take it: {error.user_message}", "PAYMENT_METHOD_REFUSED"
            ) from None
        return str(method.id)

    async def _is_of(self, payment_method: str, customer: str) -> bool:
        try:
            method = await ask(lambda: self._client.v1.payment_methods.retrieve_async(payment_method))
        except stripe.InvalidRequestError:
            return False
        return method.to_dict().get("customer") == customer

    async def create_intent(self, new: NewIntent, key: str) -> Intent:
        """A PaymentIntent that is not confirmed yet, so that nothing is charged before the wallet knows it."""
        intent = await ask_or_refuse(
            lambda: self._client.v1.payment_intents.create_async(
                {
                    "amount": new.amount_minor,
                    "currency": new.currency.lower(),
                    "customer": new.customer,
                    # Cards alone: they can be charged off session, and their banks' pages can be gone to from a link.
                    "allowed_payment_method_types": ["card"],
                    "description": f"Recharge {new.recharge}"[:350],
                    "metadata": metadata_of(
                        installation=new.installation,
                        org=new.org,
                        wallet=new.wallet,
                        recharge=new.recharge,
                        intent=str(new.number),
                    ),
                },
                {"idempotency_key": key},
            )
        )
        return facts_of(intent.to_dict())

    async def confirm(self, payment_intent: str, payment_method: str, key: str) -> Answer:
        """Charges off-session. What became of it is read by a fresh retrieve; the answer only says that there was one.

        Raises:
            PurseError: UNAVAILABLE where the outcome is unknown: the same key asks again.
        """
        try:
            await ask(
                lambda: self._client.v1.payment_intents.confirm_async(
                    payment_intent,
                    {"payment_method": payment_method, "off_session": True},
                    {"idempotency_key": key},
                )
            )
        except (stripe.CardError, stripe.InvalidRequestError) as error:
            return Answer(code_of(error))
        return Answer()

    async def retrieve(self, payment_intent: str) -> Intent:
        """A PaymentIntent as it is now.

        Raises:
            PurseError: UNAVAILABLE, or STRIPE_REFUSED where it does not exist under this key.
        """
        intent = await ask_or_refuse(lambda: self._client.v1.payment_intents.retrieve_async(payment_intent))
        return facts_of(intent.to_dict())

    async def cancel(self, payment_intent: str) -> None:
        """Cancels a PaymentIntent where its state allows; a retrieve tells what is true."""
        try:
            await ask(
                lambda: self._client.v1.payment_intents.cancel_async(
                    payment_intent, {"cancellation_reason": "abandoned"}
                )
            )
        except stripe.InvalidRequestError as error:
            if error.code != "payment_intent_unexpected_state":
                raise _refused(error) from None

    async def find(self, recharge: str, customer: str, since: datetime) -> list[Intent]:
        """A customer's PaymentIntents since then that name the recharge. A list is exact where a search lags."""
        found: list[Intent] = []
        after: dict[str, str] = {}
        for _ in range(_LIST_PAGES_MAX):
            params: Any = {
                "customer": customer,
                "created": {"gte": int(since.timestamp())},
                "limit": _LIST_PAGE,
                **after,
            }
            page = await ask_or_refuse(partial(self._client.v1.payment_intents.list_async, params))
            intents = [facts_of(item.to_dict()) for item in page.data]
            found += [intent for intent in intents if intent.recharge == recharge]
            if not page.has_more:
                return found
            after = {"starting_after": intents[-1].payment_intent}
        raise unavailable(f"customer {customer} has too many PaymentIntents to look through", 3600.0)

    def verify_event(self, payload: bytes, signature: str) -> Event:
        """The event in a webhook's raw body.

        Raises:
            PurseError: BAD_SIGNATURE or MALFORMED_EVENT; nothing of the body may be believed then.
        """
        if not self._webhook_secret:
            raise conflict("WEBHOOK_SECRET_MISSING", "set PURSE_STRIPE_WEBHOOK_SECRET: no event can be verified")
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise invalid("payload", f"is {len(payload)} bytes; the limit is {PAYLOAD_BYTES_MAX}")
        try:
            text = payload.decode()
            stripe.WebhookSignature.verify_header(
                text, signature, self._webhook_secret, stripe.Webhook.DEFAULT_TOLERANCE
            )
        except (stripe.SignatureVerificationError, ValueError, TypeError, OverflowError):
            # Text that is no text, numbers that are none, and characters that no digest has are all no signature.
            raise invalid("signature", "does not fit the payload and the webhook's secret", "BAD_SIGNATURE") from None
        return parse_event(text)


def parse_event(text: str) -> Event:
    """The event in a verified body.

    Raises:
        PurseError: MALFORMED_EVENT.
    """
    try:
        body = json.loads(text)
        if body.get("account") or body.get("context"):
            raise invalid("payload", "is an event of another account; this one connects none", "OTHER_ACCOUNT")
        thing = body["data"]["object"]
        metadata = thing.get("metadata") or {}
        payment_intent = thing.get("id" if thing.get("object") == "payment_intent" else "payment_intent") or ""
        event = Event(
            id=str(body["id"]),
            type=str(body["type"]),
            livemode=bool(body["livemode"]),
            # How many endpoints still wait changes from one delivery to the next; the event does not.
            content=json.dumps({k: v for k, v in body.items() if k != "pending_webhooks"}, sort_keys=True).encode(),
            org=joined(metadata, "org"),
            recharge=pays_for(metadata),
            object_id=str(thing.get("id") or ""),
            payment_intent=payment_intent if isinstance(payment_intent, str) else "",
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise invalid("payload", "is signed, but is no event of Stripe", "MALFORMED_EVENT") from None
    return event


def _mode(key: str, allow_live: str) -> bool:
    """Whether the key moves real money."""
    if key.startswith(_TEST_PREFIXES):
        return False
    if not key:
        raise SystemExit("set PURSE_STRIPE_API_KEY to a key that begins with sk_test_ or rk_test_")
    if not key.startswith(_LIVE_PREFIXES):
        raise SystemExit("PURSE_STRIPE_API_KEY is no secret key of Stripe; it begins with sk_test_ or rk_test_")
    if allow_live != ALLOW_LIVE:
        raise SystemExit(f'a live Stripe key is refused unless PURSE_STRIPE_ALLOW_LIVE says "{ALLOW_LIVE}"')
    return True


def _base(address: str, *, livemode: bool) -> str:
    parts = urlsplit(address)
    if livemode and f"{parts.scheme}://{parts.netloc}" != STRIPE_URL:
        raise SystemExit("a live Stripe key is sent to api.stripe.com alone; unset PURSE_STRIPE_BASE_URL")
    return address.rstrip("/")


async def ask(call: Callable[[], Awaitable[T]]) -> T:
    """Runs a call; what says nothing about the outcome becomes UNAVAILABLE, a definite refusal is raised as it is."""
    try:
        return await call()
    except stripe.CardError:
        raise
    except stripe.IdempotencyError:
        # The first request under this key did something; what, only Stripe's dashboard tells.
        raise conflict("STRIPE_KEY_MISMATCH", "the idempotency key was used with another content") from None
    except stripe.InvalidRequestError as error:
        if error.http_status == 409 or error.code in {"idempotency_key_in_use", "lock_timeout", "rate_limit"}:
            raise unavailable("Stripe is still at work on the same request", _RETRY_AFTER_S) from None
        raise
    except (stripe.AuthenticationError, stripe.PermissionError):
        raise unavailable(
            "Stripe refuses the key: set PURSE_STRIPE_API_KEY to one that is valid", 60.0, "STRIPE_KEY_REFUSED"
        ) from None
    except stripe.StripeError as error:
        # Connection, time-out, 5xx, 429: whether anything happened is unknown.
        raise unavailable(f"Stripe is out of reach ({type(error).__name__})", _RETRY_AFTER_S) from None


async def ask_or_refuse(call: Callable[[], Awaitable[T]]) -> T:
    """`ask`, with a definite refusal as a PurseError STRIPE_REFUSED."""
    try:
        return await ask(call)
    except (stripe.CardError, stripe.InvalidRequestError) as error:
        raise _refused(error) from None


def _refused(error: stripe.StripeError) -> PurseError:
    return conflict(REFUSED, f"Stripe refuses: {error.user_message}", code=code_of(error))


def code_of(error: stripe.StripeError) -> str:
    """The most telling code of a refusal."""
    body = error.json_body if isinstance(error.json_body, dict) else {}
    details: Mapping[str, Any] = body.get("error") or {}
    return str(details.get("decline_code") or error.code or "refused")


def facts_of(intent: Mapping[str, Any]) -> Intent:
    """What the rules need of a PaymentIntent."""
    metadata = intent.get("metadata") or {}
    error = intent.get("last_payment_error") or {}
    method = error.get("payment_method") or {}
    number = str(metadata.get("intent", ""))
    mark = ""
    if error:
        parts = (error.get("charge"), intent.get("latest_charge"), error.get("code"), method.get("id"))
        mark = "|".join(str(part or "") for part in parts)
    return Intent(
        number=int(number) if number.isdigit() else 0,
        payment_intent=str(intent["id"]),
        status=str(intent["status"]),
        amount_received_minor=int(intent.get("amount_received") or 0),
        currency=str(intent["currency"]).upper(),
        livemode=bool(intent["livemode"]),
        wallet=joined(metadata, "wallet"),
        recharge=pays_for(metadata),
        installation=joined(metadata, "installation"),
        error_code=str(error.get("decline_code") or error.get("code") or ""),
        error_mark=mark,
        customer=str(intent.get("customer") or ""),
    )


def metadata_of(**values: str) -> dict[str, str]:
    """Metadata that holds names longer than one value may be: the rest goes into `…_2`."""
    metadata: dict[str, str] = {}
    for name, value in values.items():
        metadata[name] = value[:_METADATA_CHARS_MAX]
        if len(value) > _METADATA_CHARS_MAX:
            metadata[f"{name}_2"] = value[_METADATA_CHARS_MAX:]
    return metadata


def pays_for(metadata: Mapping[str, Any]) -> str:
    """The recharge, top-up or card setup that an object's metadata names."""
    return next((named for key in ("recharge", "top_up", "card_setup") if (named := joined(metadata, key))), "")


def joined(metadata: Mapping[str, Any], name: str) -> str:
    """A name that `metadata_of` may have split."""
    return str(metadata.get(name) or "") + str(metadata.get(f"{name}_2") or "")
