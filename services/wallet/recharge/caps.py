"""What is allowed beyond the caps, and the reviews in which somebody decides on it."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from services.kit.database import transact
from services.kit.errors import PurseError, conflict, invalid, not_found
from services.wallet.domain.commands import ENDING, RequestKey
from services.wallet.ledger import request_id_reused
from services.wallet.recharge import names
from services.wallet.recharge.domain import extras as rules
from services.wallet.recharge.domain.extras import ExtraError
from services.wallet.recharge.domain.policy import MonthKey, month_in_force, month_start
from services.wallet.recharge.observe import Clock
from services.wallet.recharge.store import months, policies, reviews
from services.wallet.recharge.store import recharges as rows
from services.wallet.recharge.store.months import ExtraRow, KeptMonth
from services.wallet.recharge.store.policies import Facts
from services.wallet.recharge.store.reviews import Ending, ReviewRow
from services.wallet.store import wallets as wallets_store

EXTRAS_SHOWN: Final = 2 * rules.MAX_A_MONTH
"""The most extras that are read: those of a month, and those of the month before that last."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants to allow.

    Attributes:
        key: What makes it happen once.
        count: Recharges more.
        amount: Money more, as (currency, nano-units); None: none.
        until: None: to the end of the month.
        by: Who decides.
        approval: That says so; empty: a person does.
    """

    key: RequestKey
    count: int
    amount: tuple[str, int] | None
    until: datetime | None
    reason: str
    by: str
    approval: str = ""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A review with what a person decides by.

    Attributes:
        known: With the month of the review, and what counts in it, also where another is in force since.
        spent_nanos: In that month; None where it was not asked for.
    """

    row: ReviewRow
    known: Facts
    spent_nanos: int | None


class Caps:
    """Allows more than the caps do, and keeps the reviews.

    Args:
        pool: The wallet's database.
        clock: The deciding clock, read after the locks.
    """

    def __init__(self, pool: asyncpg.Pool, *, clock: Clock = wallets_store.clock) -> None:
        self._pool = pool
        self._clock = clock

    async def allow(self, wallet: str, ask: Ask) -> tuple[ExtraRow, Facts]:
        """Lets more in; the same request lets the same in once. A review that is open is answered by it.

        Raises:
            PurseError: WALLET_UNKNOWN, POLICY_UNKNOWN, WALLET_CLOSED, CURRENCY_MISMATCH, BAD_EXTRA, REQUEST_ID_REUSED.
        """
        return await transact(self._pool, lambda connection: self._allow(connection, wallet, ask))

    async def _allow(self, connection: asyncpg.Connection, wallet: str, ask: Ask) -> tuple[ExtraRow, Facts]:
        org = ask.key.org
        await wallets_store.lock_wallet(connection, org, wallet)
        now = await self._clock(connection)
        row = await months.extra_of(connection, org, wallet, ask.key.id)
        if row is None:
            row = await _add(connection, wallet, ask, ask.key.id, now)
            ending = Ending("ALLOWED", ask.reason, by=ask.by, extra=row.name)
            await reviews.end_open(connection, org, wallet, ending, now)
            await _begin_anew(connection, org, wallet, now)
        elif row.payload_hash != ask.key.payload:
            raise request_id_reused(ask.key)
        return row, (await policies.facts(connection, org, [wallet], now))[0]

    async def decide(self, name: str, ask: Ask, *, keep_paused: bool) -> Reviewed:
        """Decides a review that is open; the same request decides the same once.

        Args:
            name: The review.
            ask: What is allowed.
            keep_paused: Nothing is: of `ask` only the reason and who decides matter.

        Raises:
            PurseError: REVIEW_UNKNOWN, REVIEW_ENDED with what became of it, and as `allow` does.
        """
        return await transact(
            self._pool, lambda connection: self._decide(connection, name, ask, keep_paused=keep_paused)
        )

    async def _decide(self, connection: asyncpg.Connection, name: str, ask: Ask, *, keep_paused: bool) -> Reviewed:
        key = ask.key
        wallet = (await _review(connection, key.org, name)).wallet
        await wallets_store.lock_wallet(connection, key.org, wallet)
        row = await _review(connection, key.org, name)
        now = await self._clock(connection)
        request = (key.id, key.payload)
        if not row.is_open or row.month_end <= now:
            if row.request != key.id:
                raise _ended(row)
            if row.payload_hash != key.payload:
                raise request_id_reused(key)
        elif keep_paused:
            await reviews.end(connection, row, Ending("KEPT_PAUSED", ask.reason, by=ask.by, request=request), now)
        else:
            extra = await _add(connection, wallet, ask, name, now)
            ending = Ending("ALLOWED", ask.reason, by=ask.by, extra=extra.name, request=request)
            await reviews.end(connection, row, ending, now)
            await _begin_anew(connection, key.org, wallet, now)
        return await _reviewed(connection, await _review(connection, key.org, name), now)

    async def get(self, org: str, name: str) -> Reviewed:
        """A review with what a person decides by.

        Raises:
            PurseError: REVIEW_UNKNOWN.
        """
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await _review(connection, org, name)
            return await _reviewed(connection, row, await self._clock(connection), with_spend=True)

    async def look_after(self, org: str, name: str) -> None:
        """Starts the workflow of an open review again where it was lost, and ends the review when its month is over."""
        await transact(self._pool, lambda connection: self._look_after(connection, org, name))

    async def _look_after(self, connection: asyncpg.Connection, org: str, name: str) -> None:
        await wallets_store.lock_wallet(connection, org, (await _review(connection, org, name)).wallet)
        row = await _review(connection, org, name)
        now = await self._clock(connection)
        if not row.is_open:
            return
        if row.month_end <= now:
            await reviews.end(connection, row, reviews.MONTH_OVER, now)
        else:
            await reviews.start_again(connection, row)


