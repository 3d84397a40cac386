"""The command line against the real suite."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from embedded.postgres import Cluster
from pursestrings import Client
from tests.e2e.cli.conftest import Purse
from tests.e2e.conftest import CHECKOUT, PURSE, RunningSuite

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_status_lists_every_endpoint(purse: Purse) -> None:
    told = purse("status")
    assert told["ok"]
    names = {"gateway", "metering", "budget", "wallet", "postgres", "temporal", "temporal-ui", "twin"}
    assert names <= {endpoint["name"] for endpoint in told["endpoints"]}
    assert all(endpoint["address"] for endpoint in told["endpoints"])
    assert "NO" not in purse.text("status")


def test_pauses_alerts_subscriptions_and_settings(purse: Purse, org: str) -> None:
    paused = purse("pause", f"{org}/teams/support", "--reason", "it loops")
    assert ["it loops"] == [one["reason"] for one in purse("paused", f"{org}/teams/support/agents/bot")["pauses"]]
    assert [] == purse("paused", f"{org}/agents/other")["pauses"]
    ended = purse("resume", f"{org}/teams/support", "--note", "mended")["ended"]
    assert [(paused["name"], "mended")] == [(one["name"], one["end_note"]) for one in ended]
    assert "NOT_PAUSED" == purse("resume", org, code=2)["error"]["reason"]
    assert [] == purse("alerts", "list", org, "--state", "open", "--severity", "critical")["alerts"]
    name = f"{org}/subscriptions/ops"
    made = purse("subscriptions", "create", name, "--webhook", "https://example.com/x", "--event", "paused")
    assert made["secret"].startswith("whsec_")
    [listed] = purse("subscriptions", "list", org)["subscriptions"]
    assert (listed["events"], listed["secret"]) == (["PAUSED"], "")
    assert made["secret"] != purse("subscriptions", "rotate", name)["secret"]
    purse("subscriptions", "delete", name)
    purse("org", "set", org, "--resume", "window-end", "--threshold", "70", "--on-exceed", "pause")
    purse("org", "set", org, "--expired-hold", "charge-estimate", "--unrated-model", "block")
    settings = purse("org", "settings", org)
    assert ("WINDOW_END", [70], "PAUSE", "CHARGE_ESTIMATE", "BLOCK") == (
        settings["default_resume"], settings["default_thresholds_percent"], settings["default_on_exceed"],
        settings["expired_hold"], settings["unrated_model"],
    )  # fmt: skip
    budget = purse("budget", "create", f"{org}/budgets/b", "--limit", "5 USD")
    assert ("PAUSE", "WINDOW_END") == (budget["on_exceed"], budget["resume"])


def test_deliveries_are_listed_and_sent_again(purse: Purse, org: str) -> None:
    name = f"{org}/subscriptions/mail"
    purse("subscriptions", "create", name, "--email", "ops@example.com", "--payload", "warning")
    [tested] = purse("subscriptions", "test", name)["deliveries"]
    assert ("subscription.test", "MAIL", "PENDING") == (tested["type"], tested["channel"], tested["state"])
    # The suite has no mail server, so it is given up at once.
    deadline = time.monotonic() + 30
    while not (dead := purse("deliveries", "list", name, "--state", "dead")["deliveries"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (tested["name"], "no mail server is set (PURSE_SMTP_ADDRESS)") == (dead[0]["name"], dead[0]["last_error"])
    assert "mail-1" in purse.text("deliveries", "list", name)
    assert 1 == purse("deliveries", "redeliver", name, "--all-dead")["count"]
    purse("deliveries", "redeliver", name, "mail-1")
    assert "DELIVERY_UNKNOWN" == purse("deliveries", "redeliver", name, "mail-2", code=2)["error"]["reason"]
    purse("deliveries", "redeliver", name, code=2)
    assert purse("subscriptions", "disable", name)["disabled"]
    assert "SUBSCRIPTION_DISABLED" == purse("subscriptions", "test", name, code=2)["error"]["reason"]
    assert not purse("subscriptions", "enable", name)["disabled"]


def test_approvals(purse: Purse, suite: RunningSuite, org: str, tmp_path: Path) -> None:
    approver = tmp_path / "ann.token"
    minted = purse("token", "mint", org, "--role", "approver", "--holder", "ann@example.com")
    approver.write_text(minted["token"])
    bot = f"{org}/agents/bot"
    purse("approvals", "policy", org, "--above", "2 USD", "--held-max", "9 USD", "--times", "high=1m,2m,10m")
    assert "above 2.00 USD; held at most: 9.00 USD" in purse.text("approvals", "policy", bot)
    [above] = purse("approvals", "policy", bot)["in_force"]["approval_above"]
    assert 2_000_000_000 == above["amount_nanos"]
    why = ("--why", "the customer waits")
    spend = (bot, "--operation", "nightly run", "--cost", "5 USD", *why)
    asked = purse("approvals", "request", *spend, "--request-id", "one", "--urgency", "high", "--expires", "5m")
    assert ("APPROVAL_REQUIRED", "PENDING") == (asked["decision"]["outcome"], asked["approval"]["state"])
    name = asked["approval"]["name"]
    assert "nothing is held" in purse.text("approvals", "request", *spend)
    assert [name] == [one["name"] for one in purse("approvals", "list", org)["approvals"]]
    assert "nightly run, 5.00 USD" in purse.text("approvals", "list", org)
    own = purse("approvals", "decide", name, "--approve", "--reason", "as planned", code=2)
    assert "OWN_REQUEST" == own["error"]["reason"]
    said = ("--token-file", str(approver), "approvals", "decide", name, "--deny", "--reason", "too dear")
    assert "is denied by ann@example.com: too dear" in purse.text(*said)
    assert "APPROVAL_DECIDED" == purse(*said[:-1], "again", code=2)["error"]["reason"]
    assert "ann@example.com" in purse.text("approvals", "show", name)
    again = purse("approvals", "request", *spend, "--request-id", "two")["approval"]["name"]
    assert "canceled" in purse.text("approvals", "cancel", again, "--reason", "not needed")
    budget = purse("budget", "create", f"{org}/budgets/b", "--limit", "5 USD")["name"]
    raised = purse("approvals", "request", budget, "--amount", "3 USD", "--until", "2999-01-01", *why, code=2)
    assert "end_time" in raised["error"]["message"]
    more = purse("approvals", "request", f"{org}/wallets/main", "--count", "2", *why)
    assert "2 more recharges" in purse.text("approvals", "show", more["approval"]["name"])
    assert 3 == len(purse("approvals", "list", org, "--state", "all")["approvals"])


def test_budgets(purse: Purse, org: str) -> None:
    name = f"{org}/teams/support/budgets/daily"
    made = purse(
        *("budget", "create", name, "--limit", "12.50 USD", "--window", "day", "--time-zone", "Europe/Berlin"),
        *("--on-exceed", "warn", "--threshold", "70", "--model", "gpt-4*", "--label", "env=prod"),
    )
    assert (12_500_000_000, "USD", "WARN") == (made["limit_amount"], made["currency_code"], made["on_exceed"])
    assert ("DAY", "Europe/Berlin") == (made["window"]["kind"], made["window"]["time_zone"])
    assert ([70], ["gpt-4*"]) == (made["thresholds_percent"], made["selector"]["models"])
    assert made == purse("budget", "get", name)
    assert [name] == [budget["name"] for budget in purse("budget", "list", org)["budgets"]]
    assert [] == purse("budget", "list", org, "--no-descendants")["budgets"]
    [status] = purse("budget", "status", org)["statuses"]
    assert (0, 12_500_000_000) == (status["use"]["spent_amount"], status["use"]["remaining_amount"])
    changed = purse("budget", "update", name, "--limit", "20", "--on-exceed", "block")
    assert (20_000_000_000, "BLOCK", [70]) == (
        changed["limit_amount"],
        changed["on_exceed"],
        changed["thresholds_percent"],
    )
    stale = purse("budget", "update", name, "--limit", "30", "--etag", made["etag"], code=2)
    assert stale["error"]["reason"]
    assert "20.00 USD" in purse.text("budget", "status", name)
    assert "20.00 USD" in purse.text("budget", "get", name)
    assert "daily" in purse.text("budget", "list", org)
    assert name == purse("budget", "delete", name)["deleted"]
    gone = purse("budget", "get", name, code=2)
    assert "does not exist" in gone["error"]["message"]


def test_reservations(purse: Purse, suite: RunningSuite, org: str) -> None:
    bot = f"{org}/agents/bot"
    with Client(**suite.client()) as client, client.reserve(bot, cost="2 USD", ttl_s=60) as call:
        name = call.reservation
        [listed] = purse("reservations", "list", org, "--state", "open", "--unsettled")["reservations"]
        assert (name, "OPEN", 2_000_000_000) == (listed["name"], listed["state"], listed["cost"]["amount_nanos"])
        assert [] == purse("reservations", "list", org, "--no-descendants")["reservations"]
        assert listed == purse("reservations", "show", name)
        later = purse("reservations", "extend", name, "--for", "10m", "--request-id", "x")
        assert later == purse("reservations", "extend", name, "--for", "10m", "--request-id", "x")
        assert later["expire_time"] > listed["expire_time"]
        assert "2.00 USD" in purse.text("reservations", "list", org)
        assert "open" in purse.text("reservations", "show", name)
        assert "RELEASED" == purse("reservations", "release", name)["state"]
    assert "released" in purse.text("reservations", "release", name)
    closed = purse("reservations", "extend", name, code=2)
    assert "RESERVATION_CLOSED" == closed["error"]["reason"]
    assert "is not known" in purse.text("reservations", "list", org, "--state", "lost", code=2)


def test_what_moves_limits(purse: Purse, org: str) -> None:
    name, child = f"{org}/budgets/main", f"{org}/teams/a/budgets/part"
    made = purse(
        *("budget", "create", name, "--limit", "10 USD", "--window", "week", "--week-start", "3"),
        *("--rollover", "2 USD", "--over-allocation", "block"),
    )
    assert (2_000_000_000, 3) == (made["rollover"]["cap_amount"], made["window"]["week_start_day"])
    done = purse("budget", "allocate", name, "--to", f"{child}=4 USD", "--request-id", "one")
    assert (4_000_000_000, name) == (done["allocated_amount"], done["allocated"][0]["allocated_from"])
    assert done == purse("budget", "allocate", name, "--to", f"{child}=4 USD", "--request-id", "one")
    dry = purse.text("budget", "allocate", name, "--to", f"{child}=5 USD", "--dry-run")
    assert "would have allocated 5.00 USD of 10.00 USD" in dry
    over = purse("budget", "allocate", name, "--to", f"{child}=11 USD", code=2)
    assert "OVER_ALLOCATED" == over["error"]["reason"]
    raised = purse(
        *("budget", "override", name, "--amount", "3 USD", "--for", "2h", "--reason", "launch", "--by", "ada@acme")
    )
    assert (3_000_000_000, True) == (raised["amount"], raised["active"])
    assert [raised["name"]] == [one["name"] for one in purse("budget", "overrides", name)["overrides"]]
    shown = purse("budget", "status", org)
    assert [13_000_000_000, 4_000_000_000] == [one["use"]["limit_amount"] for one in shown["statuses"]]
    assert (2, 1) == (shown["totals"][0]["budgets"], shown["totals"][0]["counted_budgets"])
    tree = purse.text("budget", "status", org)
    assert "  teams/a part" in tree
    assert "override 3.00 USD, allocated 4.00 USD" in tree
    assert "1 at the top have spent 0.00 USD" in tree
    assert "ada@acme" in purse.text("budget", "overrides", name)
    off = purse("budget", "update", name, "--rollover", "none")
    assert "rollover" not in off
    for wrong in (
        ["override", name, "--amount", "1 USD", "--reason", "r", "--by", "b"],
        ["override", name, "--amount", "1 EUR", "--reason", "r", "--by", "b", "--for", "1h"],
        ["allocate", name, "--to", child],
    ):
        purse("budget", *wrong, code=2)


def test_budgets_that_count(purse: Purse, org: str) -> None:
    made = purse("budget", "create", f"{org}/budgets/t", "--limit", "1_000", "--dimension", "input-tokens")
    assert ("INPUT_TOKENS", 1000) == (made["dimension"], made["limit_amount"])
    assert "1,000 input tokens" in purse.text("budget", "list", org)
    zone = purse("budget", "create", f"{org}/budgets/z", "--limit", "1", "--time-zone", "Mars/Olympus", code=2)
    assert "UNKNOWN_TIME_ZONE" == zone["error"]["reason"]


def test_money_moves_and_is_accounted_for(purse: Purse, org: str, tmp_path: Path) -> None:
    name, child = f"{org}/wallets/main", f"{org}/teams/a/wallets/team"
    purse("wallet", "create", name)
    purse("wallet", "create", child)
    purse("wallet", "grant", name, "25")
    moved = purse("wallet", "transfer", name, child, "10")
    assert [child] == [grant["wallet"] for grant in moved["grants"]]
    assert 0 == purse("wallet", "balance", name, "--as-of", "2020-01-01").get("balance_nanos", 0)
    assert 10_000_000_000 == purse("wallet", "statement", name)["moved_out_nanos"]
    page = tmp_path / "statement.html"
    assert f"wrote {page}" in purse.text("wallet", "statement", name, "--format", "html", "--output", str(page))
    assert "15.00 USD" in page.read_text()
    assert "--format csv" in purse.text("wallet", "statement", name, "--output", str(page), code=2)
    assert "all agree" in purse.text("wallet", "reconcile", org)
    assert "nothing to look at" in purse.text("wallet", "concerns", org)
    assert "0 windows ended" in purse.text("budget", "month", org)
    assert purse("budget", "month", org, "2026-01", "--zone", "Asia/Kathmandu")["month"]["month"] == "2026-01"
    assert {} == {k: v for k, v in purse("wallet", "refunds", name).items() if v}
    assert (
        "CHARGE_UNKNOWN"
        == (purse("wallet", "refund", f"{org}/recharges/none", "--reason", "x", code=2)["error"]["reason"])
    )
    purse("wallet", "close", child, "--reason", "merged")
    assert 2 == len(purse("wallet", "list", org)["wallets"])


def test_wallets(purse: Purse, org: str) -> None:
    name = f"{org}/wallets/main"
    assert "USD" == purse("wallet", "create", name)["currency_code"]
    granted = purse("wallet", "grant", name, "25", "--request-id", "g-1")
    assert granted == purse("wallet", "grant", name, "25", "--request-id", "g-1")
    purse("wallet", "grant", name, "1.50", "--promotional", "--expires", "2099-01-01")
    balance = purse("wallet", "balance", name)
    assert (26_500_000_000, 26_500_000_000) == (balance["balance_nanos"], balance["available_nanos"])
    assert ["PROMOTIONAL", "PAID"] == [grant["kind"] for grant in balance["grants"]]
    assert "26.50 USD" in purse.text("wallet", "balance", name)
    assert "no recharge policy" in purse.text("wallet", "policy", name)
    assert "pm_card_visa" not in purse.text("wallet", "list", org)
    purse("wallet", "card", name, "pm_card_visa")
    assert [name] == [wallet["name"] for wallet in purse("wallet", "list", org)["wallets"]]
    missing = purse("wallet", "policy", name, "--amount", "5", code=2)
    assert "--threshold or --hours-ahead, --max-count" in missing["error"]["message"]
    policy = purse("wallet", "policy", name, "--threshold", "2", "--amount", "5", "--max-count", "3")["policy"]
    assert (True, 3, 5_000_000_000) == (
        policy["enabled"],
        policy["max_count_per_month"],
        policy["amount"]["amount_nanos"],
    )
    changed = purse("wallet", "policy", name, "--max-amount", "9", "--cooldown", "15m", "--disable")["policy"]
    assert (False, 3, 900.0) == (changed["enabled"], changed["max_count_per_month"], changed["cooldown"])
    assert "at most" in purse.text("wallet", "policy", name)
    ahead = purse("wallet", "policy", name, "--hours-ahead", "48", "--floor", "1", "--target", "8")["policy"]
    assert ("PREDICTIVE", 48) == (ahead["mode"], ahead["predictive"]["predict_hours_ahead"])
    assert "what is missing to 8.00 USD" in purse.text("wallet", "policy", name, "--pause", "an audit")
    assert "an audit (" in purse.text("wallet", "policy", name)
    assert "below 2.00 USD" in purse.text("wallet", "policy", name, "--threshold", "2", "--resume")
    assert [] == purse("wallet", "recharges", name)["recharges"]
    assert "FROZEN" == purse("wallet", "freeze", name, "--reason", "a look")["state"]
    assert "OPEN" == purse("wallet", "open", name)["state"]
    assert {"grant"} == {one["kind"] for one in purse("wallet", "transactions", name)["transfers"]}
    assert "grant" in purse.text("wallet", "transactions", name)
    assert purse("wallet", "trial-balance", org)["balanced"]
    assert "balanced" in purse.text("wallet", "trial-balance")


def test_more_than_the_caps_allow(purse: Purse, org: str) -> None:
    name = f"{org}/wallets/main"
    purse("wallet", "create", name)
    purse("wallet", "card", name, "pm_card_visa")
    assert [] == purse("wallet", "reviews", "list", org)["reviews"]
    purse("wallet", "policy", name, "--threshold", "50", "--amount", "5", "--max-count", "1", "--max-amount", "9")
    deadline = time.monotonic() + 60
    while not (found := purse("wallet", "reviews", "list", org)["reviews"]):
        assert time.monotonic() < deadline, "the cap stopped no second recharge"
    review = found[0]["name"]
    told = purse.text("wallet", "reviews", "show", review)
    assert "5.00 USD by the count cap" in told
    assert "1 of 1 recharges, 5.00 USD of 9.00 USD" in told
    assert "--keep-paused" in purse.text("wallet", "reviews", "decide", review, "--reason", "?", code=2)
    kept = purse("wallet", "reviews", "decide", review, "--reason", "enough", "--keep-paused")
    assert ("KEPT_PAUSED", "enough") == (kept["state"], kept["reason"])
    again = purse("wallet", "reviews", "decide", review, "--reason", "more", "--count", "1", code=2)
    assert "REVIEW_ENDED" == again["error"]["reason"]
    more = purse("wallet", "allow-recharges", name, "--count", "1", "--amount", "1", "--reason", "a launch")
    assert (1, 1_000_000_000) == (more["extra"]["extra_count"], more["extra"]["extra_amount"]["amount_nanos"])
    assert "of 1 + 1 recharges" in purse.text("wallet", "policy", name)
    assert "enough" in purse.text("wallet", "reviews", "list", org, "--all")


def test_payments_by_a_person(purse: Purse, org: str) -> None:
    name = f"{org}/wallets/main"
    purse("wallet", "create", name)
    asked = purse("wallet", "top-up", name, "12", "--request-id", "t-1")
    assert asked["url"] in purse.text("wallet", "top-up", name, "12", "--request-id", "t-1")
    paid = httpx.post(asked["url"], data={"number": "4242424242424242", "expiry": "12/49"})
    assert paid.headers["location"].endswith("/payments/done")
    assert "Thank you" in httpx.get(paid.headers["location"]).text
    assert "SUCCEEDED" == purse("wallet", "cancel-top-up", asked["name"])["state"]
    assert "12.00 USD" in purse.text("wallet", "top-ups", name)
    assert 12_000_000_000 == purse("wallet", "balance", name)["balance_nanos"]
    assert "/c/pay/cs_test_" in purse.text("wallet", "card", name)
    assert "NO_PAYMENT_METHOD" == purse("wallet", "top-up", name, "5", "--charge", code=2)["error"]["reason"]
    purse("wallet", "card", name, "pm_card_authenticationRequired")
    waits = purse("wallet", "top-up", name, "5", "--charge")
    assert "authentication_required" == waits["decline_code"]
    assert "/_twin/authenticate/" in purse.text("wallet", "authenticate", waits["name"])
    purse("wallet", "card", name, "pm_card_chargeCustomerFail")
    assert "declined" in purse.text("wallet", "top-up", name, "5", "--charge", code=1)
    method = next(one for one in purse("wallet", "cards", name)["payment_methods"] if one["is_default"])
    assert "0341" in purse.text("wallet", "cards", name)
    assert "none" in purse.text("wallet", "detach", name, method["payment_method"])
    assert [] == purse("wallet", "events")["events"]
    assert 0 == purse("wallet", "events", "--requeue")["requeued"]
    assert "lost" in purse.text("wallet", "events", "--state", "lost", code=2)


def test_usage(purse: Purse, org: str) -> None:
    bot = f"{org}/agents/bot"
    arguments = ("--model", "gpt-4o-mini", "--input", "1000", "--output", "100")
    assert 210_000 == purse("usage", "estimate", bot, *arguments)["cost"]["amount_nanos"]
    assert "0.00021 USD for openai/gpt-4o-mini" in purse.text("usage", "estimate", bot, *arguments)
    recorded = purse("usage", "record", bot, *arguments, "--id", "1")
    assert (False, 210_000) == (recorded["duplicate"], recorded["cost"]["amount_nanos"])
    assert purse("usage", "record", bot, *arguments, "--id", "1")["duplicate"]
    assert "recorded before" in purse.text("usage", "record", bot, *arguments, "--id", "1")
    today = purse("usage", "today", org)["today"]
    assert (1000, 1) == (today["tokens"]["input_tokens"], today["requests"])
    assert "0.00021 USD" in purse.text("usage", "today", org)
    [call] = purse("usage", "runs", org, "--calls")["rows"]
    assert ("1", 1100, False) == (call["id"], call["total_tokens"], call["unusual"])
    assert "0.00021 USD" in purse.text("usage", "runs", org, "--calls", "--sort", "cost")
    assert [] == purse("usage", "runs", org)["rows"]
    [rate] = purse("usage", "burn", org)["rates"]
    assert 210_000 == rate["last_hour_nanos"]
    assert "0.00021 USD" in purse.text("usage", "burn", org)
    assert "nothing was spent" in purse.text("usage", "burn", f"{org}/agents/idle")
    told = purse("usage", "forecast", org, "--amount", "5")
    assert ("USD", 24) == (told["currency_code"], told["horizon_hours"])
    assert "used up" in purse.text("usage", "forecast", org, "--amount", "5")
    assert 24 <= len(
        purse("usage", "query", org, "--by", "hour", "--zeros", "--from", "2026-01-01", "--to", "2026-01-02")["groups"]
    )
    [group] = purse("usage", "query", org, "--by", "subject,model")["groups"]
    assert [bot, "openai/gpt-4o-mini"] == group["keys"]
    assert "100.0 %" in purse.text("usage", "query", org, "--by", "day")
    assert [] == purse("usage", "parked", "--org", org)["usage"]
    assert "last error" in purse.text("usage", "parked")
    assert "0 events are sent again" in purse.text("usage", "parked", "--org", org, "--requeue")
    assert "MALFORMED_SUBJECT" == purse("usage", "parked", "--org", "acme", code=2)["error"]["reason"]
    unknown = purse("usage", "estimate", bot, "--model", "no-such-model", code=2)
    assert "UNKNOWN_MODEL" == unknown["error"]["reason"]


def test_a_token_opens_what_it_names(purse: Purse, suite: RunningSuite, org: str, tmp_path: Path) -> None:
    minted = purse("token", "mint", f"{org}/teams/a", "--role", "auditor", "--ttl", "1h")
    token = tmp_path / "token"
    token.write_text(minted["token"])
    assert [] == purse("--token-file", str(token), "budget", "list", f"{org}/teams/a")["budgets"]
    refused = purse("--token-file", str(token), "budget", "list", org, code=4)
    assert org in refused["error"]["message"]
    token.write_text("nonsense")
    assert "--token-file" in purse("--token-file", str(token), "budget", "list", org, code=4)["error"]["hint"]


def write_log(path: Path, rows: int) -> Path:
    lines = [f"2023-11-16 18:{n // 60 % 60:02}:{n % 60:02}.1234567,{100 + n % 900},{n % 50}\n" for n in range(rows)]
    lines.insert(5, "not a time,1,2\n")
    path.write_text(HEADER + "".join(lines))
    return path


def test_a_replay_goes_the_whole_way(purse: Purse, org: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 400)
    told = purse("replay", str(log), "--org", org, "--subjects", "7", "--loop", "2")
    assert (800, 800, 0, 0) == (told["calls"], told["allowed"], told["denied"], told["failed"])
    assert (1, [{"line": 7, "problem": "TIMESTAMP 'not a time' is no time"}]) == (
        told["bad_rows"],
        told["bad_row_lines"],
    )
    assert told["drained"]
    assert told["calls_per_s"] > 0
    totals = purse("usage", "query", org, "--by", "subject")
    assert 7 == len(totals["groups"])
    assert (800, told["cost_nanos"]) == (totals["totals"]["requests"], totals["totals"]["costs"][0]["amount_nanos"])
    balance = purse("wallet", "balance", f"{org}/wallets/replay")
    assert told["cost_nanos"] == balance["spent_nanos"]
    assert 1 <= told["recharges"] == len(purse("wallet", "recharges", f"{org}/wallets/replay")["recharges"])
    audit = purse("audit", "--org", org)
    assert audit["ok"], audit
    assert {"I1", "I4", "I5", "I6", "I7", "I8", "I9"} <= {check["name"].split(".")[1] for check in audit["checks"]}


def test_a_replay_for_people(purse: Purse, org: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 20)
    shown = purse.text("replay", str(log), "--org", org, "--limit", "10", "--speed", "1000x")
    assert "line 7: TIMESTAMP 'not a time' is no time; left out" in shown
    assert re.search(r"allowed +10\n", shown)
    assert "drained          yes" in shown


def test_a_replay_that_is_denied_says_why(purse: Purse, org: str, tmp_path: Path) -> None:
    purse("budget", "create", f"{org}/budgets/few", "--limit", "5", "--dimension", "requests")
    log = write_log(tmp_path / "log.csv", 30)
    told = purse("replay", str(log), "--subjects", f"{org}/agents/{{a,b}}", "--no-setup")
    assert (30, 5, 25, {"BUDGET_EXCEEDED": 25}) == (
        told["calls"],
        told["allowed"],
        told["denied"],
        told["denied_reasons"],
    )


def test_a_replay_of_a_model_without_a_price_is_refused(purse: Purse, org: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 3)
    told = purse("replay", str(log), "--org", org, "--model", "no-such-model", code=2)
    assert "UNKNOWN_MODEL" == told["error"]["reason"]
    assert [] == purse("wallet", "list", org)["wallets"]


async def tamper(suite: RunningSuite, statement: str, org: str) -> None:
    port = int(suite.state["endpoints"]["postgres"]["address"].rpartition(":")[2])
    connection = await asyncpg.connect(Cluster(suite.data / "postgres", port).dsn("metering", "owner"))
    try:
        assert "UPDATE 1" == await connection.execute(statement, org.removeprefix("orgs/"))
    finally:
        await connection.close()


async def test_an_audit_finds_a_nano_that_is_missing(suite: RunningSuite, org: str) -> None:
    def purse(*arguments: str) -> tuple[int, Any]:
        done = subprocess.run(
            [PURSE, "--data", suite.data, *arguments, "--json"],
            check=False,
            capture_output=True,
            cwd=CHECKOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, json.loads(done.stdout)

    recorded = ("usage", "record", org, "--model", "gpt-4o-mini", "--input", "1000", "--id", "1")
    assert 0 == purse(*recorded)[0]
    for sign in ("+", "-"):
        await tamper(suite, f"UPDATE usage_events SET cost_nanos = cost_nanos {sign} 1 WHERE org = $1", org)  # noqa: S608
        code, audit = purse("audit", "--deep", "--org", org)
        wrong = {check["name"] for check in audit["checks"] if not check["ok"]}
        if sign == "+":
            assert (1, False) == (code, audit["ok"])
            assert {"suite.I6.use_arrives", "metering.I2.rollups_equal_events"} <= wrong
            assert "metering.deep.I2.rollups_equal_events" in wrong
        else:
            assert (0, set()) == (code, wrong)


def test_the_demo_plays_every_act_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [PURSE, "demo"],
        check=False,
        capture_output=True,
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
        timeout=150,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ok"]
    assert (True, True, 2, True) == (told["warned"], told["blocked"], told["recharges"], told["capped"])
    assert told["audit_ok"]
    assert "Act 4" in done.stdout
    assert [] == list(tmp_path.iterdir())
