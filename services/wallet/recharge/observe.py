"""The one way a recharge moves: look at Stripe outside of any transaction, then move the row under its lock.

`observe` is what reports, webhooks, the sweep and giving up all go through. It asks Stripe afresh, so neither the
order of events nor a lost answer matters, and what it saw counts only if the row has not changed meanwhile.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from services.kit.database import transact
from services.kit.errors import PurseError, conflict, not_found, unavailable
from services.kit.telemetry import get_logger
from services.wallet.recharge import moves
from services.wallet.recharge.domain import attempts as steps
from services.wallet.recharge.domain import outcome as outcomes
from services.wallet.recharge.domain.attempts import (
    AttemptState,
    Charge,
    GiveUp,
    State,
    Step,
    Wait,
)
from services.wallet.recharge.domain.outcome import (
    AllCanceled,
    Declined,
    Expected,
    Intent,
    Mismatch,
    Missing,
    Succeeded,
)
from services.wallet.recharge.moves import GivingUp, Report
from services.wallet.recharge.store import months, policies
from services.wallet.recharge.store import recharges as rows
from services.wallet.recharge.store.recharges import RechargeRow
from services.wallet.recharge.stripe import MISSING, REFUSED, NewIntent, Stripe
from services.wallet.store import wallets as wallets_store

Clock = Callable[[asyncpg.Connection], Awaitable[datetime]]
"""Reads the deciding clock."""

_LOOKS_MAX: Final = 4
_CLOCK_SKEW: Final = timedelta(hours=1)
_CHECK_MAX: Final = timedelta(hours=1)
_UNKNOWN: Final = ""
_TERMINAL: Final = frozenset({outcomes.SUCCEEDED, outcomes.CANCELED})

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Authorized:
    """What to do next, and the row to do it with."""

    step: Step
    row: RechargeRow
    installation: str


class Recharges:
    """Moves recharges.

    Args:
        pool: The wallet's database.
        stripe: Asked for what is true.
        clock: The deciding clock, read after the locks.
    """

    def __init__(self, pool: asyncpg.Pool, stripe: Stripe, *, clock: Clock = wallets_store.clock) -> None:
        self._pool = pool
        self._stripe = stripe
        self._clock = clock
        self._installation = ""

    @property
    def livemode(self) -> bool:
        """Whether real money is moved."""
        return self._stripe.livemode

    async def installation(self) -> str:
        """Whose recharges these are at a Stripe account that several installations share."""
        if not self._installation:
            async with self._pool.acquire() as connection:
                self._installation = await rows.installation(connection)
        return self._installation

    async def get(self, org: str, name: str) -> RechargeRow:
        """A recharge as stored.

        Raises:
            PurseError: RECHARGE_UNKNOWN.
        """
        async with self._pool.acquire() as connection:
            return _known(await rows.get(connection, org, name), name)

    async def observe(
        self, org: str, name: str, *, hint: str = "", report: Report | None = None, signal: bool = True
    ) -> RechargeRow:
        """Asks Stripe and moves the recharge to what is true.

        Args:
            org: The organisation's bare id.
            name: The recharge.
            hint: A PaymentIntent that somebody says belongs to it; believed only if its metadata says so too.
            report: What the worker says of an attempt.
            signal: Whether to wake the workflow where something has changed.

        Raises:
            PurseError: RECHARGE_UNKNOWN; UNAVAILABLE where Stripe does not answer: then nothing has changed.
        """
        return await self._move(org, name, hint=hint, report=report, signal=signal, giving_up=None)

    async def give_up(self, org: str, name: str, why: GivingUp) -> RechargeRow:
        """Cancels every PaymentIntent, and fails the recharge once all of them read canceled.

        Raises:
            PurseError: PAYMENT_INTENT_OPEN while the bank is still at it; RECHARGE_UNKNOWN; UNAVAILABLE.
        """
        row = await self._move(org, name, hint="", report=None, signal=True, giving_up=why)
        if row.state is State.PENDING:
            what = row.problem or f"its PaymentIntent is {row.intent.status if row.intent else 'unknown'}"
            raise conflict("PAYMENT_INTENT_OPEN", f"{name} cannot be given up now: {what}; try again later")
        return row

    async def authorize(self, org: str, name: str) -> Authorized:
        """Decides what to do next, and stores the attempt where that is to charge.

        Raises:
            PurseError: RECHARGE_UNKNOWN; UNAVAILABLE where Stripe must be asked first and does not answer.
        """
        row = await self.get(org, name)
        installation = await self.installation()
        if row.state is State.PENDING and row.intents:
            await self.observe(org, name, signal=False)
        return await transact(self._pool, lambda connection: self._authorize(connection, org, name, installation))

    async def waits_for_cardholder(self, org: str, name: str) -> tuple[str, str]:
        """(PaymentIntent, payment method) of a recharge that goes on once the cardholder authenticates it.

        Raises:
            PurseError: NOT_WAITING_FOR_CARDHOLDER with what it does instead; RECHARGE_UNKNOWN; UNAVAILABLE.
        """
        row = await self.observe(org, name)
        async with self._pool.acquire() as connection:
            now = await self._clock(connection)
            known = (await policies.facts(connection, org, [row.wallet], now))[0]
        step = steps.next_step(row.standing(), moves.circumstances(known, row), now)
        intent = row.intent
        if not isinstance(step, Wait) or not step.for_cardholder or intent is None or not intent.payment_intent:
            why = getattr(step, "reason", "") or f"it is {row.state.value}"
            raise conflict("NOT_WAITING_FOR_CARDHOLDER", f"{name} waits for no cardholder: {why}", field="name")
        assert known.payment_method is not None, "it waits for the holder of the card on file"
        return intent.payment_intent, known.payment_method

    async def _move(
        self, org: str, name: str, *, hint: str, report: Report | None, signal: bool, giving_up: GivingUp | None
    ) -> RechargeRow:
        for _ in range(_LOOKS_MAX):
            before = await self.get(org, name)
            settled = {one.payment_intent for one in before.intents if one.status in _TERMINAL}
            if before.state is not State.PENDING and report is None and (not hint or hint in settled):
                return before
            seen = await self._look(before, report.payment_intent if report else hint)
            if giving_up or before.state is not State.PENDING:
                # What a late worker made for a recharge that has ended must not be paid any more.
                seen = await self._cancel(before, seen)
            elif isinstance(outcomes.judge(seen, await self._expected(before), None), Succeeded):
                seen = await self._cancel_rest(before, seen)
            after = await transact(
                self._pool,
                lambda connection, before=before, seen=seen: self._settle(  # type: ignore[misc]
                    connection, before, seen, report=report, signal=signal, giving_up=giving_up
                ),
            )
            if after is not None:
                return after
        raise unavailable(f"{name} changes too fast to be looked at; try again", 1.0)

    async def _look(self, row: RechargeRow, hint: str) -> list[Intent]:
        """Every PaymentIntent of a recharge as Stripe has it now; an unknown creation has no id and no status."""
        installation = await self.installation()
        seen: list[Intent] = []
        lost: list[int] = []
        for stored in row.intents:
            if stored.status == outcomes.CANCELED or stored.payment_intent is None:
                if stored.payment_intent is None and stored.status == _UNKNOWN:
                    lost.append(stored.number)
                seen.append(_stored_intent(row, stored, installation))
            else:
                seen.append(await self._retrieve(stored.payment_intent, _stored_intent(row, stored, installation)))
        known = {intent.payment_intent for intent in seen}
        found = []
        if hint and hint not in known:
            found.append(await self._stripe.retrieve(hint))
        elif lost:
            found += await self._list_old(row, lost)
        for intent in found:
            ours = (intent.installation, intent.recharge) == (installation, row.name)
            if ours and intent.payment_intent not in known:
                seen = _place(seen, intent, lost)
        return seen

    async def _expected(self, row: RechargeRow) -> Expected:
        return row.expected(await self.installation(), livemode=self._stripe.livemode)

    async def _retrieve(self, payment_intent: str, stored: Intent) -> Intent:
        """A PaymentIntent of ours as it is now, or as it was stored where Stripe says that there is none."""
        try:
            found = await self._stripe.retrieve(payment_intent)
        except PurseError as error:
            if error.reason != REFUSED or error.metadata.get("code") != MISSING:
                raise
            return replace(stored, status=outcomes.MISSING)
        return replace(found, number=stored.number)

    async def _list_old(self, row: RechargeRow, lost: Sequence[int]) -> list[Intent]:
        """Past the life of a key a replay proves nothing; a list does."""
        oldest = next(stored for stored in row.intents if stored.number in lost)
        async with self._pool.acquire() as connection:
            now = await self._clock(connection)
        if now < oldest.created_at + steps.KEY_LIFE:
            return []
        return await self._stripe.find(row.name, oldest.customer, oldest.created_at - _CLOCK_SKEW)

    async def _cancel_rest(self, row: RechargeRow, seen: list[Intent]) -> list[Intent]:
        """Cancels what is left beside a success, whose grant does not wait for it: a later event tries again."""
        try:
            return await self._cancel(row, seen)
        except PurseError as error:
            _log.warning("what is left of a paid recharge is not canceled", recharge=row.name, error=repr(error))
            return seen

    async def _cancel(self, row: RechargeRow, seen: Sequence[Intent]) -> list[Intent]:
        """Cancels what can be; what never existed counts as canceled, since nothing unknown to us is confirmed."""
        after = []
        for intent in seen:
            now = intent
            if not now.payment_intent and now.status == _UNKNOWN:
                now = await self._make_known(row, now)
            if now.payment_intent and now.status not in _TERMINAL | {outcomes.MISSING}:
                await self._stripe.cancel(now.payment_intent)
                now = replace(await self._stripe.retrieve(now.payment_intent), number=intent.number)
            after.append(now)
        return after

    async def _make_known(self, row: RechargeRow, lost: Intent) -> Intent:
        """Finds out what a lost creation made, by replaying its key; past the key's life the list said: nothing."""
        stored = next(one for one in row.intents if one.number == lost.number)
        async with self._pool.acquire() as connection:
            now = await self._clock(connection)
        if now >= stored.created_at + steps.KEY_LIFE:
            return replace(lost, status=outcomes.CANCELED)
        try:
            new = _new_intent(await self.installation(), row, stored.number, stored.customer)
            made = await self._stripe.create_intent(new, stored.create_key)
        except PurseError as error:
            if error.reason != REFUSED:
                raise
            return replace(lost, status=outcomes.CANCELED)
        return replace(made, number=lost.number)

    async def _settle(
        self,
        connection: asyncpg.Connection,
        before: RechargeRow,
        seen: Sequence[Intent],
        *,
        report: Report | None,
        signal: bool,
        giving_up: GivingUp | None,
    ) -> RechargeRow | None:
        """Moves the locked row; None where it has changed since the look."""
        row = _known(await rows.lock(connection, before.org, before.name), before.name)
        if row.version != before.version:
            return None
        now = await self._clock(connection)
        changed = await moves.store_intents(connection, row, seen, now)
        expected = await self._expected(row)
        if row.state is not State.PENDING:
            changed |= await moves.note_late(connection, row, seen)
        else:
            question = await moves.take_report(connection, row, report)
            result = outcomes.judge(seen, expected, question)
            if row.problem and not isinstance(result, Mismatch | Missing):
                changed |= await rows.clear_problem(connection, row)
            match result:
                case Succeeded(intent):
                    await moves.succeed(connection, row, intent, now)
                    await moves.note_late(connection, replace(row, state=State.SUCCEEDED), seen)
                    changed = True
                case Mismatch(_, problem) | Missing(_, problem):
                    changed |= await moves.note_problem(connection, row, problem)
                case Declined(_, code):
                    await moves.decline(connection, row, code, now)
                    changed = True
                case AllCanceled():
                    if row.open_attempt is not None:
                        await rows.end_attempt(connection, row, AttemptState.CANCELED, "", now)
                        changed = True
            if giving_up and moves.may_end(row, seen, giving_up, now):
                await moves.fail(connection, row, giving_up, now)
                changed = True
        await rows.touch(connection, row, now + policies.NO_PROGRESS, changed=changed)
        if changed and signal:
            await rows.signal(connection, row.org, row.name, "stripe")
        return await rows.get(connection, row.org, row.name)

    async def _authorize(self, connection: asyncpg.Connection, org: str, name: str, installation: str) -> Authorized:
        row = _known(await rows.lock(connection, org, name), name)
        now = await self._clock(connection)
        known = (await policies.facts(connection, org, [row.wallet], now))[0]
        step = steps.next_step(row.standing(), moves.circumstances(known, row), now)
        changed = False
        if isinstance(step, Charge):
            changed = await moves.store_charge(connection, row, known, step, now, installation=installation)
        elif isinstance(step, Wait) and step.cap is not None:
            await months.lock_month(connection, org, row.wallet, known.month)
            await policies.alert_cap(connection, org, known, step.cap, charge_nanos=row.amount_nanos, now=now)
        rest_s = 0.0 if isinstance(step, Charge | GiveUp | steps.Ended) else step.retry_after_s
        check_at = now + min(timedelta(seconds=rest_s), _CHECK_MAX) + policies.NO_PROGRESS
        await rows.touch(connection, row, check_at, changed=changed)
        return Authorized(step, _known(await rows.get(connection, org, name), name), installation)


def _known(row: RechargeRow | None, name: str) -> RechargeRow:
    if row is None:
        raise not_found(name, "RECHARGE_UNKNOWN", recharge=name)
    return row


def _stored_intent(row: RechargeRow, stored: rows.IntentRow, installation: str) -> Intent:
    return Intent(
        number=stored.number,
        payment_intent=stored.payment_intent or "",
        status=stored.status,
        amount_received_minor=0,
        currency=row.currency,
        livemode=False,
        wallet=row.wallet,
        recharge=row.name,
        installation=installation,
        error_code=stored.error_code,
        error_mark=stored.error_mark,
    )


def _place(seen: list[Intent], intent: Intent, lost: Sequence[int]) -> list[Intent]:
    """Puts a found PaymentIntent where its creation was lost, or at the end where it has no such place."""
    number = intent.number if intent.number in lost else 0
    if number and any(one.number == number and not one.payment_intent for one in seen):
        return [intent if one.number == number else one for one in seen]
    return [*seen, replace(intent, number=max((one.number for one in seen), default=0) + 1)]


def _new_intent(installation: str, row: RechargeRow, number: int, customer: str) -> NewIntent:
    return NewIntent(installation, row.org, row.wallet, row.name, number, customer, row.amount_minor, row.currency)
