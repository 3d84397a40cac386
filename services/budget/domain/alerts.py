"""Which thresholds a window's use has reached, and what an alert says."""

import json
from typing import NamedTuple

from services.budget.domain.model import FOREVER_US, LIFETIME_NUMBER, Budget, Counter, Dimension, key_text

_CRITICAL_FROM = 95
_EXCEEDED_AT = 100


class Crossing(NamedTuple):
    """A threshold reached in a window, with the facts of that moment."""

    budget: Budget
    key: int
    threshold: int
    spent: int
    window_end_us: int


def reached(budget: Budget, threshold: int, spent: int) -> bool:
    """Whether use has reached the percentage of the limit; nothing used has reached nothing."""
    return spent > 0 and spent * 100 >= threshold * budget.limit


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
        Crossing(budget, counter.key, threshold, counter.peak, counter.window_end_us)
        for threshold in budget.thresholds
        if reached(budget, threshold, counter.peak)
        and (counter.lowered or not reached(budget, threshold, counter.spent_before))
    ]


def all_reached(budget: Budget, key: int, spent: int, window_end_us: int) -> list[Crossing]:
    """Every threshold that this use has reached; for a definition that has changed."""
    return [
        Crossing(budget, key, threshold, spent, window_end_us)
        for threshold in budget.thresholds
        if reached(budget, threshold, spent)
    ]


def severity(threshold: int) -> str:
    """WARNING below 95 %, CRITICAL from there, EXCEEDED from 100 %."""
    if threshold >= _EXCEEDED_AT:
        return "EXCEEDED"
    return "CRITICAL" if threshold >= _CRITICAL_FROM else "WARNING"


def payload(crossing: Crossing, now_us: int) -> bytes:
    """The outbox row of a crossing: JSON with budget's facts, amounts as strings so that no reader rounds them."""
    budget = crossing.budget
    is_lifetime = crossing.key == LIFETIME_NUMBER
    facts = {
        "type": "budget.threshold",
        "alert": key_of(crossing),
        "budget": budget.name,
        "subject": budget.subject,
        "dimension": Dimension(budget.dimension).name,
        "currency": budget.currency,
        "limit": str(budget.limit),
        "spent": str(crossing.spent),
        "remaining": str(budget.limit - crossing.spent),
        "threshold_percent": crossing.threshold,
        "severity": severity(crossing.threshold),
        "on_exceed": budget.on_exceed.name,
        "generation": budget.generation,
        "window": key_text(crossing.key),
        "window_end_us": None if is_lifetime or crossing.window_end_us >= FOREVER_US else crossing.window_end_us,
        "crossed_us": now_us,
    }
    return json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()


def key_of(crossing: Crossing) -> str:
    """What makes a crossing one: budget, window, threshold and limit generation."""
    budget = crossing.budget
    return f"{budget.name}@{key_text(crossing.key)}:{crossing.threshold}:{budget.generation}"
