"""Plans, selectors, wallets, thresholds and definitions, without a database."""

import json
from datetime import UTC, datetime

import pytest

from services.budget.domain import alerts, policy
from services.budget.domain.budgets import (
    AMOUNT_MAX,
    FOREVER_US,
    LIFETIME_NUMBER,
    Budget,
    Dimension,
    OnExceed,
    Selector,
    key_number,
    key_text,
)
from services.budget.domain.model import Call, Counter, WalletState
from services.budget.domain.plan import Directory, Policy, WalletRef, matches
from services.budget.domain.policy import Draft
from services.kit.errors import PurseError
from services.kit.subject import parse
from services.kit.windows import LIFETIME_KEY, WindowKind, WindowSpec, unix_us

BOT = parse("orgs/acme/teams/support/agents/bot")
NOW_US = unix_us(datetime(2026, 11, 22, 12, tzinfo=UTC))


def budget(no: int, subject: str = "orgs/acme", **fields: object) -> Budget:
    values: dict[str, object] = {
        "org": "acme",
        "subject": subject,
        "id": f"b{no}",
        "display_name": "",
        "dimension": Dimension.COST,
        "currency": "USD",
        "limit": 100,
        "window": WindowSpec(WindowKind.DAY),
        "on_exceed": OnExceed.BLOCK,
        "thresholds": (50, 100),
        "selector": None,
        "generation": 1,
        "revision": 1,
        "created_us": 0,
        "updated_us": 0,
        "from_us": 0,
    }
    return Budget(no, **(values | fields))  # type: ignore[arg-type]


def numbers(plan: tuple[Budget, ...]) -> list[int]:
    return [one.no for one in plan]


def test_a_plan_has_every_ancestor_and_no_one_else() -> None:
    rules = Policy(
        "acme",
        1,
        [
            budget(3, BOT.name),
            budget(1),
            budget(2, "orgs/acme/teams/support"),
            budget(4, "orgs/acme/teams/other"),
            budget(5, "orgs/acme/teams/support/agents/bot-2"),
        ],
    )
    assert numbers(rules.plan(BOT, "USD", Call(), actual=False)) == [1, 2, 3]
    assert numbers(rules.plan(parse("orgs/acme"), "USD", Call(), actual=False)) == [1]


def test_cost_budgets_count_their_own_currency_and_unknown_costs_meet_all() -> None:
    rules = Policy(
        "acme", 1, [budget(1), budget(2, currency="EUR"), budget(3, dimension=Dimension.TOKENS, currency="")]
    )
    assert numbers(rules.plan(BOT, "USD", Call(), actual=False)) == [1, 3]
    assert numbers(rules.plan(BOT, "", Call(), actual=False)) == [1, 2, 3]
    assert numbers(rules.plan(BOT, "", Call(), actual=True)) == [3]


def test_plans_with_selectors_are_remembered_by_call() -> None:
    rules = Policy("acme", 1, [budget(1), budget(2, selector=Selector(models=("gpt-*",)))])
    for _ in range(2):
        assert numbers(rules.plan(BOT, "USD", Call(model="gpt-5"), actual=True)) == [1, 2]
        assert numbers(rules.plan(BOT, "USD", Call(model="claude"), actual=True)) == [1]


@pytest.mark.parametrize(
    "selector",
    [
        Selector(providers=("openai",)),
        Selector(models=("gpt-*",)),
        Selector(operations=("chat",)),
        Selector(labels=(("project", "x"),)),
    ],
)
def test_what_is_not_given_matches_an_estimate_and_no_actual_call(selector: Selector) -> None:
    assert matches(selector, Call(), actual=False)
    assert not matches(selector, Call(), actual=True)


def wallet(name: str, currency: str = "USD", state: WalletState = WalletState.OPEN) -> WalletRef:
    return WalletRef(name, name.rsplit("/wallets/", 1)[0], currency, state)


def test_the_nearest_wallet_that_is_not_closed_pays() -> None:
    org, team = wallet("orgs/acme/wallets/a"), wallet("orgs/acme/teams/support/wallets/t")
    assert Directory("acme", 1, (org, team)).nearest(BOT, "USD") == team
    frozen = wallet(team.name, state=WalletState.FROZEN)
    assert Directory("acme", 1, (org, frozen)).nearest(BOT, "USD") == frozen
    closed = wallet(team.name, state=WalletState.CLOSED)
    assert Directory("acme", 1, (org, closed)).nearest(BOT, "USD") == org
    assert Directory("acme", 1, (org,)).nearest(BOT, "EUR") is None
    assert Directory("acme", 1, (wallet("orgs/acme/wallets/b"), org)).nearest(BOT, "") == org


