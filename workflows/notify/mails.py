"""Deliveries by mail: what waits becomes one mail."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import TYPE_CHECKING, Final

import aiosmtplib

from pursestrings.budget.v1 import deliveries_pb2 as pb
from services.kit.channel import is_loopback
from workflows.notify import letters
from workflows.notify.carrier import Sent
from workflows.notify.outlook import OUTLOOK_S, Outlooks
from workflows.notify.payloads import NO_OUTLOOK

if TYPE_CHECKING:
    from workflows.settings import WorkerSettings

SMTP_TIMEOUT_S: Final = 20.0
_OUTLOOKS_MAX: Final = 3
"""For how many events of a mail metering is asked; what waits for long should not wait for that too."""
_MARGIN_S: Final = 1.0
_REFUSED_FROM: Final = 500


class Mails:
    """Sends mails through one server.

    Args:
        settings: Which server, and how it knows us.
        outlooks: Asks metering.
    """

    def __init__(self, settings: "WorkerSettings", outlooks: Outlooks) -> None:
        self._settings = settings
        self._outlooks = outlooks
        self.send_max_s = SMTP_TIMEOUT_S + _OUTLOOKS_MAX * OUTLOOK_S + _MARGIN_S
        """The longest that one sending takes, in seconds."""

    async def send(self, subscription: str, taken: pb.TakeDeliveriesResponse) -> AsyncIterator[Sent]:
        """Sends one mail of all that was taken."""
        numbers = tuple(one.number for one in taken.deliveries)
        if not self._settings.smtp_address:
            yield Sent(numbers, pb.DELIVERY_OUTCOME_REFUSED, "no mail server is set (PURSE_SMTP_ADDRESS)")
            return
        readable = []
        for place, one in enumerate(taken.deliveries):
            try:
                facts = json.loads(one.payload)
                outlook = await self._outlooks.of(facts) if place < _OUTLOOKS_MAX else NO_OUTLOOK
                letters.paragraph(facts, outlook)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                kind = type(error).__name__
                yield Sent((one.number,), pb.DELIVERY_OUTCOME_REFUSED, f"the event cannot be written: {kind}")
            else:
                readable.append((one, facts, outlook))
        if not readable:
            return
        numbers = tuple(one.number for one, _, _ in readable)
        try:
            mail = letters.letter(
                [(facts, outlook) for _, facts, outlook in readable],
                sender=self._settings.mail_from,
                to=taken.email,
                subscription=subscription,
                message_id=readable[0][0].message_id,
                now=datetime.now(UTC),
            )
        except ValueError:
            yield Sent(numbers, pb.DELIVERY_OUTCOME_REFUSED, "no mail can be addressed to it; change the address")
            return
        outcome, why = await self._hand_over(mail, taken.email)
        yield Sent(numbers, outcome, why)

    async def _hand_over(self, mail: EmailMessage, to: str) -> "tuple[pb.DeliveryOutcome.ValueType, str]":
        settings = self._settings
        host, _, port = settings.smtp_address.rpartition(":")
        password = settings.smtp_password
        # A mail server of this machine has no certificate that anybody knows.
        tls = "none" if is_loopback(settings.smtp_address) else settings.smtp_tls
        try:
            # Its own time is for each command, and there are many.
            async with asyncio.timeout(SMTP_TIMEOUT_S):
                await aiosmtplib.send(
                    mail,
                    recipients=[to],
                    hostname=host.strip("[]"),
                    port=int(port),
                    username=settings.smtp_user or None,
                    password=password.get_secret_value() if password else None,
                    use_tls=tls == "tls",
                    start_tls=tls == "starttls",
                    timeout=SMTP_TIMEOUT_S,
                )
        except aiosmtplib.SMTPRecipientsRefused as error:
            code = error.recipients[0].code
            is_final = code >= _REFUSED_FROM
            outcome = pb.DELIVERY_OUTCOME_REFUSED if is_final else pb.DELIVERY_OUTCOME_FAILED
            return outcome, f"the mail server refuses the address: {code}"
        except aiosmtplib.SMTPResponseException as error:
            return pb.DELIVERY_OUTCOME_FAILED, f"the mail server answered {error.code} ({type(error).__name__})"
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return pb.DELIVERY_OUTCOME_FAILED, f"the mail server cannot be used: {type(error).__name__}"
        return pb.DELIVERY_OUTCOME_DELIVERED, ""
