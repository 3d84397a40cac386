"""Workflows that were started by earlier code go on under this code.

The histories beside this file were written by `WorkflowHistory.to_json()` of real runs. A change of the workflow that
they do not fit needs `workflow.patched`, and a new history beside the old ones.
"""

from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from workflows import worker
from workflows.services import reaching
from workflows.settings import WorkerSettings

HISTORIES = sorted(Path(__file__).with_name("histories").glob("*.json"))


def test_there_are_histories() -> None:
    assert {path.stem for path in HISTORIES} >= {
        *("succeeded", "declined_then_another_card", "canceled"),
        *("months_closed", "months_closed_but_one", "books_compared", "concerns_reported"),
    }


@pytest.mark.parametrize(
    "history",
    [WorkflowHistory.from_json(path.stem, path.read_text()) for path in HISTORIES],
    ids=lambda history: str(history.workflow_id),
)
async def test_a_recorded_history_replays(history: WorkflowHistory) -> None:
    async with reaching(WorkerSettings(stripe_api_key=SecretStr("sk_test_nobody"))) as services:
        known = [one for part in worker.parts(services) for one in part.workflows]
    await Replayer(workflows=known).replay_workflow(history)
