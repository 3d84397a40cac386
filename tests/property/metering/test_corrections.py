"""Corrections and later prices conserve: whatever is said and in which order, sums are what was last said."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import PurseError
from services.kit.rate_source import load_rate_table
from services.kit.rating import Card, Layers, Markup, PriceCards, PublishedCard, RateTable, Tokens, rate
from services.metering.domain.cards import RateCard, RateCards
from services.metering.domain.corrections import Change, adjusting, difference, rerated, restated, said_by
from services.metering.domain.publishing import Price, card_of
from services.metering.domain.rollups import roll_up
from services.metering.domain.usage import Usage
from tests.support.metering import recording

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TABLE = load_rate_table()
CARDS = RateCards([RateCard("v1", EPOCH, TABLE)])
AT_US = 1_795_000_000_000_000

counts = st.tuples(*[st.integers(0, 10**9)] * 5).map(lambda c: (c[0] + c[1] + c[2], c[1], c[2], c[3] + c[4], c[4]))
changes = st.builds(
    Change,
    st.one_of(st.none(), counts),
    st.sampled_from([(), (("web_searches", 3),)]),
    st.one_of(st.none(), st.integers(0, 9)),
    st.one_of(st.none(), st.tuples(st.just("USD"), st.integers(0, 10**15))),
)


def event(**fields: Any) -> Usage:
    return recording("e1", NOW, **fields).usage


@given(st.booleans(), st.lists(changes, max_size=5))
def test_sums_are_what_was_last_said(priced: bool, asked: list[Change]) -> None:
    unpriced: dict[str, Any] = {
        "given_model": "unheard-of",
        "cost_nanos": None,
        "currency": "",
        "rate_card_version": "",
    }
    first = event(**({} if priced else unpriced))
    last, rows, told = said_by(first), [first], 0
    for change in asked:
        try:
            said = restated(first, last, change, now=NOW, cards=CARDS)
        except PurseError:
            continue
        new = adjusting(first, last, said, source="pursestrings.correction", id_="c", now=NOW)
        sent = difference(last, said).cost
        assert (new[0].cost_nanos, new[0].input_tokens) == (
            None if sent is None else sent[1],
            said.tokens[0] - last.tokens[0],
        )
        told += sent[1] if sent else 0
        rows += new
        last = said

    sums, _ = roll_up(rows)
    kept = {key.currency: values for key, values in sums.items() if any(values)}
    assert kept == {last.currency: [*last.tokens, last.requests, 1, 0, last.cost_nanos or 0]}
    assert told + (first.cost_nanos or 0) == (last.cost_nanos or 0)


@given(counts, st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_price_that_comes_later_rates_as_if_it_had_been_there(
    tokens: tuple[int, int, int, int, int], input_price: int, output_price: int
) -> None:
    prices = {"input_tokens": input_price, "output_tokens": output_price}
    own = card_of([Price("lab", "new", (), prices, {}, "")], (), "USD", Layers((), TABLE, "v1"))
    later = PublishedCard("acme", "card-1", 1, AT_US - 2_000_000, AT_US - 1_000_000, own)
    first = event(
        given_provider="lab", given_model="new", cost_nanos=None, currency="", rate_card_version="",
        input_tokens=tokens[0], cache_read_tokens=tokens[1], cache_write_tokens=tokens[2], output_tokens=tokens[3],
        reasoning_tokens=tokens[4],
    )  # fmt: skip
    cards = RateCards([RateCard("v1", EPOCH, TABLE)], PriceCards([later]))
    at_once = rate(own.table.lookup("lab", "new", AT_US).rate, Tokens(*tokens))

    assert rerated(first, said_by(first), now=NOW, cards=CARDS) is None
    said = rerated(first, said_by(first), now=datetime(2027, 1, 1, tzinfo=UTC), cards=cards)
    assert said is not None
    assert (said.cost_nanos, said.rate_card_version) == (at_once, "card-1")
    assert said._replace(cost_nanos=None, currency="", rate_card_version="") == said_by(first)


@given(counts, counts, st.integers(-1_000_000, 10_000_000))
def test_marked_up_rates_are_monotone_and_additive(one: Any, two: Any, ppm: int) -> None:
    card = PublishedCard("acme", "card-1", 1, 0, 0, Card(RateTable("own", ()), (Markup("", "", ppm),)))
    found = Layers((card,), TABLE, "v1").lookup("", "gpt-4o-mini", AT_US).rate
    both = tuple(a + b for a, b in zip(one, two, strict=True))
    costs = [rate(found, Tokens(*tokens)) for tokens in (one, two, both)]

    assert costs[2] >= max(costs[:2])
    # Each rounding is off by half a nano at most.
    assert abs(costs[2] - costs[0] - costs[1]) <= 1
