"""Recording over gRPC on real PostgreSQL."""

from pursestrings.metering.v1 import metering_pb2
from tests.support.metering import Metering, usage_event
from tests.support.waiting import until


async def test_a_call_is_rated_and_reaches_the_budget_service(metering: Metering) -> None:
    stub = metering.stub_for()

    response = await stub.RecordUsage(metering_pb2.RecordUsageRequest(event=usage_event()))

    usage = response.usage
    # 1,000 in at $3 a million, 100 out at $15.
    assert (usage.cost.currency_code, usage.cost.amount_nanos) == ("USD", 3_000_000 + 1_500_000)
    assert usage.rate_card_version.startswith("genai-prices-")
    assert not usage.duplicate
    await until(lambda: metering.budget.applied, what="delivery")
    item = metering.budget.applied["test", "e1"]
    assert item.cost == usage.cost
    assert item.requests == 1
    assert item.final
