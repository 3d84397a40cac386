"""CloudEvents over HTTP: usage in, a result for each, with the caller's own token."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from services.gateway.cloudevents import BATCH, SINGLE
from services.gateway.events import events_router
from services.kit.channel import channel
from tests.support.databases import Database
from tests.support.metering import running_metering

SUBJECT = "orgs/acme/agents/bot"


def event(id_: str, **fields: Any) -> dict[str, Any]:
    data = {"call": {"model": "claude-sonnet-4-5"}, "tokens": {"inputTokens": 1000, "output_tokens": "100"}}
    usual = {"specversion": "1.0", "type": "usage", "source": "/bots", "id": id_, "subject": SUBJECT, "data": data}
    return usual | fields


async def test_events_are_recorded_one_by_one_and_in_batches(
    database: Callable[[str], Database], tmp_path: Path
) -> None:
    async with running_metering(database("metering"), tmp_path) as metering:
        upstream = channel(metering.address, None)
        app = FastAPI()
        app.include_router(events_router(upstream, timeout_s=10, requests_max=2))
        token = metering.keys.token("orgs/acme", "agent")
        headers = {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as http:

            async def post(content: Any, media: str, **more: str) -> httpx.Response:
                sent = {"content-type": media} | {name.replace("_", "-"): value for name, value in more.items()}
                return await http.post("/v1/events", content=json.dumps(content), headers=sent)

            first = await post(event("1"), SINGLE)
            binary = await post(
                event("2")["data"],
                "application/json",
                ce_specversion="1.0", ce_type="usage", ce_source="/bots", ce_id="2", ce_subject=SUBJECT,
            )  # fmt: skip
            huge = event("5")
            huge["data"] = huge["data"] | {"call": {"labels": {"k": "v" * 10_000_000}}}
            batch = await post(
                [
                    event("1"),
                    event("3", time="2999-01-01T00:00:00Z"),
                    event("4", subject="nobody"),
                    huge,
                    event("6", specversion="0.3"),
                    event("7", data={"no_such_field": 1}),
                    event("8"),
                    7,
                ],
                BATCH,
            )
            nobody = await http.post(
                "/v1/events", content=json.dumps(event("9")), headers={"content-type": SINGLE, "authorization": ""}
            )
            other = await post(event("9", subject="orgs/other"), SINGLE)
            text = await post(event("9"), "text/plain")
        await upstream.close()

    assert (first.status_code, first.json()["usage"]["cost"]["amountNanos"]) == (200, "4500000")
    assert (binary.status_code, binary.json()["usage"]["id"]) == (200, "2")
    results = [one.get("error", {}).get("reason") or one["usage"]["id"] for one in batch.json()["results"]]
    assert batch.status_code == 200
    assert results == [
        "1", "IN_THE_FUTURE", "MALFORMED_SUBJECT", "EVENT_TOO_LARGE", "MALFORMED_EVENT", "MALFORMED_EVENT", "8",
        "MALFORMED_EVENT",
    ]  # fmt: skip
    assert batch.json()["results"][0]["usage"]["duplicate"] is True
    assert (nobody.status_code, other.status_code, text.status_code) == (401, 403, 415)
