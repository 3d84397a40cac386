"""What could be saved adds up, for any calls and rules."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.kit.rate_source import load_rate_table
from services.kit.rating import Tokens, rate
from services.metering.domain.cards import RateCard, RateCards
from services.metering.domain.savings import Call, Rule, Savings, per_day

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CARDS = RateCards([RateCard("v1", EPOCH, load_rate_table())])
MODELS = [("anthropic", "claude-sonnet-4-5"), ("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("acme", "own-7b")]
CANDIDATES = [f"{provider}/{model}" for provider, model in MODELS] + ["gpt-4o-mini", "claude-haiku-4-5"]

tokens = st.builds(
    lambda read, cached, made: Tokens(read, cached, 0, made),
    st.integers(100, 300_000), st.integers(0, 100), st.integers(0, 9_000),
)  # fmt: skip
calls = st.lists(
    st.builds(
        lambda model, operation, effort, labels, tier, failed, prompt, counts, cost: Call(
            NOW - timedelta(hours=1),
            model[0],
            model[1],
            operation,
            effort,
            labels,
            tier,
            failed,
            prompt,
            counts,
            cost[0],
            cost[1],
        ),
        st.sampled_from(MODELS),
        st.sampled_from(["chat", "plan"]),
        st.sampled_from(["", "low"]),
        st.sampled_from([{}, {"batchable": "true"}, {"kind": "a"}]),
        st.sampled_from(["", "batch"]),
        st.booleans(),
        st.sampled_from([None, b"1", b"2"]),
        tokens,
        st.sampled_from([(0, "USD"), (10**6, "USD"), (10**9, "USD"), (5, "EUR"), (None, "")]),
    ),
    max_size=12,
)  # fmt: skip
subsets = st.lists(st.sampled_from(["chat", "plan"]), unique=True).map(tuple)
rules = st.lists(
    st.builds(
        Rule,
        st.just("r"),
        subsets,
        st.sampled_from([(), ("low",)]),
        st.sampled_from([(), (("kind", "a"),)]),
        st.sampled_from([(), ("gpt-4o",), ("openai/gpt-4o-mini",)]),
        st.lists(st.sampled_from(CANDIDATES), min_size=1, max_size=3, unique=True).map(tuple),
        st.booleans(),
    ),
    max_size=4,
)


def saved_by(found_rules: list[Rule], made: list[Call]) -> Savings:
    found = Savings("acme", found_rules, "USD", CARDS, NOW)
    found.add(made)
    return found


@given(rules, calls)
def test_savings_are_never_negative_and_add_up(found_rules: list[Rule], made: list[Call]) -> None:
    found = saved_by(found_rules, made)

    counted = [call for call in made if call.currency == "USD"]
    assert found.calls == len(counted)
    assert found.left_out == len(made) - len(counted)
    assert found.cost_nanos == sum(call.cost_nanos or 0 for call in counted)
    first = [next((n for n, rule in enumerate(found_rules) if rule.matches(call)), None) for call in counted]
    for place, sums in enumerate(found.rules):
        mine = [call for call, rule in zip(counted, first, strict=True) if rule == place]
        assert (sums.calls, sums.cost_nanos) == (len(mine), sum(call.cost_nanos or 0 for call in mine))
        assert sums.saved_nanos >= 0
        assert sums.saved_nanos == max(0, *(sums.cost_nanos - one.cost_nanos for one in sums.candidates))
        if sums.best is not None:
            assert sums.best.unpriced < sums.calls
    for saved in (found.caching, found.batching):
        assert 0 <= saved.saved_nanos <= saved.cost_nanos <= found.cost_nanos
        assert saved.calls <= found.calls


@given(calls, calls)
def test_calls_may_come_in_parts(earlier: list[Call], later: list[Call]) -> None:
    found_rules = [Rule("r", candidates=("gpt-4o-mini",))]
    whole = saved_by(found_rules, earlier + later)
    parts = saved_by(found_rules, earlier)
    parts.add(later)

    assert (parts.rules, parts.caching, parts.batching, parts.calls) == (
        whole.rules,
        whole.caching,
        whole.batching,
        whole.calls,
    )


@given(tokens)
def test_a_candidate_costs_what_it_would_have_been_rated_at(counts: Tokens) -> None:
    call = Call(NOW, "anthropic", "claude-sonnet-4-5", "", "", {}, "", False, None, counts, 10**12, "USD")

    (sums,) = saved_by([Rule("r", candidates=("openai/gpt-4o-mini",))], [call]).rules

    listed = CARDS.at(NOW).table.lookup("openai", "gpt-4o-mini", int(NOW.timestamp() * 1e6)).rate
    assert sums.saved_nanos == 10**12 - rate(listed, counts)


@given(st.integers(0, 10**15), st.integers(1, 32))
def test_a_day_of_days(nanos: int, days: int) -> None:
    assert abs(per_day(nanos, timedelta(days=days)) * days - nanos) <= days
