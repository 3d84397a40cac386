"""How long a receiver asks to be left alone. Pure."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

STATUSES: Final = frozenset({429, 503})
"""Answers whose `Retry-After` is heeded: too many requests, and out of service for a while."""
WAIT_MAX_S: Final = 30 * 86_400
"""The most that is passed on; budget allows less."""
_CHARS_MAX: Final = 64
_DIGITS_MAX: Final = 9


def wait_s(status: int, value: bytes, now: datetime) -> int:
    """What an answer asks for, in whole seconds; 0: nothing, or nothing that can be read.

    Args:
        status: The answer's.
        value: Of its header `Retry-After`: seconds, or a date as HTTP has it. Whatever a receiver wrote.
        now: When it came, with a zone.
    """
    text = value[: _CHARS_MAX + 1].decode("latin-1").strip()
    if status not in STATUSES or not text or len(text) > _CHARS_MAX:
        return 0
    if text.isascii() and text.isdecimal():
        return WAIT_MAX_S if len(text) > _DIGITS_MAX else min(int(text), WAIT_MAX_S)
    try:
        at = parsedate_to_datetime(text)
        left_s = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0
    return max(0, min(math.ceil(left_s), WAIT_MAX_S))
