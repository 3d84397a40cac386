"""What a replica knows of definitions: read whole once, then only what has changed."""

import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from pursestrings.budget.v1 import budget_pb2, pauses_pb2
from services.budget.caches import Policies
from services.budget.domain.budgets import Budget
from services.budget.domain.plan import Policy
from services.budget.store import budgets
from services.budget.store.batch import hold_epochs
from services.kit.subject import parse
from tests.integration.budget.test_overrides import grant
from tests.support.budget import BOT, NANOS, ORG, TEAM, budget_of, rows, running_budget

SUBJECTS = (ORG, TEAM, BOT)
WRITES = 40


def plain(policy: Policy) -> Any:
    """All that a policy says, in values that compare."""

    def of(budget: Budget) -> tuple[Any, ...]:
        return tuple(getattr(budget, field.name) for field in fields(Budget) if field.name[0] != "_")

    return (
        policy.epoch,
        policy.settings,
        {no: of(budget) for no, budget in policy.by_no.items()},
        {name: [budget.no for budget in found] for name, found in policy._by_subject.items()},
        {name: sorted(found) for name, found in policy._pausing.items()},
        [policy.paused(parse(name)) for name in SUBJECTS],
    )


async def write(budget: Any, chance: random.Random, number: int) -> None:
    """One write by a person; it may be refused."""
    subject, id_ = chance.choice(SUBJECTS), f"b{chance.randrange(4)}"
    name, admin = f"{subject}/budgets/{id_}", budget.admin
    kind = chance.randrange(7)
    if kind < 2:
        day = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY)
        limit, on_exceed = chance.randrange(9) * NANOS, chance.choice((1, 4))
        made = budget_of(limit_amount=limit, on_exceed=on_exceed, window=day)
        await admin.CreateBudget(budget_pb2.CreateBudgetRequest(parent=subject, budget_id=id_, budget=made))
    elif kind == 2:
        await admin.DeleteBudget(budget_pb2.DeleteBudgetRequest(name=name))
    elif kind == 3:
        path = chance.choice(("limit_amount", "on_exceed", "window"))
        window = budget_pb2.Window(kind=chance.choice((1, 2, 3)))  # type: ignore[arg-type]
        changed = budget_of(name=name, limit_amount=number, on_exceed=chance.choice((1, 4)), window=window)
        await admin.UpdateBudget(budget_pb2.UpdateBudgetRequest(budget=changed, update_mask=FieldMask(paths=[path])))
    elif kind == 4:
        await admin.GrantOverride(grant(name, number + 1, request_id=f"o{number}"))
    elif chance.random() < 0.5:
        await admin.Pause(pauses_pb2.PauseRequest(subject=subject, reason="hold"))
    else:
        await admin.Resume(pauses_pb2.ResumeRequest(subject=subject))


async def test_reading_what_has_changed_gives_what_reading_all_gives(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        chance = random.Random(7)  # noqa: S311 - not for keys
        every, some = Policies(), Policies()
        done = 0
        connection = await asyncpg.connect(budget.database.service_dsn)
        try:
            for number in range(WRITES):
                try:
                    await write(budget, chance, number)
                    done += 1
                except grpc.aio.AioRpcError:
                    pass
                async with connection.transaction():
                    epochs, _ = await hold_epochs(connection, [parse(ORG).org])
                    if not epochs:
                        continue
                    ((org, epoch),) = epochs.items()
                    whole = plain(await budgets.load_policy(connection, org, epoch))
                    assert plain((await every.at_epochs(connection, epochs))[org]) == whole
                    if chance.random() < 0.2:
                        assert plain((await some.at_epochs(connection, epochs))[org]) == whole
        finally:
            await connection.close()
        assert done > WRITES / 3


async def test_a_pause_reads_no_budgets_and_one_change_no_others(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "a")
        await budget.create(BOT, "b")
        policies = Policies()
        connection = await asyncpg.connect(budget.database.service_dsn)

        async def now() -> Policy:
            async with connection.transaction():
                epochs, _ = await hold_epochs(connection, [parse(ORG).org])
                return (await policies.at_epochs(connection, epochs))[parse(ORG).org]

        try:
            first = await now()
            await budget.admin.Pause(pauses_pb2.PauseRequest(subject=BOT, reason="hold"))
            # The newest change is read again; what is older is the same object still.
            paused = await now()
            assert paused.paused(parse(BOT))
            assert not first.paused(parse(BOT))
            a, b = sorted(first.by_no)
            assert paused.by_no[a] is first.by_no[a]
            await budget.admin.Resume(pauses_pb2.ResumeRequest(subject=BOT))
            resumed = await now()
            assert not resumed.paused(parse(BOT))
            assert resumed.by_no is paused.by_no
            await rows(budget.database, "UPDATE org_policy SET epoch = epoch - 1")
            restored = await now()
            assert restored.by_no[a] is not first.by_no[a]
            assert restored.by_no.keys() == {a, b}
        finally:
            await connection.close()
