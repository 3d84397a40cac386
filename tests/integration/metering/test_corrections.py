"""Later words on usage over gRPC on real PostgreSQL: nothing edited, all followed by differences."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg

from pursestrings.metering.v1 import corrections_pb2, metering_pb2, rates_pb2
from pursestrings.type.v1 import type_pb2
from services.kit.database import create_pool
from services.kit.rate_source import load_rate_table
from services.metering.prices import Prices
from services.metering.rerating import Rerating
from tests.support.databases import Database
from tests.support.metering import Metering, record_all, refusal_of, usage_event
from tests.support.waiting import until

SUBJECT = "orgs/acme/teams/support/agents/bot"
USD = "USD"


def correction(id_: str = "e1", request_id: str = "r1", **fields: Any) -> corrections_pb2.CorrectUsageRequest:
    values: dict[str, Any] = {"org": "orgs/acme", "source": "test", "id": id_, "reason": "the invoice says so"}
    return corrections_pb2.CorrectUsageRequest(request_id=request_id, **(values | fields))


def dollars(nanos: int) -> type_pb2.Money:
    return type_pb2.Money(currency_code=USD, amount_nanos=nanos)


async def month_of(metering: Metering) -> metering_pb2.UsageTotals:
    return (await metering.stub_for().GetUsage(metering_pb2.GetUsageRequest(subject="orgs/acme"))).month


async def assert_books_hold(metering: Metering) -> None:
    audited = await metering.stub_for().Audit(metering_pb2.AuditRequest(org="orgs/acme"))
    assert [check for check in audited.checks if not check.ok] == []


async def test_a_correction_is_a_difference_that_all_follow(metering: Metering, books: asyncpg.Connection) -> None:
    stub = metering.stub_for("orgs/acme", "operator")
    await record_all(stub, [usage_event(session="s", run="r", labels={"env": "prod"})])
    before = await books.fetchrow("SELECT * FROM usage_events")

    # 2,000 in at $3 a million, 50 out at $15.
    tokens = type_pb2.TokenCounts(input_tokens=2_000, output_tokens=50)
    answer = (await stub.CorrectUsage(correction(tokens=tokens))).usage
    assert (answer.n, answer.cost, answer.cost_difference) == (1, dollars(6_750_000), dollars(2_250_000))
    again = (await stub.CorrectUsage(correction(request_id="r2", cost=dollars(1)))).usage
    assert (again.n, again.cost, again.cost_difference) == (2, dollars(1), dollars(-6_749_999))
    assert again.tokens == tokens

    assert await books.fetchrow("SELECT * FROM usage_events WHERE corrects_source IS NULL") == before
    month = await month_of(metering)
    assert (month.tokens.input_tokens, month.tokens.output_tokens) == (2_000, 50)
    assert (list(month.costs), month.operations, month.requests, month.sessions) == ([dollars(1)], 1, 1, 1)
    await until(lambda: len(metering.budget.applied) == 3, what="delivery")
    item = metering.budget.applied["pursestrings.correction", "r1"]
    assert (item.corrects.source, item.corrects.id) == ("test", "e1")
    assert (item.tokens.input_tokens, item.tokens.output_tokens, item.requests) == (1_000, -50, 0)
    assert item.cost == dollars(2_250_000)
    # A correction is no further event: budget, which this is compared with, counts none either.
    (total,) = (await metering.stub_for().Audit(metering_pb2.AuditRequest(org="orgs/acme"))).totals
    assert (total.events, total.cost_nanos, total.credit_nanos) == (1, 1, 6_749_999)
    original = metering.budget.applied["test", "e1"]
    assert (item.subject, item.call, item.occurred_at) == (original.subject, original.call, original.occurred_at)
    await assert_books_hold(metering)

    listed = await stub.ListCorrections(corrections_pb2.ListCorrectionsRequest(org="orgs/acme", page_size=1))
    rest = await stub.ListCorrections(
        corrections_pb2.ListCorrectionsRequest(org="orgs/acme", page_token=listed.next_page_token)
    )
    assert [one.n for one in (*listed.corrections, *rest.corrections)] == [1, 2]
    assert rest.corrections[0].reason == "the invoice says so"
    assert rest.corrections[0].corrected_by == "orgs/acme"


async def test_a_correction_is_made_once_and_another_under_its_id_is_refused(metering: Metering) -> None:
    stub = metering.stub_for("orgs/acme", "operator")
    await record_all(stub, [usage_event()])

    asked = correction(cost=dollars(7))
    answers = await asyncio.gather(*(stub.CorrectUsage(asked) for _ in range(5)))
    assert sorted(answer.usage.duplicate for answer in answers) == [False, True, True, True, True]
    assert {answer.usage.n for answer in answers} == {1}
    error = await refusal_of(stub.CorrectUsage(correction(cost=dollars(8))))
    assert error.reason == "REQUEST_ID_REUSED"
    assert list((await month_of(metering)).costs) == [dollars(7)]


async def test_corrections_that_race_follow_each_other(metering: Metering) -> None:
    stub = metering.stub_for("orgs/acme", "operator")
    await record_all(stub, [usage_event()])

    asked = [correction(request_id=f"r{n}", cost=dollars(10 + n)) for n in range(4)]
    answers = await asyncio.gather(*(stub.CorrectUsage(one) for one in asked))

    last = max((answer.usage for answer in answers), key=lambda one: one.n)
    assert sorted(answer.usage.n for answer in answers) == [1, 2, 3, 4]
    assert list((await month_of(metering)).costs) == [last.cost]
    assert sum(answer.usage.cost_difference.amount_nanos for answer in answers) == last.cost.amount_nanos - 4_500_000
    await assert_books_hold(metering)


async def test_a_wrong_correction_changes_nothing(metering: Metering) -> None:
    stub = metering.stub_for("orgs/acme", "operator")
    await record_all(stub, [usage_event()])
    impossible = type_pb2.TokenCounts(input_tokens=1, cache_read_tokens=2)
    wrong: list[tuple[dict[str, Any], str, str | None]] = [
        ({}, "INVALID_ARGUMENT", "tokens"),
        ({"requests": -1}, "AMOUNT_OUT_OF_RANGE", "requests"),
        ({"tokens": impossible}, "AMOUNT_OUT_OF_RANGE", "tokens.cache_read_tokens"),
        ({"cost": type_pb2.Money(currency_code="EUR", amount_nanos=1)}, "CURRENCY_MISMATCH", "cost.currency_code"),
        ({"cost": dollars(-1)}, "AMOUNT_OUT_OF_RANGE", "cost.amount_nanos"),
        ({"cost": dollars(4_500_000), "reason": ""}, "INVALID_ARGUMENT", "reason"),
        ({"cost": dollars(1), "id": "unknown"}, "USAGE_UNKNOWN", None),
        ({"requests": 1}, "NOTHING_TO_CORRECT", None),
    ]

    errors = [await refusal_of(stub.CorrectUsage(correction(**fields))) for fields, _, _ in wrong]

    assert [(error.reason, error.field) for error in errors] == [(reason, field) for _, reason, field in wrong]
    assert list((await month_of(metering)).costs) == [dollars(4_500_000)]
    agent = metering.stub_for("orgs/acme", "agent")
    assert (await refusal_of(agent.CorrectUsage(correction(cost=dollars(1))))).reason == "ROLE_MISSING"


async def test_usage_is_rated_when_its_price_arrives_as_if_it_had_been_there(
    metering_database: Database, metering: Metering
) -> None:
    stub = metering.stub_for("orgs/acme", "operator")
    await record_all(stub, [usage_event("e1", provider="acme-ai", model="next-1")])
    await record_all(stub, [usage_event("e2", provider="acme-ai", model="next-1", session="s")])
    unrated = await stub.ListUnratedUsage(corrections_pb2.ListUnratedUsageRequest(org="orgs/acme"))
    assert [(one.id, one.model, one.subject) for one in unrated.usage] == [
        ("e1", "next-1", SUBJECT),
        ("e2", "next-1", SUBJECT),
    ]
    assert [model.model for model in unrated.models] == ["next-1"]
    assert "acme-ai" in unrated.models[0].reason
    assert (await month_of(metering)).unrated == 2
    # A person knows better what one of them cost.
    await stub.CorrectUsage(correction("e2", cost=dollars(5)))
    assert (await month_of(metering)).unrated == 1

    async with await create_pool(metering_database.service_dsn, application_name="test") as pool:
        prices = Prices(pool, 0.001)
        await prices.publish(load_rate_table())
        rerating = Rerating(pool, prices, recorded=lambda: None, clock=lambda: datetime.now(UTC))
        await rerating.step()
        assert (await month_of(metering)).unrated == 1
        price = rates_pb2.ModelPrice(
            provider="acme-ai", model="next-1", prices={"input_tokens": 2_000_000_000, "output_tokens": 4_000_000_000}
        )
        published = await stub.PublishRateCard(
            rates_pb2.PublishRateCardRequest(org="orgs/acme", prices=[price], request_id="p1")
        )
        await prices.refresh()
        usable_at = published.card.usable_time.ToDatetime(UTC)
        later = Rerating(pool, prices, recorded=lambda: None, clock=lambda: usable_at)
        await later.step()
        await later.step()

    month = await month_of(metering)
    # 1,000 in at $2 a million, 100 out at $4; and what the person said.
    assert (list(month.costs), month.unrated, month.operations) == ([dollars(2_400_000 + 5)], 0, 2)
    assert month.tokens.input_tokens == 2_000
    await until(lambda: len(metering.budget.applied) == 4, what="delivery")
    item = next(item for item in metering.budget.applied.values() if item.source == "pursestrings.rerating")
    assert (item.corrects.id, item.cost) == ("e1", dollars(2_400_000))
    assert item.tokens == type_pb2.TokenCounts()
    assert item.rate_card_version == published.card.version
    left = await stub.ListUnratedUsage(corrections_pb2.ListUnratedUsageRequest(org="orgs/acme"))
    assert (list(left.usage), list(left.models)) == ([], [])
    await assert_books_hold(metering)
