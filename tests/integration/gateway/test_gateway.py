"""Webhooks over HTTP: the answer decides whether Stripe sends again."""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import stripe

from embedded.ports import free_ports
from services.gateway.main import serving
from services.gateway.service import PAYLOAD_BYTES_MAX
from services.gateway.settings import GatewaySettings
from tests.support.databases import CHECKOUT
from tests.support.recharging import NOWHERE, WEBHOOK_SECRET, Rig, running_gateway

EVENT = json.dumps(
    {"id": "evt_1", "type": "customer.created", "livemode": False, "data": {"object": {"object": "customer"}}}
)


def signed(payload: str, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
    return {"stripe-signature": str(stripe.WebhookSignature.generate_signature_header(payload, secret))}


async def _outcome(rig: Rig, event_id: str) -> str:
    async with asyncio.timeout(20):
        while not (said := await rig.sql.fetchval("SELECT outcome FROM stripe_events WHERE id = $1", event_id)):
            await asyncio.sleep(0.02)
    return str(said)


async def test_an_event_is_stored_before_it_is_acknowledged(rig: Rig) -> None:
    async with running_gateway(rig) as url, httpx.AsyncClient(base_url=url) as http:
        first = await http.post("/webhooks/stripe", content=EVENT, headers=signed(EVENT))
        stored = await rig.sql.fetchval("SELECT count(*) FROM stripe_events")
        again = await http.post("/webhooks/stripe", content=EVENT, headers=signed(EVENT))
        bad = await http.post("/webhooks/stripe", content=EVENT, headers=signed(EVENT, "whsec_other"))
        missing = await http.post("/webhooks/stripe", content=EVENT)
        changed = EVENT.replace("created", "deleted")
        reused = await http.post("/webhooks/stripe", content=changed, headers=signed(changed))
        large = await http.post("/webhooks/stripe", content=b"x" * (PAYLOAD_BYTES_MAX + 1), headers=signed(EVENT))
        huge = await http.post("/webhooks/stripe", content=b"x" * 10_000_000, headers=signed(EVENT))
        other = EVENT.replace('"evt_1"', '"evt_2", "account": "acct_other"')
        foreign = await http.post("/webhooks/stripe", content=other, headers=signed(other))
        old = stripe.WebhookSignature.generate_signature_header(EVENT, WEBHOOK_SECRET, timestamp=1_000_000)
        stale = await http.post("/webhooks/stripe", content=EVENT, headers={"stripe-signature": str(old)})
        unknown = EVENT.replace('"evt_1"', '"evt_3"').replace("customer.created", "mystery.happened")
        strange = await http.post("/webhooks/stripe", content=unknown, headers=signed(unknown))
        health, ready = await http.get("/health"), await http.get("/ready")
        done = await http.get("/payments/done")
        outcome = await _outcome(rig, "evt_3")
    assert (huge.status_code, huge.json()["error"]["reason"]) == (413, "PAYLOAD_TOO_LARGE")
    assert (foreign.status_code, foreign.json()["error"]["reason"]) == (400, "OTHER_ACCOUNT")
    assert (stale.status_code, stale.json()["error"]["reason"]) == (400, "BAD_SIGNATURE")
    assert (strange.status_code, outcome) == (200, "stored: nothing is done about its type")
    assert await rig.sql.fetchval("SELECT count(*) FROM stripe_events") == 2
    assert (done.status_code, "Thank you" in done.text) == (200, True)
    assert (first.status_code, first.json()) == (200, {"event": "evt_1", "duplicate": False})
    assert stored == 1
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert (bad.status_code, bad.json()["error"]["reason"]) == (400, "BAD_SIGNATURE")
    assert missing.status_code == 400
    assert (reused.status_code, reused.json()["error"]["reason"]) == (409, "EVENT_ID_REUSED")
    assert large.status_code == 413
    assert (health.status_code, ready.status_code) == (200, 200)


async def test_while_the_wallet_is_away_stripe_is_asked_to_come_again(rig: Rig) -> None:
    away = replace(rig, address=NOWHERE)
    async with running_gateway(away) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/webhooks/stripe", content=EVENT, headers=signed(EVENT))
        health, ready = await http.get("/health"), await http.get("/ready")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "UNAVAILABLE")
    assert answer.headers["retry-after"]
    assert (health.status_code, ready.status_code) == (200, 503)


async def test_a_gateway_without_a_credential_stores_nothing_and_says_so(rig: Rig) -> None:
    nobody = rig.token_file.with_name("nobody.token")
    nobody.write_text("nonsense")
    async with (
        running_gateway(replace(rig, token_file=nobody)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        answer = await http.post("/webhooks/stripe", content=EVENT, headers=signed(EVENT))
    assert answer.status_code == 503
    assert await rig.sql.fetchval("SELECT count(*) FROM stripe_events") == 0


async def test_plain_http_stays_on_this_machine() -> None:
    with pytest.raises(SystemExit, match="without TLS"):
        async with serving(GatewaySettings(bind="0.0.0.0:0")):
            pass


async def test_the_process_ends_in_good_order(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    token = tmp_path / "service.token"
    token.write_text("none that anyone takes\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gateway.main"),
        cwd=CHECKOUT,
        env={
            "PATH": os.defpath,
            "PURSE_BIND": f"127.0.0.1:{port}",
            "PURSE_WALLET_ADDRESS": NOWHERE,
            "PURSE_SERVICE_TOKEN_FILE": str(token),
        },
    )
    try:
        async with asyncio.timeout(60), httpx.AsyncClient() as http:
            while process.returncode is None:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
