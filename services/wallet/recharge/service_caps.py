"""The gRPC face of what is allowed beyond caps, and of reviews: translate, call, answer. Mixed into the servicer."""

from collections.abc import Callable
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.wallet.v1 import caps_pb2 as pb
from services.kit.auth import ANY_ORG, identity
from services.kit.errors import denied, invalid
from services.wallet import convert
from services.wallet.recharge.caps import Caps
from services.wallet.recharge.convert_caps import (
    asked,
    caps_message,
    extra_message,
    next_page,
    page_after,
    review_key,
    review_message,
    reviewed_message,
)
from services.wallet.recharge.store import reviews

Context = grpc.aio.ServicerContext[Any, Any]
_BY_CHARS_MAX: Final = 256


class CapMethods:
    """The methods on extras and reviews of `pursestrings.wallet.v1.WalletService`."""

    _pool: asyncpg.Pool
    _wake: Callable[[], None]
    _caps: Caps

    async def AllowRecharges(self, request: pb.AllowRechargesRequest, _context: Context) -> pb.AllowRechargesResponse:
        """Lets more recharges in than the caps allow, and starts at once what they had stopped."""
        org = convert.wallet_key(request.wallet, "wallet")[0]
        key = convert.request_key(org, "AllowRecharges", request.request_id, request)
        row, known = await self._caps.allow(request.wallet, asked(request, key, decider(request.on_behalf_of)))
        self._wake()
        return pb.AllowRechargesResponse(extra=extra_message(row, known.currency), caps=caps_message(known))

    async def GetRechargeReview(
        self, request: pb.GetRechargeReviewRequest, _context: Context
    ) -> pb.GetRechargeReviewResponse:
        """One review, with what a person decides by."""
        found = await self._caps.get(review_key(request.name, "name"), request.name)
        return pb.GetRechargeReviewResponse(review=reviewed_message(found))

    async def ListRechargeReviews(
        self, request: pb.ListRechargeReviewsRequest, _context: Context
    ) -> pb.ListRechargeReviewsResponse:
        """Reviews of the wallets of a subject and of those below it, newest first."""
        parent = convert.subject_of(request.parent, "parent")
        size = convert.page_size(request.page_size)
        scope = f"{parent.name} {request.only_open}"
        after = page_after(request.page_token, scope)
        async with self._pool.acquire() as connection:
            found = await reviews.page(
                connection, parent.org, parent.name, after, size + 1, only_open=request.only_open
            )
        return pb.ListRechargeReviewsResponse(
            reviews=[review_message(row) for row in found[:size]],
            next_page_token=next_page(found[size - 1], scope) if len(found) > size else "",
        )

    async def DecideRechargeReview(
        self, request: pb.DecideRechargeReviewRequest, _context: Context
    ) -> pb.DecideRechargeReviewResponse:
        """Decides a review: allows more, or keeps the caps as they are."""
        org = review_key(request.name, "name")
        key = convert.request_key(org, "DecideRechargeReview", request.request_id, request)
        ask = asked(request, key, decider(request.on_behalf_of))
        if request.keep_paused and (ask.count or ask.amount or ask.until):
            raise invalid("keep_paused", "allows nothing: leave it out, or leave out what is allowed", "BAD_EXTRA")
        found = await self._caps.decide(request.name, ask, keep_paused=request.keep_paused)
        self._wake()
        return pb.DecideRechargeReviewResponse(review=reviewed_message(found))


def decider(on_behalf_of: str) -> str:
    """Who decides: the caller, or whom a service asks for."""
    who = identity()
    if not on_behalf_of:
        return who.principal
    # Such a credential of one subject may be a customer's own service, which decides for itself.
    if not (who.has("service") and who.subject == ANY_ORG):
        raise denied(
            f"on_behalf_of: only role service of {ANY_ORG}, which the suite has, says who decided; leave it out",
            "ROLE_MISSING",
        )
    if len(on_behalf_of) > _BY_CHARS_MAX or "\0" in on_behalf_of:
        raise invalid("on_behalf_of", f"is at most {_BY_CHARS_MAX} characters")
    return on_behalf_of
