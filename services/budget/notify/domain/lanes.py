"""How deliveries go from try to try: when the next one is, when one is given up, when a channel is switched off."""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

S_US: Final = 1_000_000
DAY_US: Final = 86_400 * S_US
RESTS_S: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After each failed try, how long until the next one, in seconds; after the last of them it is given up."""
JITTER: Final = 0.1
"""By how much of itself a rest is longer at most, so that what failed together does not come back together."""
HORIZON_US: Final = int(sum(RESTS_S) * (1 + JITTER)) * S_US
"""How long after its first try a delivery has been tried for the last time, where nobody asks to wait."""
HOLD_US: Final = 45 * S_US
"""How long whoever delivers holds a channel without a word. Longer than a POST may take, several times."""
MAIL_EVERY_US: Final = 60 * S_US
"""The shortest time between two mails to one subscription."""
PENDING_MAX: Final = 10_000
"""The most deliveries that wait in one channel of a subscription; further events are not kept for it."""
TAKEN_MAX: Final = 100
"""The most deliveries that are given out at once."""
OFF_AFTER_US: Final = 5 * DAY_US
"""For how long nothing was taken before a channel is switched off."""
KEPT_US: Final = 30 * DAY_US
"""How long a delivery is kept after it was delivered or given up, and how long it may wait."""
ERROR_CHARS_MAX: Final = 300


class Channel(IntEnum):
    """How a delivery travels; the numbers of the contract."""

    WEBHOOK = 1
    MAIL = 2

    @property
    def word(self) -> str:
        """As names and workflow ids have it."""
        return self.name.lower()


class State(IntEnum):
    """Where a delivery stands; the numbers of the contract."""

    PENDING = 1
    DELIVERED = 2
    DEAD = 3


class Outcome(IntEnum):
    """What became of a try; the numbers of the contract."""

    DELIVERED = 1
    FAILED = 2
    REFUSED = 3
    GONE = 4


@dataclass(slots=True)
class Lane:
    """One channel of one subscription, locked.

    Attributes:
        no: The subscription's number.
        last_number: Of its deliveries.
        waiting: How many are pending.
        due_us: When the first pending one may be tried; None: none is pending.
        woken_us: When its workflow was last woken; None: it has asked since.
        held_by: Who delivers, until `held_until_us`.
        sent_us: When something was last delivered.
        failing_since_us: The first failure since then.
        off_us: Since when nothing is sent any more.
    """

    org: str
    no: int
    channel: Channel
    last_number: int
    waiting: int
    due_us: int | None
    woken_us: int | None
    held_by: str
    held_until_us: int
    sent_us: int
    failing_since_us: int | None
    off_us: int | None
    off_reason: str

    def is_held(self, now_us: int, but_by: str = "") -> bool:
        """Whether somebody delivers; somebody other than `but_by`."""
        return bool(self.held_by) and self.held_by != but_by and self.held_until_us > now_us

    def hold(self, holder: str, now_us: int) -> None:
        """Gives the lane to whoever delivers, from now on."""
        self.held_by, self.held_until_us = holder, now_us + HOLD_US

    def release(self) -> None:
        """Ends the hold."""
        self.held_by, self.held_until_us = "", 0

    def admit(self, count: int) -> int:
        """How many of so many new events are kept."""
        return 0 if self.off_us is not None else max(0, min(count, PENDING_MAX - self.waiting))

    def must_wake(self, now_us: int) -> bool:
        """Whether its workflow must be woken for what is added now.

        Not where something waits already, for then the workflow knows when to look, and not where it is at work, for it
        looks again before it rests. Nor again, where it was woken and has not looked since. A workflow that was lost
        is the sweep's.
        """
        return self.waiting == 0 and self.woken_us is None and not self.is_held(now_us)


@dataclass(slots=True, frozen=True)
class Next:
    """What becomes of a delivery after a failed try: another one then, or None: it is dead."""

    next_try_us: int | None


@dataclass(slots=True, frozen=True)
class Asked:
    """How long a receiver asks to be left alone.

    Attributes:
        rest_us: 0: it does not say.
        first_try_us: When the delivery was first tried, from which `HORIZON_US` counts.
    """

    rest_us: int
    first_try_us: int


NOT_ASKED: Final = Asked(0, 0)


def after_failure(message_id: str, tries: int, now_us: int, asked: Asked = NOT_ASKED) -> Next:
    """When a delivery that has failed so many times is tried again.

    What the receiver asks for makes a rest longer, never shorter, and lasts to the horizon at most: then the rests that
    are left are our own, so that everything ends within two horizons. The same answer for the same try, so that a
    report that is repeated changes nothing.
    """
    if tries > len(RESTS_S):
        return Next(None)
    late = 1 + JITTER * _fraction(message_id, tries)
    own_us = int(RESTS_S[tries - 1] * S_US * late)
    asked_us = min(int(asked.rest_us * late), asked.first_try_us + HORIZON_US - now_us)
    return Next(now_us + max(own_us, asked_us))


def is_to_be_switched_off(failing_since_us: int | None, now_us: int) -> bool:
    """Whether a channel that gives up a delivery now has failed for so long that it is switched off."""
    return failing_since_us is not None and now_us - failing_since_us >= OFF_AFTER_US


def mail_due_us(sent_us: int, due_us: int) -> int:
    """When the next mail may go: at once, or a minute after the one before."""
    return max(due_us, sent_us + MAIL_EVERY_US)


def delivery_id(channel: Channel, number: int) -> str:
    """The id in a delivery's name: `webhook-12`."""
    return f"{channel.word}-{number}"


def parse_delivery_id(text: str) -> tuple[Channel, int] | None:
    """Channel and number; None: no delivery has such an id."""
    word, _, digits = text.partition("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        return None
    for channel in Channel:
        if channel.word == word and delivery_id(channel, int(digits)) == text:
            return channel, int(digits)
    return None


def workflow_id(subscription: str, channel: Channel) -> str:
    """The workflow that carries a channel's deliveries."""
    return f"notify/{subscription}/{channel.word}"


def _fraction(message_id: str, tries: int) -> float:
    digest = hashlib.blake2b(f"{message_id}/{tries}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2.0**64
