"""Disputes: the wallet is debited and frozen when the money is withdrawn, and gets back what is reinstated, once."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from services.kit import money
from services.kit.database import transact
from services.kit.telemetry import get_logger
from services.wallet.changes import change
from services.wallet.domain.accounts import AccountKind
from services.wallet.domain.book import Book
from services.wallet.recharge.store import policies
from services.wallet.recharge.store import recharges as recharge_rows
from services.wallet.refunds.domain import rules
from services.wallet.refunds.domain.rules import DisputeFacts, DisputeStep
from services.wallet.refunds.refunds import Clock
from services.wallet.refunds.store import charges
from services.wallet.refunds.store import disputes as rows
from services.wallet.refunds.store import refunds as refund_rows
from services.wallet.refunds.store.charges import ChargeRow
from services.wallet.refunds.store.disputes import DisputeRow
from services.wallet.refunds.stripe import MoneyBack
from services.wallet.store import wallets as wallets_store

SWEEP_EVERY: Final = timedelta(minutes=1)
"""How often Stripe's list of disputes is looked through, for those whose events never came."""
_OVERLAP: Final = timedelta(days=1)
_PATIENCE: Final = timedelta(days=30)
"""How long a dispute that cannot be looked at is looked for again."""
_log = get_logger(__name__)


class Disputes:
    """Moves disputes.

    Args:
        pool: The wallet's database.
        stripe: Asked for what is true.
        clock: The deciding clock, read after the locks.
    """

    def __init__(self, pool: asyncpg.Pool, stripe: MoneyBack, *, clock: Clock = wallets_store.clock) -> None:
        self._pool = pool
        self._stripe = stripe
        self._clock = clock

    async def observe_charge(self, payment_intent: str) -> str:
        """Asks Stripe for the disputes about a charge and does what is missing; returns what became of it, for people.

        Raises:
            PurseError: UNAVAILABLE where Stripe does not answer: then nothing has changed.
        """
        async with self._pool.acquire() as connection:
            known = await charges.of_intent(connection, payment_intent) is not None
        if not known:
            return "stored: its PaymentIntent is no charge of this database"
        return await self._settle_all(payment_intent, await self._stripe.disputes_of(payment_intent))

    async def sweep(self, limit: int) -> int:
        """Looks at open disputes that are due, and for such as no event told of; returns how many are looked at."""
        async with self._pool.acquire() as connection, connection.transaction():
            due = await rows.take_due(connection, limit)
            turn = await rows.take_sweep(connection, SWEEP_EVERY)
        await self._look_at(due)
        if turn is not None:
            through, now = turn
            seen = await self._stripe.disputes_since(through - _OVERLAP)
            whole = await self._look_at(sorted({facts.payment_intent for facts in seen}))
            async with self._pool.acquire() as connection:
                # What nothing is stored of yet is found by this list alone: it is looked through again for a while.
                await rows.swept(connection, now if whole else now - _PATIENCE)
        return len(due)

    async def _look_at(self, payment_intents: Sequence[str]) -> bool:
        """Looks at disputes one by one, so that none keeps another waiting; returns whether all could be looked at."""
        failed = 0
        for payment_intent in payment_intents:
            try:
                await self.observe_charge(payment_intent)
            except Exception as error:
                failed += 1
                _log.warning("a dispute cannot be looked at", payment_intent=payment_intent, error=repr(error))
        return not failed

    async def _settle_all(self, payment_intent: str, seen: Sequence[DisputeFacts]) -> str:
        for facts in seen:
            await transact(self._pool, lambda connection, facts=facts: self._settle(connection, payment_intent, facts))  # type: ignore[misc]
        return f"{len(seen)} disputes looked at"

    async def _settle(self, connection: asyncpg.Connection, payment_intent: str, facts: DisputeFacts) -> None:
        charge = await charges.of_intent(connection, payment_intent)
        assert charge is not None, "it was found before"
        wallet = await wallets_store.lock_wallet(connection, charge.org, charge.wallet)
        now = await self._clock(connection)
        # Read again under the lock.
        charge = await charges.of_intent(connection, payment_intent)
        assert charge is not None, "a charge is never deleted"
        row = await rows.get(connection, charge.org, facts.id) or await _new(connection, charge, facts, now)
        step = rules.dispute_step(
            facts,
            amount=row.amount,
            withdrawn=row.withdrawn,
            restored=row.restored,
            room=charge.room,
            froze=row.froze,
            freeze_done=row.freeze_done,
        )
        check_at = rules.dispute_check_at(
            facts,
            now,
            short=row.withdrawn + step.debit < row.amount,
            refund_open=await refund_rows.any_open(connection, row.org, row.payment_intent),
        )
        await self._move_money(connection, charge, row, step, now)
        froze = await self._set_freeze(connection, row, wallet.state, wallet.state_reason, step)
        await rows.move(
            connection,
            row,
            facts.status,
            debit=step.debit,
            credit=step.credit,
            froze=froze,
            freeze_done=step.freeze,
            check_at=check_at,
        )
        if not step.moves and row.status == facts.status:
            return
        if row.status != facts.status or step.debit or step.freeze:
            await _tell(connection, row, facts, step)
        key = [(row.org, row.wallet)]
        await recharge_rows.wake_pending_of(connection, key, now)
        await policies.evaluate_low(connection, key, now)

    async def _move_money(
        self, connection: asyncpg.Connection, charge: ChargeRow, row: DisputeRow, step: DisputeStep, now: datetime
    ) -> None:
        reference = f"disputes/{row.id}"
        if not (step.debit or step.credit):
            return
        if step.debit:

            def take(book: Book) -> list[tuple[str, int]]:
                book.check_room(step.debit)
                return book.withdraw(AccountKind.DISPUTED, step.debit, reference, first=charge.grant, paid_only=False)

            given = await change(connection, row.org, row.wallet, take, now=now)
            await charges.put_given(connection, row.org, reference, given)
        if step.credit:
            given = await charges.given(connection, row.org, reference)
            await change(
                connection,
                row.org,
                row.wallet,
                lambda book: book.restore(AccountKind.DISPUTED, step.credit, given, reference, now),
                now=now,
                lots=[lot for lot, _ in given],
                give_back=step.credit - sum(part for _, part in given),
            )
            await charges.given_back(connection, row.org, reference)
            await rows.look_again(connection, row.org, row.payment_intent)
        await charges.add(connection, charge, disputed=step.debit - step.credit)

    async def _set_freeze(
        self, connection: asyncpg.Connection, row: DisputeRow, state: str, reason: str, step: DisputeStep
    ) -> bool:
        """Freezes an open wallet, or ends the freeze of this dispute; returns whether the wallet is frozen for it."""
        mine = f"dispute {row.id}"
        if step.freeze and state == "OPEN":
            await wallets_store.set_state(connection, row.org, row.wallet, "FROZEN", mine)
            return True
        if step.thaw:
            # A person who froze the wallet since, or gave another reason, is heeded.
            if state == "FROZEN" and reason == mine:
                other = await rows.hand_over_freeze(connection, row)
                new = ("OPEN", "") if other is None else ("FROZEN", f"dispute {other}")
                await wallets_store.set_state(connection, row.org, row.wallet, *new)
            return False
        return row.froze


