"""Reads CloudEvents 1.0 over HTTP as usage events. Pure.

`subject` is who spent, `source` and `id` tell events apart, `time` is when the call happened unless the data says so,
and the data is the usage event as JSON, by the contract's field names.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from google.protobuf import json_format

from pursestrings.metering.v1 import metering_pb2
from services.kit.errors import PurseError, invalid

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""The largest request: room for an event that is far too large, so that it is refused alone."""
EVENT_BYTES_MAX: Final = 64 * 1024
"""The largest event, but for a provider's answer, which has a limit of its own."""
EVENTS_MAX: Final = 1_000
"""The most events a request."""
SINGLE: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
_VERSION: Final = "1.0"
_PREFIX: Final = "ce-"
_JSON: Final = "application/json"

Read = metering_pb2.UsageEvent | PurseError


class Request(NamedTuple):
    """What was sent: events, each read or refused; and whether it was one alone."""

    events: list[Read]
    single: bool


def read(headers: Mapping[str, str], body: bytes) -> Request:
    """Reads a request in structured, batch or binary mode.

    Args:
        headers: By their names in lower case.
        body: As it came.

    Raises:
        PurseError: It is none of these, or no JSON: no event of it is read.
    """
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == BATCH:
        found = _json(body)
        if not isinstance(found, list) or not 1 <= len(found) <= EVENTS_MAX:
            raise invalid("body", f"must be a JSON array of 1 to {EVENTS_MAX} events", "BATCH_TOO_LARGE")
        return Request([_safely(event) for event in found], single=False)
    if media == SINGLE:
        return Request([_safely(_json(body))], single=True)
    if f"{_PREFIX}specversion" in headers:
        attributes: dict[str, Any] = {
            name.removeprefix(_PREFIX): unquote(value) for name, value in headers.items() if name.startswith(_PREFIX)
        }
        return Request([_safely(attributes | {"datacontenttype": media, "data": _json(body)})], single=True)
    raise invalid(
        "content-type",
        f"{media[:100]!r} is none of a CloudEvent's; use {SINGLE}, {BATCH}, or ce- headers with {_JSON}",
        "UNSUPPORTED_MEDIA_TYPE",
    )


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("body", "is no JSON", "MALFORMED_EVENT") from None


def _safely(event: Any) -> Read:
    try:
        return _event(event)
    except PurseError as error:
        return error


def _event(event: Any) -> metering_pb2.UsageEvent:
    if not isinstance(event, dict):
        raise invalid("event", "is no JSON object", "MALFORMED_EVENT")
    if event.get("specversion") != _VERSION:
        raise invalid(
            "specversion", f"is {str(event.get('specversion'))[:40]!r}; it must be {_VERSION!r}", "MALFORMED_EVENT"
        )
    for name in ("id", "source", "type", "subject"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise invalid(name, "is required, as text", "MALFORMED_EVENT")
    content = event.get("datacontenttype") or _JSON
    if not isinstance(content, str) or not content.partition(";")[0].strip().lower().endswith("json"):
        raise invalid("datacontenttype", f"is {str(content)[:100]!r}; the data must be JSON", "MALFORMED_EVENT")
    usage = _usage(_data(event))
    for name in ("subject", "source", "id"):
        own = getattr(usage, name)
        if own and own != event[name]:
            raise invalid(f"data.{name}", f"is not the event's own {name}; leave it out", "MALFORMED_EVENT")
        setattr(usage, name, event[name])
    if "time" in event and not usage.HasField("occurred_at"):
        try:
            usage.occurred_at.FromJsonString(event["time"])
        except (ValueError, TypeError, AttributeError):
            raise invalid("time", "is no time of RFC 3339, such as 2026-11-22T10:00:00Z", "MALFORMED_EVENT") from None
    response = usage.provider_response.ByteSize() if usage.HasField("provider_response") else 0
    if usage.ByteSize() - response > EVENT_BYTES_MAX:
        raise invalid("data", f"has {usage.ByteSize()} bytes; the limit is {EVENT_BYTES_MAX}", "EVENT_TOO_LARGE")
    return usage


def _data(event: Mapping[str, Any]) -> Any:
    if "data_base64" not in event:
        return event.get("data")
    try:
        return _json(base64.b64decode(event["data_base64"], validate=True))
    except (binascii.Error, TypeError, ValueError):
        raise invalid("data_base64", "is no base64", "MALFORMED_EVENT") from None


def _usage(data: Any) -> metering_pb2.UsageEvent:
    if not isinstance(data, dict):
        raise invalid("data", "is required: the usage event as a JSON object", "MALFORMED_EVENT")
    try:
        return json_format.ParseDict(data, metering_pb2.UsageEvent())
    except (json_format.ParseError, RecursionError) as error:
        raise invalid("data", f"is no usage event: {str(error)[:300]}", "MALFORMED_EVENT") from None
