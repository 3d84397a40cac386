"""The rules of the twin, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from embedded.stripe_twin import domain, objects
from embedded.stripe_twin.cards import AUTHENTICATION_REQUIRED, BY_KEY, DECLINES
from embedded.stripe_twin.domain import Attempt, Judgement, StoredAnswer, Verdict
from embedded.stripe_twin.errors import ApiError

GENERIC = DECLINES["generic_decline"]
FUNDS = DECLINES["insufficient_funds"]
SUCCEED = Judgement(Verdict.SUCCEED)
ASK = Judgement(Verdict.AUTHENTICATE)


def refuse(decline: Any) -> Judgement:
    return Judgement(Verdict.DECLINE, decline)


def intent(status: str, **members: Any) -> dict[str, Any]:
    made = objects.payment_intent("pi_1", 1000, "s", {"amount": 2000, "currency": "usd"})
    return {**made, "status": status, **members}


@pytest.mark.parametrize(
    ("card", "more", "expected"),
    [
        ("visa", {"off_session": True}, SUCCEED),
        ("visa", {"off_session": False}, SUCCEED),
        ("visa", {"off_session": True, "hold": True}, Judgement(Verdict.HOLD)),
        ("visa", {"off_session": True, "forced": FUNDS, "hold": True}, refuse(FUNDS)),
        ("chargeDeclined", {"off_session": False}, refuse(GENERIC)),
        ("chargeCustomerFail", {"off_session": True}, refuse(GENERIC)),
        ("authenticationRequired", {"off_session": True}, refuse(AUTHENTICATION_REQUIRED)),
        ("authenticationRequired", {"off_session": True, "set_up": True}, refuse(AUTHENTICATION_REQUIRED)),
        ("authenticationRequired", {"off_session": False}, ASK),
        ("authenticationRequired", {"off_session": False, "authenticated": True}, SUCCEED),
        ("authenticationRequiredOnSetup", {"off_session": True}, refuse(AUTHENTICATION_REQUIRED)),
        ("authenticationRequiredOnSetup", {"off_session": True, "set_up": True}, SUCCEED),
        ("authenticationRequiredOnSetup", {"off_session": False}, ASK),
        ("authenticationRequiredSetupForOffSession", {"off_session": True}, SUCCEED),
        ("authenticationRequiredSetupForOffSession", {"off_session": False}, ASK),
        ("authenticationRequiredChargeDeclinedInsufficientFunds", {"off_session": False}, ASK),
        (
            "authenticationRequiredChargeDeclinedInsufficientFunds",
            {"off_session": False, "authenticated": True},
            refuse(FUNDS),
        ),
    ],
)
def test_what_a_charge_comes_to(card: str, more: dict[str, Any], expected: Judgement) -> None:
    assert expected == domain.judge_charge(Attempt(BY_KEY[card], **more))


@pytest.mark.parametrize(
    ("card", "authenticated", "expected"),
    [
        ("visa", False, SUCCEED),
        ("chargeCustomerFail", False, SUCCEED),
        ("chargeDeclinedInsufficientFunds", False, refuse(FUNDS)),
        ("authenticationRequired", False, ASK),
        ("authenticationRequired", True, SUCCEED),
        ("authenticationRequiredOnSetup", False, ASK),
    ],
)
def test_what_saving_a_card_comes_to(card: str, *, authenticated: bool, expected: Judgement) -> None:
    assert expected == domain.judge_setup(BY_KEY[card], authenticated=authenticated)


@pytest.mark.parametrize(
    ("status", "confirmable", "cancelable"),
    [
        ("requires_payment_method", True, True),
        ("requires_confirmation", True, True),
        ("requires_action", True, True),
        ("processing", False, False),
        ("succeeded", False, False),
        ("canceled", False, False),
    ],
)
def test_what_a_state_allows(status: str, *, confirmable: bool, cancelable: bool) -> None:
    for check, allowed in ((domain.check_confirmable, confirmable), (domain.check_cancelable, cancelable)):
        if allowed:
            check(intent(status))
        else:
            with pytest.raises(ApiError) as refused:
                check(intent(status))
            assert refused.value.status == 400
            assert refused.value.error["code"] == "payment_intent_unexpected_state"
            assert refused.value.error["payment_intent"]["status"] == status


def test_success_closes_the_intent() -> None:
    before = intent("requires_action", next_action={"type": "x"}, last_payment_error={"code": "y"})
    after = domain.after_success(before, "ch_1")
    assert (after["status"], after["amount_received"], after["latest_charge"]) == ("succeeded", 2000, "ch_1")
    assert (after["next_action"], after["last_payment_error"]) == (None, None)
    assert before["status"] == "requires_action"


def test_a_decline_opens_the_intent_again() -> None:
    error = domain.card_error(FUNDS, charge="ch_1")
    after = domain.after_decline(intent("requires_confirmation", payment_method="pm_1"), error, "ch_1")
    assert (after["status"], after["payment_method"]) == ("requires_payment_method", None)
    assert (after["amount_received"], after["latest_charge"]) == (0, "ch_1")
    assert after["last_payment_error"]["decline_code"] == "insufficient_funds"


def test_an_authentication_that_failed_makes_no_charge() -> None:
    before = intent("requires_action", payment_method="pm_1", latest_charge="ch_old")
    after = domain.after_decline(before, domain.authentication_failure("code", {}), None)
    assert after["latest_charge"] == "ch_old"


def stored(**members: Any) -> StoredAnswer:
    return StoredAnswer(
        **{
            "endpoint": "/v1/x",
            "fingerprint": "f",
            "status": 402,
            "body": "{}",
            "request_id": "req_1",
            "created": 1000,
            **members,
        }
    )


def replay(kept: StoredAnswer | None, **asked: Any) -> StoredAnswer | None:
    return domain.replay_for(
        "k", kept, **{"endpoint": "/v1/x", "digest": "f", "now": 1001, "in_flight": False, **asked}
    )


def test_a_new_key_executes() -> None:
    assert replay(None) is None


def test_a_known_key_replays_whatever_was_answered() -> None:
    assert replay(stored()) == stored()


def test_a_key_lasts_a_day_to_the_second() -> None:
    assert replay(stored(), now=1000 + 24 * 3600 - 1) == stored()
    assert replay(stored(), now=1000 + 24 * 3600) is None
    assert replay(stored(), now=1000 + 24 * 3600, digest="other") is None


@pytest.mark.parametrize("asked", [{"digest": "other"}, {"endpoint": "/v1/y"}])
def test_a_key_with_another_request_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        replay(stored(), **asked)
    assert (refused.value.status, refused.value.error["type"]) == (400, "idempotency_error")


@pytest.mark.parametrize("kept", [None, stored()])
def test_a_key_under_way_is_a_conflict(kept: StoredAnswer | None) -> None:
    with pytest.raises(ApiError) as refused:
        replay(kept, in_flight=True)
    assert (refused.value.status, refused.value.error["code"]) == (409, "idempotency_key_in_use")


def test_the_fingerprint_ignores_order_only() -> None:
    assert domain.fingerprint({"a": "1", "b": "2"}) == domain.fingerprint({"b": "2", "a": "1"})
    assert domain.fingerprint({"a": ["1", "2"]}) != domain.fingerprint({"a": ["2", "1"]})
    assert domain.fingerprint({"a": "1"}) != domain.fingerprint({"a": "1", "b": ""})


def test_retries_double_up_to_an_hour_and_end_after_three_days() -> None:
    pauses = []
    for attempts in range(1, 14):
        at = domain.retry_at(created=0, now=0, attempts=attempts)
        assert at is not None
        pauses.append(at)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600]
    last = 3 * 24 * 3600
    assert domain.retry_at(created=0, now=last - 3600, attempts=1000) == last
    assert domain.retry_at(created=0, now=last - 3599, attempts=1000) is None


def test_an_endpoint_wants_what_it_names() -> None:
    assert domain.wants(["*"], "charge.failed")
    assert domain.wants(["charge.failed"], "charge.failed")
    assert not domain.wants(["charge.failed"], "charge.succeeded")
