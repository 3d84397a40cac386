"""What may be told: the bounds of an event, and what the relay reads of it."""

import json
from typing import Any

import pytest

from services.budget.domain.subscriptions import EventKind
from services.budget.notify.domain import events
from services.budget.notify.domain.events import DATA_BYTES_MAX, Event, Told
from services.kit.errors import PurseError
from services.kit.subject import parse

TEAM = parse("orgs/acme/teams/a")


def made(**fields: Any) -> Event:
    values: dict[str, Any] = {
        "key": "k", "subject": TEAM, "kind": 8, "type_": "recharge.failed", "data": "", "audience": "", "at_us": None,
    }  # fmt: skip
    return events.of_draft(**(values | fields))


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"key": ""}, "key"),
        ({"key": "x" * 257}, "key"),
        ({"key": "a\nb"}, "key"),
        ({"kind": 0}, "event"),
        ({"kind": 99}, "event"),
        ({"type_": "failed"}, "type"),
        ({"type_": "Recharge.failed"}, "type"),
        ({"type_": "a." + "b" * 63}, "type"),
        ({"data": "[1]"}, "data"),
        ({"data": "{"}, "data"),
        ({"data": '{"a": NaN}'}, "data"),
        ({"data": '{"a": 1e999}'}, "data"),
        ({"data": deep(9)}, "data"),
        ({"data": "[" * 100_000}, "data"),
        ({"data": '{"subject": "orgs/other"}'}, "data"),
        ({"data": json.dumps({"a": "x" * DATA_BYTES_MAX})}, "data"),
        ({"audience": "acme"}, "audience"),
        ({"audience": "orgs/other"}, "audience"),
        ({"at_us": 2**62}, "occur_time"),
    ],
)
def test_an_event_that_cannot_be_told_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(PurseError) as caught:
        made(**fields)
    assert caught.value.field == field


def test_what_is_written_is_what_the_relay_reads() -> None:
    event = made(data=deep(8), at_us=1_700_000_000_000_000)
    payload = event.payload(0)
    assert json.loads(payload) == {
        "a": json.loads(deep(7)), "version": 1, "event": "RECHARGE", "type": "recharge.failed", "key": "k",
        "subject": TEAM.name, "raised_at": "2023-11-14T22:13:20Z",
    }  # fmt: skip
    told = Told(EventKind.RECHARGE, "recharge.failed", TEAM.name, ("orgs/acme", TEAM.name))
    read = events.read(payload)
    assert read is not None
    assert (read.kind, read.type, read.subject, set(read.subjects)) == (
        told.kind,
        told.type,
        told.subject,
        set(told.subjects),
    )
    only = events.read(made(audience="orgs/acme").payload(0))
    assert only is not None
    assert only.subjects == ("orgs/acme",)


@pytest.mark.parametrize("payload", [b"", b"1", b"{}", b'{"event":"X","subject":"orgs/a","type":"a.b"}', b"\xff"])
def test_an_outbox_row_that_cannot_be_read_is_none(payload: bytes) -> None:
    assert events.read(payload) is None
