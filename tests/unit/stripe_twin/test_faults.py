"""How faults are written and when they fire."""

from __future__ import annotations

import pytest

from embedded.stripe_twin import faults
from embedded.stripe_twin.faults import Fault, Rule


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("lost_answer", Fault("lost_answer")),
        (" timeout:2.5 ", Fault("timeout", "2.5")),
        ("timeout", Fault("timeout", "60")),
        ("decline:insufficient_funds", Fault("decline", "insufficient_funds")),
        ("decline", Fault("decline", "generic_decline")),
        ("duplicate", Fault("duplicate", "2")),
        ("delay:259200", Fault("delay", "259200")),
    ],
)
def test_right_faults(written: str, expected: Fault) -> None:
    assert expected == faults.parse(written)


@pytest.mark.parametrize(
    "written",
    ["", "boom", "timeout:-1", "timeout:601", "timeout:x", "delay:259201", "duplicate:1", "duplicate:11", "drop:1",
     "decline:DROP TABLE"],
)  # fmt: skip
def test_wrong_faults_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"fault|takes"):
        faults.parse(written)


def test_a_header_may_name_several() -> None:
    assert faults.parse_header("lost_answer, duplicate:3") == [Fault("lost_answer"), Fault("duplicate", "3")]
    assert faults.parse_header("") == []
    with pytest.raises(ValueError, match="at most 8"):
        faults.parse_header(",".join(["drop"] * 9))


@pytest.mark.parametrize(
    ("match", "subject", "expected"),
    [
        ("*", "GET /v1/customers/cus_1", True),
        ("POST /v1/payment_intents", "POST /v1/payment_intents", True),
        ("POST /v1/payment_intents", "POST /v1/payment_intents/pi_1/confirm", False),
        ("POST /v1/payment_intents*", "POST /v1/payment_intents/pi_1/confirm", True),
        ("*/confirm", "POST /v1/payment_intents/pi_1/confirm", True),
        ("payment_intent.*", "payment_intent.succeeded", True),
        ("payment_intent.*", "charge.succeeded", False),
    ],
)
def test_patterns(match: str, subject: str, *, expected: bool) -> None:
    assert expected == faults.matches(Rule(1, Fault("drop"), match, 1), subject)


def test_a_spent_fault_matches_nothing() -> None:
    assert not faults.matches(Rule(1, Fault("drop"), "*", 0), "anything")


def test_a_rate_is_kept_and_repeats() -> None:
    def fired(seed: int) -> list[bool]:
        return [faults.fires(Rule(1, Fault("drop"), "*", 1, rate=0.2, seed=seed, seen=seen)) for seen in range(10_000)]

    assert 0.18 < sum(fired(1)) / 10_000 < 0.22
    assert fired(1) == fired(1) != fired(2)
    assert faults.fires(Rule(1, Fault("drop"), "*", 1))
