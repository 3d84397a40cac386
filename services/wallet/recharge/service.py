"""The gRPC face of recharges: translate, call, answer. Mixed into the wallet's servicer."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.auth import identity
from services.kit.database import transact
from services.kit.errors import conflict, invalid, not_found
from services.wallet import convert, ledger
from services.wallet.domain.commands import ENDING, RequestKey
from services.wallet.recharge import names
from services.wallet.recharge.caps import EXTRAS_SHOWN, Caps
from services.wallet.recharge.cards import make_default
from services.wallet.recharge.convert import (
    authorized_message,
    checked_policy,
    next_page,
    page_after,
    policy_message,
    recharge_key,
    recharge_message,
)
from services.wallet.recharge.convert_caps import caps_message, extra_message
from services.wallet.recharge.domain import policy as rules
from services.wallet.recharge.domain.policy import Policy
from services.wallet.recharge.moves import GivingUp, Report
from services.wallet.recharge.observe import Clock
from services.wallet.recharge.service_caps import CapMethods
from services.wallet.recharge.service_payments import PaymentMethods
from services.wallet.recharge.service_predictive import PredictiveMethods
from services.wallet.recharge.store import inbox, months, policies, reviews
from services.wallet.recharge.store import recharges as rows
from services.wallet.recharge.stripe import Stripe
from services.wallet.store import wallets as wallets_store

_METHOD_CHARS_MAX: Final = 255
_REASON_CHARS_MAX: Final = 256
_MAY_END_MISSING: Final = frozenset({"operator", "admin"})
Context = grpc.aio.ServicerContext[Any, Any]


class _OtherFirstError(Exception):
    """Another request, about another wallet, took the request id meanwhile: roll back, and find its answer stored."""


class RechargeMethods(PaymentMethods, PredictiveMethods, CapMethods):
    """The recharge methods of `pursestrings.wallet.v1.WalletService`.

    Args:
        pool: The wallet's database.
        stripe: The payment provider.
        wake: Called after something was written that a relay or a loop should look at.
        clock: The deciding clock, read after the locks.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        stripe: Stripe,
        *,
        wake: Callable[[], None] = lambda: None,
        clock: Clock = wallets_store.clock,
    ) -> None:
        PaymentMethods.__init__(self, pool, stripe, wake=wake, clock=clock)
        self._stripe = stripe
        self._caps = Caps(pool, clock=clock)

    async def SetupPaymentMethod(
        self, request: pb.SetupPaymentMethodRequest, _context: Context
    ) -> pb.SetupPaymentMethodResponse:
        """Puts a payment method on file at Stripe and makes it the wallet's."""
        org, _ = convert.wallet_key(request.wallet, "wallet")
        key = convert.request_key(org, "SetupPaymentMethod", request.request_id, request)
        if len(request.payment_method) > _METHOD_CHARS_MAX:
            raise invalid("payment_method", f"is at most {_METHOD_CHARS_MAX} characters: a method as Stripe names it")
        async with self._pool.acquire() as connection:
            wallet = await wallets_store.get_wallet(connection, org, request.wallet)
            stored = await _stored_answer(connection, key)
        if stored is not None:
            return stored
        if wallet.state in ENDING:
            raise conflict("WALLET_CLOSED", f"{wallet.name} is closed for good; create another wallet", field="wallet")
        installation = await self.recharges.installation()
        customer = wallet.stripe_customer or await self._stripe.create_customer(
            installation, org, wallet.name, names.customer_key(installation, wallet.name)
        )
        if not request.payment_method:
            return await self.card_page(request, key, wallet, customer)
        attach_key = names.attach_key(installation, wallet.name, request.request_id, request.payment_method)
        method = await self._stripe.attach(request.payment_method, customer, attach_key)
        answer = None
        while answer is None:
            with contextlib.suppress(_OtherFirstError):
                answer = await transact(
                    self._pool, lambda connection: self._put_method(connection, key, request.wallet, customer, method)
                )
        self._wake()
        return answer

    async def _put_method(
        self, connection: asyncpg.Connection, key: RequestKey, name: str, customer: str, method: str
    ) -> pb.SetupPaymentMethodResponse:
        wallet = await wallets_store.lock_wallet(connection, key.org, name)
        stored = await _stored_answer(connection, key)
        if stored is not None:
            return stored
        now = await self._clock(connection)
        await make_default(connection, key.org, name, customer=customer, payment_method=method, now=now)
        answer = pb.SetupPaymentMethodResponse(
            wallet=convert.wallet_message(replace(wallet, payment_method=method)), customer=customer
        )
        if not await wallets_store.insert_keys(connection, [(key, answer.SerializeToString())], now):
            raise _OtherFirstError
        return answer

    async def SetRechargePolicy(
        self, request: pb.SetRechargePolicyRequest, _context: Context
    ) -> pb.SetRechargePolicyResponse:
        """Checks a policy, stores it and evaluates it at once."""
        org = convert.wallet_key(request.policy.wallet, "policy.wallet")[0]
        if len(request.policy.paused_reason) > rules.MAX_REASON_CHARS:
            raise invalid("policy.paused_reason", f"is at most {rules.MAX_REASON_CHARS} characters")
        if request.resume and request.policy.paused_reason:
            raise invalid("policy.paused_reason", "cannot be set together with resume; leave one out")
        answer = await transact(self._pool, lambda connection: self._put_policy(connection, org, request))
        self._wake()
        return answer

    async def _put_policy(
        self, connection: asyncpg.Connection, org: str, request: pb.SetRechargePolicyRequest
    ) -> pb.SetRechargePolicyResponse:
        name = request.policy.wallet
        wallet = await wallets_store.lock_wallet(connection, org, name)
        policy = checked_policy(request.policy, wallet.currency)
        now = await self._clock(connection)
        before = (await policies.facts(connection, org, [name], now))[0].policy
        await policies.put(connection, org, name, policy, now, resume=request.resume, by=_caller())
        if before is not None and _caps_of(before) != _caps_of(policy):
            await reviews.end_open(connection, org, name, reviews.CAPS_CHANGED, now)
            await months.forget_alerts(connection, org, name)
        await rows.wake_pending(connection, org, [name], now, "the policy was changed")
        await policies.evaluate(connection, org, [name], now)
        known = (await policies.facts(connection, org, [name], now))[0]
        return pb.SetRechargePolicyResponse(policy=policy_message(known))

    async def GetRechargePolicy(
        self, request: pb.GetRechargePolicyRequest, _context: Context
    ) -> pb.GetRechargePolicyResponse:
        """The policy in force, and what of the month is used."""
        org = convert.wallet_key(request.wallet, "wallet")[0]
        async with self._pool.acquire() as connection:
            await wallets_store.get_wallet(connection, org, request.wallet)
            now = await self._clock(connection)
            known = (await policies.facts(connection, org, [request.wallet], now))[0]
            extras = await months.extras(connection, org, request.wallet, known.month.key, now, limit=EXTRAS_SHOWN)
        if known.policy is None:
            raise not_found(f"a recharge policy of {request.wallet}", "POLICY_UNKNOWN", wallet=request.wallet)
        return pb.GetRechargePolicyResponse(
            policy=policy_message(known),
            month_count=known.usage.count,
            month_amount_nanos=known.usage.amount_nanos,
            caps=caps_message(known),
            extras=[extra_message(row, known.currency) for row in extras],
        )

    async def GetRecharge(self, request: pb.GetRechargeRequest, _context: Context) -> pb.GetRechargeResponse:
        """One recharge as stored."""
        org = recharge_key(request.name, "name")[0]
        return pb.GetRechargeResponse(recharge=recharge_message(await self.recharges.get(org, request.name)))

    async def ListRecharges(self, request: pb.ListRechargesRequest, _context: Context) -> pb.ListRechargesResponse:
        """The recharges of a wallet, newest first."""
        org = convert.wallet_key(request.wallet, "wallet")[0]
        size = convert.page_size(request.page_size)
        # A page is read by several statements: in one snapshot, or a row and its attempts would be of different times.
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await wallets_store.get_wallet(connection, org, request.wallet)
            found = await rows.page(
                connection, org, request.wallet, page_after(request.page_token, request.wallet), size + 1
            )
        token = next_page(found[size - 1]) if len(found) > size else ""
        return pb.ListRechargesResponse(
            recharges=[recharge_message(row) for row in found[:size]], next_page_token=token
        )

    async def AuthorizeAttempt(
        self, request: pb.AuthorizeAttemptRequest, _context: Context
    ) -> pb.AuthorizeAttemptResponse:
        """Says what to do next, and stores the attempt before Stripe is asked."""
        org = recharge_key(request.recharge, "recharge")[0]
        return authorized_message(await self.recharges.authorize(org, request.recharge))

    async def ReportAttempt(self, request: pb.ReportAttemptRequest, _context: Context) -> pb.ReportAttemptResponse:
        """Takes what an attempt made, and moves the recharge to what Stripe says."""
        org = recharge_key(request.recharge, "recharge")[0]
        if request.error_code and not request.answered:
            raise invalid("error_code", "is the code of an answer; set answered too")
        report = Report(
            request.attempt, request.payment_intent, request.answered, request.error_code[:_REASON_CHARS_MAX]
        )
        row = await self.recharges.observe(org, request.recharge, report=report, signal=False)
        self._wake()
        return pb.ReportAttemptResponse(recharge=recharge_message(row))

    async def FailRecharge(self, request: pb.FailRechargeRequest, _context: Context) -> pb.FailRechargeResponse:
        """Cancels at Stripe, then gives the recharge up."""
        org = recharge_key(request.recharge, "recharge")[0]
        if not 0 < len(request.reason) <= _REASON_CHARS_MAX:
            raise invalid("reason", f"is required, at most {_REASON_CHARS_MAX} characters")
        by_operator = bool(_MAY_END_MISSING & identity().roles)
        why = GivingUp(request.reason, request.advised, by_operator)
        row = await self.recharges.give_up(org, request.recharge, why)
        self._wake()
        return pb.FailRechargeResponse(recharge=recharge_message(row))

    async def IngestStripeEvent(
        self, request: pb.IngestStripeEventRequest, _context: Context
    ) -> pb.IngestStripeEventResponse:
        """Verifies an event and puts it into the inbox; it is processed after the answer."""
        event = self._stripe.verify_event(request.payload, request.signature)
        digest = hashlib.sha256(event.content).digest()
        row = inbox.EventRow(
            event.org or inbox.NO_ORG,
            event.id,
            event.type,
            event.livemode,
            event.payment_intent or None,
            event.recharge or None,
            event.object_id or None,
        )

        async def store(connection: asyncpg.Connection) -> bool:
            now = await self._clock(connection)
            if await inbox.put(connection, row, request.payload, digest, now):
                return True
            if await inbox.hash_of(connection, row.org, row.id) != digest:
                raise conflict("EVENT_ID_REUSED", f"event {row.id} came before with other content", field="payload")
            return False

        new = await transact(self._pool, store)
        self._wake()
        return pb.IngestStripeEventResponse(event_id=event.id, duplicate=not new)


def _caps_of(policy: Policy) -> tuple[bool, int, int | None]:
    """What of a policy a review of caps is about."""
    return policy.enabled, policy.max_count, policy.max_amount_nanos


def _caller() -> str:
    """Who calls, as far as the credential says: the subject that it covers, and its id."""
    who = identity()
    return f"{who.subject}#{who.token_id}"


async def _stored_answer(connection: asyncpg.Connection, key: RequestKey) -> pb.SetupPaymentMethodResponse | None:
    found = (await wallets_store.find_keys(connection, [key])).get((key.org, key.method, key.id))
    if found is None:
        return None
    if found.payload != key.payload:
        raise ledger.request_id_reused(key)
    return pb.SetupPaymentMethodResponse.FromString(found.answer)