async def _new(connection: asyncpg.Connection, charge: ChargeRow, facts: DisputeFacts, now: datetime) -> DisputeRow:
    nanos = min(money.from_minor_units(facts.amount_minor, facts.currency), charge.amount)
    row = DisputeRow(
        org=charge.org,
        id=facts.id,
        wallet=charge.wallet,
        payment_intent=charge.payment_intent,
        source=charge.source,
        currency=charge.currency,
        amount=nanos,
        status="",
        reason=facts.reason,
        withdrawn=0,
        restored=0,
        froze=False,
        freeze_done=False,
        opened_at=now,
    )
    await rows.put(connection, row)
    return row


async def _tell(connection: asyncpg.Connection, row: DisputeRow, facts: DisputeFacts, step: DisputeStep) -> None:
    kind = {"won": "DISPUTE_WON", "lost": "DISPUTE_LOST"}.get(facts.status)
    await policies.alert(
        connection,
        row.org,
        row.wallet,
        {
            "kind": kind or ("DISPUTE_OPENED" if not row.status else "DISPUTE_CHANGED"),
            "wallet": row.wallet,
            "dispute": row.id,
            "status": facts.status,
            "reason": facts.reason,
            "currency_code": row.currency,
            "debited_nanos": step.debit,
            "credited_nanos": step.credit,
            "frozen": step.freeze,
        },
    )
