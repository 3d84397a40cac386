"""Delivery of events: signed, at least once, in no promised order, retried for three days."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import httpx

from embedded.stripe_twin import domain
from embedded.stripe_twin.clock import Clock
from embedded.stripe_twin.store import Delivery, Store

log = logging.getLogger("stripe_twin")

CONCURRENCY = 8
TIMEOUT_S = 10.0
LONGEST_NAP_S = 60.0
SHORTEST_NAP_S = 0.01
PRUNE_EVERY_S = 3600.0
SHUTDOWN_S = 2.0


def signature(payload: str, secret: str, timestamp: int) -> str:
    """The `Stripe-Signature` header of a body: HMAC-SHA256 over `timestamp.body`, scheme v1."""
    digest = hmac.new(secret.encode(), f"{timestamp}.{payload}".encode(), hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


class Courier:
    """Sends what is due, eight at a time; sleeps until there is something.

    `fire_timers` lets happen what is due and may announce events; it answers when the next such thing is.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        client: httpx.AsyncClient,
        fire_timers: Callable[[], float | None],
    ) -> None:
        self._fire_timers = fire_timers
        self._store = store
        self._clock = clock
        self._client = client
        self._awake = asyncio.Event()
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._pruned_at = 0.0

    def wake(self) -> None:
        """Look again now: something was queued, or the clock was advanced."""
        self._awake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._awake.clear()
            self._forget_old()
            timer_due = self._fire_timers()
            self._start_due()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), self._nap_s(timer_due))

    def _start_due(self) -> None:
        # What is under way is still due in the store: ask for that many more, and skip it.
        free = CONCURRENCY - len(self._sending)
        if free <= 0:
            return
        for delivery in self._store.due_deliveries(self._clock.now(), CONCURRENCY):
            if delivery.id not in self._sending and len(self._sending) < CONCURRENCY:
                task = asyncio.create_task(self._send(delivery))
                self._sending[delivery.id] = task
                task.add_done_callback(partial(self._sent, delivery.id))

    def _sent(self, delivery_id: int, task: asyncio.Task[None]) -> None:
        del self._sending[delivery_id]
        self._awake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("delivery %d broke off", delivery_id, exc_info=task.exception())

    def _nap_s(self, timer_due: float | None) -> float:
        now = self._clock.now()
        waits_s = [] if timer_due is None else [timer_due - now]
        due = self._store.next_due()
        # What is due while something is under way: the end of the sending wakes this loop.
        if due is not None and len(self._sending) < CONCURRENCY and not (due <= now and self._sending):
            waits_s.append(due - now)
        return min(max(min(waits_s, default=LONGEST_NAP_S), SHORTEST_NAP_S), LONGEST_NAP_S)

    def _forget_old(self) -> None:
        now = self._clock.now()
        if now < self._pruned_at + PRUNE_EVERY_S:
            return
        self._pruned_at = now
        with self._store.transaction():
            self._store.prune(
                answers_before=int(now) - domain.IDEMPOTENCY_KEPT_S, events_before=int(now) - domain.EVENTS_KEPT_S
            )

    async def _send(self, delivery: Delivery) -> None:
        try:
            taken, result = await self._post(delivery)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            taken, result = False, f"{type(error).__name__}: {error}"
        now = self._clock.now()
        with self._store.transaction():
            if taken:
                self._store.delivered(delivery, result, now)
                return
            again = domain.retry_at(created=delivery.created, now=now, attempts=delivery.attempts + 1)
            self._store.failed(delivery, result, again)
        log.warning(
            "event %s not taken by %s: %s; %s",
            delivery.event["id"],
            delivery.endpoint.url,
            result,
            "given up" if again is None else f"again in {again - now:g} s",
        )

    async def _post(self, delivery: Delivery) -> tuple[bool, str]:
        payload = json.dumps(delivery.event)
        # The receiver judges the signature's age by the real time, wherever this twin's clock stands.
        stamp = signature(payload, delivery.endpoint.secret, int(self._clock.wall()))
        response = await self._client.post(
            delivery.endpoint.url,
            content=payload.encode(),
            headers={
                "Content-Type": "application/json; charset=utf-8",
                "Stripe-Signature": stamp,
                "User-Agent": "Stripe/1.0 (twin)",
            },
        )
        return 200 <= response.status_code < 300, f"HTTP {response.status_code}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver while the block lasts; what is under way at its end gets two seconds to finish."""
        loop = asyncio.create_task(self.run())
        try:
            yield
        finally:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop
            await self._finish()

    async def _finish(self) -> None:
        left = list(self._sending.values())
        if not left:
            return
        _, unfinished = await asyncio.wait(left, timeout=SHUTDOWN_S)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


def http_client() -> httpx.AsyncClient:
    """The client that webhooks are sent with: no proxy, no redirect, ten seconds for an answer."""
    return httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)
