"""Limits in force, selectors, allocations and totals, without a database."""

import pytest

from services.budget.domain import allocation, limits
from services.budget.domain.budgets import AMOUNT_MAX, Budget, Dimension, OnExceed, OverAllocation, Raise, Selector
from services.budget.domain.model import Carry, Counter
from services.budget.domain.selectors import checked, resolved
from services.budget.domain.totals import Totals
from services.kit.errors import PurseError
from services.kit.rate_source import load_rate_table
from services.kit.subject import parse
from services.kit.windows import WindowKind, WindowSpec

YEAR_US = 365 * 86_400_000_000


def budget(no: int = 1, subject: str = "orgs/acme", limit: int = 100, **fields: object) -> Budget:
    values: dict[str, object] = {
        "display_name": "",
        "dimension": Dimension.COST,
        "currency": "USD",
        "limit": limit,
        "window": WindowSpec(WindowKind.DAY),
        "on_exceed": OnExceed.BLOCK,
        "thresholds": (100,),
        "selector": None,
        "generation": 3,
        "revision": 1,
        "created_us": 0,
        "updated_us": 0,
        "from_us": 0,
    }
    return Budget(no, "acme", subject, f"b{no}", **(values | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at_us", "expected"),
    [
        (10, (0, 10, 20)),
        (19, (0, 10, 20)),
        (20, (5, 20, 30)),
        (30, (7, 30, 40)),
        (40, (2, 40, 50)),
        (50, (0, 50, 100)),
        # A window that is over stays as it ended; one to come is as it begins.
        (500, (0, 50, 100)),
        (0, (0, 10, 20)),
    ],
)
def test_raises_count_from_their_start_until_their_end(at_us: int, expected: tuple[int, int, int]) -> None:
    raises = (Raise(5, 20, 40), Raise(2, 30, 50))
    assert limits.raised(raises, 10, 100, at_us) == expected


def test_a_limit_falls_when_a_raise_ends_within_the_window() -> None:
    raises = (Raise(5, 0, 20),)
    assert [limits.has_fallen(raises, 10, at) for at in (19, 20, 90)] == [False, True, True]
    assert not limits.has_fallen(raises, 20, 90)


def test_a_window_needs_only_the_raises_that_touch_it() -> None:
    raises = (*(Raise(1 + n, 7 * n, 7 * n + 9) for n in range(30)), Raise(50, 0, 500), Raise(60, 100, 110))
    one = budget(raises=raises)
    for start_us, end_us in ((0, 40), (9, 14), (100, 110), (110, 111), (219, 600)):
        touching = one.touching(start_us, end_us)
        assert len(touching) < len(raises)
        for at_us in range(start_us - 2, end_us + 2):
            assert limits.raised(touching, start_us, end_us, at_us) == limits.raised(raises, start_us, end_us, at_us)
            in_it_us = min(at_us, end_us)
            assert limits.has_fallen(touching, start_us, in_it_us) == limits.has_fallen(raises, start_us, in_it_us)


def test_a_budget_has_so_many_raises_in_200_days() -> None:
    limits.check_grant(budget(raises=(Raise(1, 0, 1),) * 199), 1, 5, 2)
    with pytest.raises(PurseError) as refused:
        limits.check_grant(budget(raises=(Raise(1, 0, 1),) * 200), 1, 5, 2)
    assert refused.value.reason == "TOO_MANY_OVERRIDES"


def test_the_raise_that_ends_first_is_used_first() -> None:
    raises = [Raise(5, 0, 90), Raise(5, 0, 50)]
    assert limits.remaining(raises, 3) == [5, 5]
    assert limits.remaining(raises, -3) == [5, 2]
    assert limits.remaining(raises, -7) == [3, 0]
    assert limits.remaining(raises, -70) == [0, 0]


def test_what_is_carried_follows_the_window_before_and_begins_a_generation_when_it_rises() -> None:
    before, after = Counter("acme", 1, 20261101), Counter("acme", 1, 20261102)
    after.define(budget())
    after.carry, after.carried = Carry(before.key, 100, 30), 30
    after.set_limit()
    assert (after.limit, after.budget and after.budget.generation) == (130, 3)
    before.spent = 80
    limits.carry_over(before, after)
    assert (after.carried, after.limit, after.rises, after.lowered) == (20, 120, 0, True)
    before.spent, before.reserved = 50, 30
    limits.carry_over(before, after)
    assert (after.carried, after.rises) == (20, 0)
    before.reserved = 0
    limits.carry_over(before, after)
    assert (after.carried, after.limit, after.rises) == (30, 130, 1)
    assert after.budget is not None
    assert (after.budget.limit, after.budget.generation) == (130, 4)
    before.spent = 1_000
    limits.carry_over(before, after)
    assert after.carried == 0


def test_a_definition_makes_one_copy_a_limit() -> None:
    written = budget()
    assert written.with_limit(100, 3) is written
    assert written.with_limit(120, 3) is written.with_limit(120, 3)
    assert written.with_limit(120, 3).name == written.name
    top = Counter("acme", 1, 0)
    top.define(budget(limit=AMOUNT_MAX))
    top.raised = 5
    top.set_limit()
    assert top.limit == AMOUNT_MAX


@pytest.mark.parametrize(
    ("amount", "until_us", "raises", "field"),
    [
        (0, 5, 0, "amount"),
        (AMOUNT_MAX - 99, 5, 0, "amount"),
        (1, 1, 0, "end_time"),
        (1, 2 * YEAR_US, 0, "end_time"),
        (1, 5, 32, None),
    ],
)
def test_a_raise_that_is_none_is_refused(amount: int, until_us: int, raises: int, field: str | None) -> None:
    raised = budget(raises=(Raise(1, 0, 9),) * raises)
    with pytest.raises(PurseError) as caught:
        limits.check_grant(raised, amount, until_us, 1)
    assert caught.value.field == field
    limits.check_grant(budget(raises=(Raise(1, 0, 9),) * 31), 1, 5, 1)


@pytest.mark.parametrize(
    ("selector", "field"),
    [
        (Selector(providers=("",)), "providers"),
        (Selector(providers=("open*",)), "providers"),
        (Selector(providers=(" openai",)), "providers"),
        (Selector(models=("",)), "models"),
        (Selector(models=("gpt ",)), "models"),
        (Selector(models=("gpt-[4",)), "models"),
        (Selector(models=("gpt-[9-0]",)), "models"),
        (Selector(models=("m" * 257,)), "models"),
        (Selector(models=("m",) * 17), "models"),
        (Selector(operations=("chat*",)), "operations"),
        (Selector(operations=("o" * 64,)), "operations"),
        (Selector(labels=(("", "x"),)), "labels"),
        (Selector(labels=(("k" * 64, "x"),)), "labels"),
        (Selector(labels=(("k", "x" * 256),)), "labels"),
        (Selector(providers=("openai",), models=("claude-sonnet-4-5",)), "models"),
        (Selector(providers=("anthropic",), models=("gpt-4*", "gpt-5")), "models"),
    ],
)
def test_a_selector_that_can_never_match_is_refused(selector: Selector, field: str) -> None:
    with pytest.raises(PurseError) as caught:
        resolved(checked(selector), load_rate_table())
    assert caught.value.field == f"budget.selector.{field}"


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (Selector(models=("GPT-[45]*", "gpt-[45]*")), Selector(models=("gpt-[45]*",))),
        # One of the models fits one of the providers, or is not known yet, or the provider is not.
        (
            Selector(("openai",), ("claude*", "gpt-4o")),
            Selector(("openai",), ("claude*", "gpt-4o")),
        ),
        (Selector(("openai",), ("newest-1",)), Selector(("openai",), ("newest-1",))),
        (Selector(("ours",), ("claude*",)), Selector(("ours",), ("claude*",))),
        # Calls are recorded under the names of the price list, whatever they were called by.
        (Selector(("vertex_ai",), ("gemini*",)), Selector(("google",), ("gemini*",))),
        (Selector(models=("claude-4-5-sonnet",)), Selector(models=("claude-4-5-sonnet", "claude-sonnet-4-5"))),
        (Selector(), None),
    ],
)
def test_a_selector_is_kept_as_calls_are_recorded(selector: Selector, expected: Selector | None) -> None:
    assert resolved(checked(selector), load_rate_table()) == expected


