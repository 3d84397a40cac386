"""What may be told, as other services say it and as the outbox keeps it."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from services.budget.domain.alerts import PAYLOAD_VERSION, rfc3339
from services.budget.domain.subscriptions import EventKind
from services.kit.errors import PurseError, invalid
from services.kit.subject import Subject, SubjectError, parse

EVENTS_MAX: Final = 100
"""The most of one request."""
DATA_BYTES_MAX: Final = 16 * 1024
KEY_CHARS_MAX: Final = 256
TYPE_CHARS_MAX: Final = 64
OWN_FIELDS: Final = ("version", "event", "type", "key", "subject", "audience", "raised_at")
"""What an event says of itself; facts must not."""
_DEPTH_MAX: Final = 8
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+").fullmatch


@dataclass(slots=True, frozen=True)
class Event:
    """Something that people are told of.

    Attributes:
        key: What makes it one within the organisation.
        data: The facts.
        audience: The subject whose subscriptions alone are told; empty: those of `subject` and of its ancestors.
        occurred_us: When it happened; None: when it is stored.
    """

    org: str
    key: str
    subject: str
    kind: EventKind
    type: str
    data: dict[str, Any]
    audience: str = ""
    occurred_us: int | None = None

    def payload(self, now_us: int) -> bytes:
        """The outbox row: JSON, the facts beside what the event says of itself."""
        facts = {
            **self.data,
            "version": PAYLOAD_VERSION,
            "event": self.kind.name,
            "type": self.type,
            "key": self.key,
            "subject": self.subject,
            "raised_at": rfc3339(now_us if self.occurred_us is None else self.occurred_us),
        }
        if self.audience:
            facts["audience"] = self.audience
        return json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()


@dataclass(slots=True, frozen=True)
class Told:
    """An outbox row as the relay reads it.

    Attributes:
        subjects: Whose subscriptions are told.
    """

    kind: EventKind
    type: str
    subject: str
    subjects: tuple[str, ...]


def check_key(key: str, field: str) -> str:
    """A key that makes an event one.

    Raises:
        PurseError: It is empty, too long or not printable.
    """
    if not 1 <= len(key) <= KEY_CHARS_MAX or not key.isprintable():
        raise invalid(field, f"must be 1 to {KEY_CHARS_MAX} printable characters, the same whenever this event is told")
    return key


def check_type(name: str, field: str) -> str:
    """A type such as `recharge.cap_reached`.

    Raises:
        PurseError: It is none.
    """
    if len(name) > TYPE_CHARS_MAX or not _TYPE(name):
        raise invalid(
            field, f"must be lower-case words with dots, at most {TYPE_CHARS_MAX} characters: recharge.cap_reached"
        )
    return name


def check_audience(audience: str, subject: Subject, field: str) -> str:
    """Whose subscriptions alone are told; empty: no such subject.

    Raises:
        PurseError: It is no subject of the event's organisation.
    """
    if not audience:
        return ""
    try:
        found = parse(audience)
    except SubjectError as error:
        raise invalid(field, str(error), "MALFORMED_SUBJECT") from None
    if found.org != subject.org:
        raise invalid(field, f"must be of the event's organisation, {subject.root}")
    return found.name


def check_data(text: str, field: str) -> dict[str, Any]:
    """The facts of an event.

    Raises:
        PurseError: They are no JSON object, too much, too deep, or name what the event says itself.
    """
    if not text:
        return {}
    if len(text.encode(errors="surrogatepass")) > DATA_BYTES_MAX:
        raise invalid(field, f"is longer than {DATA_BYTES_MAX} bytes; send what identifies the rest")
    try:
        data = json.loads(text, parse_constant=_no_constant)
        # What overflowed to infinity is no JSON when it is written again.
        json.dumps(data, allow_nan=False)
    except (ValueError, RecursionError):
        raise invalid(field, "is not JSON; write an object of facts") from None
    if not isinstance(data, dict):
        raise invalid(field, "must be a JSON object")
    if _depth(data) > _DEPTH_MAX:
        raise invalid(field, f"is nested deeper than {_DEPTH_MAX}")
    for name in OWN_FIELDS:
        if name in data:
            raise invalid(field, f"must not name {name!r}, which the event has a field for")
    return data


def read(payload: bytes) -> Told | None:
    """What an outbox row tells, and whom; None: it cannot be read."""
    try:
        facts = json.loads(payload)
        kind = EventKind[facts["event"]]
        subject = parse(facts["subject"])
        audience = facts.get("audience")
        subjects = tuple(subject.ancestors) if not audience else (parse(audience).name,)
        return Told(kind, str(facts["type"]), subject.name, subjects)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SubjectError):
        return None


def of_draft(
    *, key: str, subject: Subject, kind: int, type_: str, data: str, audience: str, at_us: int | None
) -> Event:
    """An event as another service wrote it.

    Raises:
        PurseError: The field at fault.
    """
    try:
        event = EventKind(kind)
    except ValueError:
        raise _no_kind(kind) from None
    if at_us is not None:
        _check_time(at_us)
    return Event(
        subject.org,
        check_key(key, "key"),
        subject.name,
        event,
        check_type(type_, "type"),
        check_data(data, "data"),
        check_audience(audience, subject, "audience"),
        at_us,
    )


def _no_kind(kind: int) -> PurseError:
    return invalid("event", f"{kind} is none of {', '.join(one.name for one in EventKind)}")


def _check_time(at_us: int) -> None:
    try:
        datetime.fromisoformat(rfc3339(at_us))
    except (ValueError, OverflowError):
        raise invalid("occur_time", "is no instant") from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _depth(value: Any) -> int:
    """How deep it is nested; the text's own length bounds the work."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level = [one for one in inner if isinstance(one, dict | list)]
    return deepest
