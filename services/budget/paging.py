"""Pages of long lists: their size, and tokens that say where the next one begins."""

from collections.abc import Sequence
from typing import Any, Final

from services.kit import tokens
from services.kit.errors import PurseError, invalid

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000


def size_of(page_size: int) -> int:
    """How many items a page has.

    Raises:
        PurseError: The size is out of range.
    """
    if not 0 <= page_size <= PAGE_MAX:
        raise invalid("page_size", f"is {page_size}; it must be 1 to {PAGE_MAX}, or 0 for {PAGE_DEFAULT}")
    return page_size or PAGE_DEFAULT


def token_of(scope: str, after: Sequence[str | int]) -> str:
    """The token of the page behind the item with this key, in the list of this scope."""
    return tokens.write([scope, *after])


def after_of(token: str, scope: str, first: Sequence[str | int]) -> tuple[Any, ...]:
    """The key that a page begins behind; `first` without a token.

    Raises:
        PurseError: The token is none, or belongs to another list.
    """
    if not token:
        return tuple(first)
    try:
        found = tokens.read(token)
    except ValueError:
        raise _not_ours() from None
    if not isinstance(found, list) or len(found) != len(first) + 1:
        raise _not_ours()
    if found[0] != scope:
        raise invalid("page_token", "belongs to another list; start again without one")
    after = found[1:]
    if any(not _is_like(value, kind) for value, kind in zip(after, first, strict=True)):
        raise _not_ours()
    return tuple(after)


def _is_like(value: object, first: str | int) -> bool:
    if isinstance(first, str):
        return isinstance(value, str) and value.isprintable()
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _not_ours() -> PurseError:
    return invalid("page_token", "is none of this method's; give back `next_page_token` as it was")
