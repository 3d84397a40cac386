"""Subjects and resource names: who spends, and the name of everything that belongs to them.

A subject is a path of collection and id pairs, ``orgs/acme/teams/support/agents/bot-1``::

    orgs/ID (/workspaces/ID)? (/teams/ID)* (/agents/ID)*        at most 8 pairs
    ID = [A-Za-z0-9][A-Za-z0-9._-]{0,62}

The name carries the ancestry, so no service looks a parent up. Ids are case-sensitive. A resource is
``{subject}/{collection}/{id}``, for example ``orgs/acme/teams/support/budgets/monthly``.
"""

import re
from functools import lru_cache
from typing import Final

MAX_PAIRS: Final = 8
"""The most collection/id pairs in one subject."""
MAX_SUBJECT_LENGTH: Final = 600
"""The longest subject in characters; the grammar itself cannot write a longer one."""
MAX_RESOURCE_LENGTH: Final = 700
"""The longest resource name in characters."""
ALL_ORGS: Final = "orgs/-"
"""The subject of a credential that covers every organisation. It is no subject that can spend."""

_CACHE_SIZE: Final = 65_536
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COLLECTION: Final = re.compile(r"[a-z][A-Za-z]{0,30}")
_RANKS: Final = {"orgs": 0, "workspaces": 1, "teams": 2, "agents": 3}
_SINGLE_RANKS: Final = frozenset({0, 1})
_GRAMMAR: Final = "orgs/ID, then at most one workspaces/ID, any teams/ID, any agents/ID"


class SubjectError(ValueError):
    """A subject or resource name is malformed. The message says what was wrong and what to do."""


class Subject:
    """A parsed subject; two are equal when their names are. Immutable by convention: instances are shared.

    Attributes:
        name: The full path, ``orgs/acme/teams/support``.
        org: The organisation's bare id, ``acme``; what leads every key in the databases.
        ancestors: Names from the organisation down to the subject itself, inclusive.
    """

    __slots__ = ("ancestors", "name", "org")

    def __init__(self, name: str, org: str, ancestors: tuple[str, ...]) -> None:
        self.name = name
        self.org = org
        self.ancestors = ancestors

    @property
    def root(self) -> str:
        """The organisation's name, ``orgs/acme``."""
        return self.ancestors[0]

    @property
    def parent(self) -> str | None:
        """The name one level up, or None for an organisation."""
        return self.ancestors[-2] if len(self.ancestors) > 1 else None

    @property
    def depth(self) -> int:
        """How many pairs the name has, 1 for an organisation."""
        return len(self.ancestors)

    def is_within(self, ancestor: "Subject | str") -> bool:
        """Whether this subject is ``ancestor`` (a subject or its name) or lies beneath it."""
        return (ancestor if isinstance(ancestor, str) else ancestor.name) in self.ancestors

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subject) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Subject({self.name!r})"


@lru_cache(maxsize=_CACHE_SIZE)
def parse(text: str) -> Subject:
    """Parse a subject's name; the 65,536 names used last are remembered.

    Raises:
        SubjectError: The text is no subject; the message says which part and what is expected.
    """
    _check_length(text, MAX_SUBJECT_LENGTH, f"a subject is {_GRAMMAR}")
    parts = text.split("/")
    if len(parts) % 2:
        raise SubjectError(f"{_show(text)} is not made of collection/id pairs; a subject is {_GRAMMAR}")
    if len(parts) > 2 * MAX_PAIRS:
        raise SubjectError(f"{_show(text)} has {len(parts) // 2} collection/id pairs; use at most {MAX_PAIRS} levels")
    _check_collections(text, parts[::2])
    for collection, id_ in zip(parts[::2], parts[1::2], strict=True):
        _check_id(text, collection, id_)
    ancestors = []
    end = -1
    for collection, id_ in zip(parts[::2], parts[1::2], strict=True):
        end += len(collection) + len(id_) + 2
        ancestors.append(text[:end])
    return Subject(text, parts[1], tuple(ancestors))


def resource_name(subject: Subject, collection: str, id_: str) -> str:
    """Name the resource ``id_`` of ``collection`` (``budgets``, ``wallets``, …) that belongs to ``subject``.

    Raises:
        SubjectError: The collection or the id is malformed, or the collection is one that subjects use.
    """
    name = f"{subject.name}/{collection}/{id_}"
    _check_resource_collection(collection)
    _check_id(name, collection, id_)
    return name


def parse_resource(name: str, collection: str) -> tuple[Subject, str]:
    """Split ``{subject}/{collection}/{id}`` into its subject and the bare id.

    Raises:
        SubjectError: The name is malformed, or names another collection.
    """
    _check_resource_collection(collection)
    form = f"the name is {{subject}}/{collection}/ID"
    _check_length(name, MAX_RESOURCE_LENGTH, form)
    head, _, id_ = name.rpartition("/")
    subject, _, found = head.rpartition("/")
    if not subject:
        raise SubjectError(f"{_show(name)} is no resource name; {form}")
    if found != collection:
        raise SubjectError(f"{_show(name)} names {_show(found)} where {collection!r} is expected; {form}")
    _check_id(name, collection, id_)
    return parse(subject), id_


def covers(credential_subject: str, subject: Subject) -> bool:
    """Whether a credential for ``credential_subject`` reaches ``subject``: itself, beneath it, or every org.

    ``credential_subject`` is a subject's name or ``orgs/-``, which covers every organisation.
    """
    return credential_subject == ALL_ORGS or credential_subject in subject.ancestors


def _check_length(text: str, limit: int, expected: str) -> None:
    if not text:
        raise SubjectError(f"the name is empty; {expected}")
    if len(text) > limit:
        raise SubjectError(f"{_show(text)} is {len(text)} characters long; the limit is {limit}: use shorter ids")


def _check_collections(text: str, collections: list[str]) -> None:
    ranks = []
    for collection in collections:
        rank = _RANKS.get(collection)
        if rank is None:
            raise SubjectError(
                f"{_show(collection)} in {_show(text)} is no collection of a subject; a subject is {_GRAMMAR}"
            )
        ranks.append(rank)
    if ranks[0] != 0:
        raise SubjectError(f"{_show(text)} does not begin with orgs/; a subject is {_GRAMMAR}")
    for before, rank, collection in zip(ranks, ranks[1:], collections[1:], strict=False):
        if rank < before or (rank == before and rank in _SINGLE_RANKS):
            raise SubjectError(f"{collection!r} is out of order in {_show(text)}; a subject is {_GRAMMAR}")


def _check_id(text: str, collection: str, id_: str) -> None:
    if not _ID.fullmatch(id_):
        raise SubjectError(
            f"{_show(id_)} is no id for {collection!r} in {_show(text)}; an id is 1 to 63 of "
            "A-Z a-z 0-9 . _ - and begins with a letter or digit"
        )


def _check_resource_collection(collection: str) -> None:
    if not _COLLECTION.fullmatch(collection) or collection in _RANKS:
        raise SubjectError(f"{_show(collection)} is no collection of resources; use a name such as 'budgets'")


def _show(text: str) -> str:
    """Quote what a caller sent, cut to a length that is safe to put into an error."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
