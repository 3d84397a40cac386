"""Routing rules and savings over the service."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.metering.v1 import corrections_pb2, savings_pb2
from pursestrings.type.v1 import type_pb2
from tests.support.metering import Metering, record_all, refusal_of, usage_event

ORG = "orgs/acme"
MINI = "openai/gpt-4o-mini"
SMALL = savings_pb2.RoutingRule(id="small", operations=["classify"], labels={"kind": "ticket"}, candidate_models=[MINI])


def stamp(at: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp


async def test_rules_are_kept_whole_and_by_etag(metering: Metering) -> None:
    operator, agent = metering.stub_for(ORG, "operator"), metering.stub_for(f"{ORG}/agents/bot", "agent")
    none = await operator.GetRoutingRules(savings_pb2.GetRoutingRulesRequest(org=ORG))
    assert (list(none.rules.rules), none.rules.etag) == ([], "0")

    other = savings_pb2.RoutingRule(id="any", candidate_models=["gpt-4o"], efforts=["low"], batchable=True)
    ask = savings_pb2.SetRoutingRulesRequest(org=ORG, rules=[SMALL, other], etag="0")
    made = (await operator.SetRoutingRules(ask)).rules
    again = await refusal_of(operator.SetRoutingRules(ask))
    assert (again.reason, again.metadata["etag"]) == ("RULES_CHANGED", "1")
    stored = (await operator.GetRoutingRules(savings_pb2.GetRoutingRulesRequest(org=ORG))).rules
    assert stored == made
    assert list(stored.rules) == [SMALL, other]
    assert stored.updated_by == ORG

    for rules, etag, reason in (
        ([SMALL, SMALL], "", "INVALID_ARGUMENT"),
        ([savings_pb2.RoutingRule(id="x")], "", "INVALID_ARGUMENT"),
        ([savings_pb2.RoutingRule(id=f"r{n}", candidate_models=[MINI]) for n in range(51)], "", "TOO_MANY_RULES"),
        ([], "none", "INVALID_ARGUMENT"),
    ):
        refused = await refusal_of(
            operator.SetRoutingRules(savings_pb2.SetRoutingRulesRequest(org=ORG, rules=rules, etag=etag))
        )
        assert refused.reason == reason
    assert (await refusal_of(agent.SetRoutingRules(ask))).code.name == "PERMISSION_DENIED"
    assert (await operator.GetRoutingRules(savings_pb2.GetRoutingRulesRequest(org=ORG))).rules == stored


async def test_what_could_have_been_saved(metering: Metering) -> None:
    stub = metering.stub_for()
    at = datetime.now(UTC) - timedelta(hours=2)
    ticket = {"operation": "classify", "labels": {"kind": "ticket"}}
    events = [
        *(usage_event(f"t{n}", occurred_at=stamp(at + timedelta(minutes=n)), **ticket) for n in range(3)),
        usage_event("other", occurred_at=stamp(at), labels={"batchable": "true"}),
        usage_event("p1", occurred_at=stamp(at), prompt_hash=b"same", outcome=2),
        usage_event("p2", occurred_at=stamp(at + timedelta(minutes=1)), prompt_hash=b"same"),
        usage_event("p3", occurred_at=stamp(at + timedelta(minutes=2)), prompt_hash=b"same"),
        usage_event("unrated", model="nobody-knows", occurred_at=stamp(at)),
        usage_event("elsewhere", subject="orgs/other", occurred_at=stamp(at)),
    ]
    results = await record_all(stub, events)
    assert all(result.HasField("usage") for result in results)
    # 1,000 input and 100 output tokens: $3 and $15 a million, or $0.15 and $0.60.
    listed, mini = 4_500_000, 210_000
    # A call that was corrected counts as it is said now.
    operator = metering.stub_for(ORG, "operator")
    await operator.CorrectUsage(
        corrections_pb2.CorrectUsageRequest(
            org=ORG,
            source="test",
            id="t0",
            reason="twice the use",
            request_id="c1",
            tokens=type_pb2.TokenCounts(input_tokens=2_000, output_tokens=200),
        )
    )
    await operator.SetRoutingRules(savings_pb2.SetRoutingRulesRequest(org=ORG, rules=[SMALL]))
    start = at - timedelta(minutes=1)
    ask = savings_pb2.GetSavingsRequest(subject=ORG, start_time=stamp(start), end_time=stamp(start + timedelta(days=1)))

    found = await stub.GetSavings(ask)

    (rule,) = found.rules
    assert (rule.calls, rule.cost_nanos, rule.candidate_cost_nanos) == (3, 4 * listed, 4 * mini)
    assert (rule.candidate_model, rule.savings_nanos) == (MINI, 4 * (listed - mini))
    assert rule.savings_per_day_nanos == found.total.savings_nanos == rule.savings_nanos
    assert rule.sentence == f"43 % of the calls (3 of 7) could have been done by {MINI}: $0.02 a day."
    assert (found.calls, found.cost_nanos, found.left_out_calls) == (7, 8 * listed, 1)
    # What failed answers nobody; what was asked again after a success would have cost nothing.
    assert (found.caching.calls, found.caching.savings_nanos) == (1, listed)
    assert (found.batching.calls, found.batching.savings_nanos) == (1, listed // 2)

    empty = await stub.GetSavings(savings_pb2.GetSavingsRequest(subject=f"{ORG}/teams/nobody"))
    assert (empty.calls, empty.total.sentence, empty.rules[0].candidate_model) == (0, "", "")
    too_long = savings_pb2.GetSavingsRequest(
        subject=ORG, start_time=stamp(start - timedelta(days=40)), end_time=stamp(start)
    )
    assert (await refusal_of(stub.GetSavings(too_long))).reason == "INVALID_ARGUMENT"


async def test_a_prompt_hash_is_short(metering: Metering) -> None:
    long, fits = await record_all(
        metering.stub_for(), [usage_event("1", prompt_hash=b"x" * 65), usage_event("2", prompt_hash=b"x" * 64)]
    )

    assert "event.prompt_hash" in long.error.message
    assert fits.HasField("usage")
