"""What the machine compares the service with, in memory; and the service under a clock that stands still."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import asyncpg

from services.budget.batch import Runner
from services.budget.caches import Directories, Policies
from services.budget.definitions import Definitions
from services.budget.domain.budgets import FOREVER_US, Dimension, OnExceed, key_number, key_text
from services.budget.domain.model import ApplyItem
from services.budget.domain.pauses import ResumeMode
from services.budget.store.dsn import for_lookups
from services.kit.database import create_pool
from services.kit.groupcommit import GroupCommit
from services.kit.windows import WindowKind, WindowSpec, unix_us, window_bounds, window_key

SUBJECTS = ("", "/teams/t", "/teams/t/agents/a", "/teams/t/agents/b", "/agents/c")
ZONES = ("UTC", "Europe/Berlin", "America/Havana", "Pacific/Apia", "Australia/Lord_Howe")
KINDS = {1: WindowKind.DAY, 2: WindowKind.WEEK, 3: WindowKind.MONTH, 4: WindowKind.QUARTER, 5: WindowKind.LIFETIME}
DIMENSIONS = (Dimension.COST, Dimension.TOKENS, Dimension.REQUESTS)
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
BEGIN_US = unix_us(datetime(2026, 3, 27, 20, tzinfo=UTC))
STEPS_US = (SECOND_US, 600 * SECOND_US, DAY_US // 4, DAY_US // 4, DAY_US // 2, 9 * DAY_US)
MODELS = ("m1", "m2", "")

Three = tuple[int, int, int]
"""Cost, tokens, requests."""


@dataclass
class World:
    """One database and the parts that decide on it, for all runs; each run has an organisation of its own."""

    loop: asyncio.AbstractEventLoop
    pool: asyncpg.Pool
    owner: asyncpg.Connection
    commit: GroupCommit[Any, Any]
    directories: Directories
    definitions: Definitions
    orgs: int = 0

    def run(self, awaitable: Any) -> Any:
        """Waits for it."""
        return self.loop.run_until_complete(awaitable)


@dataclass(eq=False)
class Window:
    """One budget window's use, and what the window before left to it.

    Attributes:
        carry: Key and limit of the window before; None: nothing is carried.
        rises: How often `carried` has risen.
        denied: The last generation in which a denial was told of.
        paused: The last one in which it paused its subject.
    """

    spent: int = 0
    reserved: int = 0
    carried: int = 0
    carry: tuple[int, int] | None = None
    rises: int = 0
    denied: int = 0
    paused: int = 0

    @property
    def used(self) -> int:
        """Spent and held."""
        return self.spent + self.reserved


@dataclass(eq=False)
class Limit:
    """A budget, as the model has it.

    Attributes:
        cap: The most that is carried into a window; None: nothing.
        lax: Whether more than the limit may be allocated out of it.
        parent: What it was carved from.
        raises: Amount, from and until of its overrides.
        used: By window key.
        bound: The windows that decisions have looked at.
    """

    name: str
    subject: str
    dimension: Dimension
    limit: int
    on_exceed: OnExceed
    resume: ResumeMode
    thresholds: tuple[int, ...]
    spec: WindowSpec
    from_us: int
    model: str
    cap: int | None = None
    lax: bool = False
    parent: "Limit | None" = None
    generation: int = 1
    raises: list[tuple[int, int, int]] = field(default_factory=list)
    alive: bool = True
    used: dict[int, Window] = field(default_factory=dict)
    bound: set[int] = field(default_factory=set)

    @property
    def blocking(self) -> bool:
        """Whether what does not fit is denied."""
        return self.on_exceed in (OnExceed.BLOCK, OnExceed.PAUSE)

    def key_at(self, at_us: int) -> int:
        """The window of an instant."""
        return key_number(window_key(self.spec, at_us))

    def bounds(self, key: int) -> tuple[int, int]:
        """When a window starts and ends."""
        return window_bounds(self.spec, key_text(key))

    def peek(self, key: int) -> Window:
        """A window as it is, or as it would be if something looked at it."""
        if key in self.used:
            return self.used[key]
        start_us, _ = self.bounds(key)
        if self.cap is None or self.from_us >= start_us:
            return Window()
        made = Window(carry=(self.key_at(start_us - 1), self.limit))
        made.carried = self.left_over(made)
        return made

    def window(self, key: int) -> Window:
        """A window that is looked at: from now on it is carried what the limit of now left in the one before."""
        return self.used.setdefault(key, self.peek(key))

    def left_over(self, window: Window) -> int:
        """What the window before leaves to this one."""
        if self.cap is None or window.carry is None:
            return 0
        key, base = window.carry
        return min(self.cap, max(0, base - (self.used[key].used if key in self.used else 0)))

    def in_force(self, key: int, now_us: int) -> int:
        """The limit of a window, with what it was carried and overrides."""
        start_us, end_us = self.bounds(key)
        at_us = max(start_us, self.from_us, min(now_us, end_us - 1))
        raised = sum(amount for amount, from_us, until_us in self.raises if from_us <= at_us < until_us)
        return self.limit + self.peek(key).carried + raised

    def has_fallen(self, key: int, now_us: int) -> bool:
        """Whether an override has ended in a window."""
        start_us, end_us = self.bounds(key)
        return any(max(start_us, self.from_us) < until_us <= min(now_us, end_us) for _, _, until_us in self.raises)

    def generation_of(self, key: int) -> int:
        """How often the limit of a window has risen."""
        return self.generation + self.peek(key).rises

    def asked(self, amounts: Three) -> int:
        """Its share of three amounts."""
        return amounts[DIMENSIONS.index(self.dimension)]

    def counts(self, subject: str, model: str, *, actual: bool) -> bool:
        """Whether it counts a call of a subject."""
        named = not self.model or model == self.model or (not model and not actual)
        return self.alive and is_within(subject, self.subject) and named


def is_within(subject: str, ancestor: str) -> bool:
    """Whether a subject is another one or below it."""
    return subject == ancestor or subject.startswith(f"{ancestor}/")


@dataclass(eq=False)
class Stop:
    """A pause; `limit` is the budget that made it, or None for a person."""

    subject: str
    limit: Limit | None = None
    key: int = 0
    generation: int = 0
    until_us: int = FOREVER_US
    ended: bool = False

    def lasts(self, now_us: int) -> bool:
        """Whether it stops anybody."""
        return not self.ended and now_us < self.until_us

    @property
    def row(self) -> tuple[str, str, int, int, bool]:
        """What the database has of it."""
        return (self.subject, self.limit.name if self.limit else "", self.key, self.generation, self.ended)


@dataclass(eq=False)
class Held:
    """A reservation; `holds` are its budgets with window and what is left."""

    subject: str
    asks: Three
    model: str
    created_us: int
    expires_us: int
    holds: dict[Limit, list[int]]
    funded: int
    state: str = "OPEN"
    settled: int = 0


@dataclass(eq=False)
class Said:
    """An event and what was last said of it."""

    item: ApplyItem
    windows: set[tuple[Limit, int]]
    estimate: int
    priced: bool


_SHIM = """
CREATE SCHEMA shim;
CREATE TABLE shim.clock (us bigint NOT NULL);
INSERT INTO shim.clock VALUES (0);
CREATE FUNCTION shim.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
    AS 'SELECT pg_catalog.to_timestamp(us / 1000000.0::numeric) FROM shim.clock';
GRANT USAGE ON SCHEMA shim TO budget_service;
GRANT SELECT ON shim.clock TO budget_service;
"""


@contextlib.contextmanager
def world(owner_dsn: str, service_dsn: str) -> Iterator[World]:
    """The parts that decide, on a migrated database whose clock is the machine's."""
    loop = asyncio.new_event_loop()
    path = f"{for_lookups(service_dsn)}&search_path={quote('shim,pg_catalog,public')}"

    async def start() -> World:
        owner = await asyncpg.connect(owner_dsn)
        await owner.execute(_SHIM)
        pool = await create_pool(path, application_name="model")
        directories = Directories()
        runner = Runner(Policies(), directories, on_lease=lambda _lease: None)
        commit: GroupCommit[Any, Any] = GroupCommit(pool, runner.run, org_of=lambda item: item.org, name="model")
        return World(loop, pool, owner, commit, directories, Definitions(pool))

    async def stop(made: World) -> None:
        await made.commit.close()
        await made.owner.close()
        await made.pool.close()

    with contextlib.ExitStack() as stack:
        stack.callback(loop.close)
        made = loop.run_until_complete(start())
        stack.callback(lambda: loop.run_until_complete(stop(made)))
        yield made
