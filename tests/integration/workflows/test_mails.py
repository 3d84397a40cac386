"""Deliveries by mail: to a real mail server on this machine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope

from pursestrings.budget.v1 import deliveries_pb2 as pb
from tests.support.budget import rows
from tests.support.databases import Database
from tests.support.notifying import Rig, running_rig


@dataclass(slots=True)
class MailServer:
    """Keeps mails; refuses addresses that begin with `gone`."""

    mails: list[EmailMessage] = field(default_factory=list)

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Envelope, address: str, _options: Any) -> str:
        if address.startswith("gone"):
            return "550 nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, _class=EmailMessage, policy=policy.default))
        return "250 OK"


@contextlib.asynccontextmanager
async def mail_server() -> AsyncIterator[tuple[MailServer, str]]:
    kept = MailServer()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(kept), "127.0.0.1", 0)
    try:
        yield kept, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@contextlib.asynccontextmanager
async def mailing(
    database: Callable[[str], Database], tmp_path: Path, org: str, temporal_address: str, smtp_address: str
) -> AsyncIterator[Rig]:
    sender: dict[str, Any] = {"smtp_address": smtp_address, "mail_from": "purse@example.com"} if smtp_address else {}
    async with running_rig(database("budget"), tmp_path, org=org, temporal_address=temporal_address, **sender) as rig:
        yield rig


async def test_the_first_event_is_mailed_at_once_and_the_rest_of_a_minute_together(
    database: Callable[[str], Database], tmp_path: Path, org: str, temporal_address: str
) -> None:
    async with mail_server() as (server, address), mailing(database, tmp_path, org, temporal_address, address) as rig:
        name, _ = await rig.subscribe(email="ops@example.com")
        gone, _ = await rig.subscribe("gone", email="gone@example.com")
        await rig.limit(10, 20, 30)
        await rig.spend(10)
        (first,) = await rig.settled(name, pb.DELIVERY_STATE_DELIVERED, 1)
        (dead,) = await rig.settled(gone, pb.DELIVERY_STATE_DEAD, 1)
        assert (dead.tries, dead.last_error) == (1, "the mail server refuses the address: 550")
        mail = server.mails[0]
        assert (mail["To"], mail["From"]) == ("ops@example.com", "purse@example.com")
        assert mail["Message-ID"] == f"<{first.message_id}@example.com>"
        assert "1.00 USD of 10.00 USD (10 %)" in str(mail)
        await rig.spend(20)
        waiting = await rig.settled(name, pb.DELIVERY_STATE_PENDING, 2)
        assert len(waiting) == 2
        # A minute later.
        await rows(rig.budget.database, "UPDATE delivery_lanes SET sent_us = sent_us - 60000000")
        redeliver = pb.RedeliverDeliveriesRequest(subscription=name, deliveries=[one.name for one in waiting])
        await rig.budget.admin.RedeliverDeliveries(redeliver)
        await rig.settled(name, pb.DELIVERY_STATE_DELIVERED, 3)
        assert len(server.mails) == 2
        assert server.mails[1]["Subject"].startswith("2 events: ")


async def test_without_a_mail_server_a_mail_is_dead_at_once_and_says_so(
    database: Callable[[str], Database], tmp_path: Path, org: str, temporal_address: str
) -> None:
    async with mailing(database, tmp_path, org, temporal_address, "") as rig:
        name, _ = await rig.subscribe(email="ops@example.com")
        await rig.limit(10)
        await rig.spend(10)
        (dead,) = await rig.settled(name, pb.DELIVERY_STATE_DEAD, 1)
        assert dead.last_error == "no mail server is set (PURSE_SMTP_ADDRESS)"