def test_more_is_allocated_than_there_is() -> None:
    assert allocation.over(budget(limit=5), 5) == ""
    with pytest.raises(PurseError) as caught:
        allocation.over(budget(limit=5), 6)
    assert caught.value.reason == "OVER_ALLOCATED"
    assert "6 would be allocated" in allocation.over(budget(limit=5, over_allocation=OverAllocation.ALERT), 6)
    # A limit may be raised though more is allocated still.
    before, after = budget(limit=5), budget(limit=6)
    assert allocation.check_change(before, after, 9, {}) == []


def test_totals_count_what_lies_below_another_once() -> None:
    totals = Totals()
    for no, subject in enumerate(
        ("orgs/acme/teams/a", "orgs/acme/teams/a", "orgs/acme/teams/a-b", "orgs/acme/teams/a/agents/x")
    ):
        assert parse(subject)
        totals.add(budget(no, subject), 60, 40, 5)
    totals.add(budget(9, "orgs/acme/teams/a", window=WindowSpec(WindowKind.WEEK)), 1, 1, 0)
    (_, days), (_, weeks) = totals.largest()
    assert (days.budgets, days.counted, days.exhausted) == (4, 2, 4)
    assert (days.limit, days.spent, days.reserved, days.allocated) == (200, 120, 80, 10)
    assert (weeks.budgets, weeks.limit, weeks.exhausted) == (1, 100, 0)
