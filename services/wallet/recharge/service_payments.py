"""The gRPC face of payments that a person makes: cards, top-ups, authentication, the inbox. Mixed into the servicer."""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import grpc

from pursestrings.wallet.v1 import payments_pb2 as payments
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit import money
from services.kit.errors import conflict, invalid
from services.wallet import convert
from services.wallet.domain.commands import RequestKey
from services.wallet.recharge import names
from services.wallet.recharge.cards import Cards
from services.wallet.recharge.convert import page_after, recharge_key
from services.wallet.recharge.convert_payments import (
    card_message,
    event_message,
    event_page_after,
    event_state,
    next_event_page,
    next_page,
    top_up_key,
    top_up_message,
)
from services.wallet.recharge.domain.top_up import State
from services.wallet.recharge.observe import Clock, Recharges
from services.wallet.recharge.pages import Links, Pages
from services.wallet.recharge.store import inbox
from services.wallet.recharge.store import top_ups as rows
from services.wallet.recharge.store.cards import SetupRow
from services.wallet.recharge.store.top_ups import TopUpRow
from services.wallet.recharge.stripe import Stripe
from services.wallet.recharge.top_ups import TopUps
from services.wallet.store import wallets as wallets_store
from services.wallet.store.wallets import WalletRow

CHARGE_MINOR_MAX: Final = 99_999_999
"""What Stripe takes in one charge, in minor units."""
_LINK_CHARS_MAX: Final = 2_000
Context = grpc.aio.ServicerContext[Any, Any]


