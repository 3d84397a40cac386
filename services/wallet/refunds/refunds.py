"""Refunds: debited first, then asked of Stripe with a key of their own, then moved to what Stripe says."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from services.kit import money
from services.kit import subject as subjects
from services.kit.database import transact
from services.kit.errors import PurseError, conflict, invalid, not_found, unavailable
from services.kit.telemetry import get_logger
from services.wallet import ledger
from services.wallet.changes import change
from services.wallet.domain.accounts import AccountKind
from services.wallet.domain.book import Book
from services.wallet.domain.commands import RequestKey
from services.wallet.domain.refusals import Refusal
from services.wallet.recharge.store import policies
from services.wallet.recharge.store import recharges as recharge_rows
from services.wallet.recharge.stripe import MISSING, REFUSED
from services.wallet.refunds import tell
from services.wallet.refunds.domain import rules
from services.wallet.refunds.domain.rules import RefundFacts, RefundState
from services.wallet.refunds.store import charges
from services.wallet.refunds.store import disputes as dispute_rows
from services.wallet.refunds.store import refunds as rows
from services.wallet.refunds.store.charges import ChargeRow
from services.wallet.refunds.store.refunds import RefundRow
from services.wallet.refunds.stripe import MoneyBack
from services.wallet.store import wallets as wallets_store

Clock = Callable[[asyncpg.Connection], Awaitable[datetime]]
"""Reads the deciding clock."""

SWEEP_EVERY: Final = timedelta(minutes=1)
"""How often Stripe's list of refunds is looked through, for those that were made there and whose events never came."""
_OVERLAP: Final = timedelta(days=1)
_MADE_THERE: Final = "made at Stripe, not here"
_FIRST_LOOK: Final = timedelta(seconds=5)
_METADATA_CHARS_MAX: Final = 500
_NO_REFUND: Final = "Stripe has no such refund any more"
_NO_CHARGE: Final = "Stripe does not know the charge: is the key another account's?"
_log = get_logger(__name__)


class _OtherFirstError(Exception):
    """Another transaction was first with a request id: this one is rolled back and finds its answer."""


