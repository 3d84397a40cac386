"""Random spends, usage, releases, changes and replays against a plain model of the rules, on real PostgreSQL."""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.budget.batch import Runner
from services.budget.caches import Directories, Policies
from services.budget.definitions import Definitions
from services.budget.domain.budgets import Dimension
from services.budget.domain.model import (
    Applied,
    ApplyItem,
    Call,
    Decision,
    DeniedReason,
    ReleaseItem,
    Reservation,
    ReserveItem,
    Short,
    WalletState,
)
from services.budget.domain.plan import Directory, WalletRef
from services.budget.domain.policy import Draft
from services.budget.store.audit import CHECKS, Snapshot
from services.budget.store.dsn import for_lookups
from services.kit.database import create_pool
from services.kit.errors import PurseError
from services.kit.groupcommit import GroupCommit
from services.kit.subject import parse
from tests.support.databases import Databases

SUBJECTS = ("", "/teams/t", "/teams/t/agents/a", "/teams/t/agents/b", "/agents/c")
AMOUNT = st.integers(0, 12)


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


@dataclass
class Limit:
    """A budget, as the model has it."""

    subject: str
    dimension: Dimension
    limit: int
    blocking: bool
    spent: int = 0
    reserved: int = 0


@dataclass
class Hold:
    """A reservation, as the model has it."""

    subject: str
    asks: tuple[int, int, int]
    budgets: dict[str, int]
    funded: int
    payload: bytes
    state: str = "OPEN"
    settled: int = 0


@dataclass
class Books:
    """Everything that must be true, by plain rules."""

    limits: dict[str, Limit] = field(default_factory=dict)
    dead: dict[str, Limit] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    usage: dict[str, bytes] = field(default_factory=dict)
    extended: int = 0
    drawn: int = 0
    reserved: int = 0


def _within(subject: str, ancestor: str) -> bool:
    return subject == ancestor or subject.startswith(f"{ancestor}/")


def _amount(limit: Limit, amounts: tuple[int, int, int]) -> int:
    cost, tokens, requests = amounts
    return {Dimension.COST: cost, Dimension.TOKENS: tokens, Dimension.REQUESTS: requests}[limit.dimension]


