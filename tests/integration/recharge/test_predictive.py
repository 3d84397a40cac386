"""Recharges up to a target and by forecast: one forecast starts one, and the reason is kept."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.wallet.v1 import predictive_pb2 as predictive
from pursestrings.wallet.v1 import wallet_pb2 as pb
from tests.integration.recharge.test_observe import FAILED, PENDING, SUCCEEDED, pay
from tests.support.recharging import USD, Rig, refusal, usd


def forecast(spend: float, *, age: timedelta = timedelta(0), **fields: Any) -> predictive.RechargeForecast:
    as_of, ends = Timestamp(), Timestamp()
    as_of.FromDatetime(datetime.now(UTC) - age)
    ends.FromDatetime(datetime(2030, 1, 1, tzinfo=UTC))
    said = {"quantile_percent": 90, "hours_ahead": 24, "as_of_time": as_of, "depletion_time": ends, **fields}
    return predictive.RechargeForecast(spend_nanos=round(spend * USD), **said)


async def ask(rig: Rig, said: predictive.RechargeForecast) -> predictive.StartPredictiveRechargeResponse:
    request = predictive.StartPredictiveRechargeRequest(wallet=rig.wallet, forecast=said)
    return await rig.stub.StartPredictiveRecharge(request)


async def by_forecast(rig: Rig, **fields: Any) -> pb.RechargePolicy:
    settings = predictive.PredictiveSettings(floor=usd(2))
    said = {"mode": pb.RECHARGE_MODE_PREDICTIVE, "threshold": None, "predictive": settings, **fields}
    return await rig.policy(**said)


async def test_a_recharge_fills_up_to_the_target(rig: Rig) -> None:
    await rig.card()
    await rig.grant(6)
    await rig.policy(amount=None, target=usd(30), max_amount=usd(50), max_amount_per_month=usd(60))
    await rig.spend(1.994, 1, total=1.994)
    (one,) = await rig.recharges()
    assert one.amount == usd(26)
    assert (await pay(rig, one.name)).state == SUCCEEDED
    assert await rig.balance() == round(30.006 * USD)
    # What is missing now would pass the month's cap: it is refused whole, and somebody is told.
    await rig.spend(35, 2, total=36.994)
    assert len(await rig.recharges()) == 1
    (alert,) = await rig.alerts("RECHARGE_CAP_REACHED")
    assert json.loads(alert)["charge_nanos"] == 35 * USD
    assert await rig.audit_failures() == []


async def test_a_forecast_starts_one_recharge_with_its_reason(rig: Rig) -> None:
    await rig.card()
    await rig.grant(10)
    known = await by_forecast(rig)
    assert (known.predictive.predict_hours_ahead, known.predictive.quantile_percent) == (24, 90)
    assert await rig.recharges() == []
    assert (await ask(rig, forecast(7.99))).blocked == "ENOUGH"
    said = forecast(8)
    answers = await asyncio.gather(*(ask(rig, said) for _ in range(4)))
    (started,) = [answer.recharge for answer in answers if answer.recharge]
    assert [answer.blocked for answer in answers if answer.blocked] == ["PENDING"] * 3
    one = await rig.recharge(started)
    assert (one.state, one.forecast.spend_nanos, one.forecast.balance_nanos) == (PENDING, 8 * USD, 10 * USD)
    assert one.forecast.depletion_time == said.depletion_time
    assert one.reason.startswith("8.00 USD may be spent within 24 h (p90) of the balance of 10.00 USD")
    assert (await pay(rig, one.name)).state == SUCCEEDED
    # Even where as much is spent meanwhile, the old forecast knows nothing of the new money.
    await rig.spend(22, 1, total=22)
    assert (await ask(rig, said)).blocked == "STALE"
    assert (await ask(rig, forecast(8))).recharge
    assert await rig.audit_failures() == []


async def test_a_forecast_is_bound_by_the_caps_and_the_cooldown(rig: Rig) -> None:
    await rig.card()
    await rig.grant(10)
    await by_forecast(rig, max_count_per_month=1, cooldown=timedelta(hours=1))
    assert (await pay(rig, (await ask(rig, forecast(9))).recharge)).state == SUCCEEDED
    waits = await ask(rig, forecast(50))
    assert (waits.blocked, waits.HasField("recheck_time")) == ("COOLDOWN", True)
    await by_forecast(rig, max_count_per_month=1)
    for _ in range(2):
        assert (await ask(rig, forecast(50))).blocked == "COUNT_CAP"
    assert len(await rig.alerts("RECHARGE_CAP_REACHED")) == 1
    await by_forecast(rig, max_count_per_month=2, paused_reason="a holiday")
    assert (await ask(rig, forecast(50))).blocked == "PAUSED"


async def test_a_forecast_recharge_is_given_up_once_the_balance_covers_it(rig: Rig) -> None:
    await rig.card()
    await rig.grant(10)
    await by_forecast(rig)
    name = (await ask(rig, forecast(9))).recharge
    assert (await rig.authorize(name)).verdict == pb.ATTEMPT_VERDICT_CHARGE
    await rig.grant(5)
    step = await rig.authorize(name)
    assert step.verdict == pb.ATTEMPT_VERDICT_GIVE_UP
    assert (await rig.fail(name, step.reason, advised=True)).state == FAILED
    answer = await rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet))
    assert (answer.policy.paused_reason, answer.month_count) == ("", 0)


async def test_wallets_that_go_by_forecast_are_listed(rig: Rig) -> None:
    names = [await rig.create_wallet(f"p{n}") for n in range(3)]
    settings = predictive.PredictiveSettings(predict_hours_ahead=48, quantile_percent=99, lead_time=True)
    for name in names:
        await rig.policy(name, mode=pb.RECHARGE_MODE_PREDICTIVE, threshold=None, predictive=settings)
    await rig.policy()
    request = predictive.ListPredictiveWalletsRequest(org=f"orgs/{rig.org}", page_size=2)
    first = await rig.stub.ListPredictiveWallets(request)
    request.page_token = first.next_page_token
    rest = await rig.stub.ListPredictiveWallets(request)
    assert [one.wallet for one in (*first.wallets, *rest.wallets)] == names
    assert (first.wallets[0].settings, rest.next_page_token) == (settings, "")


async def test_a_forecast_that_does_not_fit_is_refused(rig: Rig) -> None:
    await by_forecast(rig)
    bad = [
        (forecast(9, age=timedelta(hours=2)), "FORECAST_TOO_OLD"),
        (forecast(9, age=timedelta(hours=-2)), "FORECAST_TOO_OLD"),
        (forecast(9, quantile_percent=50), "INVALID_ARGUMENT"),
        (forecast(9, hours_ahead=25), "INVALID_ARGUMENT"),
        (forecast(-1), "INVALID_ARGUMENT"),
        (forecast(9, as_of_time=None), "INVALID_ARGUMENT"),
    ]
    for said, reason in bad:
        assert (await refusal(ask(rig, said))).reason == reason
    await rig.policy()
    assert (await refusal(ask(rig, forecast(9)))).reason == "POLICY_NOT_PREDICTIVE"


async def listed(rig: Rig, **fields: Any) -> list[predictive.PredictiveWallet]:
    found: list[predictive.PredictiveWallet] = []
    request = predictive.ListPredictiveWalletsRequest(org=f"orgs/{rig.org}", page_size=2, **fields)
    while True:
        page = await rig.stub.ListPredictiveWallets(request)
        found += page.wallets
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


async def test_wallets_are_divided_by_their_names(rig: Rig) -> None:
    names = [await rig.create_wallet(f"s{n}") for n in range(12)]
    for name in names:
        await by_forecast(rig, wallet=name)
    parts = [[one.wallet for one in await listed(rig, shard=n, shards=3)] for n in range(3)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert sum(bool(part) for part in parts) > 1
    assert [[one.wallet for one in await listed(rig, shard=n, shards=3)] for n in range(3)] == parts
    for shard, shards in ((3, 3), (-1, 3), (0, 1025)):
        assert (await refusal(listed(rig, shard=shard, shards=shards))).reason == "INVALID_ARGUMENT"


async def test_a_wallet_tells_how_long_its_recharges_take_and_who_pays_for_themselves(rig: Rig) -> None:
    await rig.card()
    await by_forecast(rig, max_count_per_month=20, predictive=predictive.PredictiveSettings(lead_time=True))
    for place, currency in (("teams/a", "USD"), ("teams/a/agents/x", "USD"), ("teams/b", "EUR")):
        wallet = pb.Wallet(currency_code=currency)
        parent = f"orgs/{rig.org}/{place}"
        await rig.stub.CreateWallet(
            pb.CreateWalletRequest(parent=parent, wallet_id="own", wallet=wallet, request_id=rig.request_id())
        )
    (new,) = await listed(rig)
    assert (new.recharge_delay_p99_s, new.charge_nanos, new.settings.quantile_percent) == (3600, 20 * USD, 99)
    assert list(new.excluded_subjects) == [f"orgs/{rig.org}/teams/a"]
    for _ in range(10):
        said = forecast(10_000, quantile_percent=99)
        assert (await pay(rig, (await ask(rig, said)).recharge)).state == SUCCEEDED
    await rig.sql.execute("UPDATE recharges SET ended_at = created_at + interval '90.5 s'")
    await rig.sql.execute("UPDATE recharges SET ended_at = created_at + interval '7 min 0.1 s' WHERE number = 3")
    (known,) = await listed(rig)
    assert known.recharge_delay_p99_s == 421
    await rig.sql.execute("UPDATE recharges SET created_at = created_at - interval '91 days' WHERE number = 3")
    assert (await listed(rig))[0].recharge_delay_p99_s == 3600


async def test_half_a_recharge_is_left_in_the_first_week(rig: Rig) -> None:
    await rig.card()
    await rig.grant(11)
    await by_forecast(rig, predictive=predictive.PredictiveSettings())
    assert (await ask(rig, forecast(0.99, history_hours=167))).blocked == "ENOUGH"
    assert (await ask(rig, forecast(1, history_hours=168))).blocked == "ENOUGH"
    one = await rig.recharge((await ask(rig, forecast(1, history_hours=167))).recharge)
    assert one.forecast.floor_nanos == 10 * USD
    assert one.reason.endswith("; 10.00 USD must be left")
    assert (await rig.authorize(one.name)).verdict == pb.ATTEMPT_VERDICT_CHARGE


async def test_the_largest_burst_is_covered_and_half_as_much_again(rig: Rig) -> None:
    await rig.card()
    await rig.grant(9)
    await by_forecast(rig, predictive=predictive.PredictiveSettings(lead_time=True))
    said: dict[str, Any] = {"quantile_percent": 99, "hours_ahead": 2}
    assert (await ask(rig, forecast(1, **said, peak_nanos=6 * USD - 2))).blocked == "ENOUGH"
    one = await rig.recharge((await ask(rig, forecast(1, **said, peak_nanos=6 * USD))).recharge)
    assert (one.forecast.spend_nanos, one.forecast.peak_nanos) == (USD, 6 * USD)
    assert one.reason.startswith("9.00 USD may be spent while a recharge is on its way")
    assert (await rig.authorize(one.name)).verdict == pb.ATTEMPT_VERDICT_CHARGE
    assert (await refusal(ask(rig, forecast(1, **said, peak_nanos=-1)))).reason == "INVALID_ARGUMENT"
