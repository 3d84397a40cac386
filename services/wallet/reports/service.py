"""The gRPC face of reports. Mixed into the wallet's servicer."""

from typing import Any, Final

import asyncpg
import grpc

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import reports_pb2 as pb
from services.kit.errors import invalid
from services.wallet import convert
from services.wallet.reports import store
from services.wallet.reports.store import Kind
from services.wallet.store import wallets as wallets_store

_EVERYWHERE: Final = "all"
_ZONES: Final = "zones"
_BETWEEN: Final = "\n"
_KINDS: Final = {pb.ConcernKind.Value(f"CONCERN_KIND_{kind.name}"): kind for kind in Kind}

Context = grpc.aio.ServicerContext[Any, Any]


class ReportMethods:
    """ListMonthZones and ListConcerns of `pursestrings.wallet.v1.WalletService`."""

    _pool: asyncpg.Pool

    async def ListMonthZones(self, request: pb.ListMonthZonesRequest, _context: Context) -> pb.ListMonthZonesResponse:
        """A page of organisations' zones."""
        size = convert.page_size(request.page_size)
        after = convert.from_page_token(request.page_token, _ZONES)
        async with self._pool.acquire() as connection:
            found = await store.orgs(connection, after, size + 1)
            zones = await store.zones(connection, found[:size])
        return pb.ListMonthZonesResponse(
            zones=[
                type_pb2.MonthZone(org=f"orgs/{org}", time_zone=zone, since_time=convert.timestamp(since))
                for org, zone, since in zones
            ],
            next_page_token=convert.to_page_token(_ZONES, found[size - 1]) if len(found) > size else "",
        )

    async def ListConcerns(self, request: pb.ListConcernsRequest, _context: Context) -> pb.ListConcernsResponse:
        """A page of what a person should know of."""
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise invalid("kind", f"say one of {', '.join(one.name for one in Kind)}")
        org = convert.optional_org(request.org)
        size = convert.page_size(request.page_size)
        scope = f"{request.org or _EVERYWHERE} {kind.name}"
        wallet, _, reference = convert.from_page_token(request.page_token, scope).partition(_BETWEEN)
        async with self._pool.acquire() as connection:
            now = await wallets_store.clock(connection)
            found = await store.concerns(connection, org, kind, after=(wallet, reference), now=now, limit=size + 1)
        last = found[:size][-1] if len(found) > size else None
        return pb.ListConcernsResponse(
            concerns=[
                pb.Concern(
                    kind=request.kind,
                    wallet=one.wallet,
                    reference=one.reference,
                    amount=type_pb2.Money(currency_code=one.currency, amount_nanos=one.amount),
                    concern_time=convert.timestamp(one.at),
                    detail=one.detail,
                )
                for one in found[:size]
            ],
            next_page_token=convert.to_page_token(scope, f"{last.wallet}{_BETWEEN}{last.reference}") if last else "",
        )
