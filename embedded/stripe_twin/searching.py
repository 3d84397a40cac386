"""Stripe's search query language, as far as payment intents need it: clauses joined by AND or by OR. No I/O.

customer:"cus_1" AND metadata["order"]:"7" AND -status:"canceled" AND created>1700000000
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from embedded.stripe_twin.errors import ApiError, invalid

LAG_S: Final = 60.0
"""What was written within this time is not found yet: at Stripe "under a minute", so a lister must not search."""
CLAUSES_MAX: Final = 10

_CLAUSE: Final = re.compile(
    r"""\s*(?P<not>-?)(?:
        (?P<text>currency|customer|status)\s*:\s*"(?P<text_value>(?:[^"\\]|\\.)*)"
      | metadata\[\s*"(?P<key>(?:[^"\\]|\\.)*)"\s*\]\s*:\s*(?:"(?P<meta_value>(?:[^"\\]|\\.)*)"|(?P<absent>null))
      | (?P<number>amount|created)\s*(?P<op>:|>=|<=|>|<)\s*(?P<number_value>\d{1,18})
    )\s*""",
    re.VERBOSE,
)
_JOIN: Final = re.compile(r"(AND|OR)(?=\s)", re.IGNORECASE)
_OPERATORS: Final = {":": "=", ">": ">", "<": "<", ">=": ">=", "<=": "<="}


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition: the member at `path` compared with `value`; None asks whether it is absent."""

    path: tuple[str, ...]
    operator: str
    value: str | int | None
    negated: bool


@dataclass(frozen=True, slots=True)
class Query:
    """Conditions of which all, or any, must hold."""

    clauses: tuple[Clause, ...]
    any_of: bool


def parse(query: str) -> Query:
    """A query as written; raises ApiError where it is not one."""
    clauses: list[Clause] = []
    joins: set[str] = set()
    at = 0
    while True:
        match = _CLAUSE.match(query, at)
        if match is None:
            raise _bad(f"near {query[at : at + 20]!r}")
        clauses.append(_clause(match))
        at = match.end()
        if at == len(query):
            break
        join = _JOIN.match(query, at)
        if join is None:
            raise _bad(f"near {query[at : at + 20]!r}: join clauses with AND or with OR")
        joins.add(join[1].upper())
        at = join.end()
    if len(joins) > 1:
        raise _bad("AND and OR cannot be combined in one query")
    if len(clauses) > CLAUSES_MAX:
        raise _bad(f"at most {CLAUSES_MAX} clauses")
    return Query(tuple(clauses), joins == {"OR"})


def _clause(match: re.Match[str]) -> Clause:
    negated = match["not"] == "-"
    if match["text"]:
        return Clause((match["text"],), "=", _unescaped(match["text_value"]), negated)
    if match["number"]:
        return Clause((match["number"],), _OPERATORS[match["op"]], int(match["number_value"]), negated)
    value = None if match["absent"] else _unescaped(match["meta_value"])
    return Clause(("metadata", _unescaped(match["key"])), "=", value, negated)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _bad(what: str) -> ApiError:
    return invalid(f"We were unable to parse your search query: {what}.", param="query")


def matches(query: Query, body: dict[str, object]) -> bool:
    """Whether an object satisfies a query."""
    verdicts = (_holds(clause, body) for clause in query.clauses)
    return any(verdicts) if query.any_of else all(verdicts)


def _holds(clause: Clause, body: dict[str, object]) -> bool:
    value: object = body
    for name in clause.path:
        value = value.get(name) if isinstance(value, dict) else None
    match clause.operator, clause.value:
        case "=", wanted:
            found = value == wanted
        case operator, int(bound) if isinstance(value, int):
            found = {">": value > bound, "<": value < bound, ">=": value >= bound, "<=": value <= bound}[operator]
        case _:
            found = False
    return found is not clause.negated
