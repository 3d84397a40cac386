"""Faults on demand: how they are written, when they fire. No I/O.

A fault is written `kind` or `kind:argument`. API faults match `METHOD /path`, webhook faults the event's
type; both by shell pattern. A request header names faults for itself alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

MAX_FAULTS = 100
MAX_TIMES = 1_000_000
MAX_HANG_S = 600.0
MAX_DELAY_S = 3 * 24 * 3600.0
MAX_COPIES = 10
MAX_HEADER_FAULTS = 8
MAX_PATTERN = 200
MAX_SEED = 2**31

DEFAULT_ARGUMENTS = {"timeout": "60", "slow": "1", "delay": "60", "duplicate": "2", "decline": "generic_decline"}

REFUSING = frozenset(("error_500_before", "rate_limit_429", "conflict_409"))
ANSWERING = frozenset(("lost_answer", "timeout", "error_500_after"))
CHARGING = frozenset(("decline", "stay_processing"))
WEBHOOK = frozenset(("drop", "duplicate", "reorder", "delay"))
API = REFUSING | ANSWERING | CHARGING | {"slow"}
KINDS = API | WEBHOOK

_LONGEST = {"timeout": MAX_HANG_S, "slow": MAX_HANG_S, "delay": MAX_DELAY_S}


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble with its argument: seconds, a decline code, a number of copies, or nothing."""

    kind: str
    argument: str = ""

    @property
    def seconds(self) -> float:
        """The argument of `timeout`, `slow` and `delay`."""
        return float(self.argument)

    @property
    def copies(self) -> int:
        """How many times `duplicate` delivers."""
        return int(self.argument)


@dataclass(frozen=True, slots=True)
class Rule:
    """A stored fault: fires for what matches, `times` times, in the share `rate` of the cases.

    `seen` counts the matches so far; with `seed` it decides which of them fire, so a run repeats.
    """

    id: int
    fault: Fault
    match: str
    times_left: int
    rate: float = 1.0
    seed: int = 0
    seen: int = 0
    fired: int = 0


def parse(written: str) -> Fault:
    """`kind[:argument]` as a Fault; raises ValueError that says what is wrong."""
    kind, _, argument = written.strip().partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown fault {kind!r}; the kinds are {', '.join(sorted(KINDS))}")
    argument = argument or DEFAULT_ARGUMENTS.get(kind, "")
    if kind in _LONGEST:
        if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", argument) or float(argument) > _LONGEST[kind]:
            raise ValueError(f"{kind} takes seconds from 0 to {_LONGEST[kind]:g}, not {argument!r}")
    elif kind == "duplicate":
        if not re.fullmatch(r"\d{1,2}", argument) or not 2 <= int(argument) <= MAX_COPIES:
            raise ValueError(f"duplicate takes a number of copies from 2 to {MAX_COPIES}, not {argument!r}")
    elif kind == "decline":
        if not re.fullmatch(r"[a-z_]{1,64}", argument):
            raise ValueError(f"decline takes a decline code such as insufficient_funds, not {argument!r}")
    elif argument:
        raise ValueError(f"{kind} takes no argument, but {argument!r} was given")
    return Fault(kind, argument)


def parse_header(header: str) -> list[Fault]:
    """The faults of a `Twin-Fault` header, comma-separated, at most 8."""
    written = [part for part in header.split(",") if part.strip()]
    if len(written) > MAX_HEADER_FAULTS:
        raise ValueError(f"at most {MAX_HEADER_FAULTS} faults a request, not {len(written)}")
    return [parse(part) for part in written]


def matches(rule: Rule, subject: str) -> bool:
    """Whether the rule's pattern covers `subject` (`POST /v1/…`, or an event type)."""
    return rule.times_left > 0 and fnmatchcase(subject, rule.match)


def fires(rule: Rule) -> bool:
    """Whether this match (number `rule.seen`) is one that fires."""
    if rule.rate >= 1:
        return True
    digest = hashlib.sha256(f"{rule.seed}/{rule.id}/{rule.seen}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < rule.rate


def first_of(faults: Iterable[Fault], kinds: frozenset[str]) -> Fault | None:
    """The first fault of one of these kinds, else None."""
    return next((fault for fault in faults if fault.kind in kinds), None)
