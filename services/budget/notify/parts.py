"""The parts of notify, wired together."""

from typing import Final

import asyncpg

from services.budget.notify import wakes
from services.budget.notify.carrying import Carrying
from services.budget.notify.deliveries import Deliveries
from services.budget.notify.publish import Publisher
from services.budget.notify.relay import Matching
from services.budget.notify.temporal import deliveries, once_each
from services.budget.notify.upkeep import Upkeep
from services.kit.loops import Loop
from services.kit.outbox import Relay
from services.kit.settings import ServiceSettings
from services.kit.temporal import Temporal

_MATCH_INTERVAL_S: Final = 0.2
_WAKES_MAX: Final = 200
_STUCK_INTERVAL_S: Final = 15.0
_FORGET_INTERVAL_S: Final = 60.0


class Notify:
    """What tells people.

    Args:
        pool: Budget's database.
        settings: Where Temporal is.

    Attributes:
        publisher: Takes events of other services.
        carrying: Serves the worker that delivers.
        deliveries: Serves people.
        loops: What runs beside; without them events stay in the outbox.
    """

    def __init__(self, pool: asyncpg.Pool, settings: ServiceSettings) -> None:
        send = once_each(Temporal(settings).starting(deliveries))
        relay = Relay(pool, wakes.TOPIC, send, batch_max=_WAKES_MAX)
        matching = Loop("match events", Matching(pool, relay.wake).step, _MATCH_INTERVAL_S)
        upkeep = Upkeep(pool)
        self.publisher = Publisher(pool, matching.wake)
        self.carrying = Carrying(pool, matching.wake)
        self.deliveries = Deliveries(pool, relay.wake)
        self.loops = [
            matching,
            relay.loop,
            Loop("deliveries without progress", upkeep.wake_stuck, _STUCK_INTERVAL_S),
            Loop("forget deliveries", upkeep.forget, _FORGET_INTERVAL_S),
        ]
