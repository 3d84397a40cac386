"""The gRPC face of what is allowed beyond caps, and of reviews: translate, call, answer. Mixed into the servicer."""

from typing import Any

import grpc

from pursestrings.wallet.v1 import caps_pb2 as pb
from services.kit.errors import Code, PurseError

Context = grpc.aio.ServicerContext[Any, Any]


def _to_come() -> PurseError:
    return PurseError(Code.UNIMPLEMENTED, "UNIMPLEMENTED", "this method is not served by this version; update it")


class CapMethods:
    """The methods on extras and reviews of `pursestrings.wallet.v1.WalletService`."""

    async def AllowRecharges(self, _request: pb.AllowRechargesRequest, _context: Context) -> pb.AllowRechargesResponse:
        """Lets more in than the caps allow."""
        raise _to_come()

    async def GetRechargeReview(
        self, _request: pb.GetRechargeReviewRequest, _context: Context
    ) -> pb.GetRechargeReviewResponse:
        """One review."""
        raise _to_come()

    async def ListRechargeReviews(
        self, _request: pb.ListRechargeReviewsRequest, _context: Context
    ) -> pb.ListRechargeReviewsResponse:
        """Reviews of a subject's wallets."""
        raise _to_come()

    async def DecideRechargeReview(
        self, _request: pb.DecideRechargeReviewRequest, _context: Context
    ) -> pb.DecideRechargeReviewResponse:
        """Decides one."""
        raise _to_come()