async def _add(connection: asyncpg.Connection, wallet: str, ask: Ask, request: str, now: datetime) -> ExtraRow:
    """Stores an extra of the month in force, under the wallet's lock."""
    org = ask.key.org
    known = (await policies.facts(connection, org, [wallet], now))[0]
    if known.policy is None:
        raise not_found(f"a recharge policy of {wallet}", "POLICY_UNKNOWN", wallet=wallet)
    if known.wallet_state in ENDING:
        raise conflict("WALLET_CLOSED", f"{wallet} is closed for good; create another wallet", field="wallet")
    currency, nanos = ask.amount or (known.currency, 0)
    if currency != known.currency:
        raise invalid(
            "extra_amount.currency_code",
            f"is {currency[:16]!r}; the wallet is in {known.currency}",
            "CURRENCY_MISMATCH",
        )
    month = known.month
    following = month_in_force(None, month.zone, month.end + timedelta(hours=1))
    try:
        until = rules.check(
            known.granted,
            count=ask.count,
            amount_nanos=nanos,
            until=ask.until,
            month=month,
            last_end=following.end,
            now=now,
        )
    except ExtraError as error:
        raise invalid(error.field, str(error), "BAD_EXTRA") from None
    await months.lock_month(connection, org, wallet, month)
    number = await months.next_extra(connection, org, wallet, month.key)
    row = ExtraRow(
        org=org,
        name=names.extra_name(wallet, month.key, number),
        wallet=wallet,
        month=month.key,
        number=number,
        extra_count=ask.count,
        extra_nanos=nanos,
        used_count=known.usage.count,
        used_nanos=known.usage.amount_nanos,
        until_at=until,
        reason=ask.reason,
        approval=ask.approval,
        allowed_by=ask.by,
        request=request,
        payload_hash=ask.key.payload,
        created_at=now,
    )
    await months.add_extra(connection, row)
    return row


async def _begin_anew(connection: asyncpg.Connection, org: str, wallet: str, now: datetime) -> None:
    """What is in force has changed, which may end a block: of a new recharge, or of one that is under way."""
    await months.forget_alerts(connection, org, wallet)
    await rows.wake_pending(connection, org, [wallet], now, "more is allowed")
    await policies.evaluate(connection, org, [wallet], now)


async def _reviewed(
    connection: asyncpg.Connection, row: ReviewRow, now: datetime, *, with_spend: bool = False
) -> Reviewed:
    known = (await policies.facts(connection, row.org, [row.wallet], now))[0]
    month = await months.kept(connection, row.org, row.wallet, row.month)
    if known.month.key != row.month:
        known = _of_its_month(known, row, month)
    spent = None
    if with_spend:
        start = month_start(row.month_end, month.zone)
        spent = await reviews.spent(connection, row.org, row.wallet, start, row.month_end)
    return Reviewed(row, known, spent)


def _of_its_month(known: Facts, row: ReviewRow, month: KeptMonth) -> Facts:
    """What counts in the month of a review that is over, under the caps in force when something was let in."""
    policy = known.policy
    if policy is not None and month.cap_count:
        policy = replace(policy, max_count=month.cap_count, max_amount_nanos=month.cap_nanos)
    key = MonthKey(row.month, month.zone, row.month_end)
    return replace(known, month=key, usage=month.usage, policy=policy, extras=month.extras)


async def _review(connection: asyncpg.Connection, org: str, name: str) -> ReviewRow:
    row = await reviews.get(connection, org, name)
    if row is None:
        raise not_found(name, "REVIEW_UNKNOWN", review=name)
    return row


def _ended(row: ReviewRow) -> PurseError:
    if row.is_open:
        return conflict("REVIEW_ENDED", f"{row.name}: its month is over; nothing is left to decide", field="name")
    who = f" by {row.decided_by}" if row.decided_by else ""
    return conflict(
        "REVIEW_ENDED",
        f"{row.name} is {row.state}{who} already: {row.reason}; allow-recharges allows more",
        field="name",
        state=row.state,
    )
