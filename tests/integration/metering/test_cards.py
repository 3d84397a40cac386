"""Rate cards: published once, in force for everybody, and read by who prices estimates."""

from datetime import UTC, datetime, timedelta

import asyncpg

from pursestrings.metering.v1 import metering_pb2
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
