"""Mails: what people read, and what nobody can put into them."""

import json
from datetime import UTC, datetime

from services.budget.domain.budgets import Budget, Dimension, OnExceed
from services.budget.months.domain import Ended, Month, Report, WalletMonth, payload
from services.kit.windows import WindowKind, WindowSpec
from tests.support.events import CROSSING
from workflows.notify.letters import SUBJECT_CHARS_MAX, letter, paragraph
from workflows.notify.payloads import NO_OUTLOOK, Driver, Outlook

USD = 1_000_000_000
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_a_crossing_is_told_in_amounts_and_times() -> None:
    found = paragraph(CROSSING, Outlook(11_520, (Driver("anthropic", "claude", 12 * 10**9, 80),)))
    assert found.title == "WARNING: orgs/acme/budgets/b reached 80 %"
    assert dict(found.rows) == {
        "Budget": "orgs/acme/budgets/b",
        "Used": "400.000000001 USD of 500.00 USD (80 %)",
        "Left": "99.999999999 USD",
        "Held for running calls": "0.00 USD",
        "Window": "month, ends 2026-12-01 00:00 UTC",
        "Lasts about": "3.2 hours",
        "Costs most (1)": "claude: 12.00 USD in 80 calls",
    }


def test_nothing_that_is_named_becomes_a_header_or_markup() -> None:
    evil = "x\r\nBcc: thief@example.com\r\n\r\n<script>alert(1)</script>" + "y" * 500
    facts = CROSSING | {"budget_display_name": evil, "recommended_action": "<b>now</b>"}
    mail = letter(
        [(facts, NO_OUTLOOK)], sender="a@example.com", to="b@example.com", subscription="s", message_id="m", now=NOW
    )
    assert mail["Bcc"] is None
    assert len(mail["Subject"]) <= SUBJECT_CHARS_MAX
    assert mail.as_bytes().count(b"\nBcc") == 0
    html = mail.get_body(("html",))
    assert html is not None
    text = html.get_content()
    assert "<script>" not in text
    assert "&lt;b&gt;now" in text


def test_other_events_are_told_by_their_facts() -> None:
    facts = {
        "version": 1, "type": "recharge.cap_reached", "event": "RECHARGE", "subject": "orgs/acme", "key": "k",
        "raised_at": "2026-11-22T08:00:00Z", "wallet": "orgs/acme/wallets/main", "charge_nanos": "20000000000",
        "currency_code": "USD", "months": ["a", "b"], "nothing": None, "count": 3,
    }  # fmt: skip
    mail = letter(
        [(facts, NO_OUTLOOK), (CROSSING, NO_OUTLOOK)],
        sender="a@example.com", to="b@example.com", subscription="orgs/acme/subscriptions/s", message_id="m", now=NOW,
    )  # fmt: skip
    assert mail["Subject"] == "2 events: recharge: cap reached: orgs/acme, …"
    assert mail["Message-ID"] == "<m@example.com>"
    plain = mail.get_body(("plain",))
    assert plain is not None
    text = plain.get_content()
    for line in ("  Charge: 20.00 USD", '  Months: ["a", "b"]', "  Count: 3", "  Wallet: orgs/acme/wallets/main"):
        assert line in text.splitlines()
    assert "Nothing" not in text


def test_a_month_is_told_by_its_wallets_and_budgets() -> None:
    month = Month("acme", "Asia/Kathmandu", "2026-10", 0, 1)
    window = WindowSpec(WindowKind.MONTH, "Asia/Kathmandu")
    budget = Budget(
        1, "acme", "orgs/acme/teams/a", "b", "", Dimension.COST, "USD", 10 * USD, window, OnExceed.PAUSE, (), None,
        1, 1, 0, 0, 0,
    )  # fmt: skip
    report = Report(month, windows=3, exhausted=1, carrying=1, resuming=1)
    report.named = [Ended(budget, 20261001, 1, 10 * USD, 12 * USD, USD, resumed=True)]
    wallets = [WalletMonth("orgs/acme/wallets/main", "USD", 100 * USD, 50 * USD, 20 * USD, 0, 0, -5 * USD, 125 * USD)]
    told = paragraph(json.loads(payload(report, wallets, 9, 0)))
    assert told.title == "October 2026 has ended: orgs/acme (Asia/Kathmandu)"
    assert dict(told.rows) == {
        "orgs/acme/wallets/main": "100.00 USD at its start, 50.00 USD came in, 20.00 USD spent, "
        "-5.00 USD moved in, less what was moved out, 125.00 USD at its end",
        "More wallets": "8",
        "Budget windows that ended": "3: 1 used up, 1 left something to the next, 1 let a paused subject go on",
        "orgs/acme/teams/a/budgets/b": "12.00 USD of 10.00 USD used, 1.00 USD carried over, may spend again",
    }
