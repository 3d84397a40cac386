"""What a client that does not keep to its part can hold: its own connection, for a while."""

import asyncio
import contextlib

import httpx
import pytest

from embedded.ports import LOOPBACK
from services.gateway import service
from services.gateway.protocol import PatientProtocol
from tests.integration.gateway.test_gateway import EVENT, signed
from tests.support.recharging import Rig, running_gateway


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_silent_connections_keep_nobody_out(rig: Rig) -> None:
    async with running_gateway(rig) as url:
        port = int(url.rpartition(":")[2])
        silent = [await asyncio.open_connection(LOOPBACK, port) for _ in range(300)]
        try:
            async with httpx.AsyncClient(base_url=url) as http:
                answer = await http.post("/webhooks/stripe", content=EVENT, headers=signed(EVENT))
        finally:
            for _, writer in silent:
                await closed(writer)
    assert answer.status_code == 200


@pytest.mark.parametrize("sent", [b"", b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(PatientProtocol, "head_timeout_s", 0.2)
    async with running_gateway(rig) as url:
        reader, writer = await asyncio.open_connection(LOOPBACK, int(url.rpartition(":")[2]))
        writer.write(sent)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        await closed(writer)


async def test_neither_is_the_head_of_a_further_request(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_timeout_s", 0.5)
    async with running_gateway(rig) as url:
        reader, writer = await asyncio.open_connection(LOOPBACK, int(url.rpartition(":")[2]))
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            assert b" 200 " in await reader.readuntil(b"}")
            writer.write(b"GET")
            assert await reader.read() == b""
        await closed(writer)


async def test_a_body_that_does_not_come_is_not_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BODY_TIMEOUT_S", 0.2)
    async with running_gateway(rig) as url:
        reader, writer = await asyncio.open_connection(LOOPBACK, int(url.rpartition(":")[2]))
        writer.write(
            b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: t=1\r\nContent-Length: 9\r\n\r\n{"
        )
        async with asyncio.timeout(20):
            answered = await reader.readline()
        await closed(writer)
    assert b" 408 " in answered


async def test_a_header_that_is_no_text_is_a_bad_signature(rig: Rig) -> None:
    async with running_gateway(rig) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/webhooks/stripe", content=EVENT, headers={b"stripe-signature": b"t=1,v1=\xe9\xe9"})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "BAD_SIGNATURE")
