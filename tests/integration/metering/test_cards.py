"""Rate cards: published once, in force for everybody, and read by who prices estimates."""

import json
from datetime import UTC, datetime, timedelta

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.metering.v1 import metering_pb2, rates_pb2
from pursestrings.type.v1 import type_pb2
from services.kit.database import create_pool
from services.kit.rate_source import load_rate_table
from services.kit.rating import RateTable
from services.metering.prices import Prices
from tests.support.databases import Database
from tests.support.metering import Metering, refusal_of


async def test_the_rate_table_in_force_is_handed_out_once(metering: Metering) -> None:
    stub = metering.stub_for("orgs/acme", "agent")

    answer = await stub.GetRateTable(metering_pb2.GetRateTableRequest())
    again = await stub.GetRateTable(metering_pb2.GetRateTableRequest(have_version=answer.version))

    assert RateTable.from_bytes(answer.content).version == answer.version == load_rate_table().version
    assert again == metering_pb2.GetRateTableResponse(version=answer.version)


async def test_an_estimate_is_what_the_call_costs(metering: Metering) -> None:
    answer = await metering.stub_for("orgs/acme", "agent").Estimate(
        metering_pb2.EstimateRequest(
            subject="orgs/acme/agents/bot",
            call=type_pb2.CallAttributes(model="claude-4-5-sonnet"),
            tokens=type_pb2.TokenCounts(input_tokens=1_000, cache_read_tokens=400, output_tokens=100),
        )
    )

    # 600 at $3 a million, 400 read from the cache at $0.30, 100 out at $15.
    assert answer.cost == type_pb2.Money(currency_code="USD", amount_nanos=1_800_000 + 120_000 + 1_500_000)
    assert (answer.provider, answer.model) == ("anthropic", "claude-sonnet-4-5")
    assert answer.rate_card_version == load_rate_table().version


async def test_an_estimate_of_an_unknown_model_is_refused_with_close_names(metering: Metering) -> None:
    error = await refusal_of(
        metering.stub_for().Estimate(
            metering_pb2.EstimateRequest(
                subject="orgs/acme", call=type_pb2.CallAttributes(provider="openai", model="gpt-4oo")
            )
        )
    )

    assert (error.reason, error.field) == ("UNKNOWN_MODEL", "call.model")
    assert "gpt-4o" in error.metadata["suggestions"].split(", ")


async def test_a_table_is_published_once_and_the_first_rates_all_time(
    metering_database: Database, books: asyncpg.Connection
) -> None:
    table = load_rate_table()
    async with await create_pool(metering_database.service_dsn, application_name="test") as pool:
        for _ in range(3):
            await Prices(pool, 10.0).publish(table)

    rows = await books.fetch("SELECT version, effective_from FROM rate_cards")
    assert [tuple(row) for row in rows] == [(table.version, datetime(1970, 1, 1, tzinfo=UTC))]


async def test_a_new_table_is_in_force_once_every_replica_has_read_it(metering_database: Database) -> None:
    old = load_rate_table()
    new = RateTable("newer", old.providers)
    async with await create_pool(metering_database.service_dsn, application_name="test") as pool:
        first, second = Prices(pool, 10.0), Prices(pool, 10.0)
        await first.publish(old)
        await second.publish(new)
        now = datetime.now(UTC)
        assert second.cards.at(now).version == old.version

        await first.refresh()

        for prices in (first, second):
            assert prices.cards.at(now).version == old.version
            assert prices.cards.at(now + timedelta(seconds=31)).version == new.version
        assert first.cards.at(now + timedelta(days=1)).table.digest == new.digest


async def test_prices_are_imported_published_and_shown_to_their_organisation_alone(metering: Metering) -> None:
    stub = metering.stub_for("orgs/acme", "operator")
    model = {"litellm_provider": "lab", "input_cost_per_token": 1e-6, "input_cost_per_token_above_128k_tokens": 2e-6}
    asked = rates_pb2.ImportRateCardRequest(
        org="orgs/acme",
        format=rates_pb2.RATE_FORMAT_LITELLM,
        content=json.dumps({"lab/m-1": model, "free": {"litellm_provider": "lab"}}).encode(),
        request_id="i1",
        effective_time=Timestamp(seconds=1_700_000_000),
    )

    done = await stub.ImportRateCard(asked)
    again = await stub.ImportRateCard(asked)
    stale = rates_pb2.PublishRateCardRequest(org="orgs/acme", request_id="p1", expected_revision=0)
    markup = rates_pb2.PriceMarkup(parts_per_million=500_000)
    second = await stub.PublishRateCard(
        rates_pb2.PublishRateCardRequest(org="orgs/acme", markups=[markup], request_id="p2")
    )

    assert (done.imported, done.skipped, done.skipped_models[0].model) == (1, 1, "free")
    assert again.card == done.card
    assert (await refusal_of(stub.PublishRateCard(stale))).reason == "RATE_CARD_CHANGED"
    listed = await stub.ListRateCards(rates_pb2.ListRateCardsRequest(org="orgs/acme"))
    assert [card.version for card in listed.cards] == [second.card.version, done.card.version]
    shown = await stub.GetRateCard(rates_pb2.GetRateCardRequest(org="orgs/acme", version=done.card.version))
    assert [(price.provider, price.model, dict(price.prices)) for price in shown.prices] == [
        ("lab", "m-1", {"input_tokens": 1_000_000_000})
    ]
    assert [(tier.above_input_tokens, dict(tier.prices)) for tier in shown.prices[0].tiers] == [
        (128_000, {"input_tokens": 2_000_000_000})
    ]
    everybody = metering.stub_for("orgs/-", "service")
    told = await everybody.GetRateTable(metering_pb2.GetRateTableRequest(have_revision=1))
    assert [(card.org, card.version) for card in told.own_cards] == [("acme", second.card.version)]
    other = await metering.stub_for("orgs/other", "operator").GetRateTable(metering_pb2.GetRateTableRequest())
    assert list(other.own_cards) == []
    rate = await stub.GetRate(
        rates_pb2.GetRateRequest(subject="orgs/acme", call=type_pb2.CallAttributes(model="gpt-4o"))
    )
    assert (rate.price.model, rate.price.prices["output_tokens"]) == ("gpt-4o", 10_000_000_000)
