"""Which calls are accepted, and what they cost."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.kit.errors import Code, PurseError
from services.kit.rate_source import load_rate_table
from services.kit.rating import RateTable, Tokens
from services.metering.domain import usage
from services.metering.domain.cards import RateCard, RateCards
from services.metering.domain.usage import Given, accept, estimate
from services.metering.wire import labels_json

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def table() -> RateTable:
    return load_rate_table()


@pytest.fixture(scope="module")
def cards(table: RateTable) -> RateCards:
    return RateCards([RateCard("v1", EPOCH, table)])


def given(**fields: Any) -> Given:
    values: dict[str, Any] = {
        "subject": "orgs/acme/agents/bot",
        "source": "gateway",
        "id": "1",
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "operation": "chat",
        "labels": (),
        "tokens": (1_000, 0, 0, 100, 0),
        "requests": None,
        "cost": None,
        "occurred_at": None,
        "session": "",
        "run": "",
        "effort": "",
        "failed": False,
        "status": "",
        "reservation": "",
        "final": True,
        "extra": (),
        "service_tier": "",
    }
    return Given(**(values | fields))


def accepted(cards: RateCards, *, trusted: bool = False, **fields: Any) -> usage.Usage:
    kept, refusal = accept(given(**fields), labels_json, trusted=trusted, now=NOW, cards=cards)
    assert refusal is None
    return kept


def refused(cards: RateCards, *, trusted: bool = False, **fields: Any) -> PurseError:
    with pytest.raises(PurseError) as caught:
        accept(given(**fields), labels_json, trusted=trusted, now=NOW, cards=cards)
    return caught.value


def time_refusal(cards: RateCards, ago: timedelta, *, trusted: bool = False, reservation: str = "") -> str | None:
    asked = given(occurred_at=NOW - ago, reservation=reservation)
    refusal = accept(asked, labels_json, trusted=trusted, now=NOW, cards=cards)[1]
    if refusal is not None:
        assert refusal.field == "event.occurred_at"
    return None if refusal is None else refusal.reason


def test_a_call_is_rated_by_the_card_in_nanos(cards: RateCards) -> None:
    kept = accepted(cards, model="claude-4-5-sonnet")

    assert kept.cost_nanos == 1_000 * 3_000 + 100 * 15_000
    assert (kept.currency, kept.rate_card_version) == ("USD", "v1")
    assert (kept.provider, kept.model) == ("anthropic", "claude-sonnet-4-5")
    assert (kept.given_provider, kept.given_model) == ("anthropic", "claude-4-5-sonnet")
    assert kept.occurred_at == kept.recorded_at == NOW


def test_names_that_no_table_knows_are_told_apart_by_neither_case_nor_blanks(cards: RateCards) -> None:
    kept, _ = accept(given(provider=" Acme", model="MyModel-1 "), labels_json, trusted=True, now=NOW, cards=cards)
    assert (kept.provider, kept.model) == ("acme", "mymodel-1")
    assert (kept.given_provider, kept.given_model) == (" Acme", "MyModel-1 ")


def test_usage_of_an_unknown_model_is_kept_unrated_under_the_names_given(cards: RateCards) -> None:
    kept = accepted(cards, provider="", model="my-own-model")

    assert kept.cost_nanos is None
    assert (kept.currency, kept.rate_card_version) == ("", "")
    assert (kept.provider, kept.model) == ("", "my-own-model")


def test_a_call_without_a_model_is_kept(cards: RateCards) -> None:
    kept = accepted(cards, trusted=True, provider="search", model="", cost=("USD", 5))

    assert (kept.provider, kept.model, kept.cost_nanos) == ("search", "", 5)


@pytest.mark.parametrize(
    ("requests", "final", "expected"),
    [(None, True, 1), (None, False, 0), (7, True, 7), (0, True, 0)],
)
def test_requests_count_on_the_final_event_unless_given(
    cards: RateCards, requests: int | None, final: bool, expected: int
) -> None:
    assert accepted(cards, requests=requests, final=final).requests == expected


def test_a_given_cost_is_taken_as_it_is_from_who_may_say(cards: RateCards) -> None:
    kept = accepted(cards, trusted=True, cost=("EUR", 123))

    assert (kept.cost_nanos, kept.currency, kept.rate_card_version) == (123, "EUR", "")
    assert kept.model == "claude-sonnet-4-5"


def test_an_agent_sets_no_cost(cards: RateCards) -> None:
    error = refused(cards, cost=("USD", 1))

    assert (error.code, error.field) == (Code.PERMISSION_DENIED, "event.cost")


@pytest.mark.parametrize(
    ("ago", "trusted", "reservation", "expected"),
    [
        (timedelta(0), False, "", None),
        (-usage.CLOCK_SKEW, False, "", None),
        (-usage.CLOCK_SKEW - timedelta(microseconds=1), False, "", "IN_THE_FUTURE"),
        (-usage.CLOCK_SKEW - timedelta(microseconds=1), True, "", "IN_THE_FUTURE"),
        (HOUR + usage.CLOCK_SKEW, False, "", None),
        (HOUR + usage.CLOCK_SKEW + timedelta(microseconds=1), False, "", "TOO_OLD"),
        (24 * HOUR + usage.CLOCK_SKEW, False, "orgs/acme/reservations/r", None),
        (24 * HOUR + usage.CLOCK_SKEW + timedelta(microseconds=1), False, "orgs/acme/reservations/r", "TOO_OLD"),
        (timedelta(days=90), True, "", None),
        (timedelta(days=90, microseconds=1), True, "", "TOO_OLD"),
    ],
)
def test_how_far_back_a_caller_may_say(
    cards: RateCards, ago: timedelta, trusted: bool, reservation: str, expected: str | None
) -> None:
    assert time_refusal(cards, ago, trusted=trusted, reservation=reservation) == expected


def test_a_key_outlives_every_event_that_is_accepted() -> None:
    assert usage.KEYS_KEPT >= usage.PAST_MAX + usage.CLOCK_SKEW


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"subject": ""}, "event.subject", "MALFORMED_SUBJECT"),
        ({"subject": "orgs/acme/wallets/w"}, "event.subject", "MALFORMED_SUBJECT"),
        ({"subject": "orgs/a" + "/teams/t" * 8}, "event.subject", "MALFORMED_SUBJECT"),
        ({"source": ""}, "event.source", "INVALID_ARGUMENT"),
        ({"source": "s" * 129}, "event.source", "INVALID_ARGUMENT"),
        ({"id": ""}, "event.id", "INVALID_ARGUMENT"),
        ({"id": "1\0"}, "event.id", "INVALID_ARGUMENT"),
        ({"provider": "p" * 64}, "event.call.provider", "INVALID_ARGUMENT"),
        ({"model": "m" * 257}, "event.call.model", "INVALID_ARGUMENT"),
        ({"model": "模" * 86}, "event.call.model", "INVALID_ARGUMENT"),
        ({"operation": "o" * 64}, "event.call.operation", "INVALID_ARGUMENT"),
        ({"session": "s" * 129}, "event.session", "INVALID_ARGUMENT"),
        ({"run": "a\nb"}, "event.run", "INVALID_ARGUMENT"),
        ({"effort": "e" * 64}, "event.effort", "INVALID_ARGUMENT"),
        ({"status": "\x7f"}, "event.status", "INVALID_ARGUMENT"),
        ({"labels": (("", "v"),)}, "event.call.labels", "INVALID_ARGUMENT"),
        ({"labels": (("k" * 64, "v"),)}, "event.call.labels", "INVALID_ARGUMENT"),
        ({"labels": (("k", "v" * 256),)}, "event.call.labels.k", "INVALID_ARGUMENT"),
        ({"labels": tuple((f"k{n}", "v") for n in range(17))}, "event.call.labels", "INVALID_ARGUMENT"),
        ({"tokens": (-1, 0, 0, 0, 0)}, "event.tokens.input_tokens", "AMOUNT_OUT_OF_RANGE"),
        ({"tokens": (1, 0, 0, 10**12 + 1, 0)}, "event.tokens.output_tokens", "AMOUNT_OUT_OF_RANGE"),
        ({"tokens": (10**8 + 1, 0, 0, 0, 0)}, "event.tokens.input_tokens", "AMOUNT_OUT_OF_RANGE"),
        ({"extra": (("output_audio_tokens", 101),)}, "event.tokens.extra.output_audio_tokens", "AMOUNT_OUT_OF_RANGE"),
        ({"extra": (("no_such_kind", 1),)}, "event.tokens.extra", "UNKNOWN_KIND"),
        ({"service_tier": "t" * 33}, "event.call.service_tier", "INVALID_ARGUMENT"),
        ({"source": "pursestrings.correction"}, "event.source", "INVALID_ARGUMENT"),
        ({"tokens": (5, 6, 0, 0, 0)}, "event.tokens.cache_read_tokens", "AMOUNT_OUT_OF_RANGE"),
        ({"tokens": (5, 0, 0, 1, 2), "model": "unknown"}, "event.tokens.reasoning_tokens", "AMOUNT_OUT_OF_RANGE"),
        ({"requests": -1}, "event.requests", "AMOUNT_OUT_OF_RANGE"),
        ({"reservation": "r1"}, "event.reservation", "MALFORMED_NAME"),
        ({"reservation": "orgs/acme/budgets/b"}, "event.reservation", "MALFORMED_NAME"),
    ],
)
def test_a_bad_field_is_named(cards: RateCards, fields: dict[str, Any], field: str, reason: str) -> None:
    error = refused(cards, **fields)

    assert (error.field, error.reason) == (field, reason)
    assert error.message.startswith(field)


@pytest.mark.parametrize(
    ("cost", "field", "reason"),
    [
        (("USD", -1), "event.cost.amount_nanos", "AMOUNT_OUT_OF_RANGE"),
        (("XXX", 1), "event.cost.currency_code", "INVALID_ARGUMENT"),
        (("", 1), "event.cost.currency_code", "INVALID_ARGUMENT"),
    ],
)
def test_a_bad_cost_is_named(cards: RateCards, cost: tuple[str, int], field: str, reason: str) -> None:
    error = refused(cards, trusted=True, cost=cost)

    assert (error.field, error.reason) == (field, reason)


def test_text_of_any_script_is_accepted(cards: RateCards) -> None:
    kept = accepted(cards, session="сессия ۱ 👩‍💻", labels=(("k", "naïve\u200dname"),))

    assert kept.session == "сессия ۱ 👩‍💻"


def test_late_usage_is_rated_by_the_card_of_when_it_happened(table: RateTable) -> None:
    cards = RateCards([RateCard("new", NOW - HOUR, table), RateCard("old", EPOCH, table)])

    versions = [
        accept(given(occurred_at=at), labels_json, trusted=True, now=NOW, cards=cards)[0].rate_card_version
        for at in (NOW - HOUR, NOW - HOUR - timedelta(microseconds=1), NOW)
    ]

    assert versions == ["new", "old", "new"]


def test_the_first_card_rates_what_was_before_it(table: RateTable) -> None:
    assert RateCards([RateCard("only", NOW, table)]).at(EPOCH).version == "only"


def test_an_estimate_is_priced_by_the_card_in_force(cards: RateCards) -> None:
    priced = estimate("orgs/acme", "", "claude-sonnet-4-5", Tokens(1_000, 0, 0, 100), now=NOW, cards=cards)

    assert priced == ("anthropic", "claude-sonnet-4-5", 4_500_000, "USD", "v1")


@pytest.mark.parametrize(
    ("subject", "model", "tokens", "expected"),
    [
        ("nobody", "claude-sonnet-4-5", Tokens(), ("subject", "MALFORMED_SUBJECT")),
        ("orgs/acme", "claude-sonet-4-5", Tokens(), ("call.model", "UNKNOWN_MODEL")),
        ("orgs/acme", "", Tokens(), ("call.model", "UNKNOWN_MODEL")),
        ("orgs/acme", "claude-sonnet-4-5", Tokens(-1), ("tokens.input_tokens", "AMOUNT_OUT_OF_RANGE")),
    ],
)
def test_an_estimate_that_cannot_be_priced_names_the_field(
    cards: RateCards, subject: str, model: str, tokens: Tokens, expected: tuple[str, str]
) -> None:
    with pytest.raises(PurseError) as caught:
        estimate(subject, "anthropic", model, tokens, now=NOW, cards=cards)

    assert (caught.value.field, caught.value.reason) == expected


def test_the_largest_call_still_fits_an_amount(cards: RateCards) -> None:
    priced = estimate("orgs/acme", "", "claude-opus-4-1", Tokens(10**12, 0, 0, 10**12), now=NOW, cards=cards)

    assert priced.cost_nanos == 10**12 * (15_000 + 75_000)


def test_an_unknown_model_comes_with_close_names(cards: RateCards) -> None:
    with pytest.raises(PurseError) as caught:
        estimate("orgs/acme", "anthropic", "claude-sonet-4-5", Tokens(), now=NOW, cards=cards)

    assert "claude-sonnet-4-5" in caught.value.message
    assert "claude-sonnet-4-5" in caught.value.metadata["suggestions"]


def test_labels_past_their_limits_are_not_remembered_as_json(cards: RateCards) -> None:
    asked: list[object] = []

    def as_json(labels: tuple[tuple[str, str], ...]) -> str:
        asked.append(labels)
        return "{}"

    with pytest.raises(PurseError):
        accept(given(labels=(("k", "v" * 100_000),)), as_json, trusted=True, now=NOW, cards=cards)
    assert asked == []