class BooksMachine(RuleBasedStateMachine):
    """One organisation with a wallet whose lease has a fixed amount."""

    world: ClassVar[World]

    @initialize(leased=st.integers(20, 90))
    def begin(self, leased: int) -> None:
        world = self.world
        world.orgs += 1
        self.org = f"o{world.orgs}"
        self.root = f"orgs/{self.org}"
        wallet = f"{self.root}/wallets/w"
        ref = WalletRef(wallet, self.root, "USD", WalletState.OPEN)
        world.directories.put([Directory(self.org, 1, (ref,))])
        world.run(
            world.owner.execute(
                """
                INSERT INTO leases (org, wallet, currency, extended_total, wallet_state) VALUES ($1, $2, 'USD', $3, 1)
                """,
                self.org,
                wallet,
                leased,
            )
        )
        self.books = Books(extended=leased)
        self.count = 0

    def next_id(self) -> str:
        self.count += 1
        return f"i{self.count}"

    @rule(
        at=st.sampled_from(SUBJECTS),
        dimension=st.sampled_from([Dimension.COST, Dimension.TOKENS, Dimension.REQUESTS]),
        limit=st.integers(0, 40),
        blocking=st.booleans(),
    )
    def create(self, at: str, dimension: Dimension, limit: int, blocking: bool) -> None:
        id_ = self.next_id()
        currency = "USD" if dimension is Dimension.COST else ""
        draft = Draft("", int(dimension), currency, limit, 5, "", 0, 0, 1 if blocking else 2, (50, 100), None)
        made = self.world.run(self.world.definitions.create(parse(self.root + at), id_, draft, validate_only=False))
        self.books.limits[made.name] = Limit(self.root + at, dimension, limit, blocking)

    @precondition(lambda self: self.books.limits)
    @rule(data=st.data(), limit=st.integers(0, 60))
    def move_limit(self, data: st.DataObject, limit: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.books.limits)))
        subject, id_ = name.split("/budgets/")
        draft = Draft("", 0, "", limit, 0, "", 0, 0, 0, (), None)
        self.world.run(
            self.world.definitions.update(
                parse(subject), id_, draft, frozenset({"limit_amount"}), "", validate_only=False
            )
        )
        self.books.limits[name].limit = limit

    @precondition(lambda self: self.books.limits)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.books.limits)))
        subject, id_ = name.split("/budgets/")
        self.world.run(self.world.definitions.delete(parse(subject), id_, ""))
        self.books.dead[name] = self.books.limits.pop(name)

    def ask(self, id_: str, subject: str, asks: tuple[int, int, int], *, validate_only: bool = False) -> ReserveItem:
        cost, tokens, requests = asks
        return ReserveItem(
            self.org,
            id_,
            parse(subject),
            hashlib.blake2b(repr((subject, asks)).encode(), digest_size=16).digest(),
            Call(),
            "USD",
            (0, cost, tokens, tokens, 0, requests),
            0,
            cost,
            300_000_000,
            validate_only,
            False,
            "",
        )

    @rule(
        asked=st.lists(
            st.tuples(st.sampled_from(SUBJECTS), st.tuples(AMOUNT, AMOUNT, st.integers(0, 2))), min_size=1, max_size=6
        ),
        release=st.booleans(),
        look=st.booleans(),
    )
    def reserve(self, asked: list[tuple[str, tuple[int, int, int]]], release: bool, look: bool) -> None:
        """A batch of spends, and maybe the release of its first, in one transaction."""
        items = [self.ask(self.next_id(), self.root + at, asks, validate_only=look) for at, asks in asked]
        batch: list[Any] = list(items)
        if release:
            batch.append(ReleaseItem(self.org, items[0].id, items[0].subject.name))
        answers = self.world.run(self.world.commit.submit_many(batch))
        for item, answer, (_, asks) in zip(items, answers, asked, strict=False):
            self.expect(item, asks, answer)
        if release:
            self.expect_release(items[0].id, answers[-1])

    def expect(self, item: ReserveItem, asks: tuple[int, int, int], answer: object) -> None:
        books = self.books
        applying = {n: b for n, b in books.limits.items() if _within(item.subject.name, b.subject)}
        over = {n for n, b in applying.items() if b.spent + b.reserved + _amount(b, asks) > b.limit}
        denied = {n for n in over if applying[n].blocking}
        if denied:
            assert isinstance(answer, Decision)
            assert answer.denied is DeniedReason.BUDGET_EXCEEDED
            assert {use.budget.name for use in answer.violations} == denied
            return
        if books.drawn + books.reserved + asks[0] > books.extended:
            assert isinstance(answer, Short)
            assert answer.free == books.extended - books.drawn - books.reserved
            return
        assert isinstance(answer, Decision)
        assert answer.denied is DeniedReason.NONE
        assert {use.budget.name for use in answer.warnings} == over
        if item.validate_only:
            return
        held = {name: _amount(b, asks) for name, b in applying.items()}
        for name, amount in held.items():
            applying[name].reserved += amount
        books.reserved += asks[0]
        books.holds[item.id] = Hold(item.subject.name, asks, held, asks[0], item.payload_hash)

    @precondition(lambda self: self.books.holds)
    @rule(data=st.data(), change=st.booleans())
    def replay(self, data: st.DataObject, change: bool) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.books.holds)))
        hold = self.books.holds[id_]
        asks = (hold.asks[0] + change, *hold.asks[1:])
        (answer,) = self.world.run(self.world.commit.submit_many([self.ask(id_, hold.subject, asks)]))
        if change:
            assert isinstance(answer, PurseError)
            assert answer.reason == "REQUEST_ID_REUSED"
        elif hold.state == "OPEN":
            assert isinstance(answer, Decision)
            assert answer.denied is DeniedReason.NONE
        else:
            assert isinstance(answer, PurseError)
            assert answer.reason == "RESERVATION_CLOSED"

    @precondition(lambda self: self.books.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.books.holds)))
        item = ReleaseItem(self.org, id_, self.books.holds[id_].subject)
        (answer,) = self.world.run(self.world.commit.submit_many([item]))
        self.expect_release(id_, answer)

    def expect_release(self, id_: str, answer: object) -> None:
        hold = self.books.holds.get(id_)
        if hold is None:
            assert isinstance(answer, PurseError)
            assert answer.reason == "RESERVATION_UNKNOWN"
            return
        if hold.state == "OPEN":
            self.close(hold, "RELEASED")
        assert isinstance(answer, Reservation)
        assert answer.state.name == hold.state

    def close(self, hold: Hold, state: str) -> None:
        for name, amount in hold.budgets.items():
            (self.books.limits.get(name) or self.books.dead[name]).reserved -= amount
        hold.budgets = dict.fromkeys(hold.budgets, 0)
        self.books.reserved -= hold.funded
        hold.funded = 0
        hold.state = state

    @rule(
        data=st.data(),
        at=st.sampled_from(SUBJECTS),
        amounts=st.tuples(st.integers(0, 30), AMOUNT, st.integers(0, 2)),
        final=st.booleans(),
        again=st.booleans(),
        settle=st.booleans(),
    )
    def apply(  # noqa: PLR0917 - drawn by the rule
        self, data: st.DataObject, at: str, amounts: tuple[int, int, int], final: bool, again: bool, settle: bool
    ) -> None:
        """An event, once or twice in one transaction, for a reservation of any state or for none."""
        id_ = data.draw(st.sampled_from(sorted(self.books.holds))) if settle and self.books.holds else ""
        subject = self.root + at
        cost, tokens, requests = amounts
        hold = self.books.holds.get(id_)
        item = ApplyItem(
            self.org,
            "s",
            self.next_id(),
            parse(subject),
            b"hash",
            Call("p", "m"),
            (0, cost, tokens, tokens, 0, requests),
            rated=True,
            currency="USD",
            # Later than any budget was made, whatever the clocks of this machine and PostgreSQL are.
            occurred_us=4_000_000_000_000_000,
            month="2096-10",
            reservation=id_,
            reservation_subject=hold.subject if hold else "",
            final=final,
        )
        answers = self.world.run(self.world.commit.submit_many([item] * (1 + again)))
        self.expect_usage(item, amounts, hold, answers)

    def expect_usage(
        self, item: ApplyItem, amounts: tuple[int, int, int], hold: Hold | None, answers: list[object]
    ) -> None:
        books, subject = self.books, item.subject.name
        for place, answer in enumerate(answers):
            assert isinstance(answer, Applied)
            assert answer.duplicate == (place > 0)
        for limit in books.limits.values():
            if _within(subject, limit.subject):
                limit.spent += _amount(limit, amounts)
        books.drawn += amounts[0]
        if hold is None or hold.state != "OPEN" or not _within(subject, hold.subject):
            return
        if item.final:
            self.close(hold, "SETTLED")
            return
        for name, held in hold.budgets.items():
            living = books.limits.get(name)
            lower = min(_amount(living, amounts), held) if living is not None else 0
            hold.budgets[name] -= lower
            (living or books.dead[name]).reserved -= lower
        lower = min(amounts[0], hold.funded)
        hold.funded -= lower
        books.reserved -= lower

    @invariant()
    def counters_are_as_the_model_says(self) -> None:
        if not hasattr(self, "books"):
            return
        found = self.world.run(
            self.world.owner.fetch(
                """
                SELECT b.subject || '/budgets/' || b.budget_id AS name, c.spent, c.reserved
                FROM counters c JOIN budgets b USING (org, budget_no) WHERE c.org = $1
                """,
                self.org,
            )
        )
        kept = {row["name"]: (row["spent"], row["reserved"]) for row in found}
        for name, limit in {**self.books.limits, **self.books.dead}.items():
            assert kept.get(name, (0, 0)) == (limit.spent, limit.reserved)
        lease = self.world.run(
            self.world.owner.fetchrow("SELECT drawn_total, reserved FROM leases WHERE org = $1", self.org)
        )
        assert tuple(lease) == (self.books.drawn, self.books.reserved)

    def teardown(self) -> None:
        if hasattr(self, "books"):
            self.world.run(self.audit())

    async def audit(self) -> None:
        async with (
            self.world.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            snapshot = Snapshot(connection, self.org)
            await snapshot.begin()
            for name in CHECKS:
                if name != "I1.leases_not_oversold":  # the lease's money is made up here, by an insert
                    assert (name, (await snapshot.offenders(name)).names) == (name, [])


@pytest.fixture
def world(databases: Databases) -> Iterator[World]:
    database = databases.create("budget")
    loop = asyncio.new_event_loop()
    made: list[World] = []

    async def start() -> None:
        pool = await create_pool(for_lookups(database.service_dsn), application_name="model")
        owner = await asyncpg.connect(database.owner_dsn)
        directories = Directories()
        runner = Runner(Policies(), directories, on_lease=lambda _lease: None)
        commit: GroupCommit[Any, Any] = GroupCommit(pool, runner.run, org_of=lambda item: item.org, name="model")
        made.append(World(loop, pool, owner, commit, directories, Definitions(pool)))

    async def stop() -> None:
        for one in made:
            await one.commit.close()
            await one.owner.close()
            await one.pool.close()

    with contextlib.ExitStack() as stack:
        stack.callback(databases.drop, database)
        stack.callback(loop.close)
        loop.run_until_complete(start())
        stack.callback(lambda: loop.run_until_complete(stop()))
        yield made[0]


def test_the_books_are_as_a_plain_model_says(world: World) -> None:
    BooksMachine.world = world
    run_state_machine_as_test(
        BooksMachine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
