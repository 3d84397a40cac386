"""What people are told of differences and concerns."""

import json
from datetime import UTC, datetime

import pytest

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import reports_pb2, statements_pb2
from workflows.reconcile import events

USD = 1_000_000_000
KINDS = [name for name in reports_pb2.ConcernKind.keys() if not name.endswith("UNSPECIFIED")]  # noqa: SIM118


def concern(kind: str, day: int = 3) -> reports_pb2.Concern:
    one = reports_pb2.Concern(
        kind=reports_pb2.ConcernKind.Value(kind),
        wallet="orgs/acme/teams/a/wallets/main",
        reference="orgs/acme/teams/a/grants/g1",
        amount=type_pb2.Money(currency_code="USD", amount_nanos=5 * USD),
        detail="because",
    )
    one.concern_time.FromDatetime(datetime(2026, 11, day, 7, 30, tzinfo=UTC))
    return one


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_concern_has_words_and_is_told_to_whom_it_concerns(kind: str) -> None:
    event = events.of_concern(concern(kind), "2026-11-22")
    facts = json.loads(event.data)
    assert event.subject == "orgs/acme/teams/a"
    assert event.type == f"wallet.{kind.removeprefix('CONCERN_KIND_').lower()}"
    assert "{" not in facts["detail"]
    assert facts["amount_nanos"] == str(5 * USD)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_about_one_moment_is_told_once_and_the_rest_once_a_day(kind: str) -> None:
    today, tomorrow = (events.of_concern(concern(kind), day).key for day in ("2026-11-22", "2026-11-23"))
    once = kind.endswith(("GRANT_EXPIRING", "LEASE_RECLAIMED"))
    assert (today == tomorrow) is once


def test_differences_are_told_apart_whatever_their_names_have() -> None:
    named = [
        statements_pb2.Difference(kind="CHARGE_UNKNOWN", wallet=f"orgs/a/wallets/{'w' * 40}{n}", subject=f"pi_{n}")
        for n in range(3)
    ]
    told = [events.of_difference("orgs/a", one, "2026-11-22") for one in named]
    assert len({one.key for one in told}) == 3
    assert all(len(one.key) <= 256 for one in told)
    assert {one.subject for one in told} == {"orgs/a"}


def test_a_day_is_one_of_utc() -> None:
    assert events.day_of(int(datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC).timestamp()) * 1_000_000) == "2026-11-22"
