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
from services.budget.domain.budgets import Dimension, key_number
from services.budget.domain.model import ApplyItem
from services.budget.store.dsn import for_lookups
from services.kit.database import create_pool
from services.kit.groupcommit import GroupCommit
from services.kit.windows import WindowKind, WindowSpec, unix_us, window_key

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
class Limit:
    """A budget, as the model has it; used by window key: spent and reserved."""

    name: str
    subject: str
    dimension: Dimension
    limit: int
    blocking: bool
    spec: WindowSpec
    from_us: int
    model: str
    alive: bool = True
    used: dict[int, list[int]] = field(default_factory=dict)

    def at(self, at_us: int) -> list[int]:
        """The window of an instant."""
        return self.window(key_number(window_key(self.spec, at_us)))

    def window(self, key: int) -> list[int]:
        """A window by its key."""
        return self.used.setdefault(key, [0, 0])

    def asked(self, amounts: Three) -> int:
        """Its share of three amounts."""
        return amounts[DIMENSIONS.index(self.dimension)]

    def counts(self, subject: str, model: str, *, actual: bool) -> bool:
        """Whether it counts a call of a subject."""
        within = subject == self.subject or subject.startswith(f"{self.subject}/")
        return self.alive and within and (not self.model or model == self.model or (not model and not actual))


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
