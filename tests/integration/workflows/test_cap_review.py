"""A cap stops a recharge, and a person decides: by Update in Temporal, or by the wallet service's own method."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from pursestrings.wallet.v1 import wallet_pb2 as pb
from tests.integration.recharge.test_extras import at_the_cap, decide, reviews
from tests.support.budget import rows, running_budget
from tests.support.databases import Database
from tests.support.recharging import Rig, running_worker, webhooks
from workflows.cap_review import types
from workflows.cap_review.types import Decision


async def refused(update: Any) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as failure:
        await update
    cause = failure.value.cause
    assert isinstance(cause, ApplicationError)
    return str(cause.type)


async def test_a_person_decides_in_temporal_or_by_the_wallets_method(
    rig: Rig, temporal: Client, database: Callable[[str], Database], tmp_path: Path
) -> None:
    (tmp_path / "budget").mkdir()
    books = database("budget")
    public = rig.token_file.with_name("public.pem")
    async with (
        running_budget(books, tmp_path / "budget", auth_public_key_file=public) as budget,
        running_worker(rig, temporal, budget_address=budget.address),
        webhooks(rig),
    ):
        first = await at_the_cap(rig)
        handle = temporal.get_workflow_handle(first.name)
        async with asyncio.timeout(30):
            while "WAITING" not in (await state_of(temporal, first.name)):
                await asyncio.sleep(0.05)
        about = await handle.describe()
        assert await about.static_summary() == (
            f"{rig.wallet} has reached its cap on the number of recharges of {first.month}: allow more recharges?"
        )
        assert "has stopped a recharge of **20.00 USD**" in str(await about.static_details())

        yes = Decision(by="ann", role="approver", reason="a launch", extra_count=1)
        bad = [
            (Decision(by="bot", role="agent", reason="please", extra_count=1), "ROLE_MISSING"),
            (Decision(by="", role="approver", reason="please", extra_count=1), "INVALID_ARGUMENT"),
            (Decision(by="ann", role="approver", reason="both", keep_paused=True, extra_count=1), "INVALID_ARGUMENT"),
            # This one only the wallet can know.
            (Decision(by="ann", role="approver", reason="late", extra_count=1, until="2020-01-01"), "BAD_EXTRA"),
        ]
        for decision, reason in bad:
            assert await refused(handle.execute_update(types.DECIDE, decision)) == reason
        allowed = await handle.execute_update(types.DECIDE, yes)
        assert (allowed["state"], allowed["decided_by"], allowed["reason"]) == ("ALLOWED", "ann", "a launch")
        assert (await handle.result())["extra"] == allowed["extra"]

        # One more is charged; then the next review is open, and is decided without Temporal.
        await rig.until_state((await rig.recharges())[0].name, pb.RECHARGE_STATE_SUCCEEDED)
        async with asyncio.timeout(30):
            while not (second := await reviews(rig, only_open=True)):
                await asyncio.sleep(0.05)
            await decide(rig, second[0].name, keep_paused=True, on_behalf_of="bob")
            ended = temporal.get_workflow_handle(second[0].name)
            while "KEPT_PAUSED" not in (await state_of(temporal, second[0].name)):
                await asyncio.sleep(0.05)
            assert (await ended.result())["decided_by"] == "bob"
        told = await rows(books, "SELECT key FROM published_events")
        assert {f"{first.name}/ended", f"{second[0].name}/ended"} <= {row["key"] for row in told}
    assert len(await rig.recharges()) == 2
    assert await rig.audit_failures() == []


async def state_of(client: Client, workflow: str) -> str:
    found = [one async for one in client.list_workflows(f'WorkflowId = "{workflow}"')]
    return str(found[0].typed_search_attributes) if found else ""
