"""Which thresholds a window's use has reached, and what an alert says."""

import json
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final, NamedTuple

from services.budget.domain.budgets import LIFETIME_NUMBER, Budget, Dimension, OnExceed, countable, key_text
from services.budget.domain.model import Counter
from services.budget.domain.pauses import Pause
from services.kit.windows import LIFETIME_END_US, window_bounds

PAYLOAD_VERSION: Final = 1
"""Of what stands in the outbox; fields are added, never renamed."""
DENIAL_THRESHOLD: Final = 100
"""The threshold of the alert that the first denial raises: it stands for the 100 % that is never reached."""
_CRITICAL_FROM: Final = 95
_EXCEEDED_AT: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AlertCause(IntEnum):
    """What raised an alert; the numbers of the contract."""

    USE = 1
    DENIAL = 2
    CHANGE = 3


class Severity(IntEnum):
    """How serious an alert is; the numbers of the contract."""

    WARNING = 1
    CRITICAL = 2
    EXCEEDED = 3


class Crossing(NamedTuple):
    """A threshold reached in a window, with the facts of that moment.

    Attributes:
        budget: The definition with the limit in force.
        reserved: What was held, and `asked`, what was asked: of a denial; 0 otherwise.
    """

    budget: Budget
    key: int
    threshold: int
    spent: int
    window_start_us: int
    window_end_us: int
    cause: AlertCause
    reserved: int = 0
    asked: int = 0


def reached(limit: int, threshold: int, spent: int) -> bool:
    """Whether use has reached the percentage of the limit; nothing used has reached nothing."""
    return spent > 0 and spent * 100 >= threshold * limit


def crossing_of(counter: Counter, threshold: int, spent: int, cause: AlertCause) -> Crossing:
    """A crossing with the facts of a counter that has its definition."""
    budget = counter.budget
    if budget is None:
        raise AssertionError(f"counter {counter.no} alerts without a definition")
    start_us = window_bounds(budget.window, key_text(counter.key))[0]
    return Crossing(budget, counter.key, threshold, spent, start_us, counter.window_end_us, cause)


def crossings(counter: Counter) -> list[Crossing]:
    """The thresholds that the batch took the window over; a jump over several is one each.

    `peak` decides, so that a correction later in the batch does not hide a crossing. Rows are unique by budget, window,
    threshold and generation, so that falling below and rising again does not alert twice. Where the limit has fallen
    in the window, use from before the batch may have reached a threshold without an alert.
    """
    budget = counter.budget
    if budget is None or (counter.peak <= counter.spent_before and not counter.lowered):
        return []
    return [
        crossing_of(counter, threshold, counter.peak, AlertCause.USE)
        for threshold in budget.thresholds
        if reached(budget.limit, threshold, counter.peak)
        and (counter.lowered or not reached(budget.limit, threshold, counter.spent_before))
    ]


def all_reached(budget: Budget, key: int, spent: int, start_us: int, end_us: int) -> list[Crossing]:
    """Every threshold that this use has reached; for a definition that has changed."""
    return [
        Crossing(budget, key, threshold, spent, start_us, end_us, AlertCause.CHANGE)
        for threshold in budget.thresholds
        if reached(budget.limit, threshold, spent)
    ]


def severity(threshold: int) -> Severity:
    """WARNING below 95 %, CRITICAL from there, EXCEEDED from 100 %."""
    if threshold >= _EXCEEDED_AT:
        return Severity.EXCEEDED
    return Severity.CRITICAL if threshold >= _CRITICAL_FROM else Severity.WARNING


