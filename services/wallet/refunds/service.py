"""The gRPC face of refunds and disputes: translate, call, answer. Mixed into the wallet's servicer."""

from collections.abc import Callable
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import refunds_pb2 as pb
from services.kit import subject as subjects
from services.kit.errors import Code, PurseError, invalid
from services.kit.telemetry import get_logger
from services.wallet import convert
from services.wallet.recharge.convert import page_after
from services.wallet.refunds.disputes import Disputes
from services.wallet.refunds.domain.rules import RefundState
from services.wallet.refunds.refunds import Refunds
from services.wallet.refunds.store import disputes as dispute_rows
from services.wallet.refunds.store import refunds as rows
from services.wallet.refunds.store.disputes import DisputeRow
from services.wallet.refunds.store.refunds import RefundRow
from services.wallet.store import wallets as wallets_store

Context = grpc.aio.ServicerContext[Any, Any]
_STATES: Final = {
    RefundState.PENDING: pb.REFUND_STATE_PENDING,
    RefundState.SUCCEEDED: pb.REFUND_STATE_SUCCEEDED,
    RefundState.FAILED: pb.REFUND_STATE_FAILED,
}
_log = get_logger(__name__)


class RefundMethods:
    """The methods on refunds and disputes of `pursestrings.wallet.v1.WalletService`.

    Args:
        pool: The wallet's database.
        refunds: Moves refunds.
        disputes: Moves disputes.
        wake: Called after something was written that a relay or a loop should look at.
    """

    def __init__(
        self, pool: asyncpg.Pool, refunds: Refunds, disputes: Disputes, *, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._pool = pool
        self._wake = wake
        self.refunds = refunds
        self.disputes = disputes

    async def Refund(self, request: pb.RefundRequest, _context: Context) -> pb.RefundResponse:
        """Debits the wallet, asks Stripe once; what it does not answer now, the sweep asks again."""
        collection = "topUps" if "/topUps/" in request.source else "recharges"
        org = _org_of(request.source, collection, "source")
        key = convert.request_key(org, "Refund", request.request_id, request)
        reason = convert.reason(request.reason, required=True)
        amount = None
        if request.HasField("amount"):
            amount = (request.amount.currency_code, request.amount.amount_nanos)
        row = await self.refunds.create(key, request.source, amount, reason)
        try:
            row = await self.refunds.advance(org, row.name)
        except PurseError as error:
            if error.code not in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED}:
                raise
            _log.warning("a refund waits for Stripe", name=row.name, error=repr(error))
        self._wake()
        return pb.RefundResponse(refund=_message(row))

    async def GetRefund(self, request: pb.GetRefundRequest, _context: Context) -> pb.GetRefundResponse:
        """One refund as stored."""
        row = await self.refunds.get(_org_of(request.name, "refunds", "name"), request.name)
        return pb.GetRefundResponse(refund=_message(row))

    async def ListRefunds(self, request: pb.ListRefundsRequest, _context: Context) -> pb.ListRefundsResponse:
        """The refunds of a wallet, newest first."""
        org, wallet = convert.wallet_key(request.wallet, "wallet")
        size = convert.page_size(request.page_size)
        after = page_after(request.page_token, wallet)
        async with self._pool.acquire() as connection:
            await wallets_store.get_wallet(connection, org, wallet)
            found = await rows.page(connection, org, wallet, after, size + 1)
        last = found[size - 1] if len(found) > size else None
        token = convert.to_page_token(wallet, f"{last.created_at.isoformat()} {last.name}") if last else ""
        return pb.ListRefundsResponse(refunds=[_message(row) for row in found[:size]], next_page_token=token)

    async def ListDisputes(self, request: pb.ListDisputesRequest, _context: Context) -> pb.ListDisputesResponse:
        """The disputes about charges of a wallet."""
        org, wallet = convert.wallet_key(request.wallet, "wallet")
        async with self._pool.acquire() as connection:
            await wallets_store.get_wallet(connection, org, wallet)
            found = await dispute_rows.of_wallet(connection, org, wallet)
        return pb.ListDisputesResponse(disputes=[_dispute_message(row) for row in found])


def _org_of(name: str, collection: str, field: str) -> str:
    try:
        return subjects.parse_resource(name, collection)[0].org
    except subjects.SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_NAME") from None


def _message(row: RefundRow) -> pb.Refund:
    return pb.Refund(
        name=row.name,
        wallet=row.wallet,
        source=row.source,
        payment_intent=row.payment_intent,
        state=_STATES[row.state],
        amount=type_pb2.Money(currency_code=row.currency, amount_nanos=row.amount),
        reason=row.reason,
        stripe_refund=row.stripe_refund,
        failure_reason=row.failure_reason,
        create_time=convert.timestamp(row.created_at),
        end_time=convert.timestamp(row.ended_at) if row.ended_at else None,
    )


def _dispute_message(row: DisputeRow) -> pb.Dispute:
    return pb.Dispute(
        id=row.id,
        wallet=row.wallet,
        source=row.source,
        payment_intent=row.payment_intent,
        status=row.status,
        reason=row.reason,
        amount=type_pb2.Money(currency_code=row.currency, amount_nanos=row.amount),
        withdrawn_nanos=row.withdrawn,
        restored_nanos=row.restored,
        freezes=row.froze,
        open_time=convert.timestamp(row.opened_at),
    )
