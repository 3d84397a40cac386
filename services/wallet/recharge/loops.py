"""The loops of recharges in the wallet service: relays to Temporal, the inbox of Stripe's events, the sweeps.

All are safe with several replicas, and none is needed for the truth: Temporal only moves what the rows say.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.kit.database import is_connection_lost, transact
from services.kit.errors import Code, PurseError
from services.kit.loops import Loop
from services.kit.outbox import Relay
from services.kit.telemetry import get_logger
from services.kit.temporal import Temporal
from services.wallet.recharge.caps import Caps
from services.wallet.recharge.cards import Cards
from services.wallet.recharge.domain.attempts import State
from services.wallet.recharge.observe import Clock, Recharges
from services.wallet.recharge.settings import StripeSettings
from services.wallet.recharge.store import cards as card_rows
from services.wallet.recharge.store import inbox, policies, reviews
from services.wallet.recharge.store import recharges as rows
from services.wallet.recharge.store import top_ups as top_up_rows
from services.wallet.recharge.store.inbox import EventRow
from services.wallet.recharge.store.topics import TOPIC_REVIEW, TOPIC_SIGNAL, TOPIC_START
from services.wallet.recharge.stripe import Stripe
from services.wallet.recharge.temporal import recharge, review
from services.wallet.recharge.top_ups import TopUps
from services.wallet.store import wallets as wallets_store

_RELAY_BATCH_MAX: Final = 16
_EVENTS_MAX: Final = 64
_LOOKS_AT_ONCE: Final = 8
_SWEEP_BATCH_MAX: Final = 100
_INBOX_INTERVAL_S: Final = 1.0
_SWEEP_AT_ONCE: Final = 4
_SWEEP_INTERVAL_S: Final = 15.0
# Everything else is kept, and nothing is done about it.
_HANDLED: Final = (
    *("payment_intent.", "setup_intent.", "checkout.session.", "payment_method."),
    *("charge.", "refund.", "customer."),
)
_TRY_LATER: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})

_log = get_logger(__name__)


OnEvent = Callable[[str], Awaitable[str]]
"""Called with the PaymentIntent that an event is about; returns what became of it, for people."""


def recharge_loops(
    settings: StripeSettings, pool: asyncpg.Pool, stripe: Stripe, others: Mapping[str, OnEvent] | None = None
) -> "RechargeLoops":
    """The loops as the wallet service runs them."""
    temporal = Temporal(settings)
    payments = Payments(TopUps(pool, stripe), Cards(pool, stripe))
    return RechargeLoops(pool, Recharges(pool, stripe), payments, Caps(pool), temporal, others=others)


@dataclass(frozen=True, slots=True)
class Payments:
    """What moves the payments that a person makes."""

    top_ups: TopUps
    cards: Cards


class RechargeLoops:
    """The loops, and one way to wake them.

    Args:
        pool: The wallet's database.
        recharges: Moves recharges.
        payments: Moves top-ups, and looks after cards.
        caps: Looks after reviews of caps.
        temporal: Where the workflows run.
        clock: The deciding clock.
        others: Who is told of events whose type begins so, instead of recharges.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        recharges: Recharges,
        payments: Payments,
        caps: Caps,
        temporal: Temporal,
        *,
        clock: Clock = wallets_store.clock,
        others: Mapping[str, OnEvent] | None = None,
    ) -> None:
        self._pool = pool
        self._recharges = recharges
        self._payments = payments
        self._caps = caps
        self._others = others or {}
        self._clock = clock
        self._start = Relay(pool, TOPIC_START, temporal.starting(recharge), batch_max=_RELAY_BATCH_MAX)
        self._review = Relay(pool, TOPIC_REVIEW, temporal.starting(review), batch_max=_RELAY_BATCH_MAX)
        self._signal = Relay(pool, TOPIC_SIGNAL, temporal.wake, batch_max=_RELAY_BATCH_MAX)
        self._inbox = Loop("stripe inbox", self.process_inbox, _INBOX_INTERVAL_S)
        self.loops = [
            self._start.loop,
            self._review.loop,
            self._signal.loop,
            self._inbox,
            Loop("recharge policies", self.sweep_policies, _SWEEP_INTERVAL_S),
            Loop("recharges", self.sweep_recharges, _SWEEP_INTERVAL_S),
            Loop("payments", self.sweep_payments, _SWEEP_INTERVAL_S),
            Loop("reviews of caps", self.sweep_reviews, _SWEEP_INTERVAL_S),
        ]

    def wake(self) -> None:
        """Says that there may be something to relay or to process; called after a commit."""
        for loop in (self._start, self._review, self._signal, self._inbox):
            loop.wake()

    async def process_inbox(self) -> bool:
        """Processes events that are due; returns whether more may be."""
        async with self._pool.acquire() as connection, connection.transaction():
            events = await inbox.take(connection, _EVENTS_MAX)
        # Events only say where to look, so one look after all of them came serves all that are about the same.
        together: dict[tuple[object, ...], list[EventRow]] = {}
        for event in events:
            together.setdefault(self._about(event), []).append(event)
        room = asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def process(same: Sequence[EventRow]) -> None:
            async with room:
                await self._process(same)

        await asyncio.gather(*map(process, together.values()))
        if events:
            self._signal.wake()
            self._start.wake()
        return len(events) == _EVENTS_MAX

    def _about(self, event: EventRow) -> tuple[object, ...]:
        """Events of one payment with the same answer are processed together; any other event is alone."""
        of_payment = event.type.startswith(("payment_intent.", "charge."))
        if not of_payment or event.payment_intent is None or event.type.startswith(tuple(self._others)):
            return event.org, event.id
        return event.org, event.payment_intent, event.recharge, event.livemode

    async def _process(self, events: Sequence[EventRow]) -> None:
        event = events[0]
        try:
            outcome = await self._outcome(event)
        except PurseError as error:
            if error.code in _TRY_LATER:
                return
            _log.error("a Stripe event cannot be processed", event_id=event.id, type=event.type, error=repr(error))
            outcome = f"failed: {error.reason}"
        except Exception as error:
            if is_connection_lost(error):
                return
            async with self._pool.acquire() as connection:
                parked = [await inbox.failed(connection, one, f"failed: {error!r}") for one in events]
            _log.exception("processing a Stripe event failed", event_id=event.id, type=event.type, parked=any(parked))
            return
        async with self._pool.acquire() as connection:
            await inbox.done(connection, events, outcome)

    async def _outcome(self, event: EventRow) -> str:
        if not event.type.startswith(_HANDLED):
            _log.info("a Stripe event of a type that nothing is done about", event_id=event.id, type=event.type)
            return "stored: nothing is done about its type"
        if event.livemode != self._recharges.livemode:
            return "stored: it is of another mode than the Stripe key"
        for prefix, other in self._others.items():
            if event.type.startswith(prefix) and event.payment_intent is not None:
                return await other(event.payment_intent)
        about = event.recharge or ""
        if "/topUps/" in about or "/cardSetups/" in about:
            return await self._payment_outcome(event, about)
        if event.type.startswith("payment_method.") and event.object_id:
            return f"looked at as the default of {await self._payments.cards.told_of(event.object_id)} wallets"
        return await self._recharge_outcome(event)

    async def _recharge_outcome(self, event: EventRow) -> str:
        if event.payment_intent is None:
            return "stored: it is about no PaymentIntent"
        async with self._pool.acquire() as connection:
            place = await rows.of_intent(connection, event.payment_intent)
            if place is None and event.recharge and await rows.get(connection, event.org, event.recharge):
                place = (event.org, event.recharge)
        if place is None:
            return "stored: its PaymentIntent is of no recharge"
        row = await self._recharges.observe(*place, hint=event.payment_intent)
        return f"{row.name} is {row.state.value}"

    async def _payment_outcome(self, event: EventRow, about: str) -> str:
        try:
            if "/topUps/" in about:
                return f"{about} is {(await self._payments.top_ups.observe(event.org, about)).state.value}"
            return f"{about} is {(await self._payments.cards.observe(event.org, about)).state}"
        except PurseError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return "stored: it is of no payment of this database"

    async def sweep_payments(self) -> bool:
        """Looks at top-ups and pages that nothing was heard of, and at default cards; returns whether more may be."""
        async with self._pool.acquire() as connection, connection.transaction():
            now = await self._clock(connection)
            top_ups = await top_up_rows.take_due(connection, now, _SWEEP_BATCH_MAX)
            setups = await card_rows.take_due(connection, now, _SWEEP_BATCH_MAX)
            wallets = await card_rows.take_due_cards(connection, now, _SWEEP_BATCH_MAX)
        await self._each(top_ups, self._payments.top_ups.observe, "a top-up cannot be looked at")
        await self._each(setups, self._payments.cards.observe, "a page to enter a card on cannot be looked at")
        await self._each(wallets, self._payments.cards.check, "a card cannot be looked at")
        if top_ups or setups or wallets:
            self._start.wake()
            self._signal.wake()
        return _SWEEP_BATCH_MAX in {len(top_ups), len(setups), len(wallets)}

    async def sweep_policies(self) -> bool:
        """Evaluates policies whose time has come; returns whether more may be due."""
        async with self._pool.acquire() as connection, connection.transaction():
            due = await policies.take_due(connection, await self._clock(connection), _SWEEP_BATCH_MAX)
        await self._each(due, self._evaluate, "a policy cannot be evaluated")
        if due:
            self._start.wake()
            self._review.wake()
        return len(due) == _SWEEP_BATCH_MAX

    async def sweep_reviews(self) -> bool:
        """Looks after open reviews of caps, and ends those whose month is over; returns whether there may be more."""
        async with self._pool.acquire() as connection, connection.transaction():
            due = await reviews.take_due(connection, await self._clock(connection), _SWEEP_BATCH_MAX)
        await self._each(due, self._caps.look_after, "a review of caps cannot be looked after")
        if due:
            self._review.wake()
            self._signal.wake()
        return len(due) == _SWEEP_BATCH_MAX

    async def sweep_recharges(self) -> bool:
        """Looks after pending recharges that nothing happens to; returns whether there may be more."""
        async with self._pool.acquire() as connection, connection.transaction():
            stalled = await rows.take_stalled(connection, await self._clock(connection), _SWEEP_BATCH_MAX)
        await self._each(stalled, self._look_after, "a stalled recharge cannot be looked at")
        if stalled:
            self._start.wake()
            self._signal.wake()
        return len(stalled) == _SWEEP_BATCH_MAX

    async def _each(
        self, items: Sequence[tuple[str, str]], work: Callable[[str, str], Awaitable[object]], trouble: str
    ) -> None:
        """Works on several at once, each by itself: whatever is wrong with one, its next look was put off already."""
        at_once = asyncio.Semaphore(_SWEEP_AT_ONCE)

        async def one(org: str, name: str) -> None:
            async with at_once:
                try:
                    await work(org, name)
                except Exception as error:
                    _log.warning(trouble, name=name, error=repr(error))

        await asyncio.gather(*(one(org, name) for org, name in items))

    async def _evaluate(self, org: str, wallet: str) -> None:
        async def run(connection: asyncpg.Connection) -> None:
            await wallets_store.lock_wallet(connection, org, wallet)
            now = await self._clock(connection)
            await policies.swept(connection, org, wallet, now)
            await policies.evaluate(connection, org, [wallet], now)

        await transact(self._pool, run)

    async def _look_after(self, org: str, name: str) -> None:
        """Starts the workflow again where it was lost (one that runs is left as it is), then asks Stripe.

        In this order: a Stripe that does not answer must not keep a lost workflow lost.
        """
        row = await self._recharges.get(org, name)
        if row.state is State.PENDING:
            async with self._pool.acquire() as connection:
                await rows.start_again(connection, row)
            await self._recharges.observe(org, name)
