"""The two shapes: what the schemas say, and amounts that no float has touched."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from services.budget.domain.alerts import AlertCause
from services.budget.domain.budgets import Dimension
from services.budget.domain.subscriptions import EventKind
from services.kit.windows import WindowKind
from tests.support.events import CROSSING
from workflows.notify import payloads
from workflows.notify.payloads import Driver, Outlook, amount, duration, event_shape, warning_shape

SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"
OUTLOOK = Outlook(11_520.4, (Driver("anthropic", "claude", 12_000_000_000, 80), Driver("openai", "gpt", 1, 60)))
RECHARGE: dict[str, Any] = {
    "version": 1, "event": "RECHARGE", "type": "recharge.cap_reached", "key": "k", "subject": "orgs/acme",
    "raised_at": "2026-11-22T08:00:00Z", "charge_nanos": "20000000000", "currency_code": "USD", "count": 3,
    "balance_nanos": -1, "max_count": None, "frozen": True, "agent_id": "not the subject's",
}  # fmt: skip


def valid(name: str, text: str) -> Any:
    """What a receiver parses, once the schema agrees."""
    schema = json.loads((SCHEMAS / f"{name}.v1.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(text))
    return json.loads(text, parse_float=Decimal)


def test_a_reached_threshold_as_an_event() -> None:
    found = valid("event", event_shape(CROSSING))
    assert (found["event"], found["type"], found["budget_id"]) == (
        "budget.threshold_reached", "budget.threshold_reached", "orgs/acme/budgets/b",
    )  # fmt: skip
    data = found["data"]
    assert (data["used_amount"], data["used_amount_nanos"]) == (Decimal("400.000000001"), "400000000001")
    assert (data["limit_amount"], data["remaining_amount"]) == (Decimal("500.00"), Decimal("99.999999999"))
    assert (data["threshold_percent"], data["period"], data["period_end"]) == (80, "monthly", "2026-12-01T00:00:00Z")
    assert '"limit_amount":500.00,' in event_shape(CROSSING)


def test_a_reached_threshold_as_a_warning() -> None:
    found = valid("warning", warning_shape(CROSSING, OUTLOOK))
    assert (found["alert_type"], found["agent_id"], found["limit_type"]) == ("budget_warning", "bot", "monthly")
    assert (found["percent_used"], found["amount_spent"]) == (80, Decimal("400.000000001"))
    assert (found["estimated_time_until_depleted"], found["depleted_in_seconds"]) == ("3.2 hours", 11_520)
    assert [(one["model"], one["cost"], one["calls"]) for one in found["top_cost_drivers"]] == [
        ("claude", Decimal("12.00"), 80), ("gpt", Decimal("0.000000001"), 60),
    ]  # fmt: skip
    assert valid("warning", warning_shape(CROSSING | {"severity": "EXCEEDED"}))["alert_type"] == "budget_exceeded"
    without = valid("warning", warning_shape(CROSSING))
    assert not {"estimated_time_until_depleted", "top_cost_drivers"} & set(without)


def test_counts_are_whole_numbers_without_nanos() -> None:
    facts = CROSSING | {"limit_type": "TOKENS", "currency": "", "limit": "500", "spent": "400", "remaining": "100"}
    data = valid("event", event_shape(facts))["data"]
    assert (data["used_amount"], data["limit_amount"], type(data["used_amount"])) == (400, 500, int)
    assert "used_amount_nanos" not in data
    assert valid("warning", warning_shape(facts))["amount_spent"] == 400


def test_other_events_keep_their_facts_and_their_own_names() -> None:
    data = valid("event", event_shape(RECHARGE))["data"]
    assert (data["charge_nanos"], data["charge"], data["balance_nanos"], data["balance"]) == (
        "20000000000", Decimal("20.00"), "-1", Decimal("-0.000000001"),
    )  # fmt: skip
    assert (data["frozen"], data["max_count"]) == (True, None)
    flat = valid("warning", warning_shape(RECHARGE))
    assert (flat["alert_type"], flat["agent_id"], flat["count"]) == ("recharge_cap_reached", "acme", 3)


@pytest.mark.parametrize("name", ["event", "warning"])
def test_the_schemas_know_every_word_that_budget_uses(name: str) -> None:
    text = (SCHEMAS / f"{name}.v1.json").read_text()
    words = [*Dimension, *AlertCause, *EventKind] if name == "event" else [*Dimension]
    assert [one.name for one in words if f'"{one.name}"' not in text] == []
    assert [kind for kind in WindowKind if f'"{payloads.period(kind.value)}"' not in text] == []


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_an_amount_is_exact(nanos: int) -> None:
    text = str(amount(nanos))
    assert Decimal(text) * 10**9 == nanos
    assert len(text.partition(".")[2]) >= 2
    assert json.loads(payloads.write({"a": [amount(nanos)]}), parse_float=Decimal) == {"a": [Decimal(text)]}


def test_durations_are_hours_up_to_two_days() -> None:
    assert [duration(s) for s in (0, 59, 11_520, 172_799, 172_800, 10**6)] == [
        "0.0 hours", "0.0 hours", "3.2 hours", "48.0 hours", "2.0 days", "11.6 days",
    ]  # fmt: skip
