"""The run log, burn rate and forecasts over the service."""

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.metering.v1 import analysis_pb2, metering_pb2
from pursestrings.type.v1 import type_pb2
from tests.support.metering import Metering, record_all, refusal_of, usage_event

ORG = "orgs/acme"
DOLLAR = 10**9


def stamp(instant: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp


def call(n: int, ago: timedelta, nanos: int = DOLLAR, **fields: Any) -> metering_pb2.UsageEvent:
    cost = type_pb2.Money(currency_code=fields.pop("currency", "USD"), amount_nanos=nanos)
    return usage_event(f"e{n}", cost=cost, occurred_at=stamp(datetime.now(UTC) - ago), **fields)


async def all_rows(metering: Metering, **fields: Any) -> list[analysis_pb2.UsageRow]:
    rows: list[analysis_pb2.UsageRow] = []
    token = ""
    while True:
        answer = await metering.stub_for().ListUsage(
            analysis_pb2.ListUsageRequest(subject=ORG, page_token=token, page_size=7, **fields)
        )
        rows += answer.rows
        token = answer.next_page_token
        if not token:
            return rows
        assert len(rows) < 1_000


async def test_the_run_log(metering: Metering) -> None:
    events = [
        call(
            n,
            timedelta(minutes=n),
            nanos=(n * 37) % 100 + 1,
            run=f"r{n % 3}",
            session=f"s{n}",
            input_tokens=100 + n % 7,
        )
        for n in range(40)
    ]
    events.append(call(99, timedelta(minutes=5), nanos=5, input_tokens=90_000, run="r1"))
    await record_all(metering.stub_for(), events)

    by_time = await all_rows(metering)
    assert len(by_time) == 41
    assert [row.id for row in by_time[:3]] == ["e0", "e1", "e2"]
    by_cost = await all_rows(metering, order=analysis_pb2.USAGE_ORDER_COST)
    costs = [row.costs[0].amount_nanos for row in by_cost]
    assert costs == sorted(costs, reverse=True)
    assert {row.id for row in by_cost} == {row.id for row in by_time}
    odd = await all_rows(metering, unusual_only=True)
    assert [row.id for row in odd] == ["e99"]
    assert odd[0].unusual_reason.startswith("90,100 tokens, ")
    assert odd[0].deviation_percent > 350
    runs = await all_rows(metering, view=analysis_pb2.USAGE_VIEW_RUNS, order=analysis_pb2.USAGE_ORDER_TOKENS)
    assert runs[0].run == "r1"
    assert {row.run: (row.calls, row.costs[0].amount_nanos) for row in runs} == {
        f"r{k}": (
            sum(event.run == f"r{k}" for event in events),
            sum(event.cost.amount_nanos for event in events if event.run == f"r{k}"),
        )
        for k in range(3)
    }
    assert len(await all_rows(metering, run="r2")) == 13
    other = analysis_pb2.ListUsageRequest(subject=ORG, page_token="x")
    assert (await refusal_of(metering.stub_for().ListUsage(other))).field == "page_token"


async def test_burn_and_forecast(metering: Metering) -> None:
    events = [call(n, timedelta(hours=n, minutes=1), nanos=2 * DOLLAR) for n in range(30)]
    events.append(call(77, timedelta(hours=3), nanos=7, currency="EUR"))
    await record_all(metering.stub_for(), events)
    stub = metering.stub_for()

    burn = await stub.GetBurnRate(analysis_pb2.GetBurnRateRequest(subject=ORG))
    euro, dollar = burn.rates
    assert (euro.currency_code, euro.last_day_nanos) == ("EUR", 7)
    assert (dollar.last_hour_nanos, dollar.last_day_nanos, dollar.last_week_nanos) == (
        2 * DOLLAR, 48 * DOLLAR, 60 * DOLLAR,
    )  # fmt: skip
    assert dollar.per_hour_nanos == 2 * DOLLAR
    assert 46 * DOLLAR < dollar.per_day_nanos < 51 * DOLLAR

    told = await stub.Forecast(analysis_pb2.ForecastRequest(subject=ORG, amount_nanos=100 * DOLLAR))
    assert (told.currency_code, told.horizon_hours) == ("USD", 24)
    assert told.basis == analysis_pb2.FORECAST_BASIS_SHORT
    assert 40 * DOLLAR < told.spend.p50_nanos < 60 * DOLLAR
    assert told.spend.p50_nanos <= told.spend.p90_nanos <= told.spend.p99_nanos
    times = [getattr(told.depletion, field).ToDatetime(UTC) for field in ("p99_time", "p90_time", "p50_time")]
    assert datetime.now(UTC) < times[0] <= times[1] <= times[2] < datetime.now(UTC) + timedelta(hours=72)

    batch = await stub.BatchForecast(
        analysis_pb2.BatchForecastRequest(
            requests=[
                analysis_pb2.ForecastRequest(subject=f"{ORG}/teams/support"),
                analysis_pb2.ForecastRequest(subject=f"{ORG}/teams/idle"),
                analysis_pb2.ForecastRequest(subject=ORG, horizon_hours=721),
            ]
        )
    )
    busy, idle, wrong = batch.results
    assert busy.forecast.spend == told.spend
    assert idle.forecast.basis == analysis_pb2.FORECAST_BASIS_NOTHING
    assert idle.forecast.spend.p99_nanos == 0
    assert "horizon_hours" in wrong.error.message


async def test_a_batch_of_forecasts_refuses_item_by_item(metering: Metering) -> None:
    team, other = f"{ORG}/teams/support", "orgs/other"
    await record_all(metering.stub_for(), [call(n, timedelta(hours=n, minutes=1), nanos=DOLLAR) for n in range(3)])
    ask = analysis_pb2.ForecastRequest
    requests = [ask(subject=team), ask(subject=other), ask(subject="teams/x"), ask(subject=f"{team}/agents/a")]
    batch = analysis_pb2.BatchForecastRequest(requests=requests)
    answers = (await metering.stub_for(team, "auditor").BatchForecast(batch)).results
    assert [answer.WhichOneof("result") for answer in answers] == ["forecast", "error", "error", "forecast"]
    assert "the credential covers" in answers[1].error.message
    # One who covers all asks for subjects of any organisations.
    answers = (await metering.stub_for().BatchForecast(batch)).results
    assert [answer.WhichOneof("result") for answer in answers] == ["forecast", "forecast", "error", "forecast"]
    assert answers[0].forecast.spend.p50_nanos > 0
    assert answers[1].forecast.spend.p99_nanos == 0


async def test_what_others_pay_for_is_left_out_of_a_forecast(metering: Metering) -> None:
    events = [call(n, timedelta(hours=n % 4 + 1, minutes=1), nanos=n * DOLLAR) for n in range(1, 9)]
    await record_all(metering.stub_for(), events)
    whole = await metering.stub_for().Forecast(analysis_pb2.ForecastRequest(subject=ORG, peak_hours=1))
    assert whole.peak_nanos == 12 * DOLLAR
    assert (
        await metering.stub_for().Forecast(analysis_pb2.ForecastRequest(subject=ORG, peak_hours=2))
    ).peak_nanos == 18 * DOLLAR
    names = [f"{ORG}/teams/support"]
    rest = await metering.stub_for().Forecast(analysis_pb2.ForecastRequest(subject=ORG, excluded_subjects=names))
    assert (rest.spend.p99_nanos, rest.history_hours, rest.peak_nanos) == (0, 0, 0)
    below = await metering.stub_for().Forecast(
        analysis_pb2.ForecastRequest(subject=names[0], excluded_subjects=[f"{names[0]}/agents/none"])
    )
    assert below.spend == whole.spend
    for wrong in (["orgs/other/teams/x"], [ORG], [names[0], names[0]], [names[0], f"{names[0]}/agents/a"]):
        request = analysis_pb2.ForecastRequest(subject=ORG, excluded_subjects=wrong)
        assert (await refusal_of(metering.stub_for().Forecast(request))).field == "excluded_subjects"
