"""What happens by itself when its time has come: disputes of test cards, refunds that end, what expires."""

from __future__ import annotations

import logging

from embedded.stripe_twin.clock import Clock
from embedded.stripe_twin.errors import ApiError
from embedded.stripe_twin.operations import disputes, refunds, sessions
from embedded.stripe_twin.store import Store, Timer
from embedded.stripe_twin.work import Work

log = logging.getLogger("stripe_twin")

AT_ONCE = 100


class Timers:
    """Fires what is due; called by the courier's loop, so what it announces is sent right after."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def fire(self) -> float | None:
        """Fire everything that is due; the time of what comes next, or None."""
        while due := self._store.due_timers(self._clock.now(), AT_ONCE):
            for timer in due:
                self._one(timer)
        return self._store.next_timer()

    def _one(self, timer: Timer) -> None:
        try:
            with self._store.transaction():
                self._store.remove_timer(timer.id)
                _act(Work(self._store, self._clock.now()), timer)
        except ApiError as error:
            # It has ended by another way meanwhile.
            log.info("%s of %s is over: %s", timer.kind, timer.object_id, error)
            with self._store.transaction():
                self._store.remove_timer(timer.id)


def _act(work: Work, timer: Timer) -> None:
    kind, _, outcome = timer.kind.partition(":")
    match kind:
        case "open_dispute":
            disputes.open_for_card(work, timer.object_id)
        case "dispute":
            disputes.settle(work, timer.object_id, outcome)
        case "expire_session":
            sessions.expired(work, work.get(sessions.KIND, timer.object_id, param="id"))
        case "refund":
            refunds.settle(work, timer.object_id, outcome)
