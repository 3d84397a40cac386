"""What passes between the sweep and its activity. Standard library only."""

from dataclasses import dataclass, field

WORKFLOW = "PredictiveSweep"
TASK_QUEUE = "schedules"
STATUS = "status"

SWEEP_PAGE = "sweep_predictive_wallets"

STARTED_SHOWN_MAX = 20
"""The most recharges that a sweep tells by name; all are counted."""


@dataclass(frozen=True)
class Tally:
    """What a sweep has come to.

    Attributes:
        looked: Wallets whose forecast was asked.
        started: Recharges that were started.
        names: The first of them.
        blocked: What stood in the way of others that were due, such as COOLDOWN, and how often.
        failed: Wallets that could not be looked at.
        failure: Why, for one of them.
    """

    looked: int = 0
    started: int = 0
    names: list[str] = field(default_factory=list)
    blocked: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    failure: str = ""

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        blocked = dict(self.blocked)
        for why, times in other.blocked.items():
            blocked[why] = blocked.get(why, 0) + times
        return Tally(
            self.looked + other.looked,
            self.started + other.started,
            [*self.names, *other.names][:STARTED_SHOWN_MAX],
            blocked,
            self.failed + other.failed,
            self.failure or other.failure,
        )

    def words(self) -> str:
        """For people."""
        words = f"looked at {self.looked:,} wallets, started {self.started:,}"
        if self.blocked:
            times = ", ".join(f"{why} {count:,}" for why, count in sorted(self.blocked.items()))
            words += f", and left {sum(self.blocked.values()):,} that were due ({times})"
        if self.failed:
            words += f"; {self.failed:,} could not be looked at"
        return words


@dataclass(frozen=True)
class SweepInput:
    """Which wallets a sweep looks at.

    Attributes:
        shard: Which part of them, 0 to `shards` - 1.
        shards: Into how many parts they are divided.
        page_token: Where it goes on, carried over where a long history was cut; empty: from the beginning.
        tally: What it has come to so far.
    """

    shard: int
    shards: int
    page_token: str = ""
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Page:
    """Which page of a part."""

    shard: int
    shards: int
    page_token: str


@dataclass(frozen=True)
class SweptPage:
    """What a page came to. `next_page_token`: empty on the last one."""

    tally: Tally
    next_page_token: str
