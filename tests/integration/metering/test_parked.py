"""Usage that the budget service refuses for good is listed and sent again by an operator of its organisation."""

from pathlib import Path

import grpc

from pursestrings.metering.v1 import metering_pb2
from tests.support.databases import Database
from tests.support.metering import record_all, refusal_of, running_metering, usage_event
from tests.support.waiting import until

ACME, OTHER = "orgs/acme", "orgs/other"


async def test_parked_usage_is_listed_by_page_and_requeued(metering_database: Database, tmp_path: Path) -> None:
    async with running_metering(metering_database, tmp_path, relay_tries_max=1) as metering:
        metering.budget.refused_ids = {"a", "b", "c"}
        events = [usage_event(id_) for id_ in "ab"] + [usage_event("c", subject=f"{OTHER}/agents/x")]
        await record_all(metering.stub_for(), events)
        all_ = metering.stub_for("orgs/-", "operator")
        mine = metering.stub_for(ACME, "operator")
        found: list[metering_pb2.ParkedUsage] = []
        while len(found) < 3:
            found = list((await all_.ListParkedUsage(metering_pb2.ListParkedUsageRequest())).usage)
        assert [(one.org, one.source, one.id, one.tries) for one in found] == [
            (ACME, "test", "a", 1),
            (ACME, "test", "b", 1),
            (OTHER, "test", "c", 1),
        ]
        assert all("told to refuse" in one.last_error and one.HasField("park_time") for one in found)

        first = await mine.ListParkedUsage(metering_pb2.ListParkedUsageRequest(org=ACME, page_size=1))
        token = first.next_page_token
        second = await mine.ListParkedUsage(
            metering_pb2.ListParkedUsageRequest(org=ACME, page_size=1, page_token=token)
        )
        assert ([one.id for one in (*first.usage, *second.usage)], second.next_page_token) == (["a", "b"], "")

        metering.budget.refused_ids = set()
        done = await mine.RequeueParkedUsage(metering_pb2.RequeueParkedUsageRequest(org=ACME))
        assert done.requeued == 2
        await until(lambda: len(metering.budget.applied) == 2, what="delivery")
        left = (await all_.ListParkedUsage(metering_pb2.ListParkedUsageRequest())).usage
        assert [one.id for one in left] == ["c"]


async def test_parked_usage_is_an_operators_of_its_organisation(metering_database: Database, tmp_path: Path) -> None:
    async with running_metering(metering_database, tmp_path) as metering:
        request = metering_pb2.ListParkedUsageRequest
        for subject, role, org in ((ACME, "agent", ACME), (ACME, "operator", OTHER), (ACME, "operator", "")):
            stub = metering.stub_for(subject, role)
            for call in (
                stub.ListParkedUsage(request(org=org)),
                stub.RequeueParkedUsage(metering_pb2.RequeueParkedUsageRequest(org=org)),
            ):
                assert (await refusal_of(call)).code == grpc.StatusCode.PERMISSION_DENIED.value[0]
        operator = metering.stub_for("orgs/-", "operator")
        for wrong, field in (
            (request(org="acme"), "org"),
            (request(page_size=1001), "page_size"),
            (request(page_token="x"), "page_token"),
            (request(page_token="1.a\x00"), "page_token"),
        ):
            assert (await refusal_of(operator.ListParkedUsage(wrong))).field == field
