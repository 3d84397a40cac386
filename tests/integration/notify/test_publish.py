"""Events of other services: each stored once, by itself, and only for whoever may tell of its subject."""

import json
from pathlib import Path
from typing import Any

from pursestrings.budget.v1 import deliveries_pb2, subscriptions_pb2
from pursestrings.budget.v1.deliveries_pb2 import PUBLISH_OUTCOME_ALREADY_STORED as BEFORE
from pursestrings.budget.v1.deliveries_pb2 import PUBLISH_OUTCOME_STORED as STORED
from tests.support.budget import BOT, ORG, TEAM, refusal_of, rows, running_budget

WRITTEN = "SELECT payload FROM outbox WHERE topic = 'alerts' ORDER BY id"


def event(key: str, **fields: Any) -> deliveries_pb2.Event:
    values: dict[str, Any] = {
        "key": key,
        "subject": TEAM,
        "event": subscriptions_pb2.EVENT_KIND_RECHARGE,
        "type": "recharge.failed",
    }
    return deliveries_pb2.Event(**(values | fields))


async def test_an_event_is_stored_once_and_a_wrong_one_keeps_no_other(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        service = budget.stub_for("orgs/-", "service")

        async def publish(*sent: deliveries_pb2.Event) -> list[Any]:
            answer = await service.PublishEvents(deliveries_pb2.PublishEventsRequest(events=sent))
            return [result.outcome or result.error.message.partition(":")[0] for result in answer.results]

        wrong = event("c", type="?"), event("d", subject="acme")
        sent = event("a", data='{"amount_nanos": "12"}'), event("b", audience=BOT), event("a", data='{"n": 2}'), *wrong
        assert await publish(*sent) == [STORED, STORED, BEFORE, "type", "subject"]
        assert await publish(event("b"), event("e")) == [BEFORE, STORED]
        assert await publish(event("a", subject="orgs/other")) == [STORED]
        written = [json.loads(row["payload"]) for row in await rows(budget.database, WRITTEN)]
        assert [(row["key"], row["subject"], row.get("audience")) for row in written] == [
            ("a", TEAM, None), ("b", TEAM, BOT), ("e", TEAM, None), ("a", "orgs/other", None),
        ]  # fmt: skip
        assert written[0]["amount_nanos"] == "12"
        assert (await refusal_of(publish())).field == "events"
        assert (await refusal_of(publish(*[event(str(n)) for n in range(101)]))).field == "events"
        one = deliveries_pb2.PublishEventsRequest(events=[event("f")])
        assert (await refusal_of(budget.stub_for(ORG, "operator").PublishEvents(one))).reason == "ROLE_MISSING"
        assert (await refusal_of(budget.stub_for(BOT, "service").PublishEvents(one))).reason == "OUT_OF_SCOPE"