class Refunds:
    """Moves refunds.

    Args:
        pool: The wallet's database.
        stripe: Asked for what is true.
        clock: The deciding clock, read after the locks.
        on_room: Told of a PaymentIntent where a refund came back: a dispute may wait for the room that it leaves.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        stripe: MoneyBack,
        *,
        clock: Clock = wallets_store.clock,
        on_room: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        self._on_room = on_room
        self._pool = pool
        self._stripe = stripe
        self._clock = clock

    async def get(self, org: str, name: str) -> RefundRow:
        """A refund as stored.

        Raises:
            PurseError: REFUND_UNKNOWN.
        """
        async with self._pool.acquire() as connection:
            return _known(await rows.get(connection, org, name), name)

    async def create(self, key: RequestKey, source: str, amount: tuple[str, int] | None, reason: str) -> RefundRow:
        """Debits the wallet and stores the refund; the same request again gives the same one.

        Args:
            key: Of the request; the refund is called after it.
            source: The recharge or top-up whose charge it is.
            amount: (currency, nano-units); None: all that is left of the charge.
            reason: For people.

        Raises:
            PurseError: There is no such charge, more is asked for than is left of it or than is unspent, or the amount
                cannot be paid in the currency; nothing is written.
        """
        row = None
        while row is None:
            with contextlib.suppress(_OtherFirstError):
                row = await transact(
                    self._pool, lambda connection: self._create(connection, key, source, amount, reason)
                )
        return row

    async def advance(self, org: str, name: str) -> RefundRow:
        """Asks Stripe, or asks it for the refund where it is not known to have it, and moves to what it says.

        Raises:
            PurseError: REFUND_UNKNOWN; UNAVAILABLE where Stripe does not answer: then nothing has changed.
        """
        row = await self.get(org, name)
        if row.state is RefundState.FAILED:
            return row
        seen = await self._look(row)
        if seen is None:
            return await self.get(org, name)
        moved = await transact(self._pool, lambda connection: self._settle(connection, row, *seen))
        if moved.state is RefundState.FAILED and self._on_room is not None:
            try:
                await self._on_room(moved.payment_intent)
            except Exception as error:
                # What waits for the room is due in the database: the sweep of disputes does it.
                _log.warning("a dispute cannot be looked at", payment_intent=moved.payment_intent, error=repr(error))
        return moved

    async def observe_charge(self, payment_intent: str) -> str:
        """Moves all refunds of a charge, those made at Stripe itself too; returns what became of it, for people.

        Raises:
            PurseError: UNAVAILABLE where Stripe does not answer: then nothing has changed.
        """
        async with self._pool.acquire() as connection:
            charge = await charges.of_intent(connection, payment_intent)
            found = await rows.of_charges(connection, charge.org, [payment_intent]) if charge else []
        if charge is None:
            return "stored: its PaymentIntent is no charge of this database"
        # Ours first: one that Stripe refuses makes room for one that it did.
        for row in found:
            await self.advance(row.org, row.name)
        taken = await self._take_in(await self._stripe.refunds_of(payment_intent))
        return f"{len(found)} refunds looked at, {taken} made at Stripe taken in"

    async def sweep(self, limit: int) -> int:
        """Asks about refunds that are due, and for those made at Stripe itself; returns how many were due."""
        async with self._pool.acquire() as connection, connection.transaction():
            due = await rows.take_due(connection, limit)
            without_room = await rows.take_without_room(connection, limit)
            turn = await rows.take_sweep(connection, SWEEP_EVERY)
        for org, name in due:
            try:
                await self.advance(org, name)
            except Exception as error:
                _log.warning("a refund cannot be looked at", name=name, error=repr(error))
        for payment_intent in without_room:
            try:
                await self.observe_charge(payment_intent)
            except Exception as error:
                _log.warning("a charge cannot be looked at", payment_intent=payment_intent, error=repr(error))
        if turn is not None:
            through, now = turn
            await self._take_in(await self._stripe.refunds_since(through - _OVERLAP))
            async with self._pool.acquire() as connection:
                await rows.swept(connection, now)
        return len(due)

    async def _take_in(self, seen: Sequence[RefundFacts]) -> int:
        """Makes refunds of ours of those that nobody asked for here; returns how many.

        What is wrong with one keeps none of the others waiting; the sweep comes back to it.
        """
        async with self._pool.acquire() as connection:
            installation = await recharge_rows.installation(connection)
            known = await rows.known(connection, [facts.id for facts in seen])
        taken = 0
        for facts in seen:
            lives = rules.next_state(RefundState.PENDING, facts.status) is not RefundState.FAILED
            if not lives or facts.id in known:
                continue
            try:
                taken += await transact(
                    self._pool,
                    lambda connection, facts=facts: self._take_in_one(connection, facts, installation),  # type: ignore[misc]
                )
            except Exception as error:
                _log.warning("a refund made at Stripe cannot be taken in", refund=facts.id, error=repr(error))
        return taken

    async def _take_in_one(self, connection: asyncpg.Connection, facts: RefundFacts, installation: str) -> bool:
        """Debits the wallet with what went back without being asked for here: unspent first, the rest as debt."""
        charge = await charges.of_intent(connection, facts.payment_intent)
        if charge is None:
            return False
        await wallets_store.lock_wallet(connection, charge.org, charge.wallet)
        now = await self._clock(connection)
        # Read again under the lock.
        charge = await charges.of_intent(connection, facts.payment_intent)
        assert charge is not None, "a charge is never deleted"
        stored = await rows.of_charges(connection, charge.org, [charge.payment_intent])
        # One of ours that was given up lives at Stripe after all: what it took is taken in like any other.
        if any(
            row.stripe_refund == facts.id
            or (row.state is not RefundState.FAILED and (facts.installation, facts.name) == (installation, row.name))
            for row in stored
        ):
            return False
        nanos = money.from_minor_units(facts.amount_minor, facts.currency)
        if not 0 < nanos <= charge.room:
            # One of ours that Stripe refuses, or a dispute, still holds the room; the sweep comes back.
            if await rows.no_room(connection, charge.org, facts.id, charge.payment_intent, now):
                await tell.without_room(connection, charge, facts.id, nanos)
            return False
        name = f"{subjects.parse_resource(charge.wallet, 'wallets')[0].name}/refunds/stripe.{facts.id}"
        row = _row(charge, name, (nanos, facts.amount_minor), _MADE_THERE, now)

        def take(book: Book) -> list[tuple[str, int]]:
            book.check_room(nanos)
            return book.withdraw(AccountKind.REFUNDED, nanos, name, first=charge.grant, paid_only=False)

        given = await change(connection, charge.org, charge.wallet, take, now=now)
        await self._store(connection, charge, row, given)
        state = rules.next_state(RefundState.PENDING, facts.status)
        check_at = rules.refund_check_at(state, known=True, created_at=now, now=now)
        await rows.move(connection, row, state, now, stripe_refund=facts.id, failure="", check_at=check_at)
        await rows.has_room(connection, charge.org, facts.id, now)
        await tell.made_there(connection, charge, name, nanos, debt=nanos - sum(part for _, part in given))
        await policies.evaluate_low(connection, [(charge.org, charge.wallet)], now)
        return True

    async def _create(
        self,
        connection: asyncpg.Connection,
        key: RequestKey,
        source: str,
        amount: tuple[str, int] | None,
        reason: str,
    ) -> RefundRow:
        name = f"{source.rpartition('/')[0].rpartition('/')[0]}/refunds/{key.id}"
        charge = await charges.of_source(connection, key.org, source)
        if charge is None:
            raise not_found(source, "CHARGE_UNKNOWN", source=source)
        await wallets_store.lock_wallet(connection, key.org, charge.wallet)
        now = await self._clock(connection)
        stored = (await wallets_store.find_keys(connection, [key])).get((key.org, key.method, key.id))
        if stored is not None:
            if stored.payload != key.payload:
                raise ledger.request_id_reused(key)
            return _known(await rows.get(connection, key.org, name), name)
        # Read again under the lock.
        charge = await charges.of_source(connection, key.org, source)
        assert charge is not None, "a charge is never deleted"
        nanos, minor = _checked_amount(charge, amount)
        given = await change(connection, key.org, charge.wallet, lambda book: _take(book, charge, nanos, name), now=now)
        row = _row(charge, name, (nanos, minor), reason, now)
        # Before the refund, whose name comes of the key: of two wallets at once the other is found by it.
        if not await wallets_store.insert_keys(connection, [(key, name.encode())], now):
            raise _OtherFirstError
        await self._store(connection, charge, row, given)
        await policies.evaluate_low(connection, [(key.org, charge.wallet)], now)
        return row

    async def _store(
        self, connection: asyncpg.Connection, charge: ChargeRow, row: RefundRow, given: list[tuple[str, int]]
    ) -> None:
        await charges.add(connection, charge, refunded=row.amount)
        await rows.put(connection, row, row.created_at + _FIRST_LOOK)
        await charges.put_given(connection, row.org, row.name, given)

    async def _look(self, row: RefundRow) -> tuple[RefundFacts | None, str] | None:
        """What Stripe has of the refund and, where it has none, why; None: the row has changed meanwhile."""
        async with self._pool.acquire() as connection:
            installation = await recharge_rows.installation(connection)
            now = await self._clock(connection)
        young = now < row.key_since + rules.KEY_LIFE
        if row.stripe_refund or not young:
            found = await self._listed(row, installation)
            if found:
                return found, ""
            if row.stripe_refund:
                return None, _NO_REFUND
            async with self._pool.acquire() as connection, connection.transaction():
                await wallets_store.lock_wallet(connection, row.org, row.wallet)
                current = _known(await rows.get(connection, row.org, row.name), row.name)
                if current.version == row.version:
                    await rows.new_key(connection, row, now)
            return None
        metadata = {
            "installation": installation,
            "org": row.org,
            "refund": row.name[:_METADATA_CHARS_MAX],
            "refund_2": row.name[_METADATA_CHARS_MAX:],
        }
        key = f"refund/{installation}/{key_of(row)}/{row.key_number}"
        try:
            made = await self._stripe.create_refund(row.payment_intent, row.amount_minor, metadata, key)
        except PurseError as error:
            if error.reason != REFUSED:
                raise
            if error.metadata.get("code") == MISSING:
                # Its own account has the charge, and may have made the refund of an earlier try.
                await transact(self._pool, lambda connection: self._tell_no_charge(connection, row))
                raise unavailable(_NO_CHARGE, 60.0) from None
            # A try before this one may have made it, though its answer was lost.
            found = await self._listed(row, installation)
            return (found, "") if found else (None, error.message)
        return made, ""

    async def _listed(self, row: RefundRow, installation: str) -> RefundFacts | None:
        """The refund as Stripe lists it, by its id or by the name that it was given."""
        for found in await self._stripe.refunds_of(row.payment_intent):
            if found.id == row.stripe_refund or (found.installation, found.name) == (installation, row.name):
                return found
        return None

    async def _settle(
        self, connection: asyncpg.Connection, before: RefundRow, facts: RefundFacts | None, refused: str
    ) -> RefundRow:
        await wallets_store.lock_wallet(connection, before.org, before.wallet)
        row = _known(await rows.get(connection, before.org, before.name), before.name)
        now = await self._clock(connection)
        if row.version != before.version or row.state is RefundState.FAILED:
            return row
        if facts is None and row.stripe_refund:
            await self._settle_gone(connection, row, now)
            return _known(await rows.get(connection, row.org, row.name), row.name)
        status = facts.status if facts else "failed"
        state = rules.next_state(row.state, status)
        failure = (refused or (facts.failure if facts else "") or status) if state is RefundState.FAILED else ""
        stripe_refund = facts.id if facts else row.stripe_refund
        if state is RefundState.FAILED:
            await self._put_back(connection, row, failure, now)
        check_at = rules.refund_check_at(state, known=bool(stripe_refund), created_at=row.created_at, now=now)
        await rows.move(connection, row, state, now, stripe_refund=stripe_refund, failure=failure, check_at=check_at)
        if state is RefundState.FAILED:
            await policies.evaluate_low(connection, [(row.org, row.wallet)], now)
            await recharge_rows.wake_pending_of(connection, [(row.org, row.wallet)], now)
        return _known(await rows.get(connection, row.org, row.name), row.name)

    async def _tell_no_charge(self, connection: asyncpg.Connection, before: RefundRow) -> None:
        """Stripe does not know the charge: a person is told once, and it goes on being asked."""
        await wallets_store.lock_wallet(connection, before.org, before.wallet)
        row = _known(await rows.get(connection, before.org, before.name), before.name)
        if row.version != before.version or row.failure_reason == _NO_CHARGE:
            return
        now = await self._clock(connection)
        check_at = rules.refund_check_at(row.state, known=False, created_at=row.created_at, now=now)
        await rows.move(connection, row, row.state, now, stripe_refund="", failure=_NO_CHARGE, check_at=check_at)
        await tell.no_charge(connection, row, _NO_CHARGE)

    async def _settle_gone(self, connection: asyncpg.Connection, row: RefundRow, now: datetime) -> None:
        """Another account's key, or deleted test data: a person is told once, and no money is made of it."""
        state = rules.gone_state(row.state, row.created_at, now)
        check_at = rules.gone_check_at(row.created_at, now)
        await rows.move(
            connection, row, state, now, stripe_refund=row.stripe_refund, failure=_NO_REFUND, check_at=check_at
        )
        if row.failure_reason != _NO_REFUND:
            await tell.gone(connection, row, _NO_REFUND)

    async def _put_back(self, connection: asyncpg.Connection, row: RefundRow, why: str, now: datetime) -> None:
        """The money was not taken after all: the lots that gave it have it again."""
        given = await charges.given(connection, row.org, row.name)
        await change(
            connection,
            row.org,
            row.wallet,
            lambda book: book.restore(AccountKind.REFUNDED, row.amount, given, row.name, now),
            now=now,
            lots=[lot for lot, _ in given],
            give_back=row.amount - sum(part for _, part in given),
        )
        await charges.given_back(connection, row.org, row.name)
        charge = await charges.of_source(connection, row.org, row.source)
        assert charge is not None, "a refund is of a charge"
        await charges.add(connection, charge, refunded=-row.amount)
        await dispute_rows.look_again(connection, row.org, row.payment_intent)
        await tell.failed(connection, row, why)


