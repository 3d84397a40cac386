"""The end of a month: what became of budgets, told once."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from pursestrings.budget.v1 import budget_pb2, limits_pb2, months_pb2, pauses_pb2
from services.kit import windows
from tests.support.budget import NANOS, ORG, TEAM, alerts, refusal_of, rows, running_budget

ZONE = "Asia/Kathmandu"
LAST = windows.window_at(
    windows.WindowSpec(windows.WindowKind.MONTH, ZONE),
    windows.window_at(windows.WindowSpec(windows.WindowKind.MONTH, ZONE), windows.unix_us(datetime.now(UTC))).start_us
    - 1,
)
MONTH = LAST.key[:7]
KEY = int(LAST.key.replace("-", ""))
MONTHLY = budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH, time_zone=ZONE)
THIS = months_pb2.OrgMonth(org=ORG, time_zone=ZONE, month=MONTH)


async def used_last_month(budget: Any, name: str, spent: int) -> None:
    """Makes a budget as old as two months, with so much used in the last one."""
    connection = await asyncpg.connect(budget.database.owner_dsn)
    subject, _, id_ = name.partition("/budgets/")
    no = await connection.fetchval(
        "UPDATE budgets SET effective_from_us = $3 WHERE subject = $1 AND budget_id = $2 RETURNING budget_no",
        subject,
        id_,
        LAST.start_us - 1,
    )
    await connection.execute("INSERT INTO counters VALUES ('acme', $1, $2, $3, 0)", no, KEY, spent)
    await connection.close()


def close_request(**fields: Any) -> months_pb2.CloseMonthRequest:
    wallet = months_pb2.WalletMonth(
        wallet=f"{ORG}/wallets/main",
        currency_code="USD",
        opening_nanos=100 * NANOS,
        received_nanos=50 * NANOS,
        spent_nanos=20 * NANOS,
        closing_nanos=130 * NANOS,
    )
    values: dict[str, Any] = {"month": THIS, "wallets": [wallet]}
    return months_pb2.CloseMonthRequest(**(values | fields))


async def test_a_month_is_reported_and_told_once(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        carrying = await budget.create(
            id_="carries", window=MONTHLY, rollover=limits_pb2.Rollover(cap_amount=3 * NANOS)
        )
        full = await budget.create(subject=TEAM, id_="full", window=MONTHLY)
        quiet = await budget.create(id_="quiet", window=MONTHLY)
        await budget.create(id_="daily", window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY, time_zone=ZONE))
        await budget.create(id_="elsewhere", window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_MONTH))
        for name, spent in ((carrying.name, 4), (full.name, 11), (quiet.name, 5)):
            await used_last_month(budget, name, spent * NANOS)
        report = (await budget.admin.GetMonthReport(months_pb2.GetMonthReportRequest(**_fields(THIS)))).report
        assert (report.windows, report.exhausted_windows, report.carrying_windows) == (3, 1, 1)
        assert not report.HasField("close_time")
        assert [(one.budget, one.limit_amount, one.spent_amount, one.carried_amount) for one in report.budgets] == [
            (full.name, 10 * NANOS, 11 * NANOS, 0),
            (carrying.name, 10 * NANOS, 4 * NANOS, 3 * NANOS),
        ]
        assert windows.unix_us(report.end_time.ToDatetime(tzinfo=UTC)) == LAST.end_us

        at_once = await asyncio.gather(*(budget.stub_for().CloseMonth(close_request()) for _ in range(5)))
        (first,) = [one for one in at_once if one.told]
        again = await budget.stub_for().CloseMonth(close_request())
        assert [one.already_closed for one in (*at_once, again)].count(False) == 1
        assert {str(one.report.close_time) for one in (*at_once, again)} == {str(first.report.close_time)}
        (event,) = await alerts(budget.database)
        assert (event["type"], event["event"], event["subject"], event["month"]) == (
            "month.closed",
            "STATEMENT",
            ORG,
            MONTH,
        )
        assert event["wallets"] == [
            {
                "wallet": f"{ORG}/wallets/main",
                "currency_code": "USD",
                "opening_nanos": str(100 * NANOS),
                "received_nanos": str(50 * NANOS),
                "spent_nanos": str(20 * NANOS),
                "returned_nanos": "0",
                "expired_nanos": "0",
                "moved_nanos": "0",
                "closing_nanos": str(130 * NANOS),
            }
        ]
        assert [one["budget"] for one in event["budgets"]] == [full.name, carrying.name]
        assert "100.00 USD at its start, 50.00 USD came in, 20.00 USD spent, 130.00 USD at its end" in event["summary"]
        assert "3 budget windows ended: 1 used up, 1 left something to the next" in event["summary"]


async def test_a_pause_that_the_window_ended_is_named_first(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        paused = await budget.create(
            subject=TEAM,
            id_="strict",
            window=MONTHLY,
            on_exceed=budget_pb2.ON_EXCEED_PAUSE,
            resume=pauses_pb2.RESUME_MODE_WINDOW_END,
        )
        await used_last_month(budget, paused.name, 10 * NANOS)
        await rows(
            budget.database,
            """INSERT INTO pauses (org, subject, budget_no, window_key, generation, cause, reason, paused_us, until_us)
            SELECT 'acme', subject, budget_no, $1, 1, 2, 'used up', $2, $3 FROM budgets""",
            KEY,
            LAST.start_us,
            LAST.end_us,
        )
        report = (await budget.admin.GetMonthReport(months_pb2.GetMonthReportRequest(**_fields(THIS)))).report
        assert (report.resuming_windows, [one.resumed for one in report.budgets]) == (1, [True])


async def test_what_has_nothing_to_tell_is_closed_quietly(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        answer = await budget.stub_for().CloseMonth(close_request(wallets=[]))
        assert (answer.told, answer.already_closed, answer.summary) == (False, False, "")
        assert await alerts(budget.database) == []
        other = months_pb2.OrgMonth(org=ORG, time_zone="UTC", month=MONTH)
        asked = months_pb2.ListOpenMonthsRequest(months=[THIS, other])
        assert list((await budget.stub_for().ListOpenMonths(asked)).months) == [other]


async def test_a_running_month_and_nonsense_are_refused(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        now = datetime.now(UTC).strftime("%Y-%m")
        refusal = await refusal_of(
            budget.stub_for().CloseMonth(close_request(month=months_pb2.OrgMonth(org=ORG, month=now)))
        )
        assert refusal.reason == "MONTH_RUNS"
        for field, value in (("month", "2026-13"), ("month", "26-1"), ("time_zone", "Mars/Base"), ("org", TEAM)):
            request = months_pb2.OrgMonth(**({"org": ORG, "month": MONTH} | {field: value}))
            refusal = await refusal_of(budget.stub_for().CloseMonth(close_request(month=request)))
            assert refusal.code.name == "INVALID_ARGUMENT", (field, value)
        refusal = await refusal_of(budget.stub_for().CloseMonth(close_request(wallets_count=-1)))
        assert refusal.field == "wallets_count"
        strange = months_pb2.WalletMonth(wallet="orgs/other/wallets/main", currency_code="USD")
        refusal = await refusal_of(budget.stub_for().CloseMonth(close_request(wallets=[strange])))
        assert refusal.field == "wallets[0].wallet"
        assert await rows(budget.database, "SELECT 1 FROM month_closes") == []


async def test_zones_are_listed_a_page_of_organisations_at_a_time(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        for org in ("a", "b", "c"):
            await budget.create(subject=f"orgs/{org}", id_="one", window=MONTHLY)
            await budget.create(subject=f"orgs/{org}", id_="two", window=MONTHLY)
            await budget.create(subject=f"orgs/{org}/teams/t", id_="lifetime")
        await budget.create(subject="orgs/without-months/teams/t", id_="lifetime")
        orgs: list[str] = []
        found: list[tuple[str, str]] = []
        token = ""
        while token or not found:
            request = months_pb2.ListMonthZonesRequest(page_size=2, page_token=token)
            page = await budget.stub_for().ListMonthZones(request)
            found += [(one.org, one.time_zone) for one in page.zones]
            orgs += page.orgs
            token = page.next_page_token
        assert found == [("orgs/a", ZONE), ("orgs/b", ZONE), ("orgs/c", ZONE)]
        assert orgs == ["orgs/a", "orgs/b", "orgs/c", "orgs/without-months"]


def _fields(month: months_pb2.OrgMonth) -> dict[str, str]:
    return {"org": month.org, "time_zone": month.time_zone, "month": month.month}
