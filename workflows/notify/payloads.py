"""What receivers get: budget's events as the two shapes that docs/schemas describes. Pure.

Amounts are JSON numbers that are written digit by digit from nano-units, never through a float.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from services.kit.subject import parse

VERSION: Final = 1
"""Of the schemas."""
THRESHOLD: Final = "budget.threshold_reached"
_NANO_DIGITS: Final = 9
_PERIODS: Final = {"DAY": "daily", "WEEK": "weekly", "MONTH": "monthly", "QUARTER": "quarterly", "LIFETIME": "lifetime"}
_OWN: Final = frozenset({"version", "event", "type", "key", "subject", "audience", "raised_at"})
is_integer: Final = re.compile(r"-?[0-9]{1,19}").fullmatch
"""Whether a text is a whole number of nano-units."""
_HOURS_SHOWN_MAX: Final = 48
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Driver:
    """A model that costs much: its cost in nano-units and its calls."""

    provider: str
    model: str
    cost_nanos: int
    calls: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What metering says of a budget's subject; what it did not say is left out.

    Attributes:
        depleted_in_s: How long the rest lasts at the median of the forecast, in seconds.
        drivers: The models that cost most in the window, the dearest first.
    """

    depleted_in_s: float | None = None
    drivers: tuple[Driver, ...] | None = None


NO_OUTLOOK: Final = Outlook()


class _Number(str):
    """A number, written as it stands."""

    __slots__ = ()


def write(value: Any) -> str:
    """JSON, keys as they come, numbers that are `_Number` digit by digit."""
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(key))}:{write(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(write(one) for one in value) + "]"
    return json.dumps(value, allow_nan=False)


def amount(nanos: int) -> _Number:
    """Nano-units as a decimal number with at least two places: 400.00, 0.000000001."""
    sign, digits = ("-", -nanos) if nanos < 0 else ("", nanos)
    whole, part = divmod(digits, 10**_NANO_DIGITS)
    return _Number(f"{sign}{whole}.{f'{part:09d}'.rstrip('0').ljust(2, '0')}")


def event_shape(facts: dict[str, Any]) -> str:
    """The shape EVENT: `type` and `event`, `timestamp`, and everything else in `data`."""
    shape: dict[str, Any] = {
        "version": VERSION,
        "type": facts["type"],
        "event": facts["type"],
        "kind": facts["event"],
        "subject": facts["subject"],
        "timestamp": facts["raised_at"],
    }
    if facts.get("budget"):
        shape["budget_id"] = facts["budget"]
    shape["data"] = _threshold(facts) if facts["type"] == THRESHOLD else _facts(facts)
    return write(shape)


def warning_shape(facts: dict[str, Any], outlook: Outlook = NO_OUTLOOK) -> str:
    """The shape WARNING: flat. Events other than thresholds have their own facts beside `alert_type`."""
    subject = parse(facts["subject"])
    shape: dict[str, Any] = {
        "version": VERSION,
        "alert_type": facts["type"].replace(".", "_"),
        "type": facts["type"],
        "agent_id": subject.name.rpartition("/")[2],
        "subject": subject.name,
        "timestamp": facts["raised_at"],
    }
    if facts["type"] != THRESHOLD:
        return write(shape | {name: one for name, one in _facts(facts).items() if name not in shape})
    shape["alert_type"] = "budget_exceeded" if facts["severity"] == "EXCEEDED" else "budget_warning"
    shape |= {
        "budget_id": facts["budget"],
        "severity": facts["severity"],
        "limit_type": period(facts["period"]),
        "dimension": facts["limit_type"],
        "currency": facts["currency"],
        **_amounts(facts, limit_amount="limit", amount_spent="spent", amount_remaining="remaining"),
        "percent_used": facts["percent"],
        "threshold_percent": facts["threshold_percent"],
        "window_end": facts["window_end"],
    }
    if outlook.depleted_in_s is not None:
        shape["estimated_time_until_depleted"] = duration(outlook.depleted_in_s)
        shape["depleted_in_seconds"] = round(outlook.depleted_in_s)
    shape["recommended_action"] = facts["recommended_action"]
    if outlook.drivers is not None:
        shape["top_cost_drivers"] = [
            {
                "model": one.model,
                "provider": one.provider,
                "cost": amount(one.cost_nanos),
                "cost_nanos": str(one.cost_nanos),
                "calls": one.calls,
            }
            for one in outlook.drivers
        ]
    return write(shape)


def period(kind: str) -> str:
    """A window's kind as an adverb: `monthly`."""
    return _PERIODS.get(kind, kind.lower())


def duration(seconds: float) -> str:
    """A time for people: `3.2 hours`, `5.0 days`."""
    if seconds < _HOURS_SHOWN_MAX * _HOUR_S:
        return f"{Decimal(round(seconds)) / _HOUR_S:.1f} hours"
    return f"{Decimal(round(seconds)) / _DAY_S:.1f} days"


def _threshold(facts: dict[str, Any]) -> dict[str, Any]:
    names = {
        "used_amount": "spent",
        "limit_amount": "limit",
        "remaining_amount": "remaining",
        "reserved_amount": "reserved",
        "asked_amount": "asked",
    }
    return {
        "threshold_percent": facts["threshold_percent"],
        **_amounts(facts, **names),
        "currency": facts["currency"],
        "dimension": facts["limit_type"],
        "percent_used": facts["percent"],
        "period": period(facts["period"]),
        "period_start": facts["window_start"],
        "period_end": facts["window_end"],
        "time_zone": facts["time_zone"],
        "severity": facts["severity"],
        "cause": facts["cause"],
        "on_exceed": facts["on_exceed"],
        "recommended_action": facts["recommended_action"],
        "alert": facts["alert"],
        "budget_display_name": facts["budget_display_name"],
    }


def _amounts(facts: dict[str, Any], **names: str) -> dict[str, Any]:
    """Amounts of money as decimals with their nano-units beside, counts as they are."""
    is_money = facts["limit_type"] == "COST"
    found: dict[str, Any] = {}
    for name, fact in names.items():
        found[name] = amount(int(facts[fact])) if is_money else int(facts[fact])
    if is_money:
        found |= {f"{name}_nanos": str(facts[fact]) for name, fact in names.items()}
    return found


def _facts(facts: dict[str, Any]) -> dict[str, Any]:
    """What an event says beside itself; nano-units as strings, with the decimal beside."""
    found: dict[str, Any] = {}
    for name, one in facts.items():
        if name in _OWN:
            continue
        found[name] = one
        whole = name.removesuffix("_nanos")
        if whole != name and whole not in facts and not isinstance(one, bool) and is_integer(str(one)):
            found[name] = str(one)
            found[whole] = amount(int(one))
    return found
