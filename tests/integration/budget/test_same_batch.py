"""Items that meet in one transaction: a spend and what is said of its reservation a moment later."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pursestrings.budget.v1 import budget_pb2
from services.budget.batch import Runner
from services.budget.caches import Directories, Policies
from services.budget.domain.model import (
    Applied,
    ApplyItem,
    Call,
    Decision,
    DeniedReason,
    ExtendItem,
    ReleaseItem,
    Reservation,
    ReserveItem,
)
from services.budget.domain.plan import Directory
from services.budget.store.dsn import for_lookups
from services.kit.database import create_pool
from services.kit.errors import Code
from services.kit.groupcommit import GroupCommit
from services.kit.subject import parse
from tests.support.budget import BOT, NANOS, ORG, Budgets, rows, running_budget

HOUR_US = 3_600_000_000
SUBJECT = parse(BOT)


@asynccontextmanager
async def beside(budget: Budgets) -> AsyncIterator[GroupCommit[Any, Any]]:
    """Another replica's group commit, which takes items as one transaction."""
    pool = await create_pool(for_lookups(budget.database.service_dsn), application_name="beside")
    directories = Directories()
    directories.put([Directory("acme", 1, ())])
    runner = Runner(Policies(), directories, on_lease=lambda _lease: None)
    commit: GroupCommit[Any, Any] = GroupCommit(pool, runner.run, org_of=lambda item: item.org, name="beside")
    try:
        yield commit
    finally:
        await commit.close()
        await pool.close()


async def together(commit: GroupCommit[Any, Any], *items: Any) -> Any:
    """What items are answered that one transaction takes."""
    return await commit.submit_many(items)


def spend(id_: str, cost: int, payload: bytes = b"p") -> ReserveItem:
    return ReserveItem(
        "acme", id_, SUBJECT, payload, Call(model="m"), "USD", (0, cost, 0, 0, 0, 0), 0, cost, HOUR_US,
        validate_only=False, strict=False, rate_version="",
    )  # fmt: skip


def longer(id_: str, request_id: str = "x", hours: int = 2) -> ExtendItem:
    return ExtendItem("acme", id_, SUBJECT, request_id, b"x", hours * HOUR_US)


def event(id_: str, cost: int, reservation: str = "", *, final: bool = False) -> ApplyItem:
    return ApplyItem(
        "acme", "s", id_, SUBJECT, b"e", Call("p", "m"), (0, cost, 0, 0, 0, 1), True, "USD",
        time.time_ns() // 1_000, "2026-11", reservation, BOT, final,
    )  # fmt: skip


async def stored(budget: Budgets, id_: str) -> Any:
    (row,) = await rows(budget.database, "SELECT * FROM reservations WHERE id = $1", id_)
    return row


async def test_a_spend_and_its_extension_hold_what_was_allowed(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget, beside(budget) as commit:
        await budget.create(ORG, "b", limit_amount=5 * NANOS)
        await budget.create(ORG, "tokens", dimension=budget_pb2.DIMENSION_TOKENS, limit_amount=0)
        made, extended = await together(commit, spend("r", 5 * NANOS), longer("r"))
        assert isinstance(made, Decision)
        assert isinstance(extended, Decision)
        assert (made.denied, extended.denied) == (DeniedReason.NONE, DeniedReason.NONE)
        assert extended.expires_us - made.expires_us == HOUR_US
        assert (await stored(budget, "r"))["expires_us"] == extended.expires_us
        assert (await budget.use(f"{ORG}/budgets/b")).reserved_amount == 5 * NANOS
        again, denied = await together(commit, longer("r"), spend("r2", 1))
        assert (again.denied, again.expires_us) == (DeniedReason.NONE, extended.expires_us)
        assert denied.denied is DeniedReason.BUDGET_EXCEEDED
        await budget.audit()


async def test_an_extension_in_its_spends_batch_is_a_new_decision(database: Any, tmp_path: Path) -> None:
    """Use that came in between has taken the room."""
    async with running_budget(database("budget"), tmp_path) as budget, beside(budget) as commit:
        await budget.create(ORG, "b", limit_amount=5 * NANOS)
        made, used, extended = await together(commit, spend("r", 3 * NANOS), event("e", 4 * NANOS), longer("r"))
        assert (made.denied, type(used)) == (DeniedReason.NONE, Applied)
        assert extended.denied is DeniedReason.BUDGET_EXCEEDED
        assert (await budget.use(f"{ORG}/budgets/b")).reserved_amount == 3 * NANOS
        assert (await stored(budget, "r"))["expires_us"] == made.expires_us
        await budget.audit()


async def test_the_audit_finds_a_reservation_that_holds_nothing(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget, beside(budget) as commit:
        await budget.create(ORG, "b", limit_amount=5 * NANOS)
        await budget.create(BOT, "other", currency_code="EUR")
        await together(commit, spend("r", 5 * NANOS), spend("free", 0))
        await budget.audit()
        await rows(budget.database, "UPDATE reservations SET holds = '{}'")
        await rows(budget.database, "UPDATE counters SET reserved = 0")
        response = await budget.admin.Audit(budget_pb2.AuditRequest())
        ((name, detail),) = [(check.name, check.detail) for check in response.checks if not check.ok]
        assert name == "I1.open_reservations_hold"
        assert detail.endswith(f"{BOT}/reservations/r: holds nothing of its cost on {ORG}/budgets/b")


async def test_of_two_spends_under_one_id_use_waits_to_know_which_is_made(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget, beside(budget) as commit:
        await budget.create(ORG, "b", limit_amount=5 * NANOS)
        answers = await together(commit, *[
            spend("r", 9 * NANOS), spend("r", 2 * NANOS, b"q"), event("e", NANOS, "r", final=True),
        ])  # fmt: skip
        assert [answers[0].denied, answers[1].denied] == [DeniedReason.BUDGET_EXCEEDED, DeniedReason.NONE]
        assert answers[2].code is Code.UNAVAILABLE
        (used,) = await together(commit, event("e", NANOS, "r", final=True))
        assert not used.unreserved
        await budget.audit()


async def test_what_settles_or_closes_a_spend_in_its_batch_is_kept(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget, beside(budget) as commit:
        await budget.create(ORG, "b", limit_amount=20 * NANOS)
        answers = await together(commit, *[
            spend("part", 5 * NANOS), event("e1", 2 * NANOS, "part"), longer("part", "x1"),
            spend("whole", 5 * NANOS), event("e2", 2 * NANOS, "whole", final=True),
            spend("back", 5 * NANOS), longer("back", "x2"), ReleaseItem("acme", "back", BOT),
        ])  # fmt: skip
        assert isinstance(answers[-1], Reservation)
        assert (answers[2].denied, answers[2].cost) == (DeniedReason.NONE, 3 * NANOS)
        kept = {id_: await stored(budget, id_) for id_ in ("part", "whole", "back")}
        assert {id_: (row["state"], row["settled_events"]) for id_, row in kept.items()} == {
            "part": (1, 1),
            "whole": (2, 1),
            "back": (3, 0),
        }
        assert [row["closed_us"] is None for row in kept.values()] == [True, False, False]
        use = await budget.use(f"{ORG}/budgets/b")
        assert (use.spent_amount, use.reserved_amount) == (4 * NANOS, 3 * NANOS)
        await budget.audit()
