"""More recharges than the caps allow: what is allowed, and the reviews in which somebody decides on it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.wallet.v1 import caps_pb2 as caps
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.status import from_rpc_error
from tests.integration.recharge.test_observe import PENDING, SUCCEEDED, WAIT, pay
from tests.support.recharging import USD, Rig, usd

OPEN = caps.RECHARGE_REVIEW_STATE_OPEN
ALLOWED = caps.RECHARGE_REVIEW_STATE_ALLOWED
KEPT = caps.RECHARGE_REVIEW_STATE_KEPT_PAUSED
ENDED = caps.RECHARGE_REVIEW_STATE_ENDED


async def allow(rig: Rig, count: int = 0, **fields: Any) -> caps.AllowRechargesResponse:
    request = {"wallet": rig.wallet, "extra_count": count, "reason": "a launch", "request_id": rig.request_id()}
    return await rig.stub.AllowRecharges(caps.AllowRechargesRequest(**{**request, **fields}))


async def decide(rig: Rig, review: str, **fields: Any) -> caps.RechargeReview:
    request = {"name": review, "reason": "as planned", "request_id": rig.request_id(), **fields}
    return (await rig.stub.DecideRechargeReview(caps.DecideRechargeReviewRequest(**request))).review


async def reviews(rig: Rig, *, only_open: bool = False) -> list[caps.RechargeReview]:
    request = caps.ListRechargeReviewsRequest(parent=f"orgs/{rig.org}", only_open=only_open)
    return list((await rig.stub.ListRechargeReviews(request)).reviews)


async def refusal(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value).reason


async def at_the_cap(rig: Rig, count: int = 1) -> caps.RechargeReview:
    """A policy whose only recharge of the month was charged, and whose balance is low."""
    await rig.card()
    await rig.policy(threshold=usd(1000), max_count_per_month=count)
    for _ in range(count):
        await pay(rig, (await rig.recharges())[0].name)
    (review,) = await reviews(rig)
    return review


async def test_a_cap_opens_one_review_and_more_ends_the_block_at_once(rig: Rig) -> None:
    review = await at_the_cap(rig)
    assert (review.state, review.cap, review.charge.amount_nanos) == (OPEN, "COUNT_CAP", 20 * USD)
    (alert,) = await rig.alerts("RECHARGE_CAP_REACHED")
    assert json.loads(alert)["review"] == review.name
    rows = await rig.sql.fetch("SELECT key FROM outbox WHERE topic = 'recharge-review'")
    assert [row["key"] for row in rows] == [review.name]

    answer = await allow(rig, 2, approval=f"orgs/{rig.org}/approvals/a1", on_behalf_of="orgs/x#ann")
    assert (answer.caps.max_count, answer.caps.extra_count) == (1, 2)
    assert (answer.extra.approval, answer.extra.allowed_by) == (f"orgs/{rig.org}/approvals/a1", "orgs/x#ann")
    (answered,) = await reviews(rig)
    assert (answered.state, answered.extra, answered.decided_by) == (ALLOWED, answer.extra.name, "orgs/x#ann")
    # Two more are let in, one after the other, and no third; then somebody is asked again.
    for _ in range(2):
        newest = (await rig.recharges())[0]
        assert newest.state == PENDING
        assert (await pay(rig, newest.name)).state == SUCCEEDED
    assert len(await rig.recharges()) == 3
    assert [(one.state, one.name[-1]) for one in await reviews(rig)] == [(OPEN, "2"), (ALLOWED, "1")]
    assert len(await rig.alerts("RECHARGE_CAP_REACHED")) == 2
    assert await rig.audit_failures() == []
    with pytest.raises(asyncpg.CheckViolationError):
        await rig.sql.execute("UPDATE recharge_months SET count = 4")


async def test_the_same_request_allows_the_same_once_for_ever(rig: Rig) -> None:
    await at_the_cap(rig)
    first = await allow(rig, 1, request_id="once")
    await rig.sql.execute("DELETE FROM request_keys")
    assert (await allow(rig, 1, request_id="once")).extra == first.extra
    assert await refusal(allow(rig, 2, request_id="once")) == "REQUEST_ID_REUSED"
    seen = await rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet))
    assert [one.name for one in seen.extras] == [first.extra.name]
    assert seen.caps.extra_count == 1


async def test_money_beyond_the_amount_cap(rig: Rig) -> None:
    await rig.card()
    await rig.policy(threshold=usd(1000), max_amount_per_month=usd(39.99))
    await pay(rig, (await rig.recharges())[0].name)
    (review,) = await reviews(rig)
    assert review.cap == "AMOUNT_CAP"
    # Too little for a charge: the next review is open at once.
    decided = await decide(rig, review.name, extra_amount=usd(0.001))
    assert (decided.state, decided.caps.extra_amount.amount_nanos) == (ALLOWED, USD // 1000)
    (again, _) = await reviews(rig)
    assert again.state == OPEN
    await decide(rig, again.name, extra_amount=usd(0.01))
    assert (await pay(rig, (await rig.recharges())[0].name)).state == SUCCEEDED
    assert len(await rig.recharges()) == 2
    assert await rig.audit_failures() == []


async def test_a_review_is_decided_once(rig: Rig) -> None:
    review = await at_the_cap(rig)
    kept = await decide(rig, review.name, keep_paused=True, request_id="no", on_behalf_of="orgs/x#bob")
    assert (kept.state, kept.decided_by, kept.reason) == (KEPT, "orgs/x#bob", "as planned")
    assert kept == await decide(rig, review.name, keep_paused=True, request_id="no", on_behalf_of="orgs/x#bob")
    assert await refusal(decide(rig, review.name, extra_count=1)) == "REVIEW_ENDED"
    assert await refusal(decide(rig, review.name, keep_paused=True, request_id="no")) == "REQUEST_ID_REUSED"
    # Kept as it is, it is nobody's business again this month.
    await rig.spend(1, 1, total=1)
    assert len(await reviews(rig)) == 1
    assert len(await rig.recharges()) == 1
    found = (await rig.stub.GetRechargeReview(caps.GetRechargeReviewRequest(name=review.name))).review
    assert (found.spent.amount_nanos, found.caps.count, found.balance.amount_nanos) == (USD, 1, 19 * USD)
    signals = await rig.sql.fetch("SELECT key FROM outbox WHERE topic = 'recharge-signal'")
    assert review.name in {row["key"] for row in signals}


async def test_a_policy_with_other_caps_ends_the_review(rig: Rig) -> None:
    review = await at_the_cap(rig)
    await rig.policy(threshold=usd(1000), max_count_per_month=2)
    (ended,) = await reviews(rig)
    assert (ended.name, ended.state, ended.reason) == (review.name, ENDED, "the policy was changed")
    assert (await pay(rig, (await rig.recharges())[0].name)).state == SUCCEEDED
    assert [one.state for one in await reviews(rig)] == [OPEN, ENDED]


async def test_an_extra_ends_at_its_time_and_what_it_let_in_stays(rig: Rig) -> None:
    await at_the_cap(rig)
    soon = datetime.now(UTC) + timedelta(hours=1)
    await allow(rig, 2, until_time=soon)
    (first, *_) = await rig.recharges()
    await rig.sql.execute("UPDATE recharge_extras SET until_at = clock_timestamp()")
    # It was begun before, so it is charged; another does not begin.
    assert (await pay(rig, first.name)).state == SUCCEEDED
    assert len(await rig.recharges()) == 2
    (again, *_) = await reviews(rig)
    assert again.state == OPEN
    # One more is one more than what counts, though the extra that let the last one in is over.
    await decide(rig, again.name, extra_count=1)
    assert (await pay(rig, (await rig.recharges())[0].name)).state == SUCCEEDED
    assert len(await rig.recharges()) == 3
    assert await rig.audit_failures() == []


async def test_a_recharge_that_waits_for_the_new_months_caps_goes_on(rig: Rig) -> None:
    await rig.card()
    await rig.policy(threshold=usd(1000), max_count_per_month=2)
    (one,) = await rig.recharges()
    await rig.last_month()
    await rig.sql.execute(
        "INSERT INTO recharge_months (org, wallet, month, zone, count, amount_nanos, cap_count) "
        "SELECT org, wallet, to_char(clock_timestamp(), 'YYYY-MM'), zone, 2, 2, 2 FROM recharge_months"
    )
    assert (await rig.authorize(one.name)).verdict == WAIT
    (review,) = await reviews(rig)
    await decide(rig, review.name, extra_count=1)
    signals = await rig.sql.fetch("SELECT key FROM outbox WHERE topic = 'recharge-signal'")
    assert {one.name, review.name} <= {row["key"] for row in signals}
    assert (await pay(rig, one.name)).state == SUCCEEDED


async def test_a_review_shows_its_own_month_when_the_next_has_begun(rig: Rig) -> None:
    review = await at_the_cap(rig, 2)
    await rig.last_month()
    await rig.sql.execute("UPDATE recharge_policies SET max_count = 7")

    found = (await rig.stub.GetRechargeReview(caps.GetRechargeReviewRequest(name=review.name))).review
    shown = found.caps
    assert (shown.month, shown.count, shown.max_count, shown.amount.amount_nanos) == ("2020-01", 2, 2, 40 * USD)
    assert shown.month_end_time == found.month_end_time
    policy = await rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet))
    assert policy.caps.month > "2020-01"
    assert policy.caps.max_count == 7


async def test_a_review_ends_with_its_month_and_a_lost_workflow_starts_again(rig: Rig) -> None:
    review = await at_the_cap(rig)
    await rig.sql.execute("DELETE FROM outbox")
    await rig.sql.execute("UPDATE recharge_reviews SET check_at = clock_timestamp()")
    await rig.sweep()
    rows = await rig.sql.fetch("SELECT key FROM outbox WHERE topic = 'recharge-review'")
    assert [row["key"] for row in rows] == [review.name]
    await rig.sql.execute("UPDATE recharge_reviews SET check_at = clock_timestamp(), month_end = clock_timestamp()")
    assert await refusal(decide(rig, review.name, extra_count=1)) == "REVIEW_ENDED"
    await rig.sweep()
    (ended,) = await reviews(rig)
    assert (ended.state, ended.decided_by) == (ENDED, "")
    assert "month is over" in ended.reason
    signals = await rig.sql.fetch("SELECT key FROM outbox WHERE topic = 'recharge-signal'")
    assert review.name in {row["key"] for row in signals}


async def test_what_cannot_be_allowed_is_refused_and_changes_nothing(rig: Rig) -> None:
    await rig.card()
    assert await refusal(allow(rig, 1)) == "POLICY_UNKNOWN"
    await rig.policy()
    far = datetime.now(UTC) + timedelta(days=80)
    past = datetime.now(UTC) - timedelta(minutes=1)
    euros = pb.Wallet(currency_code="EUR").currency_code
    bad: list[tuple[dict[str, Any], str]] = [
        ({"count": 0}, "BAD_EXTRA"),
        ({"count": 1001}, "BAD_EXTRA"),
        ({"count": -1}, "BAD_EXTRA"),
        ({"extra_amount": usd(-1)}, "BAD_EXTRA"),
        ({"extra_amount": type(usd(1))(currency_code=euros, amount_nanos=1)}, "CURRENCY_MISMATCH"),
        ({"count": 1, "until_time": far}, "BAD_EXTRA"),
        ({"count": 1, "until_time": past}, "BAD_EXTRA"),
        ({"count": 1, "until_time": Timestamp(seconds=2**40)}, "BAD_EXTRA"),
        ({"count": 1, "reason": ""}, "INVALID_ARGUMENT"),
        ({"count": 1, "approval": "orgs/x/nothing/1"}, "MALFORMED_NAME"),
        ({"count": 1, "request_id": ""}, "REQUEST_ID_REQUIRED"),
        ({"count": 1, "wallet": f"orgs/{rig.org}/wallets/none"}, "WALLET_UNKNOWN"),
    ]
    for fields, reason in bad:
        assert await refusal(allow(rig, **fields)) == reason, fields
    await allow(rig, 1000)
    assert await refusal(allow(rig, 1)) == "BAD_EXTRA"
    assert await refusal(decide(rig, f"orgs/{rig.org}/rechargeReviews/none", extra_count=1)) == "REVIEW_UNKNOWN"
    assert await rig.sql.fetchval("SELECT count(*) FROM recharge_extras") == 1