def key_of(row: RefundRow) -> str:
    """What an idempotency key calls a refund: short, whatever its name is."""
    return ledger.digest(row.name)


def _known(row: RefundRow | None, name: str) -> RefundRow:
    if row is None:
        raise not_found(name, "REFUND_UNKNOWN", refund=name)
    return row


def _row(charge: ChargeRow, name: str, amount: tuple[int, int], reason: str, now: datetime) -> RefundRow:
    """A refund of so many (nano-units, minor units) that Stripe was not asked for yet."""
    nanos, minor = amount
    return RefundRow(
        org=charge.org,
        name=name,
        wallet=charge.wallet,
        payment_intent=charge.payment_intent,
        source=charge.source,
        state=RefundState.PENDING,
        currency=charge.currency,
        amount=nanos,
        amount_minor=minor,
        reason=reason,
        key_number=1,
        key_since=now,
        stripe_refund="",
        failure_reason="",
        version=1,
        created_at=now,
        ended_at=None,
    )


def _checked_amount(charge: ChargeRow, amount: tuple[str, int] | None) -> tuple[int, int]:
    """(nano-units, minor units) to refund."""
    currency, nanos = amount or (charge.currency, charge.room)
    if currency != charge.currency:
        raise invalid(
            "amount.currency_code", f"is {currency[:16]!r}; the charge was in {charge.currency}", "CURRENCY_MISMATCH"
        )
    if not charge.room:
        raise conflict("NOTHING_TO_REFUND", f"{charge.source} was refunded or disputed in full", field="source")
    if nanos <= 0:
        raise invalid("amount.amount_nanos", "a refund is more than nothing", "AMOUNT_OUT_OF_RANGE")
    if nanos > charge.room:
        raise conflict(
            "REFUND_ABOVE_REMAINDER",
            f"{money.format_nanos(charge.room, charge.currency)} of {charge.source} are neither refunded nor disputed",
            field="amount.amount_nanos",
            remainder_nanos=str(charge.room),
        )
    try:
        return nanos, money.to_minor_units(nanos, charge.currency)
    except money.MoneyError as error:
        raise invalid("amount.amount_nanos", str(error), "AMOUNT_OUT_OF_RANGE") from None


def _take(book: Book, charge: ChargeRow, nanos: int, name: str) -> list[tuple[str, int]]:
    """Takes unspent paid money: first of the charge itself, then of others."""
    paid = sum(lot.free for lot in book.lots.values() if lot.kind == "PAID")
    if paid < nanos:
        raise Refusal(
            "REFUND_ABOVE_UNSPENT",
            f"{money.format_nanos(paid, book.currency)} of {book.wallet} were paid and are neither spent nor leased; "
            "freeze the wallet first if its leases should come back",
            field="amount.amount_nanos",
            facts={"unspent_nanos": str(paid)},
        )
    book.check_room(nanos)
    return book.withdraw(AccountKind.REFUNDED, nanos, name, first=charge.grant, paid_only=True)
