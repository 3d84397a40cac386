"""Budget's copy of the prices: an organisation's own card prices its estimates, before and after a restart."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.metering.v1 import metering_pb2, rates_pb2
from services.budget.rates import Rates
from services.kit.database import create_pool
from services.kit.rate_source import load_rate_table
from services.kit.rating import Card, Markup, RateTable, Tokens
from tests.support.databases import Database

NOW_US = 1_795_000_000_000_000
TABLE = load_rate_table()


@dataclass
class FakeMetering:
    """Hands out the table and cards, a card an answer."""

    cards: list[rates_pb2.OwnRateCard] = field(default_factory=list)

    async def GetRateTable(self, request: Any, **_options: float) -> metering_pb2.GetRateTableResponse:
        newer = [card for card in self.cards if card.revision > request.have_revision]
        content = b"" if request.have_version == TABLE.version else TABLE.to_bytes()
        return metering_pb2.GetRateTableResponse(
            version=TABLE.version, content=content, own_cards=newer[:1], more_own_cards=len(newer) > 1
        )


def own(org: str, revision: int, ppm: int) -> rates_pb2.OwnRateCard:
    card = Card(RateTable("own", ()), (Markup("", "", ppm),))
    start = Timestamp(seconds=1_700_000_000)
    return rates_pb2.OwnRateCard(
        org=org,
        version=f"card-{revision}",
        revision=revision,
        effective_time=start,
        usable_time=start,
        content=card.to_bytes(),
    )


async def test_estimates_follow_an_organisations_card_and_outlive_a_restart(
    database: Callable[[str], Database],
) -> None:
    metering = FakeMetering([own("*", 1, 100_000), own("acme", 2, 500_000)])
    async with await create_pool(database("budget").service_dsn, application_name="test") as pool:
        rates = Rates(pool, metering)
        await rates.load()
        while await rates.refresh():
            pass
        restarted = Rates(pool, FakeMetering())
        await restarted.load()

    tokens = Tokens(1_000_000, 0, 0, 0)
    for known in (rates, restarted):
        cost, _, version, _ = known.price("", "claude-sonnet-4-5", Tokens(100_000), NOW_US, org="acme")
        assert (cost, version) == (450_000_000, f"{TABLE.version}+card-2")
        cost, _, version, _ = known.price("", "claude-sonnet-4-5", Tokens(100_000), NOW_US, org="other")
        assert (cost, version) == (330_000_000, f"{TABLE.version}+card-1")
        assert known.name("", "claude-4-5-sonnet", "acme", NOW_US)[:2] == ("anthropic", "claude-sonnet-4-5")
        assert known.price("", "gpt-4o", tokens, NOW_US, org="other", service_tier="batch")[0] == 1_375_000_000
