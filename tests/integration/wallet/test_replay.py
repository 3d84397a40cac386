"""Two holders over a network that loses, repeats and reorders, on PostgreSQL, against the coin by coin model."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg
import pytest

from services.kit.errors import PurseError
from services.wallet.audit import audit
from services.wallet.domain.commands import SetState
from services.wallet.domain.leases import AnyOp, Capture, Extend, Return, Reverse, Totals
from services.wallet.ledger import LeaseAnswer
from tests.property.wallet.model import Model
from tests.support.wallets import Books, capture, dump, extend, give_up, lines, no_more_checks, reverse, wallet_name

STEPS = 400


@dataclass
class Holder:
    """A budget database: it writes operations with cumulative totals before it sends them, in order."""

    name: str
    wallet: str
    n: int = 0
    extended: int = 0
    captured: int = 0
    returned: int = 0
    reversed: int = 0
    unsent: list[AnyOp] = field(default_factory=list)
    answers: dict[int, tuple[AnyOp, int, Totals]] = field(default_factory=dict)
    applied: int = 0

    @property
    def mine(self) -> int:
        """What it believes that it may still spend."""
        return self.extended - self.captured - self.returned

    def write(self, chance: random.Random) -> None:
        self.n += 1
        key = ("acme", self.wallet, self.name, 0, self.n)
        kind = chance.choice(["extend", "extend", "capture", "capture", "over", "return", "reverse"])
        if kind == "return" and self.mine > 0:
            self.returned += chance.randint(0, self.mine)
            self.unsent.append(Return(*key, self.returned))
        elif kind == "reverse" and self.captured > self.reversed:
            amount = chance.randint(0, self.captured - self.reversed)
            self.reversed += amount
            self.unsent.append(Reverse(*key, self.reversed, lines(amount)))
        elif kind in ("capture", "over"):
            amount = chance.randint(0, max(0, self.mine)) if kind == "capture" else chance.randint(0, 30)
            self.captured += amount
            self.unsent.append(Capture(*key, self.captured, lines(amount)))
        else:
            self.unsent.append(Extend(*key, ask=chance.randint(0, 30), need=chance.randint(0, 10)))


@dataclass
class Network:
    """Runs operations, and does to the model what was done to the books."""

    books: Books
    model: Model

    async def deliver(self, holder: Holder, op: AnyOp, *, answered: bool) -> None:
        answer = await self._run(op)
        if op.n > holder.applied:
            holder.applied = op.n
            holder.answers[op.n] = (op, answer.moved, answer.totals)
            self._apply(op, answer.moved)
        first = holder.answers[op.n]
        assert (first[1], first[2]) == (answer.moved, answer.totals)
        if answered:
            # Adopted as a maximum, so that late and repeated answers cannot hurt.
            holder.extended = max(holder.extended, answer.totals.extended)

    async def refuse(self, op: AnyOp, reason: str) -> None:
        before = await dump(self.books.pool)
        (answer,) = await self.books.run(op)
        assert isinstance(answer, PurseError), answer
        assert reason == answer.reason
        assert before == await dump(self.books.pool)

    async def _run(self, op: AnyOp) -> LeaseAnswer:
        (answer,) = await self.books.run(op)
        assert isinstance(answer, LeaseAnswer), answer
        return answer

    def _apply(self, op: AnyOp, moved: int) -> None:
        lease = self.model.leases
        if isinstance(op, Extend):
            assert moved <= self.model.available
            self.model.extend(op.holder, moved)
        elif isinstance(op, Capture):
            self.model.capture(op.holder, moved)
        elif isinstance(op, Return):
            assert moved == op.total - lease[op.holder].returned
            self.model.give_up(op.holder, moved, NEVER)
        else:
            self.model.reverse(op.holder, moved, NEVER)


NEVER = datetime(2000, 1, 1, tzinfo=UTC)


async def compare(pool: asyncpg.Pool, wallet: str, model: Model) -> None:
    rows = await pool.fetch(
        "SELECT name, free_nanos, leased_nanos, spent_nanos, expired_nanos FROM grants WHERE wallet = $1", wallet
    )
    lots = {row[0]: {"free": row[1], "leased": row[2], "spent": row[3], "expired": row[4]} for row in rows}
    assert model.lots() == lots
    leases = await pool.fetch(
        "SELECT holder, extended_nanos, captured_nanos, returned_nanos, reversed_nanos FROM leases WHERE wallet = $1",
        wallet,
    )
    assert {h: (t.extended, t.captured, t.returned, t.reversed) for h, t in model.leases.items()} == {
        row[0]: tuple(row[1:]) for row in leases
    }


async def step(chance: random.Random, network: Network, holder: Holder, grants: int) -> int:
    """One thing that happens; returns how many grants there are."""
    books, wallet = network.books, holder.wallet
    what = chance.choices(
        ["write", "send", "lost", "answer lost", "late", "ahead", "grant", "state"], [30, 40, 5, 10, 10, 5, 6, 3]
    )[0]
    if what == "grant":
        amount, priority = chance.randint(1, 40), chance.choice([1, 50, 100])
        await books.grant(wallet, f"{wallet[-1]}-{grants:03}", amount, priority=priority)
        network.model.grant(f"orgs/acme/grants/{wallet[-1]}-{grants:03}", amount, priority, None, NEVER)
        return grants + 1
    if what == "state":
        await books.run(SetState("acme", wallet, chance.choice(["OPEN", "OPEN", "FROZEN"]), "why"))
    elif what == "write":
        holder.write(chance)
    elif what == "late" and holder.answers:
        await network.deliver(
            holder, holder.answers[chance.choice(list(holder.answers))][0], answered=chance.random() < 0.5
        )
    elif what == "ahead" and len(holder.unsent) > 1:
        op = holder.unsent[1]
        if op.n > holder.applied + 1:
            await network.refuse(op, "LEASE_GAP")
    elif what in ("send", "answer lost") and holder.unsent:
        await network.deliver(holder, holder.unsent[0], answered=what == "send")
        if what == "send":
            holder.unsent.pop(0)
    return grants


@pytest.mark.parametrize("seed", range(3))
async def test_any_network_leaves_every_nano_where_it_belongs(books: Books, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's dice
    wallet = wallet_name(seed)
    books.floor = 8
    books.__post_init__()
    await books.create(wallet)
    network = Network(books, Model())
    holders = [Holder("east", wallet), Holder("west", wallet)]
    grants = 0
    for number in range(STEPS):
        holder = chance.choice(holders)
        grants = await step(chance, network, holder, grants)
        lease = network.model.leases.get(holder.name)
        assert holder.extended <= (lease.extended if lease else 0)
        if number % 10 == 0:
            await compare(books.pool, wallet, network.model)
    for holder in holders:
        for op in holder.unsent:
            await network.deliver(holder, op, answered=True)
        assert holder.n == holder.applied
    await compare(books.pool, wallet, network.model)
    report = await audit(books.pool, None, no_more_checks)
    assert [] == [check for check in report.checks if not check.ok]
    assert sum(h.captured - h.reversed for h in holders) == sum(total.cost_nanos for total in report.captured)
    told = {t.holder: (t.n, t.captured_total_nanos, t.returned_total_nanos) for t in report.leases}
    assert {h.name: (h.n, h.captured, h.returned) for h in holders if h.n} == told


async def test_what_cannot_happen_between_healthy_sides_quarantines_and_alerts_once(books: Books) -> None:
    wallet = wallet_name()
    await books.create(wallet)
    await books.grant(wallet, "g", 100)
    await books.run(extend(wallet, 1, 50), capture(wallet, 2, 10, 10), give_up(wallet, 3, 5))
    before = await dump(books.pool)
    restored = capture(wallet, 2, 11, 11)
    for _ in range(2):
        (answer,) = await books.run(restored)
        assert isinstance(answer, PurseError)
        assert ("LEASE_PAYLOAD", {"last_n": "3", "epoch": "0"}) == (answer.reason, answer.metadata)
    after = await dump(books.pool)
    assert {"leases", "outbox"} == {table for table in before if before[table] != after[table]}
    assert ["alert"] == [row["topic"] for row in await books.pool.fetch("SELECT topic FROM outbox")]
    # Repeats are still answered, nothing new moves, and only an operator's reclaim ends it.
    repeated, refused = await books.run(extend(wallet, 1, 50), capture(wallet, 4, 1, 11))
    assert isinstance(repeated, LeaseAnswer)
    assert (50, True, 0) == (repeated.moved, repeated.quarantined, repeated.target)
    assert isinstance(refused, PurseError)
    assert "QUARANTINED" == refused.reason


async def test_totals_that_do_not_follow_quarantine(books: Books) -> None:
    for number in range(3):
        wallet = wallet_name(number)
        op = (capture(wallet, 2, 10, 11), give_up(wallet, 2, 51), reverse(wallet, 2, 1, 1))[number]
        await books.create(wallet)
        await books.grant(wallet, f"g{number}", 100)
        await books.run(extend(wallet, 1, 50))
        before = await dump(books.pool)
        (answer,) = await books.run(op)
        assert isinstance(answer, PurseError)
        assert "LEASE_TOTALS" == answer.reason
        after = await dump(books.pool)
        assert {"leases", "outbox"} == {table for table in before if before[table] != after[table]}