@pytest.mark.parametrize(
    ("limit", "threshold", "spent", "expected"),
    [
        (100, 50, 49, False),
        (100, 50, 50, True),
        (3, 50, 1, False),
        (3, 50, 2, True),
        (0, 50, 0, False),
        (0, 1000, 1, True),
        (AMOUNT_MAX, 100, AMOUNT_MAX - 1, False),
        (100, 50, -70, False),
    ],
)
def test_a_threshold_is_reached_exactly(limit: int, threshold: int, spent: int, expected: bool) -> None:
    assert alerts.reached(limit, threshold, spent) is expected


def test_a_correction_later_in_the_batch_does_not_hide_a_crossing() -> None:
    counter = Counter("acme", 1, 20261122)
    counter.define(budget(1))
    counter.load(40, 0)
    counter.spent, counter.peak = 10, 120
    assert [(found.threshold, found.spent) for found in alerts.crossings(counter)] == [(50, 120), (100, 120)]
    counter.peak = counter.spent_before
    assert alerts.crossings(counter) == []


def test_an_alert_says_what_happened() -> None:
    crossing = alerts.Crossing(
        budget(1, on_exceed=OnExceed.WARN, generation=3), 20261122, 95, 96, NOW_US - 5, NOW_US, alerts.AlertCause.USE
    )
    facts = json.loads(alerts.payload(crossing, 5))
    assert facts["version"] == 1
    assert facts["alert"] == "orgs/acme/alerts/b1.20261122.95.3"
    assert (facts["severity"], facts["event"], facts["spent"], facts["remaining"], facts["on_exceed"]) == (
        "CRITICAL",
        "CRITICAL",
        "96",
        "4",
        "WARN",
    )
    assert (facts["percent"], facts["threshold_percent"], facts["cause"]) == (96, 95, "USE")
    assert (facts["period"], facts["window"], facts["window_end"]) == ("DAY", "2026-11-22", "2026-11-22T12:00:00Z")


@pytest.mark.parametrize("key", ["2026-11-01", "1900-01-01", LIFETIME_KEY])
def test_window_keys_are_numbers_and_back(key: str) -> None:
    assert key_text(key_number(key)) == key
    assert key_number(LIFETIME_KEY) == LIFETIME_NUMBER


def draft(**fields: object) -> Draft:
    values: dict[str, object] = {
        "display_name": "",
        "dimension": 1,
        "currency": "USD",
        "limit": 100,
        "kind": 1,
        "zone": "",
        "week_start": 0,
        "anchor_day": 0,
        "on_exceed": 0,
        "thresholds": (),
        "selector": None,
    }
    return Draft(**(values | fields))  # type: ignore[arg-type]


def test_what_is_not_said_has_its_default() -> None:
    made = policy.define(draft(), "acme", "orgs/acme", "b", NOW_US)
    assert (made.on_exceed, made.thresholds, made.window) == (
        OnExceed.BLOCK,
        (50, 80, 95, 100),
        WindowSpec(WindowKind.DAY, "UTC"),
    )
    assert (made.from_us, made.until_us) == (NOW_US, FOREVER_US)


def test_the_generation_grows_with_the_limit_only() -> None:
    rows = (budget(1),)
    assert policy.change(rows, draft(limit=101), frozenset({"limit_amount"}), NOW_US).in_force.generation == 2
    assert policy.change(rows, draft(limit=99), frozenset({"limit_amount"}), NOW_US).in_force.generation == 1
    assert policy.change(rows, draft(display_name="x"), frozenset({"display_name"}), NOW_US).in_force.generation == 1


def test_another_window_begins_at_the_edge_of_the_running_one() -> None:
    change = policy.change((budget(1),), draft(kind=3), frozenset({"window"}), NOW_US)
    edge_us = unix_us(datetime(2026, 11, 23, tzinfo=UTC))
    assert change.begun is not None
    assert (change.rows[0].until_us, change.begun.from_us) == (edge_us, edge_us)
    assert change.in_force is change.rows[0]
    assert change.begun.window == WindowSpec(WindowKind.MONTH)
    # While that one is to come, the next change replaces it.
    rows = (change.rows[0], change.begun)
    again = policy.change(rows, draft(kind=2), frozenset({"window"}), NOW_US)
    assert again.begun is None
    assert again.rows[1].window == WindowSpec(WindowKind.WEEK)
    assert policy.in_force(again.rows, edge_us) is again.rows[1]


def test_a_lifetime_has_no_edge() -> None:
    rows = (budget(1, window=WindowSpec(WindowKind.LIFETIME)),)
    with pytest.raises(PurseError) as caught:
        policy.change(rows, draft(), frozenset({"window"}), NOW_US)
    assert (caught.value.reason, caught.value.field) == ("WINDOW_FIXED", "budget.window")


def test_organisations_have_a_limit_of_budgets() -> None:
    assert policy.refuse_more(policy.BUDGETS_MAX - 1) is None
    assert policy.refuse_more(policy.BUDGETS_MAX) is not None
