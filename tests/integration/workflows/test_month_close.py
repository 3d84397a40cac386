"""Months that are over are told once, through real services and a real Temporal."""

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from pursestrings.budget.v1 import budget_pb2
from services.budget.months import service
from services.kit import windows
from services.kit.windows import WindowKind, WindowSpec
from tests.support.budget import alerts
from tests.support.databases import Database
from tests.support.sweeping import USD, Refuses, Suite, running_suite
from workflows.month_close import activities, types
from workflows.month_close.workflow import MonthClose, MonthCloseInput
from workflows.sweep import Tally

ZONE = "Asia/Kathmandu"
RUNNING = windows.window_at(WindowSpec(WindowKind.MONTH, ZONE), windows.unix_us(datetime.now(UTC) - timedelta(hours=1)))
LAST = windows.window_at(WindowSpec(WindowKind.MONTH, ZONE), RUNNING.start_us - 1)
MONTH = LAST.key[:7]
IN_LAST = windows.from_unix_us(LAST.start_us + 10 * 86_400_000_000)


@pytest.fixture
async def suite(database: Callable[[str], Database], tmp_path: Path) -> AsyncIterator[Suite]:
    async with running_suite(database, tmp_path) as running:
        yield running


async def run(
    client: Client, suite: Suite, given: MonthCloseInput | None = None, **instead: Any
) -> tuple[Tally, dict[str, str]]:
    """One run of the workflow, and what it says at its end."""
    async with suite.worker(client, **instead):
        handle = await client.start_workflow(
            types.WORKFLOW,
            given or MonthCloseInput(),
            id=f"month-close-{uuid.uuid4()}",
            task_queue=types.TASK_QUEUE,
            result_type=Tally,
        )
        tally = await handle.result()
        return tally, await handle.query(MonthClose.status)


async def since_last_month(suite: Suite) -> None:
    """All wallets, and what was posted to them, are of last month."""
    await suite.sql(suite.wallets, "UPDATE wallets SET created_at = $1", IN_LAST)
    await suite.sql(suite.wallets, "UPDATE transfers SET posted_at = $1", IN_LAST)


async def test_a_month_is_told_once_and_a_second_run_finds_nothing(temporal: Client, suite: Suite) -> None:
    wallet = await suite.wallet("acme", zone=ZONE)
    await since_last_month(suite)
    await suite.wallet("young", zone=ZONE)
    window = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH, time_zone=ZONE)
    for org in ("acme", "budgets-only"):
        await suite.budget.create(subject=f"orgs/{org}", id_="monthly", window=window)
    await suite.sql(suite.budget.database, "UPDATE budgets SET effective_from_us = $1", windows.unix_us(IN_LAST))

    tally, said = await run(temporal, suite)
    assert tally == Tally(found=2, done=2, told=2)
    assert said == {"state": "DONE", "details": "**DONE** · 2 of 2 months done, people were told 2 times."}
    by_org = {one["subject"]: one for one in await alerts(suite.budget.database)}
    assert set(by_org) == {"orgs/acme", "orgs/budgets-only"}
    told = by_org["orgs/acme"]
    assert (told["type"], told["month"], told["time_zone"], told["windows_count"]) == ("month.closed", MONTH, ZONE, 1)
    (statement,) = told["wallets"]
    assert (
        statement["wallet"],
        statement["opening_nanos"],
        statement["received_nanos"],
        statement["closing_nanos"],
    ) == (
        wallet,
        "0",
        str(100 * USD),
        str(100 * USD),
    )

    again, _ = await run(temporal, suite)
    assert again == Tally()
    # Where a long history is cut, the rest begins with what was done and in the middle of the sources.
    await suite.sql(suite.budget.database, "DELETE FROM month_closes")
    rest = MonthCloseInput(windows.unix_us(datetime.now(UTC)), 1, "", Tally(found=5, done=5, told=5))
    assert (await run(temporal, suite, rest))[0] == Tally(found=7, done=7, told=7)
    assert len(await alerts(suite.budget.database)) == 4


async def test_wallets_are_looked_at_a_page_at_a_time(
    temporal: Client, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WALLETS_MAX", 3)
    monkeypatch.setattr(activities, "_WALLETS_A_PAGE", 2)
    monkeypatch.setattr(activities, "NAMED_MAX", 3)
    names = [await suite.wallet(f"acme/teams/{team}", zone=ZONE) for team in ("a", "d", "e", "f")]
    names.append(await suite.wallet("acme", zone=ZONE))
    await suite.wallet("acme/teams/b", zone=ZONE, balance=0)
    await suite.wallet("acme/teams/c", zone="Etc/GMT+12")
    await since_last_month(suite)
    await suite.sql(suite.wallets, "UPDATE wallets SET created_at = now() WHERE time_zone <> $1", ZONE)

    tally, _ = await run(temporal, suite)
    assert tally == Tally(found=1, done=1, told=1)
    (told,) = await alerts(suite.budget.database)
    assert told["wallets_count"] == len(names)
    assert [(one["wallet"], one["closing_nanos"]) for one in told["wallets"]] == [
        (name, str(100 * USD)) for name in names[:3]
    ]
    assert told["summary"].endswith("2 more wallets.")
    assert (await run(temporal, suite))[0] == Tally()


async def test_one_organisation_that_fails_keeps_no_other_waiting(temporal: Client, suite: Suite) -> None:
    for org in ("a", "torn", "z"):
        await suite.wallet(org, zone=ZONE)
    await since_last_month(suite)

    tally, said = await run(temporal, suite, wallet=Refuses(suite.services.wallet, "GetStatement", "orgs/torn/"))
    assert (tally.found, tally.done, tally.failed) == (3, 2, 1)
    assert said["state"] == "INCOMPLETE"
    assert "2 of 3 months done" in said["details"]
    assert f"{MONTH} of orgs/torn ({ZONE}): NOT_FOUND: told to refuse" in said["details"]
    # The next run does what is left, and nothing else.
    tally, _ = await run(temporal, suite)
    assert (tally.found, tally.done, tally.failed) == (1, 1, 0)
    assert len(await alerts(suite.budget.database)) == 3


async def test_a_service_that_is_away_leaves_its_part_to_the_next_run(temporal: Client, suite: Suite) -> None:
    await suite.wallet("acme", zone=ZONE)
    await since_last_month(suite)
    window = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH, time_zone=ZONE)
    await suite.budget.create(subject="orgs/budgets-only", id_="monthly", window=window)
    await suite.sql(suite.budget.database, "UPDATE budgets SET effective_from_us = $1", windows.unix_us(IN_LAST))

    tally, said = await run(temporal, suite, wallet=Refuses(suite.services.wallet, "ListMonthZones", ""))
    assert (tally.found, tally.failed, said["state"]) == (1, 1, "INCOMPLETE")
    assert "the list of months, by wallets: NOT_FOUND" in said["details"]
    tally, _ = await run(temporal, suite)
    assert (tally.done, tally.failed) == (1, 0)
