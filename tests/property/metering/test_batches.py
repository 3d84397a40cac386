"""Calls that are checked and rated together are so as each would be by itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import PurseError
from services.kit.rate_source import load_rate_table
from services.kit.rating import Layers
from services.metering.domain.batches import Batch
from services.metering.domain.cards import RateCard, RateCards
from services.metering.domain.usage import Given, accept
from services.metering.wire import labels_json

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TABLE = load_rate_table()
CARDS = [
    RateCards([RateCard("v1", datetime(1970, 1, 1, tzinfo=UTC), TABLE)]),
    RateCards([RateCard("v1", datetime(1970, 1, 1, tzinfo=UTC), TABLE),
               RateCard("v2", NOW - timedelta(minutes=20), TABLE)]),
]  # fmt: skip
ago = st.one_of(
    st.integers(-400, 4_500).map(lambda s: timedelta(seconds=s)),
    st.sampled_from([timedelta(days=89), timedelta(days=91), timedelta(hours=23), timedelta(0)]),
)
times = st.one_of(st.none(), ago.map(lambda delta: NOW - delta))
counts = st.one_of(st.tuples(*[st.integers(-1, 9)] * 5), st.just((300_000, 5, 0, 7, 3)), st.just((10**12, 0, 0, 1, 0)))
GOOD = Given(
    "orgs/acme", "s", "0", "anthropic", "claude-sonnet-4-5", "chat", (), (9, 0, 0, 4, 0), (), None, None,
    None, "", "", "", False, "", "", True, "",
)  # fmt: skip
OWN: dict[str, st.SearchStrategy[Any]] = {
    "id": st.one_of(st.just("1"), st.text(max_size=130)),
    "tokens": counts,
    "occurred_at": times,
    "session": st.text(max_size=130),
    "run": st.sampled_from(["é", "r\n2", "r" * 129]),
    "requests": st.sampled_from([None, 0, 1, 10**9, -1]),
    "prompt_hash": st.sampled_from([b"h", b"h" * 64, b"h" * 65]),
    "final": st.booleans(),
    "failed": st.booleans(),
    "cost": st.just(("EUR", 1)),
    "operation": st.sampled_from(["plan", "x" * 64]),
    "effort": st.sampled_from(["high", "x" * 64]),
    "status": st.sampled_from(["429", "x" * 129]),
    "reservation": st.sampled_from(["orgs/acme/reservations/r", "bad"]),
    "extra": st.sampled_from([(("web_searches", 2),), (("unheard_of", 1),)]),
}
SHARED: dict[str, st.SearchStrategy[Any]] = {
    "subject": st.sampled_from(["orgs/acme/agents/bot", "orgs/other", "bad"]),
    "source": st.sampled_from(["", "pursestrings.x"]),
    "provider": st.sampled_from(["", "Anthropic"]),
    "model": st.sampled_from(["gpt-4o", "deepseek-chat", "nobody-knows"]),
    "labels": st.just((("team", "red"),)),
    "service_tier": st.just("batch"),
}


def some_of(fields: dict[str, st.SearchStrategy[Any]], at_most: int) -> st.SearchStrategy[dict[str, Any]]:
    one = st.one_of([st.tuples(st.just(name), values) for name, values in fields.items()])
    return st.lists(one, max_size=at_most).map(dict)


calls = st.builds(lambda fields: GOOD._replace(**fields), some_of(SHARED | OWN, 2))
# Many that are alike: that is what a batch is.
alike = st.builds(
    lambda one, others: [one, *(one._replace(**other) for other in others)],
    calls,
    st.lists(some_of(OWN, 2), max_size=5),
)


def outcome(of: Any) -> Any:
    try:
        kept, refusal = of()
    except PurseError as error:
        return error.reason, error.field, str(error)
    return kept, refusal and (refusal.reason, refusal.field)


def check(together: list[Given], *, trusted: bool, cards: RateCards) -> None:
    batch = Batch(labels_json, trusted=trusted, now=NOW, cards=cards)
    for one in together:
        alone = outcome(lambda: accept(one, labels_json, trusted=trusted, now=NOW, cards=cards))  # noqa: B023
        assert outcome(lambda: batch.accept(one)) == alone  # noqa: B023


@given(st.lists(alike, max_size=4), st.booleans(), st.sampled_from(CARDS))
def test_a_batch_is_its_calls(groups: list[list[Given]], trusted: bool, cards: RateCards) -> None:
    together = [one for group in groups for one in group]
    check(together, trusted=trusted, cards=cards)


EACH: list[dict[str, Any]] = [
    {},
    *({"occurred_at": NOW - timedelta(minutes=ago)} for ago in (-6, -5, 1, 25, 59, 61, 66, 60 * 23, 60 * 24 * 91)),
    *({"prompt_hash": b"h" * size} for size in (1, 64, 65)),
    *({name: "x" * size} for name in ("id", "session", "run") for size in (128, 129)),
    *({name: "\x7f"} for name in ("id", "session", "run")),
    *({"requests": count} for count in (0, 3, -1, 10**9)),
    *({"tokens": (count, 0, 0, 0, 0)} for count in (10**9, -1, 10**13)),
    {"cost": ("EUR", 1)},
    {"extra": (("web_searches", 1),)},
    {"final": False},
    {"failed": True},
]


@pytest.mark.parametrize(("trusted", "reservation"), [(True, ""), (False, ""), (False, "orgs/acme/reservations/r")])
@pytest.mark.parametrize("cards", CARDS)
def test_any_two_calls_are_as_each_by_itself(trusted: bool, reservation: str, cards: RateCards) -> None:
    base = GOOD._replace(reservation=reservation)
    for first in EACH:
        for second in EACH:
            check([base._replace(**first), base._replace(**second), base], trusted=trusted, cards=cards)


def test_what_is_a_call_s_own_is_checked_in_each() -> None:
    for name, limit in (("operation", 63), ("effort", 63), ("status", 128)):
        for text in ("x" * limit, "x" * (limit + 1), "\x7f"):
            own: dict[str, Any] = {name: text}
            check([GOOD, GOOD._replace(**own)], trusted=True, cards=CARDS[0])
    for reservation in ("orgs/acme/reservations/r", "bad"):
        check([GOOD, GOOD._replace(reservation=reservation)], trusted=True, cards=CARDS[0])


def test_what_calls_share_is_looked_up_once(monkeypatch: Any) -> None:
    looked_up = []
    lookup = Layers.lookup

    def counted(self: Layers, *asked: Any) -> Any:
        looked_up.append(asked)
        return lookup(self, *asked)

    monkeypatch.setattr(Layers, "lookup", counted)
    batch = Batch(labels_json, trusted=False, now=NOW, cards=CARDS[0])
    costs = {batch.accept(GOOD._replace(id=str(n), tokens=(n, 0, 0, 1, 0)))[0].cost_nanos for n in range(5)}
    assert len(costs) == 5
    assert len(looked_up) == 1
