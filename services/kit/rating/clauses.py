"""Clauses: which names mean a model, as data that a rate table can carry, and a matcher that tries many at once."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

Op = Literal["equals", "starts", "ends", "contains", "regex", "any", "all"]
OPS: Final[tuple[Op, ...]] = ("equals", "starts", "ends", "contains", "regex", "any", "all")
MAX_DEPTH: Final = 8
"""How deep clauses may nest."""


@lru_cache(maxsize=1_024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


_TESTS: Final[dict[str, Callable[[str, str], bool]]] = {
    "equals": lambda name, text: name == text,
    "starts": lambda name, text: name.startswith(text),
    "ends": lambda name, text: name.endswith(text),
    "contains": lambda name, text: text in name,
    "regex": lambda name, text: _compiled(text).search(name) is not None,
}


@dataclass(frozen=True, slots=True)
class Clause:
    """A test of a lower-case name.

    Attributes:
        op: ``equals``, ``starts``, ``ends``, ``contains`` and ``regex`` compare ``text``; ``any`` and ``all``
            combine ``parts``.
        text: In lower case, but for a ``regex``, which is searched for as it is.
        parts: The clauses that are combined.
    """

    op: Op
    text: str = ""
    parts: tuple["Clause", ...] = ()

    def matches(self, name: str) -> bool:
        """Whether a lower-case name passes."""
        if self.op == "any":
            return any(part.matches(name) for part in self.parts)
        if self.op == "all":
            return all(part.matches(name) for part in self.parts)
        return _TESTS[self.op](name, self.text)

    def names(self) -> Iterator[str] | None:
        """Return the only names that pass, if they can be listed: an ``equals``, or an ``any`` of them."""
        if self.op == "equals":
            return iter((self.text,))
        if self.op == "any" and all(part.op == "equals" for part in self.parts):
            return iter(part.text for part in self.parts)
        return None


def equals(text: str) -> Clause:
    """Return a clause that only this name passes."""
    return Clause("equals", text.lower())


class Matcher:
    """Finds the first of many (id, clause) that a name means: its own id first, then the clauses in order."""

    def __init__(self, entries: Iterable[tuple[str, Clause]]) -> None:
        self._ids: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._fuzzy: list[tuple[int, Clause]] = []
        for index, (id_, clause) in enumerate(entries):
            self._ids.setdefault(id_.lower(), index)
            listed = clause.names()
            if listed is None:
                self._fuzzy.append((index, clause))
            else:
                for name in listed:
                    self._names.setdefault(name, index)

    def find(self, name: str) -> int | None:
        """Return the position of the entry that a lower-case name means, or None."""
        found = self._ids.get(name)
        if found is not None:
            return found
        found = self._names.get(name)
        for index, clause in self._fuzzy:
            if found is not None and index > found:
                break
            if clause.matches(name):
                return index
        return found
