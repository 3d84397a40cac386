"""How a top-up moves: look at Stripe outside of any transaction, then move the row under its lock.

As with recharges, a report, a webhook and the sweep all come here; each asks Stripe afresh, and what was seen counts
only if the row has not changed meanwhile.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

import asyncpg

from services.kit import money
from services.kit.database import transact
from services.kit.errors import PurseError, conflict, not_found, unavailable
from services.wallet.domain.accounts import LEDGER_MAX_NANOS
from services.wallet.recharge import grants, names
from services.wallet.recharge.domain import outcome as outcomes
from services.wallet.recharge.domain import top_up as rules
from services.wallet.recharge.domain.attempts import AUTHENTICATION, WalletState
from services.wallet.recharge.domain.outcome import Intent
from services.wallet.recharge.domain.policy import over_cap
from services.wallet.recharge.domain.top_up import Asks, Cancel, Open, Over, Paid, Problem, Seen, State
from services.wallet.recharge.observe import Clock
from services.wallet.recharge.pages import Links, NewPayment, Pages
from services.wallet.recharge.store import months, policies
from services.wallet.recharge.store import recharges as recharge_rows
from services.wallet.recharge.store import top_ups as rows
from services.wallet.recharge.store.policies import Facts
from services.wallet.recharge.store.top_ups import TopUpRow
from services.wallet.recharge.stripe import MISSING, REFUSED, Stripe
from services.wallet.refunds.store import charges
from services.wallet.refunds.store.charges import NewCharge
from services.wallet.store import wallets as wallets_store

_LOOKS_MAX: Final = 4


class TopUps:
    """Moves top-ups.

    Args:
        pool: The wallet's database.
        stripe: The payment provider.
        clock: The deciding clock, read after the locks.
    """

    def __init__(self, pool: asyncpg.Pool, stripe: Stripe, *, clock: Clock = wallets_store.clock) -> None:
        self._pool = pool
        self._stripe = stripe
        self._pages = Pages(stripe)
        self._clock = clock

    async def get(self, org: str, name: str) -> TopUpRow:
        """A top-up as stored.

        Raises:
            PurseError: TOP_UP_UNKNOWN.
        """
        async with self._pool.acquire() as connection:
            return _known(await rows.get(connection, org, name), name)

    async def begin(self, row: TopUpRow) -> TopUpRow:
        """Stores a new top-up, or finds the one that the same request made.

        Raises:
            PurseError: REQUEST_ID_REUSED, WALLET_CLOSED, NO_PAYMENT_METHOD, RECHARGE_CAP_REACHED, LEDGER_FULL.
        """
        return await transact(self._pool, lambda connection: self._begin(connection, row))

    async def _begin(self, connection: asyncpg.Connection, asked: TopUpRow) -> TopUpRow:
        await wallets_store.lock_wallet(connection, asked.org, asked.wallet)
        stored = await rows.get(connection, asked.org, asked.name)
        if stored is not None:
            if stored.payload_hash != asked.payload_hash:
                raise conflict(
                    "REQUEST_ID_REUSED",
                    "request_id: another top-up was asked for under this id; make a new one",
                    field="request_id",
                )
            return stored
        now = await self._clock(connection)
        known = (await policies.facts(connection, asked.org, [asked.wallet], now))[0]
        _check(known, asked)
        month = None
        if not asked.on_session and known.policy is not None:
            await months.lock_month(connection, asked.org, asked.wallet, known.month)
            await months.hold(
                *(connection, asked.org, asked.wallet, known.month.key, asked.amount_nanos),
                policy=known.policy,
                extras=known.extras,
                new=False,
            )
            month = known.month.key
        row = replace(
            asked,
            month=month,
            payment_method=None if asked.on_session else known.payment_method,
            created_at=now,
            expires_at=now + rules.PAGE_LIFE,
        )
        await rows.insert(connection, row)
        return row

    async def open_page(self, row: TopUpRow, links: Links, installation: str) -> TopUpRow:
        """Makes the page to pay on, once."""
        if row.state is not State.PENDING or row.session is not None:
            return await self.observe(row.org, row.name)
        page = await self._pages.payment_page(
            _payment(row, installation), links, names.top_up_key(installation, row.name, "page")
        )
        async with self._pool.acquire() as connection:
            await rows.opened(connection, row, page.session, page.url)
            return _known(await rows.get(connection, row.org, row.name), row.name)

    async def charge(self, row: TopUpRow, installation: str) -> TopUpRow:
        """Charges the card on file; asked again, it goes on where it was, under the same keys."""
        if row.state is not State.PENDING:
            return row
        if row.payment_intent is None:
            intent = await self._pages.create_payment(
                _payment(row, installation), names.top_up_key(installation, row.name, "create")
            )
            async with self._pool.acquire() as connection:
                await rows.made(connection, row, intent.payment_intent)
            row = await self.get(row.org, row.name)
        tried = row.decline_code or row.intent_status not in {"", *outcomes.UNPAID}
        if row.state is not State.PENDING or row.payment_intent is None or tried:
            return await self.observe(row.org, row.name)
        assert row.payment_method is not None, "a charge off session has a card"
        answer = await self._stripe.confirm(
            row.payment_intent, row.payment_method, names.top_up_key(installation, row.name, "confirm")
        )
        return await self.observe(row.org, row.name, answered_code=answer.code)

    async def cancel(self, org: str, name: str) -> TopUpRow:
        """Gives one up at Stripe, then here; what was paid meanwhile succeeds.

        Raises:
            PurseError: PAYMENT_AT_THE_BANK where it cannot be given up now.
        """
        row = await self.get(org, name)
        if row.state is State.PENDING:
            await self._close(row)
            row = await self.observe(org, name)
        if row.state is State.PENDING:
            what = row.intent_status or "not known to Stripe yet"
            raise conflict("PAYMENT_AT_THE_BANK", f"{name} cannot be given up now: it is {what}; try again later")
        return row

    async def waits_for_cardholder(self, org: str, name: str) -> tuple[str, str]:
        """(PaymentIntent, payment method) of a top-up that goes on once the cardholder authenticates it.

        Raises:
            PurseError: NOT_WAITING_FOR_CARDHOLDER; TOP_UP_UNKNOWN; UNAVAILABLE.
        """
        row = await self.observe(org, name)
        asks = row.intent_status == outcomes.REQUIRES_ACTION or row.decline_code in AUTHENTICATION
        if row.state is not State.PENDING or row.payment_method is None or row.payment_intent is None or not asks:
            why = row.failure_reason or row.state.value
            raise conflict("NOT_WAITING_FOR_CARDHOLDER", f"{name} waits for no cardholder: it is {why}", field="name")
        return row.payment_intent, row.payment_method

    async def observe(self, org: str, name: str, *, answered_code: str = "") -> TopUpRow:
        """Asks Stripe and moves the top-up to what is true.

        Raises:
            PurseError: TOP_UP_UNKNOWN; UNAVAILABLE where Stripe does not answer: then nothing has changed.
        """
        for _ in range(_LOOKS_MAX):
            before = await self.get(org, name)
            if before.state is State.SUCCEEDED:
                return before
            seen = await self._look(before, answered_code)
            async with self._pool.acquire() as connection:
                first = await self._judge(connection, before, seen)
            if before.state is State.PENDING and isinstance(first, Cancel):
                await self._close(before)
                seen = await self._look(before, answered_code)
            after = await transact(
                self._pool,
                lambda connection, before=before, seen=seen, first=first: self._settle(  # type: ignore[misc]
                    connection, before, seen, first
                ),
            )
            if after is not None:
                return after
        raise unavailable(f"{name} changes too fast to be looked at; try again", 1.0)

    async def _look(self, row: TopUpRow, answered_code: str) -> Seen:
        if row.session is not None:
            page = await self._pages.page(row.session)
            return Seen(page.status, page.intent, answered_code)
        if row.payment_intent is None:
            return Seen(None, None, answered_code)
        try:
            return Seen(None, await self._stripe.retrieve(row.payment_intent), answered_code)
        except PurseError as error:
            if error.reason != REFUSED or error.metadata.get("code") != MISSING:
                raise
        return Seen(None, _missing(row), answered_code)

    async def _close(self, row: TopUpRow) -> None:
        if row.session is not None:
            await self._pages.close_page(row.session)
        elif row.payment_intent is not None:
            await self._stripe.cancel(row.payment_intent)

    async def _judge(self, connection: asyncpg.Connection, row: TopUpRow, seen: Seen) -> rules.Outcome:
        now = await self._clock(connection)
        expected = row.expected(await recharge_rows.installation(connection), livemode=self._stripe.livemode)
        return rules.judge(seen, expected, created_at=row.created_at, expires_at=row.expires_at, now=now)

    async def _settle(
        self, connection: asyncpg.Connection, before: TopUpRow, seen: Seen, first: rules.Outcome
    ) -> TopUpRow | None:
        """Moves the locked row; None where it has changed since the look. `first` is why it was given up, if it was."""
        row = _known(await rows.lock(connection, before.org, before.name), before.name)
        if row.version != before.version:
            return None
        now = await self._clock(connection)
        result = await self._judge(connection, row, seen)
        if isinstance(result, Over) and isinstance(first, Cancel):
            result = Over(first.reason, first.code)
        intent = seen.intent
        if row.state is not State.PENDING:
            if intent is not None and intent.status == outcomes.SUCCEEDED:
                await _note_problem(connection, row, f"{intent.payment_intent} was charged after it had failed")
            return _known(await rows.get(connection, row.org, row.name), row.name)
        if intent is not None:
            code = result.code if isinstance(result, Asks | Over | Cancel) else intent.error_code
            await rows.set_intent(connection, row, intent.payment_intent, intent.status, code)
        match result:
            case Paid(paid):
                await self._grant(connection, row, paid, now)
            case Problem(problem):
                await _note_problem(connection, row, problem)
            case Over(reason, code):
                await _fail(connection, row, reason, code, now)
            case Asks() | Cancel() | Open():
                await rows.check_again(connection, row, now + rows.LOOK_AGAIN)
        return _known(await rows.get(connection, row.org, row.name), row.name)

    async def _grant(self, connection: asyncpg.Connection, row: TopUpRow, paid: Intent, now: datetime) -> None:
        """Pending → succeeded and the grant, in this one transaction."""
        received_nanos = money.from_minor_units(paid.amount_received_minor, row.currency)
        grant = await grants.put(connection, row.org, row.wallet, row.name, received_nanos=received_nanos, now=now)
        await rows.succeed(connection, row, received_nanos, grant, now)
        charge = NewCharge(paid.payment_intent, row.wallet, row.name, grant, row.currency, received_nanos)
        await charges.put(connection, row.org, charge, now)
        if row.month is not None and received_nanos < row.amount_nanos:
            rest = row.amount_nanos - received_nanos
            await months.release(connection, row.org, row.wallet, row.month, rest, count=0)
        await recharge_rows.wake_pending(connection, row.org, [row.wallet], now, "a top-up was paid")
        await policies.evaluate(connection, row.org, [row.wallet], now)


def _check(known: Facts, asked: TopUpRow) -> None:
    if known.wallet_state in {WalletState.CLOSING, WalletState.CLOSED}:
        raise conflict("WALLET_CLOSED", f"{asked.wallet} is closed for good; create another wallet", field="wallet")
    if known.moved_nanos + 2 * asked.amount_nanos > LEDGER_MAX_NANOS:
        raise conflict(
            "LEDGER_FULL", f"{asked.wallet}: its ledger has no room for it; use a new wallet", field="amount"
        )
    if asked.on_session:
        return
    if known.wallet_state is WalletState.FROZEN:
        raise conflict(
            "WALLET_FROZEN", f"{asked.wallet} is frozen, so its card is not charged: pay on session", field="wallet"
        )
    if known.payment_method is None:
        raise conflict(
            "NO_PAYMENT_METHOD",
            f"{asked.wallet} has no payment method on file: put one on file, or pay on session",
            field="wallet",
        )
    if known.policy is None:
        return
    cap = over_cap(known.policy, known.usage, asked.amount_nanos, known.extras)
    if cap is not None:
        raise conflict(
            "RECHARGE_CAP_REACHED",
            f"{asked.wallet}: the {cap.value.lower().replace('_', ' ')} of {known.month.key} leaves no room for it; "
            "raise it, or pay on session",
            field="amount",
        )


async def _fail(connection: asyncpg.Connection, row: TopUpRow, reason: str, code: str, now: datetime) -> None:
    await rows.fail(connection, row, reason, code, now)
    if row.month is not None:
        await months.release(connection, row.org, row.wallet, row.month, row.amount_nanos)
        # What it held may be what a recharge waits for.
        await policies.evaluate(connection, row.org, [row.wallet], now)


async def _note_problem(connection: asyncpg.Connection, row: TopUpRow, problem: str) -> None:
    if await rows.set_problem(connection, row, problem):
        message: dict[str, object] = {"kind": "TOP_UP_PROBLEM", "wallet": row.wallet, "top_up": row.name}
        await policies.alert(connection, row.org, row.wallet, {**message, "problem": problem})


def _known(row: TopUpRow | None, name: str) -> TopUpRow:
    if row is None:
        raise not_found(name, "TOP_UP_UNKNOWN", top_up=name)
    return row


def _payment(row: TopUpRow, installation: str) -> NewPayment:
    return NewPayment(installation, row.org, row.wallet, row.name, row.customer, row.amount_minor, row.currency)


def _missing(row: TopUpRow) -> outcomes.Intent:
    return outcomes.Intent(
        number=0,
        payment_intent=row.payment_intent or "",
        status=outcomes.MISSING,
        amount_received_minor=0,
        currency=row.currency,
        livemode=False,
        wallet=row.wallet,
        recharge=row.name,
        installation="",
    )
