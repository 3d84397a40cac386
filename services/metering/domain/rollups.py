"""Sums of events by 15 minutes. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from services.metering.domain.kinds import extra_of
from services.metering.domain.usage import Usage

BUCKET_S: Final = 900
"""The length of a rollup in seconds. Every zone's offset is a multiple of it, so every zone's days are too."""
_BUCKET: Final = timedelta(seconds=BUCKET_S)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RollupKey(NamedTuple):
    """Which sum an event belongs to; `bucket_s` is the start of its 15 minutes in unix seconds."""

    org: str
    bucket_s: int
    subject: str
    provider: str
    model: str
    operation: str
    currency: str


class SessionKey(NamedTuple):
    """A session that had events in 15 minutes."""

    org: str
    bucket_s: int
    subject: str
    provider: str
    model: str
    operation: str
    session: str


def roll_up(events: Iterable[Usage]) -> tuple[dict[RollupKey, list[int]], set[SessionKey]]:
    """Sums of events, unsorted, and the sessions that they name.

    A sum is: tokens by kind (5), requests, operations, errors, cost in nanos.
    """
    # Each with the sessions of its own, so that an event's key is made and looked up once.
    groups: dict[tuple[str, int, str, str, str, str, str], tuple[list[int], set[str]]] = {}
    # Most events are of the same 15 minutes as the one before.
    bucket_s, low, high = 0, _EPOCH, _EPOCH
    for event in events:
        (
            org, occurred_at, _, _, subject, provider, model, _, _, operation, _,
            read, cached, written, made, reasoned, requests, cost_nanos, currency, _,
            session, _, _, failed, _, _, _, _, _, _, operations, _, _, _,
        ) = event  # fmt: skip
        if not low <= occurred_at < high:
            bucket_s = bucket_of(occurred_at)
            low = datetime.fromtimestamp(bucket_s, UTC)
            high = low + _BUCKET
        key = (org, bucket_s, subject, provider, model, operation, currency)
        group = groups.get(key)
        if group is None:
            group = groups[key] = ([0] * 9, set())
        sums, named = group
        sums[0] += read
        sums[1] += cached
        sums[2] += written
        sums[3] += made
        sums[4] += reasoned
        sums[5] += requests
        sums[6] += operations
        if failed:
            sums[7] += operations
        sums[8] += cost_nanos or 0
        if session:
            named.add(session)
    # Past `_make`, which takes as long as all else here: nearly every event of a batch may be another session's.
    sessions = {
        tuple.__new__(SessionKey, (*key[:6], session)) for key, (_, named) in groups.items() for session in named
    }
    return {RollupKey(*key): sums for key, (sums, _) in groups.items()}, sessions


class KindKey(NamedTuple):
    """Which sum of a further kind of use an event belongs to."""

    org: str
    bucket_s: int
    subject: str
    provider: str
    model: str
    operation: str
    kind: str


def roll_up_kinds(events: Iterable[Usage]) -> dict[KindKey, int]:
    """Sums of the events' further kinds of use, unsorted."""
    sums: dict[KindKey, int] = {}
    for event in events:
        for kind, count in extra_of(event.extra):
            key = KindKey(
                event.org,
                bucket_of(event.occurred_at),
                event.subject,
                event.provider,
                event.model,
                event.operation,
                kind,
            )
            sums[key] = sums.get(key, 0) + count
    return sums


def bucket_of(instant: datetime) -> int:
    """The start of the 15 minutes that hold an instant, in unix seconds."""
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) // BUCKET_S * BUCKET_S