def percent(limit: int, spent: int) -> int:
    """Use in percent of the limit, rounded down; of a limit of 0 any use is all of it."""
    if limit:
        return countable(spent * 100 // limit)
    return 100 if spent > 0 else 0


def recommended_action(level: Severity, on_exceed: OnExceed, cause: AlertCause) -> str:
    """What a person may do, in words."""
    if cause is AlertCause.DENIAL:
        return (
            "Spends are being denied for lack of room: raise the limit, or ask for smaller ones until the window ends"
        )
    if level is Severity.EXCEEDED:
        return {
            OnExceed.BLOCK: "New spends are denied until the window ends: raise the limit or wait",
            OnExceed.PAUSE: "The subject is paused: look at what it spent on, then raise the limit or resume it",
            OnExceed.WARN: "Spends go on over the limit, with warnings: pause what is not needed or raise the limit",
            OnExceed.ALERT: "Spends go on over the limit: pause what is not needed or raise the limit",
        }[on_exceed]
    if level is Severity.CRITICAL:
        return "Pause what is not needed now, or raise the limit before it is reached"
    return "Look at what drives the cost; consider cheaper models or pausing what can wait"


def alert_id(no: int, key: int, threshold: int, generation: int) -> str:
    """The id in an alert's name: what makes a crossing one."""
    return f"b{no}.{key}.{threshold}.{generation}"


def parse_alert_id(text: str) -> tuple[int, int, int, int] | None:
    """Budget number, window key, threshold and generation; None: no alert has such an id."""
    parts = text.removeprefix("b").split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        return None
    no, key, threshold, generation = map(int, parts)
    return (no, key, threshold, generation) if alert_id(no, key, threshold, generation) == text else None


def key_of(crossing: Crossing) -> str:
    """The alert's name."""
    budget = crossing.budget
    return f"{budget.subject}/alerts/{alert_id(budget.no, crossing.key, crossing.threshold, budget.generation)}"


def payload(crossing: Crossing, now_us: int) -> bytes:
    """The outbox row of a crossing: JSON with budget's facts, amounts as strings so that no reader rounds them."""
    budget = crossing.budget
    level = severity(crossing.threshold)
    has_end = crossing.window_end_us < LIFETIME_END_US
    return _json(
        {
            "type": "budget.threshold_reached",
            "event": level.name,
            "alert": key_of(crossing),
            "budget": budget.name,
            "budget_display_name": budget.display_name,
            "subject": budget.subject,
            "limit_type": Dimension(budget.dimension).name,
            "currency": budget.currency,
            "limit": str(budget.limit),
            "spent": str(crossing.spent),
            "reserved": str(crossing.reserved),
            "asked": str(crossing.asked),
            "remaining": str(budget.limit - crossing.spent),
            "percent": percent(budget.limit, crossing.spent),
            "threshold_percent": crossing.threshold,
            "severity": level.name,
            "cause": crossing.cause.name,
            "on_exceed": budget.on_exceed.name,
            "recommended_action": recommended_action(level, budget.on_exceed, crossing.cause),
            "generation": budget.generation,
            "period": budget.window.kind.value,
            "time_zone": budget.window.zone,
            "window": key_text(crossing.key),
            "window_start": None if crossing.key == LIFETIME_NUMBER else rfc3339(crossing.window_start_us),
            "window_end": rfc3339(crossing.window_end_us) if has_end else None,
            "raised_at": rfc3339(now_us),
        }
    )


def pause_payload(pause: Pause, now_us: int) -> bytes:
    """The outbox row of a pause that began or was ended."""
    ended = pause.ended_us is not None
    return _json(
        {
            "type": "budget.resumed" if ended else "budget.paused",
            "event": "RESUMED" if ended else "PAUSED",
            "pause": pause.name,
            "subject": pause.subject,
            "budget": pause.budget,
            "cause": pause.cause.name,
            "reason": pause.reason,
            "paused_by": pause.paused_by,
            "paused_at": rfc3339(pause.paused_us),
            "until": rfc3339(pause.until_us) if pause.until_us < LIFETIME_END_US else None,
            "ended_by": pause.ended_by,
            "note": pause.end_note,
            "raised_at": rfc3339(now_us),
        }
    )


def notice_payload(org: str, kind: str, reference: str, detail: str, now_us: int) -> bytes:
    """The outbox row of something else that a person should look at."""
    about = reference.startswith(f"orgs/{org}/")
    return _json(
        {
            "type": f"budget.{kind.lower()}",
            "event": "NOTICE",
            # Whom it is about, where the reference begins with that; so whoever subscribed to it is told.
            "subject": reference.partition(":")[0].partition("/wallets/")[0] if about else f"orgs/{org}",
            "reference": reference,
            "detail": detail,
            "raised_at": rfc3339(now_us),
        }
    )


def _json(facts: dict[str, object]) -> bytes:
    return json.dumps({"version": PAYLOAD_VERSION, **facts}, separators=(",", ":"), sort_keys=True).encode()


def rfc3339(at_us: int) -> str:
    """An instant in UTC, to the microsecond where there is one."""
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat().replace("+00:00", "Z")
