"""What a mail server or an address does to a delivery by mail."""

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from pursestrings.budget.v1 import deliveries_pb2 as pb
from workflows.notify import mails
from workflows.notify.carrier import Sent
from workflows.notify.mails import Mails
from workflows.notify.outlook import Outlooks
from workflows.settings import WorkerSettings

EVENT = """{"version": 1, "type": "recharge.failed", "event": "RECHARGE", "subject": "orgs/acme", "key": "k",
    "raised_at": "2026-11-22T08:00:00Z"}"""


async def sent(smtp_address: str, email: str) -> Sent:
    settings = WorkerSettings(
        smtp_address=smtp_address, mail_from="purse@example.com", stripe_api_key=SecretStr("sk_test_none")
    )
    nobody: Any = None
    taken = pb.TakeDeliveriesResponse(
        email=email, deliveries=[pb.PendingDelivery(number=7, message_id="m", payload=EVENT)]
    )
    (one,) = [one async for one in Mails(settings, Outlooks(nobody)).send("orgs/acme/subscriptions/s", taken)]
    return one


async def test_an_address_that_makes_no_header_is_refused_and_stops_nothing() -> None:
    one = await sent("127.0.0.1:1", "=?utf-8?q?a=0d=0aBcc=3ab?=@example.com")
    assert (one.numbers, one.outcome) == ((7,), pb.DELIVERY_OUTCOME_REFUSED)


async def test_a_server_that_is_slow_at_every_command_has_as_long_as_the_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mails, "SMTP_TIMEOUT_S", 0.3)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line, is_data = b"hello", False
            while line:
                if not is_data or line == b".\r\n":
                    await asyncio.sleep(0.15)
                    is_data = line.startswith(b"DATA")
                    writer.write(b"354 go\r\n" if is_data else b"220 OK\r\n" if line == b"hello" else b"250 OK\r\n")
                line = await reader.readline()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with server:
        one = await sent(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "ops@example.com")
    assert one.outcome == pb.DELIVERY_OUTCOME_FAILED
    assert "TimeoutError" in one.error