class PaymentMethods:
    """The methods on cards, top-ups and the inbox of `pursestrings.wallet.v1.WalletService`.

    Args:
        pool: The wallet's database.
        stripe: The payment provider.
        wake: Called after something was written that a relay or a loop should look at.
        clock: The deciding clock, read after the locks.
    """

    def __init__(self, pool: asyncpg.Pool, stripe: Stripe, *, wake: Callable[[], None], clock: Clock) -> None:
        self._pool = pool
        self._wake = wake
        self._clock = clock
        self._stripe = stripe
        self.recharges = Recharges(pool, stripe, clock=clock)
        self._top_ups = TopUps(pool, stripe, clock=clock)
        self._cards = Cards(pool, stripe, clock=clock)
        self._pages = Pages(stripe)

    # Cards.

    async def card_page(
        self, request: pb.SetupPaymentMethodRequest, key: RequestKey, wallet: WalletRow, customer: str
    ) -> pb.SetupPaymentMethodResponse:
        """A page to enter a card on; the same request has the same page."""
        links = self._links(request.success_url, request.cancel_url)
        name = f"{wallet.subject}/cardSetups/{names.asked_id(key.org, key.method, key.id)}"
        asked = SetupRow(
            key.org, name, wallet.name, "OPEN", key.payload, customer, None, "", None, created_at=wallet.created_at
        )
        row = await self._cards.open_page(asked, wallet.currency, links, await self.recharges.installation())
        if row.state == "OPEN":
            row = await self._cards.observe(row.org, row.name)
            self._wake()
        async with self._pool.acquire() as connection:
            now_wallet = await wallets_store.get_wallet(connection, key.org, wallet.name)
        return pb.SetupPaymentMethodResponse(
            wallet=convert.wallet_message(now_wallet), customer=row.customer, url=row.url
        )

    async def ListPaymentMethods(
        self, request: payments.ListPaymentMethodsRequest, _context: Context
    ) -> payments.ListPaymentMethodsResponse:
        """What Stripe holds for a wallet now."""
        org = convert.wallet_key(request.wallet, "wallet")[0]
        async with self._pool.acquire() as connection:
            wallet = await wallets_store.get_wallet(connection, org, request.wallet)
        cards = await self._cards.listed(wallet.stripe_customer)
        return payments.ListPaymentMethodsResponse(
            payment_methods=[card_message(card, wallet.payment_method) for card in cards]
        )

    async def DetachPaymentMethod(
        self, request: payments.DetachPaymentMethodRequest, _context: Context
    ) -> payments.DetachPaymentMethodResponse:
        """Takes a card from a wallet, for good."""
        org = convert.wallet_key(request.wallet, "wallet")[0]
        if not request.payment_method:
            raise invalid("payment_method", "is required: ListPaymentMethods names them")
        default = await self._cards.detach(org, request.wallet, request.payment_method)
        self._wake()
        return payments.DetachPaymentMethodResponse(default_payment_method=default)

    # Top-ups.

    async def TopUp(self, request: payments.TopUpRequest, _context: Context) -> payments.TopUpResponse:
        """Puts money in by one payment; the same request goes on with the same one."""
        org = convert.wallet_key(request.wallet, "wallet")[0]
        key = convert.request_key(org, "TopUp", request.request_id, request)
        links = self._links(request.success_url, request.cancel_url)
        async with self._pool.acquire() as connection:
            wallet = await wallets_store.get_wallet(connection, org, request.wallet)
        installation = await self.recharges.installation()
        row = await self._top_ups.begin(await self._asked(request, key, wallet))
        if request.on_session:
            row = await self._top_ups.open_page(row, links, installation)
        else:
            row = await self._top_ups.charge(row, installation)
        self._wake()
        return payments.TopUpResponse(top_up=top_up_message(row))

    async def _asked(self, request: payments.TopUpRequest, key: RequestKey, wallet: WalletRow) -> TopUpRow:
        amount_nanos, amount_minor = _charge(request, wallet.currency)
        if wallet.state == "CLOSED":
            raise conflict("WALLET_CLOSED", f"{wallet.name} is closed for good; create another wallet", field="wallet")
        customer = wallet.stripe_customer or await self._new_customer(wallet)
        return TopUpRow(
            org=key.org,
            name=f"{wallet.subject}/topUps/{names.asked_id(key.org, key.method, key.id)}",
            wallet=wallet.name,
            on_session=request.on_session,
            state=State.PENDING,
            currency=wallet.currency,
            amount_nanos=amount_nanos,
            amount_minor=amount_minor,
            payload_hash=key.payload,
            customer=customer,
            payment_method=None,
            month=None,
            session=None,
            url="",
            payment_intent=None,
            intent_status="",
            decline_code="",
            failure_reason="",
            problem="",
            received_nanos=None,
            grant_name=None,
            version=1,
            created_at=wallet.created_at,
            expires_at=wallet.created_at,
            ended_at=None,
        )

    async def _new_customer(self, wallet: WalletRow) -> str:
        installation = await self.recharges.installation()
        key = names.customer_key(installation, wallet.name)
        customer = await self._stripe.create_customer(installation, wallet.org, wallet.name, key)
        await self._cards.keep_customer(wallet.org, wallet.name, customer)
        return customer

    async def GetTopUp(self, request: payments.GetTopUpRequest, _context: Context) -> payments.GetTopUpResponse:
        """One top-up as stored."""
        org = top_up_key(request.name, "name")
        return payments.GetTopUpResponse(top_up=top_up_message(await self._top_ups.get(org, request.name)))

    async def ListTopUps(self, request: payments.ListTopUpsRequest, _context: Context) -> payments.ListTopUpsResponse:
        """The top-ups of a wallet, newest first."""
        org = convert.wallet_key(request.wallet, "wallet")[0]
        size = convert.page_size(request.page_size)
        async with self._pool.acquire() as connection:
            await wallets_store.get_wallet(connection, org, request.wallet)
            after = page_after(request.page_token, request.wallet)
            found = await rows.page(connection, org, request.wallet, after, size + 1)
        token = next_page(found[size - 1]) if len(found) > size else ""
        return payments.ListTopUpsResponse(top_ups=[top_up_message(row) for row in found[:size]], next_page_token=token)

    async def CancelTopUp(
        self, request: payments.CancelTopUpRequest, _context: Context
    ) -> payments.CancelTopUpResponse:
        """Gives up a top-up that was not paid."""
        org = top_up_key(request.name, "name")
        row = await self._top_ups.cancel(org, request.name)
        self._wake()
        return payments.CancelTopUpResponse(top_up=top_up_message(row))

    async def AuthenticatePayment(
        self, request: payments.AuthenticatePaymentRequest, _context: Context
    ) -> payments.AuthenticatePaymentResponse:
        """Charges with the cardholder present: the answer leads them to their bank's page."""
        return_url = self._link(request.return_url, "return_url")
        if "/topUps/" in request.name:
            org = top_up_key(request.name, "name")
            intent, method = await self._top_ups.waits_for_cardholder(org, request.name)
        else:
            org = recharge_key(request.name, "name")[0]
            intent, method = await self.recharges.waits_for_cardholder(org, request.name)
        answer, url = await self._pages.confirm_on_session(intent, method, return_url)
        if "/topUps/" in request.name:
            await self._top_ups.observe(org, request.name)
        else:
            await self.recharges.observe(org, request.name)
        self._wake()
        if answer.code:
            raise conflict(
                "PAYMENT_DECLINED", f"{request.name}: the card was declined ({answer.code})", decline_code=answer.code
            )
        return payments.AuthenticatePaymentResponse(url=url)

    # The inbox.

    async def ListStripeEvents(
        self, request: payments.ListStripeEventsRequest, _context: Context
    ) -> payments.ListStripeEventsResponse:
        """Events of the inbox by organisation and id."""
        state = event_state(request.state)
        size = convert.page_size(request.page_size)
        async with self._pool.acquire() as connection:
            found = await inbox.page(connection, state, event_page_after(request.page_token, state), size + 1)
        token = next_event_page(found[size - 1]) if len(found) > size else ""
        return payments.ListStripeEventsResponse(
            events=[event_message(event) for event in found[:size]], next_page_token=token
        )

    async def RequeueStripeEvents(
        self, request: payments.RequeueStripeEventsRequest, _context: Context
    ) -> payments.RequeueStripeEventsResponse:
        """Processes parked events again."""
        async with self._pool.acquire() as connection:
            count = await inbox.requeue(connection, request.event)
        self._wake()
        return payments.RequeueStripeEventsResponse(requeued=count)

    def _links(self, success_url: str, cancel_url: str) -> Links:
        return Links(self._link(success_url, "success_url"), self._link(cancel_url, "cancel_url"))

    def _link(self, url: str, field: str) -> str:
        if not url:
            return self._stripe.return_url
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or len(url) > _LINK_CHARS_MAX:
            raise invalid(field, f"is an http or https address of at most {_LINK_CHARS_MAX} characters")
        return url


def _charge(request: payments.TopUpRequest, currency: str) -> tuple[int, int]:
    """What is charged, in nano-units and in minor units."""
    if request.amount.currency_code != currency:
        raise invalid(
            "amount.currency_code",
            f"is {request.amount.currency_code or 'missing'}; the wallet is in {currency}",
            "CURRENCY_MISMATCH",
        )
    if request.amount.amount_nanos <= 0:
        raise invalid("amount.amount_nanos", "is more than nothing", "AMOUNT_OUT_OF_RANGE")
    try:
        amount_nanos = money.round_charge_up(request.amount.amount_nanos, currency)
        amount_minor = money.check_charge(amount_nanos, currency)
    except money.MoneyError as error:
        raise invalid("amount.amount_nanos", str(error), "AMOUNT_OUT_OF_RANGE") from None
    if amount_minor > CHARGE_MINOR_MAX:
        raise invalid("amount.amount_nanos", "is more than Stripe takes in one charge", "AMOUNT_OUT_OF_RANGE")
    return amount_nanos, amount_minor
