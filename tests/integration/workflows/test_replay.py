"""Workflows that were started by earlier code go on under this code.

The histories beside this file were written by `WorkflowHistory.to_json()` of real runs. A change of the workflow that
they do not fit needs `workflow.patched`, and a new history beside the old ones.
"""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        *("approved_by_update", "reminded_escalated_expired", "cap_review_decided"),
        *("notified", "notified_at_the_second_try", "swept_in_pages"),
    }


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: str(path.stem))
def test_a_history_says_nothing_of_the_machine_it_was_recorded_on(path: Path) -> None:
    said = list(strings(json.loads(path.read_text())))
    # A path from the root, an address or a process, a stack.
    assert [text for text in said if re.search(r"(?<![\w/])/\w+/|@|Traceback", text)] == []
    assert "stackTrace" not in path.read_text()
    assert set(re.findall(r'"identity": "([^"]*)"', path.read_text())) == {"worker"}


def strings(part: Any) -> Iterator[str]:
    """All texts of a history, payloads read."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for one in part:
            yield from strings(one)
    elif isinstance(part, dict):
        if "metadata" in part and "data" in part:
            yield base64.b64decode(part["data"]).decode()
            return
        for one in part.values():
            yield from strings(one)


@pytest.mark.parametrize(
    "history",
    [WorkflowHistory.from_json(path.stem, path.read_text()) for path in HISTORIES],
    ids=lambda history: str(history.workflow_id),
)
async def test_a_recorded_history_replays(history: WorkflowHistory) -> None:
    async with reaching(WorkerSettings(stripe_api_key=SecretStr("sk_test_nobody"))) as services:
        known = [one for part in worker.parts(services) for one in part.workflows]
    await Replayer(workflows=known).replay_workflow(history)
