"""Tokens that callers give back as they got them: JSON in base64, bounded, and read without trust. Pure."""

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

CHARS_MAX: Final = 4_096
"""Longer than any token of a page is, unless a method has a limit of its own."""


def write(content: Sequence[object]) -> str:
    """A token that holds this."""
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode()


def read(token: str, chars_max: int = CHARS_MAX) -> Any:
    """What a token holds, whoever wrote it.

    Raises:
        ValueError: It is no token of `write`, or longer than `chars_max`.
    """
    if len(token) > chars_max:
        raise ValueError(f"a token of {len(token)} characters")
    try:
        return json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except RecursionError:
        raise ValueError("a token nested too deeply") from None
