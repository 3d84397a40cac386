"""The gRPC face of statements and of the comparison with Stripe. Mixed into the wallet's servicer."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import grpc

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import statements_pb2 as pb
from services.kit import windows
from services.kit.errors import invalid
from services.kit.money import MAX_NANOS
from services.wallet import convert
from services.wallet.recharge.store import recharges as recharge_rows
from services.wallet.refunds.stripe import MoneyBack
from services.wallet.statements import domain, render, store
from services.wallet.statements.comparing import SNAPSHOT, Compared, Comparison, Scope
from services.wallet.store import wallets as wallets_store

DIFFERENCES_MAX: Final = 1_000
"""The most differences that an answer names."""
STRAYS_MAX: Final = 1_000
"""The most organisations without a wallet that an answer names."""
LISTS_AGE_MAX_S: Final = 3_600
"""How old Stripe's lists may be at the most."""
_SPAN: Final = timedelta(days=30)
_SKEW: Final = timedelta(hours=1)
_FORMATS: Final = {"csv": render.to_csv, "html": render.to_html}
Context = grpc.aio.ServicerContext[Any, Any]


class StatementMethods:
    """GetStatement and Reconcile of `pursestrings.wallet.v1.WalletService`.

    Args:
        pool: The wallet's database.
        stripe: Asked for what was charged, refunded and disputed.
    """

    def __init__(self, pool: asyncpg.Pool, stripe: MoneyBack) -> None:
        self._pool = pool
        self._comparison = Comparison(pool, stripe)

    async def GetStatement(self, request: pb.GetStatementRequest, _context: Context) -> pb.GetStatementResponse:
        """A month of a wallet by the time of posting."""
        org, name = convert.wallet_key(request.wallet, "wallet")
        if request.format and request.format not in _FORMATS:
            raise invalid("format", f"say csv or html, not {request.format[:16]!r}")
        async with self._pool.acquire() as connection:
            wallet = await wallets_store.get_wallet(connection, org, name)
            now = await store.wait_for_posts(connection, org, name)
        window = _month(request.month, wallet.time_zone, now)
        start, end = (windows.from_unix_us(at) for at in (window.start_us, window.end_us))
        async with self._pool.acquire() as connection, connection.transaction(**SNAPSHOT):
            opening = await store.balance_before(connection, org, name, start)
            closing = await store.balance_before(connection, org, name, end)
            figures = domain.figures_of(await store.moved(connection, org, name, start, end))
            spend = await store.spend(connection, org, name, start, end)
        assert opening + figures.change == closing, f"{name} {window.key}: the statement does not tie to the ledger"
        statement = pb.Statement(
            wallet=name,
            month=window.key[:7],
            time_zone=wallet.time_zone,
            currency_code=wallet.currency,
            start_time=convert.timestamp(start),
            end_time=convert.timestamp(end),
            closed=end <= now,
            opening_nanos=opening,
            closing_nanos=closing,
            spend=[
                pb.SpendLine(
                    provider=line.provider,
                    model=line.model,
                    use_month=line.use_month,
                    amount_nanos=line.amount,
                    calls=line.calls,
                )
                for line in spend
            ],
            **{f"{field}_nanos": amount for field, amount in asdict(figures).items()},
        )
        text = _FORMATS[request.format](statement) if request.format else ""
        return pb.GetStatementResponse(statement=statement, text=text)

    async def Reconcile(self, request: pb.ReconcileRequest, _context: Context) -> pb.ReconcileResponse:
        """Compares Stripe, what was charged, granted, refunded and disputed, the ledger and the captures."""
        wallet = request.wallet or None
        org = convert.wallet_key(request.wallet, "wallet")[0] if wallet else convert.org_of(request.org, "org")
        age_s = request.lists_age_max_s
        if not 0 <= age_s <= LISTS_AGE_MAX_S:
            raise invalid("lists_age_max_s", f"is {age_s}; say 0 to {LISTS_AGE_MAX_S}")
        async with self._pool.acquire() as connection:
            now = await wallets_store.clock(connection)
            installation = await recharge_rows.installation(connection)
        since = _since(request, now)
        return _reconciled(await self._comparison.compare(Scope(installation, org, wallet, since), age_s))

    async def ListStrayOrgs(self, request: pb.ListStrayOrgsRequest, _context: Context) -> pb.ListStrayOrgsResponse:
        """Organisations that were charged for and have no wallet."""
        async with self._pool.acquire() as connection:
            now = await wallets_store.clock(connection)
            installation = await recharge_rows.installation(connection)
        orgs = await self._comparison.strays(installation, _since(request, now))
        return pb.ListStrayOrgsResponse(orgs=[f"orgs/{org}" for org in orgs[:STRAYS_MAX]])


def _since(request: pb.ReconcileRequest | pb.ListStrayOrgsRequest, now: datetime) -> datetime:
    return (request.from_time.ToDatetime(tzinfo=UTC) if request.HasField("from_time") else now - _SPAN) - _SKEW


def _reconciled(compared: Compared) -> pb.ReconcileResponse:
    books = compared.books
    sums: dict[str, int] = {}
    for charge in books.charges:
        sums[charge.currency] = sums.get(charge.currency, 0) + charge.amount
    return pb.ReconcileResponse(
        differences=[
            pb.Difference(
                kind=one.kind, wallet=one.wallet, subject=one.subject, detail=one.detail, difference_nanos=one.nanos
            )
            for one in compared.differences[:DIFFERENCES_MAX]
        ],
        charges=compared.charged,
        sources=len(books.charges),
        grants=len(books.grants),
        refunds=sum(map(len, books.refunds.values())),
        disputes=sum(map(len, books.disputes.values())),
        charged=[
            type_pb2.Money(currency_code=code, amount_nanos=min(amount, MAX_NANOS))
            for code, amount in sorted(sums.items())
        ],
    )


def _month(month: str, zone: str, now: datetime) -> windows.Window:
    spec = windows.WindowSpec(windows.WindowKind.MONTH, zone)
    if not month:
        return windows.window_at(spec, windows.unix_us(now))
    try:
        middle = datetime.strptime(f"{month}-15", "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise invalid("month", f"{month[:16]!r} is not written YYYY-MM") from None
    window = windows.window_at(spec, windows.unix_us(middle))
    if window.start_us > windows.unix_us(now):
        raise invalid("month", f"{month} is still to come")
    return window
