"""Cards of a wallet: pages to enter one on, the default, and the warning before it expires."""

import calendar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from services.kit.database import transact
from services.kit.errors import PurseError, conflict, invalid, not_found
from services.kit.telemetry import get_logger
from services.wallet.recharge import names
from services.wallet.recharge.observe import Clock
from services.wallet.recharge.pages import Card, Links, Pages
from services.wallet.recharge.store import cards as rows
from services.wallet.recharge.store import policies
from services.wallet.recharge.store import recharges as recharge_rows
from services.wallet.recharge.store.cards import SetupRow
from services.wallet.recharge.stripe import MISSING, REFUSED, Stripe, metadata_of
from services.wallet.store import wallets as wallets_store

WARN_BEFORE: Final = timedelta(days=30)
"""How long before the default card expires a person is told."""
_WALLETS_MAX: Final = 100

_log = get_logger(__name__)


class Cards:
    """Looks after the cards of wallets.

    Args:
        pool: The wallet's database.
        stripe: The payment provider.
        clock: The deciding clock, read after the locks.
    """

    def __init__(self, pool: asyncpg.Pool, stripe: Stripe, *, clock: Clock = wallets_store.clock) -> None:
        self._pool = pool
        self._pages = Pages(stripe)
        self._clock = clock

    async def open_page(self, asked: SetupRow, currency: str, links: Links, installation: str) -> SetupRow:
        """A page to enter a card on; the same request has the same page.

        Raises:
            PurseError: REQUEST_ID_REUSED; UNAVAILABLE.
        """
        async with self._pool.acquire() as connection:
            await rows.set_customer(connection, asked.org, asked.wallet, asked.customer)
            await rows.insert(connection, replace(asked, created_at=await self._clock(connection)))
            row = await rows.get(connection, asked.org, asked.name)
        assert row is not None, "it was stored just now"
        if row.payload_hash != asked.payload_hash:
            raise conflict(
                "REQUEST_ID_REUSED", "request_id: came with another content before; make a new one", field="request_id"
            )
        if row.state != "OPEN" or row.session is not None:
            return row
        metadata = metadata_of(installation=installation, org=row.org, wallet=row.wallet, card_setup=row.name)
        page = await self._pages.setup_page(
            metadata, row.customer, currency, links=links, key=names.card_setup_key(installation, row.name)
        )
        async with self._pool.acquire() as connection:
            await rows.opened(connection, row, page.session, page.url)
        return replace(row, session=page.session, url=page.url)

    async def keep_customer(self, org: str, wallet: str, customer: str) -> None:
        """Stores a wallet's customer at Stripe where it has none yet."""
        async with self._pool.acquire() as connection:
            await rows.set_customer(connection, org, wallet, customer)

    async def observe(self, org: str, name: str) -> SetupRow:
        """Asks Stripe what was entered on a page; a card that was saved becomes the wallet's default, once.

        Raises:
            PurseError: CARD_SETUP_UNKNOWN; UNAVAILABLE.
        """
        async with self._pool.acquire() as connection:
            row = await rows.get(connection, org, name)
            now = await self._clock(connection)
        if row is None:
            raise not_found(name, "CARD_SETUP_UNKNOWN", card_setup=name)
        if row.state != "OPEN":
            return row
        if row.session is None:
            # Its address was never told to anybody; a day later it is closed for good.
            if now >= row.created_at + rows.CHECK_EVERY:
                await self._end(row, "EXPIRED", None)
        else:
            page = await self._pages.page(row.session)
            if page.payment_method:
                await self._end(row, "DONE", page.payment_method)
            elif page.status == "expired":
                await self._end(row, "EXPIRED", None)
        async with self._pool.acquire() as connection:
            return await rows.get(connection, org, name) or row

    async def _end(self, row: SetupRow, state: str, payment_method: str | None) -> None:
        async def run(connection: asyncpg.Connection) -> None:
            wallet = await wallets_store.lock_wallet(connection, row.org, row.wallet)
            now = await self._clock(connection)
            ended = await rows.end(connection, row, state, payment_method, now)
            if ended and payment_method is not None and wallet.state != "CLOSED":
                await make_default(
                    connection, row.org, row.wallet, customer=row.customer, payment_method=payment_method, now=now
                )

        await transact(self._pool, run)

    async def listed(self, customer: str | None) -> list[Card]:
        """What Stripe holds for a customer."""
        return await self._pages.cards(customer) if customer else []

    async def detach(self, org: str, wallet: str, payment_method: str) -> str:
        """Takes a card from a wallet for good; returns the default afterwards, empty where there is none.

        Raises:
            PurseError: PAYMENT_METHOD_UNKNOWN where it is not this wallet's; UNAVAILABLE.
        """
        async with self._pool.acquire() as connection:
            row = await wallets_store.get_wallet(connection, org, wallet)
        card = await self._card(payment_method)
        if card is None or (card.customer and card.customer != row.stripe_customer):
            raise invalid("payment_method", f"{payment_method} is none of {wallet}", "PAYMENT_METHOD_UNKNOWN")
        # First here, so that nothing new is charged to what is about to go.
        await self._forget(org, wallet, payment_method, "")
        if card.customer:
            await self._pages.detach(payment_method)
        async with self._pool.acquire() as connection:
            return (await wallets_store.get_wallet(connection, org, wallet)).payment_method or ""

    async def _card(self, payment_method: str) -> Card | None:
        try:
            return await self._pages.card(payment_method)
        except PurseError as error:
            if error.reason != REFUSED or error.metadata.get("code") != MISSING:
                raise
            return None

    async def _forget(self, org: str, wallet: str, payment_method: str, why: str) -> None:
        async def run(connection: asyncpg.Connection) -> None:
            await wallets_store.lock_wallet(connection, org, wallet)
            if not await rows.forget_method(connection, org, wallet, payment_method):
                return
            await wallets_store.bump_directory(connection, [org])
            now = await self._clock(connection)
            await recharge_rows.wake_pending(connection, org, [wallet], now, "the payment method was taken away")
            if why:
                message: dict[str, object] = {"kind": "CARD_REMOVED", "wallet": wallet, "reason": why}
                await policies.alert(connection, org, wallet, {**message, "payment_method": payment_method})

        await transact(self._pool, run)

    async def told_of(self, payment_method: str) -> int:
        """Stripe said something of a payment method: looks at the wallets whose default it is; returns how many."""
        async with self._pool.acquire() as connection:
            found = await rows.wallets_with(connection, payment_method, _WALLETS_MAX)
        for org, wallet in found:
            await self.check(org, wallet)
        return len(found)

    async def check(self, org: str, wallet: str) -> None:
        """Looks at a wallet's default card: one that is gone is forgotten, one that expires soon is warned of once."""
        async with self._pool.acquire() as connection:
            row = await wallets_store.get_wallet(connection, org, wallet)
            now = await self._clock(connection)
        if row.payment_method is None or row.state == "CLOSED":
            return
        card = await self._card(row.payment_method)
        if card is None or card.customer != row.stripe_customer:
            await self._forget(org, wallet, row.payment_method, "it is not on file at Stripe any more")
            return
        ends = expiry_of(card)
        if ends is None or now < ends - WARN_BEFORE:
            return

        async def warn(connection: asyncpg.Connection) -> None:
            expiry = f"{card.exp_year}-{card.exp_month:02d}"
            if await rows.warn(connection, org, wallet, f"{card.payment_method} {expiry}"):
                message: dict[str, object] = {
                    "kind": "CARD_EXPIRING",
                    "wallet": wallet,
                    "payment_method": card.payment_method,
                    "brand": card.brand,
                    "last4": card.last4,
                    "expires": expiry,
                    "expired": now >= ends,
                }
                await policies.alert(connection, org, wallet, message)

        await transact(self._pool, warn)


async def make_default(
    connection: asyncpg.Connection, org: str, wallet: str, *, customer: str, payment_method: str, now: datetime
) -> None:
    """Makes a card what a locked wallet charges, which wakes whatever waits for one."""
    await policies.set_payment_method(connection, org, wallet, customer, payment_method)
    await wallets_store.bump_directory(connection, [org])
    await rows.check_soon(connection, org, wallet, now)
    await policies.end_failure_pause(connection, org, wallet)
    await recharge_rows.wake_pending(connection, org, [wallet], now, "a payment method was put on file")
    await policies.evaluate(connection, org, [wallet], now)


def expiry_of(card: Card) -> datetime | None:
    """The first instant at which a card is not valid any more; None where it has no such time."""
    if not 1 <= card.exp_month <= 12 or not card.exp_year:
        return None
    days = calendar.monthrange(card.exp_year, card.exp_month)[1]
    return datetime(card.exp_year, card.exp_month, days, tzinfo=UTC) + timedelta(days=1)
