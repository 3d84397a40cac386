"""Mails: what a person reads of events, as text and HTML. Pure but for the templates beside."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Final

import jinja2

from services.kit import money
from workflows.notify import payloads, statements
from workflows.notify.payloads import NO_OUTLOOK, THRESHOLD, Outlook

SUBJECT_CHARS_MAX: Final = 150
_VALUE_CHARS_MAX: Final = 300
_ROWS_MAX: Final = 20
_TEMPLATES: Final = Path(__file__).parent / "templates"
_COLOURS: Final = {"EXCEEDED": "#b00020", "CRITICAL": "#d9730d", "WARNING": "#c9a200", "PAUSED": "#b00020"}
_NEUTRAL: Final = "#4a6fa5"
_OWN: Final = frozenset({"version", "event", "type", "key", "subject", "audience", "raised_at", "currency_code"})


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One event as a person reads it."""

    title: str
    when: str
    subject: str
    rows: tuple[tuple[str, str], ...]
    action: str
    colour: str


def letter(
    events: Sequence[tuple[dict[str, Any], Outlook]],
    *,
    sender: str,
    to: str,
    subscription: str,
    message_id: str,
    now: datetime,
) -> EmailMessage:
    """A mail that tells of events, the oldest first.

    Args:
        events: At least one, as budget wrote it, and what metering says.
        sender: The address it is from.
        to: The address it is for.
        subscription: Why it is sent.
        message_id: The same for the same mail, so that one that is sent twice can be told.
        now: The time.
    """
    paragraphs = [paragraph(facts, outlook) for facts, outlook in events]
    title = paragraphs[0].title if len(paragraphs) == 1 else f"{len(paragraphs)} events: {paragraphs[0].title}, …"
    values = {"events": paragraphs, "title": title, "subscription": subscription}
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = to
    mail["Subject"] = _line(title, SUBJECT_CHARS_MAX)
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{message_id}@{sender.rpartition('@')[2].rstrip('>')}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(_template("mail.txt.jinja").render(values))
    mail.add_alternative(_template("mail.html.jinja").render(values), subtype="html")
    return mail


def paragraph(facts: dict[str, Any], outlook: Outlook = NO_OUTLOOK) -> Paragraph:
    """An event in words and amounts."""
    if facts["type"] == THRESHOLD:
        title, rows, action = _threshold(facts, outlook)
    elif facts["type"] == statements.CLOSED:
        title, rows, action = statements.month(facts)
    else:
        title, rows, action = _other(facts)
    return Paragraph(
        _line(title, SUBJECT_CHARS_MAX),
        _when(facts["raised_at"]),
        _line(facts["subject"], _VALUE_CHARS_MAX),
        tuple((_line(name, _VALUE_CHARS_MAX), _line(value, _VALUE_CHARS_MAX)) for name, value in rows[:_ROWS_MAX]),
        _line(action, _VALUE_CHARS_MAX),
        _COLOURS.get(facts["event"], _NEUTRAL),
    )


def _threshold(facts: dict[str, Any], outlook: Outlook) -> tuple[str, list[tuple[str, str]], str]:
    def text(name: str) -> str:
        return _amount(int(facts[name]), facts["currency"])

    name = facts["budget_display_name"] or facts["budget"]
    denied = facts["cause"] == "DENIAL"
    reached = "denies spends" if denied else f"reached {facts['threshold_percent']} %"
    rows = [
        ("Budget", facts["budget"]),
        ("Used", f"{text('spent')} of {text('limit')} ({facts['percent']} %)"),
        ("Left", text("remaining")),
        ("Held for running calls", text("reserved")),
    ]
    if denied:
        rows.append(("Asked for", text("asked")))
    if facts["window_end"]:
        rows.append(("Window", f"{facts['period'].lower()}, ends {_when(facts['window_end'])}"))
    if outlook.depleted_in_s is not None:
        rows.append(("Lasts about", payloads.duration(outlook.depleted_in_s)))
    rows += [
        (f"Costs most ({place})", f"{one.model}: {_amount(one.cost_nanos, facts['currency'])} in {one.calls} calls")
        for place, one in enumerate(outlook.drivers or (), 1)
    ]
    return f"{facts['severity']}: {name} {reached}", rows, facts["recommended_action"]


def _other(facts: dict[str, Any]) -> tuple[str, list[tuple[str, str]], str]:
    title = str(facts.get("title") or facts["type"].replace(".", ": ").replace("_", " "))
    currency = facts.get("currency_code") or facts.get("currency") or ""
    rows = []
    for name, value in facts.items():
        if name in _OWN or name == "title" or value is None or value == "":
            continue
        label = name.removesuffix("_nanos").replace("_", " ")
        rows.append((label.capitalize(), _value(name, value, str(currency))))
    return f"{title}: {facts['subject']}", rows, str(facts.get("recommended_action") or "")


def _value(name: str, value: Any, currency: str) -> str:
    if name.endswith("_nanos") and not isinstance(value, bool) and payloads.is_integer(str(value)):
        return _amount(int(value), currency)
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _amount(nanos: int, currency: str) -> str:
    if not currency:
        return f"{nanos:,}"
    try:
        return money.format_nanos(nanos, currency)
    except money.MoneyError:
        return f"{payloads.amount(nanos)} {currency}"


def _when(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return _line(text, _VALUE_CHARS_MAX)


def _line(text: str, chars_max: int) -> str:
    """One line of printable characters: what somebody named must make no header, and no paragraph of its own."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
